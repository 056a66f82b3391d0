//! What a file name says: `{box}_{version}_{provider}.box`, told apart by the name of its directory.

use std::cmp::Ordering;

/// The version and the provider of a box file in the directory `box_name`; `None` for any other file.
///
/// The name of the directory is text and no pattern: it may hold what it likes, underscores too.
pub fn parse<'n>(box_name: &str, file_name: &'n str) -> Option<(&'n str, &'n str)> {
    let rest = file_name.strip_prefix(box_name)?.strip_prefix('_')?;
    let (version, provider) = rest.strip_suffix(".box")?.split_once('_')?;
    let is_version = !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit());
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (is_version && !provider.is_empty() && provider.bytes().all(is_word))
        .then_some((version, provider))
}

/// The file name of that version and provider.
pub fn file(box_name: &str, version: &str, provider: &str) -> String {
    format!("{box_name}_{version}_{provider}.box")
}

/// The order of versions: as numbers of any length, equal ones as texts.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (x, y) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    x.len()
        .cmp(&y.len())
        .then_with(|| x.cmp(y))
        .then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_by_their_directory() {
        let table = [
            ("f25", "f25_1_virtualbox.box", Some(("1", "virtualbox"))),
            (
                "vmw",
                "vmw_1_vmware_desktop.box",
                Some(("1", "vmware_desktop")),
            ),
            (
                "my_box",
                "my_box_1_virtualbox.box",
                Some(("1", "virtualbox")),
            ),
            ("my", "my_box_1_virtualbox.box", None),
            ("f.5", "fx5_1_virtualbox.box", None),
            ("f.5", "f.5_01_v.box", Some(("01", "v"))),
            ("[", "[_1_virtualbox.box", Some(("1", "virtualbox"))),
            ("f27", "wrongFileFormat.box", None),
            ("f27", "f27_3_virtualbox.boxf", None),
            ("f27", "f27_3_virtualbox", None),
            ("f27", "f27_3_virtualbox.bo", None),
            ("f27", "f27_3_virtualbox.box.md5", None),
            ("f27", "f27_3_.box", None),
            ("f27", "f27__virtualbox.box", None),
            ("f27", "f27_1.0_virtualbox.box", None),
            ("f27", "f27_-1_virtualbox.box", None),
            ("f27", "f27_٣_virtualbox.box", None),
            ("f27", "f27_3_virtual-box.box", None),
            ("f27", "f27_3_virtual.box.box", None),
            ("f27", "F27_3_virtualbox.box", None),
            ("a b%", "a b%_7_x.box", Some(("7", "x"))),
        ];
        for (directory, name, want) in table {
            assert_eq!(parse(directory, name), want, "{directory}/{name}");
        }
    }

    #[test]
    fn versions_are_numbers_without_an_end() {
        let mut versions = [
            "12",
            "99999999999999999999999",
            "1",
            "10",
            "01",
            "9",
            "2",
            "0",
            "18446744073709551616",
        ];
        versions.sort_by(|a, b| compare(a, b));
        assert_eq!(
            versions,
            [
                "0",
                "01",
                "1",
                "2",
                "9",
                "10",
                "12",
                "18446744073709551616",
                "99999999999999999999999"
            ]
        );
    }
}
