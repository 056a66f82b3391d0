//! What the operator wants: flags, environment, file and defaults become checked [`Settings`].
//!
//! The one module that reads the environment. It opens no socket and no store; what a value means
//! to a part is that part's business. Precedence: flag, then `BOXGATE_` variable, then file, then
//! default. Every mistake is reported with its key, all of them at once.

pub mod boxitory;
pub mod cidr;
pub mod connection;
pub mod file;
mod layers;
mod machine;
pub mod rates;
pub mod runtime;
pub mod settings;
pub mod units;

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

pub use cidr::{Blocks, Cidr};
pub use connection::{Connection, ConnectionFlags};
pub use file::ConfigFile;
pub use machine::Machine;
pub use settings::{Secret, Settings};
pub use units::{ByteSize, Span};

use layers::Layers;

/// What `serve` was told on its command line; each has a key and a variable.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`: the file to read; without it `boxgate.toml`, if there is one.
    pub config: Option<PathBuf>,
    /// `--data-dir`, key `data_dir`.
    pub data_dir: Option<PathBuf>,
    /// `--listen`, the address of the first listener.
    pub listen: Option<String>,
    /// `--boxitory`, key `boxitory.home`.
    pub boxitory: Option<PathBuf>,
    /// `--boxitory-properties`, key `boxitory.properties`.
    pub boxitory_properties: Option<PathBuf>,
    /// `--plugins`, key `scripts.dirs`.
    pub plugins: Vec<PathBuf>,
}

/// Something odd that does not keep the program from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The key, variable, flag or file.
    pub key: String,
    /// What is wrong with it.
    pub text: String,
}

/// Everything that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Mistake>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n" };
            write!(f, "{gap}{}: {}", mistake.key, mistake.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Reads flags, environment and file, and checks them.
///
/// # Errors
/// Every mistake found, each with its key. A missing file is one only when `--config` named it.
pub fn load(flags: &Flags) -> Result<(Settings, Vec<Warning>), ConfigErrors> {
    load_from(flags, std::env::vars_os(), Machine::probe())
}

/// As [`load`], with the environment and the machine as values.
///
/// # Errors
/// As [`load`].
pub fn load_from(
    flags: &Flags,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    machine: Machine,
) -> Result<(Settings, Vec<Warning>), ConfigErrors> {
    let (settings, warnings, _text) = load_whole(flags, environment, machine, None)?;
    Ok((settings, warnings))
}

/// As [`load`], with `text`, where it is given, in place of what the file says; gives the text, too, which may have secrets.
///
/// # Errors
/// As [`load`].
pub fn load_text(
    flags: &Flags,
    text: Option<&str>,
) -> Result<(Settings, Vec<Warning>, String), ConfigErrors> {
    load_whole(flags, std::env::vars_os(), Machine::probe(), text)
}

fn load_whole(
    flags: &Flags,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    machine: Machine,
    text: Option<&str>,
) -> Result<(Settings, Vec<Warning>, String), ConfigErrors> {
    let mut layers = Layers::default();
    let environment = layers.take_environment(environment);
    let named = flags
        .config
        .clone()
        .or_else(|| environment.config.as_deref().map(PathBuf::from));
    let path = named.as_deref().unwrap_or(Path::new("boxgate.toml"));
    let text = match text {
        Some(text) => {
            layers.read_text(&path.display().to_string(), text);
            text.to_owned()
        }
        None => layers.read_file(path, named.is_some()),
    };
    layers.take_flags(flags, environment.listen.as_deref());

    let stands_in = flags.boxitory.is_some() || flags.boxitory_properties.is_some();
    let stands_alone = stands_in && !layers.say("listeners");
    let (mut file, mut mistakes, mut warnings) = layers.resolve();
    let told = (&mut mistakes, &mut warnings);
    let place = boxitory::take_properties(&mut file.boxitory, &environment.boxitory, told);
    if stands_alone {
        file.listeners = vec![boxitory::listener(place)];
    }
    runtime::take_web_servers(&mut file, &mut mistakes);
    let settings = Settings::check(file, machine, &environment, &mut mistakes);
    if mistakes.is_empty() {
        Ok((settings, warnings, text))
    } else {
        Err(ConfigErrors(mistakes))
    }
}

/// The defaults on this machine: no flag, no variable, no file. For tests and tools.
pub fn defaults() -> Settings {
    let nothing = layers::Environment::default();
    // The defaults break no rule; a test holds them to that.
    Settings::check(
        ConfigFile::default(),
        Machine::probe(),
        &nothing,
        &mut Vec::new(),
    )
}

/// The effective configuration as TOML: computed values are shown, secrets are `***`.
pub fn print(settings: &Settings) -> String {
    let file = settings.to_file();
    let mut text = toml::to_string(&file).unwrap_or_else(|error| format!("# {error}\n"));
    let secrets = [
        ("BOXGATE_MASTER_KEY", &settings.master_key),
        ("BOXGATE_BOOTSTRAP_PASSWORD", &settings.bootstrap_password),
    ];
    for (name, store) in &settings.stores {
        if let settings::StoreSettings::S3(_) = store {
            let _infallible = writeln!(text, "# stores.{name}.secret_access_key = ***");
        }
    }
    for (name, secret) in secrets {
        if let Some(secret) = secret {
            let _infallible = writeln!(text, "# {name} = {secret:?}");
        }
    }
    text
}

#[cfg(test)]
mod tests;
