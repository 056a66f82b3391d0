//! `[boxitory]`: a tree of boxes that is served where it is, in our words or in those of Boxitory's properties file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use boxgate_storage::digest::Algorithm;

use super::file::{BoxitoryFile, ConfigFile, ListenerFile};
use super::settings::{Door, Judge};
use super::units::ByteSize;
use super::{Mistake, Warning};

/// The port of a Boxitory that was told none.
const PORT: u16 = 8083;
/// Longest properties file, in bytes.
const LONGEST: usize = 1 << 20;
/// Largest buffer of a checksum.
const MOST_BUFFER: ByteSize = ByteSize::mib(16);

/// A tree of boxes and how it is served.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the file")]
pub struct Boxitory {
    /// The directory of boxes, absolute.
    pub home: PathBuf,
    /// What stands before every `url`.
    pub host_prefix: String,
    /// What a `url` leads to.
    pub path_type: PathType,
    /// Whether versions descend.
    pub sort_desc: bool,
    /// The checksums that are told, if any.
    pub checksum: Option<Checksum>,
    /// Whether computed ones are kept beside their boxes.
    pub checksum_persist: bool,
    /// Bytes that are read at once to compute one.
    pub checksum_buffer_bytes: usize,
    /// Versions of a box, from the highest on, whose checksums are computed.
    pub checksum_ensure: usize,
    /// How long an answer waits for those that are computed.
    pub checksum_wait: Duration,
    /// Whether versions are seconds since 1970.
    pub version_as_timestamp: bool,
    /// Whether a box lists its providers once more.
    pub list_providers: bool,
    /// Whether the paths of files are told.
    pub local_url: bool,
    /// How often the directories are looked at.
    pub rescan: Duration,
}

/// What a `url` leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathType {
    /// The file, by its path on this machine.
    Raw,
    /// This gateway.
    Boxitory,
}

/// Kinds of checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// MD5.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl Checksum {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha1, Self::Md5];

    /// How it is computed.
    pub fn algorithm(self) -> Algorithm {
        match self {
            Self::Md5 => Algorithm::Md5,
            Self::Sha1 => Algorithm::Sha1,
            Self::Sha256 => Algorithm::Sha256,
        }
    }

    /// Its name in answers and at the end of file names.
    pub fn name(self) -> &'static str {
        self.algorithm().name()
    }
}

impl Judge<'_> {
    pub(super) fn boxitory_door(&mut self, file: &ConfigFile) -> Door {
        let mut door = self.door("doors.boxitory.prefix", &file.doors.boxitory);
        door.enabled &= !file.boxitory.home.is_empty();
        door
    }

    pub(super) fn boxitory(&mut self, file: &BoxitoryFile, data_dir: &Path) -> Option<Boxitory> {
        let path_types = [("raw", PathType::Raw), ("boxitory", PathType::Boxitory)];
        let path_type = self.choice(
            "boxitory.path_type",
            &file.path_type.to_ascii_lowercase(),
            &path_types,
            "expected \"raw\" or \"boxitory\"",
        );
        let checksums = [
            ("disabled", None),
            ("md5", Some(Checksum::Md5)),
            ("sha1", Some(Checksum::Sha1)),
            ("sha256", Some(Checksum::Sha256)),
        ];
        let checksum = self.choice(
            "boxitory.checksum",
            &file.checksum.to_ascii_lowercase(),
            &checksums,
            "expected \"disabled\", \"md5\", \"sha1\" or \"sha256\"",
        );
        let (size, least) = (file.checksum_buffer_size, ByteSize(1));
        let buffer = self.size("boxitory.checksum_buffer_size", size, least, MOST_BUFFER);
        let rescan = self.time("boxitory.rescan", file.rescan);
        if file.home.is_empty() {
            return None;
        }
        let home = std::path::absolute(&file.home);
        if let Err(why) = &home {
            self.wrong("boxitory.home", why);
        }
        if let (Ok(home), Ok(data_dir)) = (&home, std::path::absolute(data_dir))
            && data_dir.starts_with(home)
        {
            let text = "it would be in the tree of boxes (boxitory.home), which is left as it is: name a directory elsewhere";
            self.wrong("data_dir", text);
        }
        Some(Boxitory {
            home: home.unwrap_or_default(),
            host_prefix: file.host_prefix.clone(),
            path_type: path_type.unwrap_or(PathType::Raw),
            sort_desc: file.sort_desc,
            checksum: checksum.flatten(),
            checksum_persist: file.checksum_persist,
            checksum_buffer_bytes: buffer,
            checksum_ensure: file.checksum_ensure,
            checksum_wait: file.checksum_wait.0,
            version_as_timestamp: file.version_as_timestamp,
            list_providers: file.list_providers,
            local_url: file.local_url,
            rescan,
        })
    }
}

