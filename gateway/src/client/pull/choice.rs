//! From what a gateway lists of a box to the one file that is wanted. No I/O.

use boxgate_storage::digest::Blake3;
use serde::Deserialize;

/// What is wanted; what is left open must be the only one, or the default.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Version; the newest if it is left open.
    pub version: Option<String>,
    /// Provider.
    pub provider: Option<String>,
    /// Architecture.
    pub architecture: Option<String>,
}

/// The metadata of a box, as far as it is of use here.
#[derive(Debug, Deserialize)]
pub struct Listed {
    versions: Vec<Version>,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: String,
    providers: Vec<Entry>,
}

#[derive(Debug, Clone, Deserialize)]
struct Entry {
    name: String,
    url: String,
    architecture: String,
    #[serde(default)]
    default_architecture: bool,
    #[serde(default)]
    blake3: Option<String>,
    #[serde(default)]
    size: Option<u64>,
}

/// The file that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its version.
    pub version: String,
    /// Its provider.
    pub provider: String,
    /// Its architecture.
    pub architecture: String,
    /// Where these bytes, or none, are.
    pub url: String,
    /// Their digest.
    pub blake3: Blake3,
    /// How many they are.
    pub length: u64,
}

/// How many are named where none fits.
const MOST_NAMED: usize = 12;

impl Listed {
    /// The one that is wanted.
    ///
    /// # Errors
    /// One sentence that says what is there instead, or what to say.
    pub fn choose(&self, wanted: &Wanted) -> Result<Chosen, String> {
        let version = self.version(wanted.version.as_deref())?;
        let is = |wanted: &Option<String>, name: &str| {
            wanted
                .as_ref()
                .is_none_or(|wanted| wanted.eq_ignore_ascii_case(name))
        };
        let fitting: Vec<&Entry> = version
            .providers
            .iter()
            .filter(|entry| is(&wanted.provider, &entry.name))
            .filter(|entry| is(&wanted.architecture, &entry.architecture))
            .collect();
        let listed = || {
            let there = version
                .providers
                .iter()
                .map(|e| format!("{} {}", e.name, e.architecture));
            format!("version {} is there for {}", version.version, few(there))
        };
        let one = match fitting.as_slice() {
            [] => return Err(listed()),
            [only] => *only,
            [first, more @ ..] if more.iter().all(|e| e.name == first.name) => fitting
                .iter()
                .find(|entry| entry.default_architecture)
                .ok_or_else(|| format!("{}; say which architecture", listed()))?,
            _ => return Err(format!("{}; say which provider", listed())),
        };
        let digest = one.blake3.as_deref().and_then(Blake3::from_hex);
        let (Some(blake3), Some(length)) = (digest, one.size) else {
            return Err(format!(
                "version {} of it is served by another server and has no BLAKE3 digest",
                version.version
            ));
        };
        Ok(Chosen {
            version: version.version.clone(),
            provider: one.name.clone(),
            architecture: one.architecture.clone(),
            url: one.url.clone(),
            blake3,
            length,
        })
    }

    /// The newest comes first.
    fn version(&self, wanted: Option<&str>) -> Result<&Version, String> {
        let Some(wanted) = wanted else {
            let newest = self.versions.first();
            return newest.ok_or_else(|| "it has no version with a file".to_owned());
        };
        let plain = |text: &str| {
            let text = text.to_ascii_lowercase();
            text.strip_prefix('v').map_or(text.clone(), str::to_owned)
        };
        let found = self
            .versions
            .iter()
            .find(|v| plain(&v.version) == plain(wanted));
        found.ok_or_else(|| {
            let there = few(self.versions.iter().map(|v| v.version.clone()));
            format!("it has no version {wanted}; there is {there}")
        })
    }
}

fn few(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.take(MOST_NAMED + 1).collect();
    match names.len() {
        0 => "none".to_owned(),
        1..=MOST_NAMED => names.join(", "),
        _ => {
            names.truncate(MOST_NAMED);
            names.join(", ") + " and more"
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn entry(name: &str, architecture: &str, is_default: bool) -> Value {
        json!({
            "name": name, "architecture": architecture, "default_architecture": is_default,
            "url": format!("http://h/{name}/{architecture}"), "blake3": "ab".repeat(32), "size": 5,
        })
    }

    fn chosen(version: &str, provider: &str, architecture: &str) -> Result<String, String> {
        let listed = json!({ "versions": [
            { "version": "2.0.0", "providers": [entry("virtualbox", "amd64", false)] },
            { "version": "1.1.0", "providers": [
                entry("virtualbox", "amd64", true), entry("virtualbox", "arm64", false),
                entry("libvirt", "amd64", false),
            ] },
            { "version": "1.0.0", "providers": [
                entry("virtualbox", "amd64", false), entry("virtualbox", "arm64", false),
            ] },
        ] });
        let listed: Listed = serde_json::from_value(listed).unwrap();
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let wanted = Wanted {
            version: some(version),
            provider: some(provider),
            architecture: some(architecture),
        };
        listed
            .choose(&wanted)
            .map(|c| format!("{} {} {}", c.version, c.provider, c.architecture))
    }

    #[test]
    fn the_newest_the_only_and_the_default_are_chosen_and_doubt_is_told() {
        let good = [
            (("", "", ""), "2.0.0 virtualbox amd64"),
            (("v2.0.0", "VirtualBox", "AMD64"), "2.0.0 virtualbox amd64"),
            (("1.1.0", "virtualbox", ""), "1.1.0 virtualbox amd64"),
            (("1.1.0", "libvirt", ""), "1.1.0 libvirt amd64"),
            (("1.1.0", "", "arm64"), "1.1.0 virtualbox arm64"),
            (("1.0.0", "", "arm64"), "1.0.0 virtualbox arm64"),
        ];
        for ((version, provider, architecture), want) in good {
            assert_eq!(chosen(version, provider, architecture).as_deref(), Ok(want));
        }
        let bad = [
            (("3", "", ""), "no version 3; there is 2.0.0, 1.1.0, 1.0.0"),
            (("1.1.0", "", ""), "say which provider"),
            (
                ("1.0.0", "virtualbox", ""),
                "virtualbox arm64; say which architecture",
            ),
            (
                ("", "hyperv", ""),
                "version 2.0.0 is there for virtualbox amd64",
            ),
        ];
        for ((version, provider, architecture), want) in bad {
            let told = chosen(version, provider, architecture).unwrap_err();
            assert!(told.ends_with(want), "{told}");
        }
        let none: Listed = serde_json::from_value(json!({ "versions": [] })).unwrap();
        assert!(none.choose(&Wanted::default()).is_err());
    }
}
