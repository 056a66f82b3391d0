//! The plugins that come with boxgate, in the program itself: off, until one is written to where plugins are read from.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// A plugin's name, and its files by their paths within it.
pub type Shipped = (&'static str, &'static [(&'static str, &'static str)]);

/// All of them, by name.
pub const SHIPPED: &[Shipped] = include!(concat!(env!("OUT_DIR"), "/shipped.rs"));

/// Writes one below `directory`, where none of that name may stand; `None` when none comes with boxgate.
///
/// # Errors
/// When it cannot be written, or something stands there.
pub fn unpack(name: &str, directory: &Path) -> Result<Option<PathBuf>> {
    let Some((_, files)) = SHIPPED.iter().find(|(known, _)| *known == name) else {
        return Ok(None);
    };
    let place = directory.join(name);
    if place.exists() {
        let text = format!("{} exists already", place.display());
        return Err(Error::new(ErrorKind::AlreadyExists, text));
    }
    // Whole or not there: a gateway may be looking.
    let fresh = directory.join(format!(".{name}.new"));
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    for (path, text) in *files {
        let path = fresh.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&fresh))?;
        fs::write(path, text)?;
    }
    fs::rename(&fresh, &place)?;
    Ok(Some(place))
}

#[cfg(test)]
mod tests {
    use boxgate_scripting::bundle::{Bundle, plugins_in};

    use super::*;

    #[test]
    fn every_plugin_is_in_the_program_as_it_stands() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins");
        let there = plugins_in(&source).unwrap();
        assert_eq!(there.len(), SHIPPED.len());
        let directory = tempfile::tempdir().unwrap();
        for path in there {
            let name = path.file_name().unwrap().to_str().unwrap();
            let unpacked = unpack(name, directory.path()).unwrap().unwrap();
            let (own, original) = (Bundle::read(&unpacked), Bundle::read(&path));
            assert_eq!(own.unwrap(), original.unwrap(), "{name}");
            assert!(unpacked.join("README.md").exists(), "{name}");
            assert!(unpack(name, directory.path()).is_err(), "{name} twice");
        }
        assert!(unpack("nobody", directory.path()).unwrap().is_none());
    }
}