/// Where a Boxitory listens, as far as it was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    address: Option<IpAddr>,
    port: Option<u16>,
}

/// The listener of a gateway that stands in for a Boxitory and for nothing else.
pub(super) fn listener(place: Place) -> ListenerFile {
    let address = place.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    ListenerFile {
        address: SocketAddr::new(address, place.port.unwrap_or(PORT)).to_string(),
        doors: vec!["boxitory".to_owned()],
        ..ListenerFile::default()
    }
}

/// Takes over what the properties file says, where there is one, and what `variables` say in its stead; returns
/// where it listens. A tree that is named elsewhere stays.
pub(super) fn take_properties(
    file: &mut BoxitoryFile,
    variables: &[(String, String)],
    (mistakes, warnings): (&mut Vec<Mistake>, &mut Vec<Warning>),
) -> Place {
    let mut place = Place::default();
    if file.properties.is_empty() {
        return place;
    }
    let path = file.properties.clone();
    let mut wrong = |text: String| {
        let key = format!("boxitory.properties ({path})");
        mistakes.push(Mistake { key, text });
    };
    let text = match std::fs::read(&path) {
        Ok(bytes) if bytes.len() <= LONGEST => text_of(bytes),
        Ok(_) => {
            wrong(format!("longer than {LONGEST} bytes"));
            return place;
        }
        Err(e) => {
            wrong(format!("cannot read it: {e}"));
            return place;
        }
    };
    let variables = variables.iter().cloned();
    let named = properties(&text).into_iter().chain(variables);
    let home_was = std::mem::take(&mut file.home);
    for (name, value) in named {
        match take(file, &mut place, &name, value.trim()) {
            Ok(true) => {}
            Ok(false) => warnings.push(Warning(format!(
                "the property {name} means nothing here; it is ignored"
            ))),
            Err(why) => wrong(format!("{name}: {why}")),
        }
    }
    if !home_was.is_empty() {
        file.home = home_was;
    } else if file.home.is_empty() {
        ".".clone_into(&mut file.home);
    }
    place
}

