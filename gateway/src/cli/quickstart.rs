//! `boxgate quickstart`: `serve` with everything made that a first try needs, and the lines to paste.
//!
//! The credentials are kept in `<data_dir>/quickstart.json` (0600), so that the next start prints the
//! same ones.

use std::path::{Path, PathBuf};
use std::time::Duration;

use boxgate_storage::catalog::OrganizationName;
use boxgate_storage::durable;
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::accounts::{Account, OrganizationRole};
use boxgate_storage::metadata::tokens::{NewToken, TokenKind};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::bootstrap::{administrator, owned};
use super::serve::{open, serve_until_signalled, start, start_failed};
use super::{Failure, QuickstartArgs, TryTls, runtime, say, self_signed};
use crate::auth::credential;
use crate::config::settings::Speaks;
use crate::config::{Cidr, Settings};

const ADMINISTRATOR: &str = "admin";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    organization: String,
    password: String,
    admin_token: String,
    client_id: String,
    client_secret: String,
}

pub(super) fn quickstart(args: &QuickstartArgs) -> Result<(), Failure> {
    let organization: OrganizationName = args
        .organization
        .parse()
        .map_err(|e| Failure::Usage(format!("--organization: {e}")))?;
    let (mut settings, process, place) = open(&args.serve)?;
    // No load balancer needs time to look elsewhere.
    settings.server.drain_accept = Duration::ZERO;
    // Receivers and runtimes that are tried out run here, too.
    let loopback: Vec<Cidr> = ["127.0.0.0/8", "::1"]
        .into_iter()
        .filter_map(|block| block.parse().ok())
        .collect();
    for runtime in settings.runtimes.values_mut() {
        runtime.allow_networks.extend_from_slice(&loopback);
    }
    settings.webhooks.allow_networks.extend(loopback);
    let certificate = match args.tls {
        Some(TryTls::SelfSigned) => Some(try_tls(&mut settings)?),
        None => None,
    };
    runtime()?.block_on(async {
        let (app, place) = Box::pin(start(settings, &process, place)).await?;
        if app.gateway().router.is_reserved(organization.as_str()) {
            return Err(Failure::Usage(format!(
                "--organization: {:?} is reserved: it is the first word of a route",
                organization.as_str()
            )));
        }
        app.recover().await.map_err(|e| start_failed(&e))?;
        let data_dir = app.gateway().settings.data_dir.clone();
        let kept = credentials(&app.gateway().metadata, &data_dir, &organization).await?;
        let url = app.urls().into_iter().next().ok_or_else(|| {
            Failure::Usage("quickstart needs a listener (--listen or [[listeners]])".into())
        })?;
        // The socket is bound: who connects from here on waits for an answer at most. In another process' place nobody need
        // be told again, and whoever was told may read no more: a pipe that is full would hold this process up for good.
        if !place.follows() {
            if args.json {
                say(&as_json(&url, &kept, certificate.as_deref()));
            } else {
                say(&as_text(&url, &kept, &data_dir, certificate.as_deref()));
            }
        }
        Box::pin(serve_until_signalled(app, &process, place)).await
    })
}

/// Has the first listener speak all versions of HTTP; gives the certificate's file.
fn try_tls(settings: &mut Settings) -> Result<PathBuf, Failure> {
    let listener = settings.listeners.first_mut().ok_or_else(|| {
        Failure::Usage("quickstart needs a listener (--listen or [[listeners]])".into())
    })?;
    listener.speaks = Speaks::TlsAndQuic;
    let tls = self_signed::certificate(&settings.data_dir, listener.address)?;
    let certificate = tls.certificate.clone();
    settings.tls = Some(tls);
    Ok(certificate)
}

fn as_json(url: &str, kept: &Kept, certificate: Option<&Path>) -> String {
    let mut told = json!({
        "url": url, "organization": kept.organization,
        "admin": { "username": ADMINISTRATOR, "password": kept.password, "token": kept.admin_token },
        "service_account": { "client_id": kept.client_id, "client_secret": kept.client_secret },
    });
    if let Some(certificate) = certificate {
        told["certificate"] = json!(certificate);
    }
    told.to_string()
}

/// How to trust a certificate that nobody vouches for.
fn trust(url: &str, certificate: &Path) -> String {
    let certificate = certificate.display();
    format!(
        "It speaks HTTP/1.1, 2 and 3 with a certificate of its own. Have the lines below trust it:

  export SSL_CERT_FILE={certificate} CURL_CA_BUNDLE={certificate}

  curl --cacert {certificate} {url}/api/status

"
    )
}

