//! A certificate to try TLS with, made once and kept in the data directory. Nobody but who made it has a
//! reason to trust it.

use std::net::SocketAddr;
use std::path::Path;

use boxgate_storage::durable;

use super::Failure;
use crate::config::settings::Tls;

/// The certificate of this data directory for `address`; made unless it is there.
pub(super) fn certificate(data_dir: &Path, address: SocketAddr) -> Result<Tls, Failure> {
    let directory = data_dir.join("tls");
    let tls = Tls {
        certificate: directory.join("self-signed.pem"),
        key: directory.join("self-signed-key.pem"),
        check_every: None,
        client_ca: Vec::new(),
    };
    if tls.certificate.exists() && tls.key.exists() {
        return Ok(tls);
    }
    let failed = |error: &dyn std::fmt::Display| {
        Failure::Failed(format!(
            "cannot make a certificate in {}: {error}",
            directory.display()
        ))
    };
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".into(), "::1".into()];
    let own = address.ip();
    if !own.is_unspecified() && !names.contains(&own.to_string()) {
        names.push(own.to_string());
    }
    let made = rcgen::generate_simple_self_signed(names).map_err(|e| failed(&e))?;
    let write = |path: &Path, text: &str, mode| durable::write_file(path, text.as_bytes(), mode);
    durable::make_directory(data_dir, 0o750)
        .and_then(|()| durable::make_directory(&directory, 0o700))
        // The certificate last: where it is, its key is.
        .and_then(|()| write(&tls.key, &made.signing_key.serialize_pem(), 0o600))
        .and_then(|()| write(&tls.certificate, &made.cert.pem(), 0o644))
        .map_err(|e| failed(&e))?;
    Ok(tls)
}
