//! Puts the plugins of `plugins/` into the program: their files as they stand, for `boxgate script enable`.

use std::fmt::Write as _;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<()> {
    let own = directory("CARGO_MANIFEST_DIR")?;
    let plugins = own.join("../plugins").canonicalize()?;
    println!("cargo:rerun-if-changed={}", plugins.display());
    let mut text = String::from("&[\n");
    for name in listed(&plugins)? {
        let place = plugins.join(&name);
        if !place.join("main.rhai").exists() {
            continue;
        }
        // A String takes every write.
        let _ = writeln!(text, "({name:?}, &[");
        files(&place, "", &mut text)?;
        text.push_str("]),\n");
    }
    text.push(']');
    fs::write(directory("OUT_DIR")?.join("shipped.rs"), text)
}

fn directory(variable: &str) -> Result<PathBuf> {
    let set = env::var_os(variable).map(PathBuf::from);
    set.ok_or_else(|| Error::other(format!("{variable} is not set")))
}

/// The names in a directory, in order.
fn listed(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        if let Ok(name) = entry?.file_name().into_string()
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Each file below `root`, with its text.
fn files(root: &Path, below: &str, text: &mut String) -> Result<()> {
    for name in listed(&root.join(below))? {
        let path = if below.is_empty() {
            name
        } else {
            format!("{below}/{name}")
        };
        let whole = root.join(&path);
        if whole.is_dir() {
            files(root, &path, text)?;
        } else {
            let _ = writeln!(
                text,
                "({path:?}, include_str!({:?})),",
                whole.display().to_string()
            );
        }
    }
    Ok(())
}