fn as_text(url: &str, kept: &Kept, data_dir: &Path, certificate: Option<&Path>) -> String {
    let Kept {
        organization,
        password,
        admin_token,
        client_id,
        client_secret,
    } = kept;
    let program = program();
    let data_dir = data_dir.display();
    let trust = certificate.map_or_else(String::new, |certificate| trust(url, certificate));
    format!(
        "boxgate {version} listens on {url} (data in {data_dir}; stop with Ctrl-C)

Administrator    {ADMINISTRATOR} / {password}
  token          {admin_token}
Organization     {organization}
Service account  {client_id}
  key            {client_secret}

{trust}Try it in another terminal:

  {program} sample-box demo.box

  {program} push demo.box {organization}/demo 1.0.0 virtualbox amd64 \\
    --url {url} --token {client_secret}

  VAGRANT_SERVER_URL={url} VAGRANT_CLOUD_TOKEN={client_secret} \\
    vagrant box add {organization}/demo --provider virtualbox

Or upload it as for BoxVault, in one request:

  curl --fail-with-body -X POST {url}/api/organization/{organization}/box/demo/version/1.0.0/provider/virtualbox/architecture/amd64/file \\
    -H \"Authorization: Bearer {client_secret}\" -F file=@demo.box

Webhooks may go to receivers on this machine, by http too: that is opened here (webhooks.allow_networks). Make one with

  curl -X POST {url}/api/admin/webhooks -H \"x-access-token: {admin_token}\" \\
    -H \"Content-Type: application/json\" \\
    -d '{{\"url\": \"http://127.0.0.1:4000/webhooks/boxvault\", \"events\": [\"box.uploaded\"], \"secret\": \"webhook-secret\"}}'

Uploads written from the BoxVault guide want these:

  export BOXVAULT_URL={url}
  export BOXVAULT_CLIENT_ID={client_id}
  export BOXVAULT_CLIENT_SECRET={client_secret}
",
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// How this program can be called again from the same place.
fn program() -> String {
    let Ok(path) = std::env::current_exe() else {
        return "boxgate".into();
    };
    let here = std::env::current_dir().ok();
    let path = here
        .and_then(|here| path.strip_prefix(here).map(Path::to_owned).ok())
        .unwrap_or(path);
    path.display().to_string()
}

/// The kept credentials, made true in the database; what is missing is made.
async fn credentials(
    metadata: &Metadata,
    data_dir: &Path,
    organization: &OrganizationName,
) -> Result<Kept, Failure> {
    let path = data_dir.join("quickstart.json");
    let kept: Option<Kept> = std::fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    let administered = metadata.account_by_username(ADMINISTRATOR).await;
    if kept.is_none() && administered.map_err(|e| Failure::failed(&e))?.is_some() {
        return Err(Failure::Usage(format!(
            "{} was not made by quickstart; choose another --data-dir, or run boxgate serve",
            data_dir.display()
        )));
    }
    let failed = |e: boxgate_storage::Error| Failure::failed(&e);
    let mut wanted = kept.clone().unwrap_or_else(|| Kept {
        organization: organization.to_string(),
        password: credential::fresh()[..24].to_owned(),
        admin_token: credential::fresh(),
        client_id: format!("{organization}-{}", &credential::fresh()[..8]),
        client_secret: credential::fresh(),
    });
    wanted.organization = organization.to_string();
    // Before the rows: a start that is cut off here knows at the next one what it was about to make.
    if kept.as_ref() != Some(&wanted) {
        write(&path, &wanted).map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))?;
    }
    let kept = wanted;
    let account = match metadata
        .account_by_username(ADMINISTRATOR)
        .await
        .map_err(failed)?
    {
        Some(account) => account,
        None => administrator(metadata, ADMINISTRATOR, None, kept.password.clone())
            .await
            .map_err(failed)?,
    };
    let made = owned(metadata, organization, &account)
        .await
        .map_err(failed)?;
    let role = OrganizationRole::Owner;
    metadata
        .set_membership(account.id, made.id, role)
        .await
        .map_err(failed)?;
    let admin = NewToken {
        kind: TokenKind::Personal,
        hash: credential::hash(&kept.admin_token),
        account: account.id,
        organization: None,
        name: Some("quickstart".into()),
        description: Some("Made by boxgate quickstart".into()),
        expires: None,
    };
    let service = NewToken {
        kind: TokenKind::Service,
        hash: credential::hash(&kept.client_secret),
        organization: Some(made.id),
        name: Some(kept.client_id.clone()),
        ..admin.clone()
    };
    ensure_token(metadata, &account, admin)
        .await
        .map_err(failed)?;
    ensure_token(metadata, &account, service)
        .await
        .map_err(failed)?;
    Ok(kept)
}

async fn ensure_token(
    metadata: &Metadata,
    account: &Account,
    token: NewToken,
) -> boxgate_storage::Result<()> {
    match metadata.token_by_hash(&token.hash).await? {
        Some((found, owner))
            if owner.id == account.id && found.organization == token.organization =>
        {
            Ok(())
        }
        // The same key, but for another organization than this start asks for.
        Some((found, owner)) => {
            metadata.delete_token(found.id, owner.id).await?;
            metadata.create_token(token).await.map(drop)
        }
        None => metadata.create_token(token).await.map(drop),
    }
}

fn write(path: &Path, kept: &Kept) -> std::io::Result<()> {
    durable::write_file(path, &serde_json::to_vec_pretty(kept)?, 0o600)
}
