//! `boxgate sample-box`: a valid Vagrant box of any size, so that nobody needs a hypervisor to try.

use std::fs::File;
use std::io::{BufWriter, Read, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Failure, SampleBoxArgs, say};
use crate::config::ByteSize;

pub(super) fn sample_box(args: &SampleBoxArgs) -> Result<(), Failure> {
    let size: ByteSize = args
        .size
        .parse()
        .map_err(|e| Failure::Usage(format!("--size: {e}")))?;
    let disk_bytes = size.0;
    let metadata = serde_json::json!({
        "provider": args.provider,
        "architecture": args.architecture,
    });
    let metadata = metadata.to_string();
    let failed = |e: std::io::Error| Failure::Failed(format!("{}: {e}", args.file.display()));
    let file = File::options()
        .write(true)
        .create_new(true)
        .open(&args.file)
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Failure::Failed(format!(
                "{} exists already; choose another name or remove it",
                args.file.display()
            )),
            _ => failed(e),
        })?;
    if let Err(error) = write(file, metadata.as_bytes(), disk_bytes) {
        // Half a box is of no use, and may be what filled the disk.
        let _removed = std::fs::remove_file(&args.file);
        return Err(failed(error));
    }
    say(&format!(
        "{} is a box for {} on {} with a disk of {disk_bytes} bytes.",
        args.file.display(),
        args.provider,
        args.architecture
    ));
    Ok(())
}

fn write(file: File, metadata: &[u8], disk_bytes: u64) -> std::io::Result<()> {
    // Stored, not compressed: the contents are random, and speed is what samples are for.
    let gzip = GzEncoder::new(BufWriter::new(file), Compression::none());
    let mut tar = tar::Builder::new(gzip);
    let mut add = |name: &str, length: u64, data: &mut dyn Read| {
        let mut header = tar::Header::new_gnu();
        header.set_size(length);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, name, data)
    };
    let vagrantfile: &[u8] = b"Vagrant.configure(\"2\") do |config|\nend\n";
    add("metadata.json", metadata.len() as u64, &mut &*metadata)?;
    add("Vagrantfile", vagrantfile.len() as u64, &mut &*vagrantfile)?;
    add(
        "disk.img",
        disk_bytes,
        &mut Noise::seeded().take(disk_bytes),
    )?;
    tar.into_inner()?.finish()?.flush()
}

/// Bytes that do not compress, made faster than a disk takes them: BLAKE3 in its extended output.
struct Noise(blake3::OutputReader);

impl Noise {
    fn seeded() -> Self {
        let mut seed = [0; 32];
        // Without randomness the contents are the same each time, which harms nobody.
        let _ = getrandom::fill(&mut seed);
        Self(blake3::Hasher::new_keyed(&seed).finalize_xof())
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.fill(buffer);
        Ok(buffer.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_a_box_of_about_the_size_asked_for_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let args = SampleBoxArgs {
            file: dir.path().join("a.box"),
            size: "100KB".into(),
            provider: "libvirt".into(),
            architecture: "arm64".into(),
        };
        sample_box(&args).unwrap();
        let length = std::fs::metadata(&args.file).unwrap().len();
        assert!((100_000..110_000).contains(&length), "{length}");
        let mut names = Vec::new();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(
            File::open(&args.file).unwrap(),
        ));
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            if name == "metadata.json" {
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                let says: serde_json::Value = serde_json::from_str(&text).unwrap();
                let wanted = serde_json::json!({ "provider": "libvirt", "architecture": "arm64" });
                assert_eq!(says, wanted);
            }
            names.push(name);
        }
        assert_eq!(names, ["metadata.json", "Vagrantfile", "disk.img"]);
        assert!(matches!(sample_box(&args), Err(Failure::Failed(_))));
    }
}