/// UTF-8, or Latin-1 as Java has always read it.
fn text_of(bytes: Vec<u8>) -> String {
    let text = String::from_utf8(bytes)
        .unwrap_or_else(|e| e.into_bytes().into_iter().map(char::from).collect());
    match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// Takes one property, if it is one. Spring reads `box.host_prefix`, `box.hostPrefix` and `BOX_HOST_PREFIX` alike.
fn take(
    file: &mut BoxitoryFile,
    place: &mut Place,
    name: &str,
    value: &str,
) -> Result<bool, String> {
    let truth = || match value.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err(format!("{value:?} is neither true nor false")),
    };
    let number = || {
        value
            .parse::<u64>()
            .map_err(|_odd| format!("{value:?} is no whole number"))
    };
    let folded: String = name
        .chars()
        .filter(|c| !matches!(c, '.' | '-' | '_'))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let ours = folded.starts_with("box") || matches!(&*folded, "serverport" | "serveraddress");
    if ours && value.contains("${") {
        return Err(format!(
            "{value:?} refers to another property: write what that is"
        ));
    }
    match folded.as_str() {
        "serverport" => {
            let number = number()?;
            place.port = Some(u16::try_from(number).map_err(|_far| format!("{value} is no port"))?);
        }
        "serveraddress" => {
            let address = match value {
                "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
                value => value.parse(),
            };
            place.address = Some(address.map_err(|_odd| format!("{value:?} is no address"))?);
        }
        "boxhome" => value.clone_into(&mut file.home),
        "boxhostprefix" => value.clone_into(&mut file.host_prefix),
        "boxpathtype" => value.clone_into(&mut file.path_type),
        "boxsortdesc" => file.sort_desc = truth()?,
        "boxchecksum" => value.clone_into(&mut file.checksum),
        "boxchecksumpersist" => file.checksum_persist = truth()?,
        // One that is larger gains nothing.
        "boxchecksumbuffersize" => {
            file.checksum_buffer_size = ByteSize(number()?).min(MOST_BUFFER);
        }
        "boxchecksumensure" => {
            file.checksum_ensure = usize::try_from(number()?).unwrap_or(usize::MAX);
        }
        "boxversionastimestamp" => file.version_as_timestamp = truth()?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Names and values, as `java.util.Properties` reads them.
fn properties(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_start_matches([' ', '\t', '\x0c']);
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = line.to_owned();
        while ends_escaped(&logical) {
            logical.pop();
            let next = lines.next().unwrap_or_default();
            logical.push_str(next.trim_start_matches([' ', '\t', '\x0c']));
        }
        let (name, value) = split(&logical);
        found.push((unescaped(name), unescaped(value)));
    }
    found
}

/// An odd number of backslashes takes the next line's start in.
fn ends_escaped(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

fn split(line: &str) -> (&str, &str) {
    let is_blank = |c: char| matches!(c, ' ' | '\t' | '\x0c');
    let mut escaped = false;
    let end = line.find(|c| {
        let ends = !escaped && (c == '=' || c == ':' || is_blank(c));
        escaped = c == '\\' && !escaped;
        ends
    });
    let (name, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start_matches(is_blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (name, rest.trim_start_matches(is_blank))
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match rest.next() {
            Some('n') => plain.push('\n'),
            Some('t') => plain.push('\t'),
            Some('r') => plain.push('\r'),
            Some('f') => plain.push('\x0c'),
            Some('u') => {
                let digits: String = rest.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok();
                plain.push(code.and_then(char::from_u32).unwrap_or('\u{fffd}'));
            }
            Some(other) => plain.push(other),
            None => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_read_as_java_reads_them() {
        let text = "# one\n! two\n\n a = b\nc:d\n e f g\nh\ni=\\\n   j\\\\\nk\\=l=m\\u00e4\n";
        let pairs = [
            ("a", "b"),
            ("c", "d"),
            ("e", "f g"),
            ("h", ""),
            ("i", "j\\"),
            ("k=l", "mä"),
        ];
        let want: Vec<_> = pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
        assert_eq!(properties(text), want);
    }

    #[test]
    fn a_file_is_utf_8_with_or_without_a_mark_or_latin_1() {
        assert_eq!(text_of(b"\xef\xbb\xbfa=\xc3\xa4".to_vec()), "a=ä");
        assert_eq!(text_of(b"# gr\xf6\xdfe".to_vec()), "# größe");
    }

    #[test]
    fn every_property_has_its_place_in_every_spelling() {
        let mut file = BoxitoryFile::default();
        let mut place = Place::default();
        for (name, value) in [
            ("server.port", "8084"),
            ("server.address", "127.0.0.1"),
            ("box.home", "/srv/boxes"),
            ("box.hostPrefix", "sftp://h:"),
            ("box.path-type", "BOXITORY"),
            ("BOX_SORT_DESC", "true"),
            ("box.checksum", "MD5"),
            ("box.checksum_persist", "false"),
            ("box.checksum_buffer_size", "99999999999"),
            ("box.checksum_ensure", "3"),
            ("box.version_as_timestamp", "TRUE"),
        ] {
            assert_eq!(take(&mut file, &mut place, name, value), Ok(true), "{name}");
        }
        assert_eq!(
            take(&mut file, &mut place, "spring.banner", "${off}"),
            Ok(false)
        );
        let address = listener(place).address;
        assert_eq!(address, "127.0.0.1:8084");
        assert_eq!(listener(Place::default()).address, "0.0.0.0:8083");
        let want = BoxitoryFile {
            home: "/srv/boxes".to_owned(),
            host_prefix: "sftp://h:".to_owned(),
            path_type: "BOXITORY".to_owned(),
            sort_desc: true,
            checksum: "MD5".to_owned(),
            checksum_persist: false,
            checksum_buffer_size: MOST_BUFFER,
            checksum_ensure: 3,
            version_as_timestamp: true,
            ..BoxitoryFile::default()
        };
        assert_eq!(file, want);
        for (name, value) in [
            ("box.sort_desc", "maybe"),
            ("box.checksum_ensure", "-1"),
            ("server.port", "70000"),
            ("server.address", "here"),
            ("box.home", "${HOME:/tmp}/boxes"),
        ] {
            assert!(take(&mut file, &mut place, name, value).is_err(), "{name}");
        }
    }
}
