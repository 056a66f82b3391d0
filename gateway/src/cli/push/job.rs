//! Which file becomes what: by the words of the command line, by a template for several files, by a document about the
//! box, or by what the box says of itself.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use boxgate_storage::catalog::{BoxName, BoxRef, NameError, OrganizationName};
use serde::Deserialize;

use crate::cli::Failure;
use crate::client::catalog::Texts;
use crate::inspect::{Finding, Inspector};

/// Most inflated bytes of a box that are looked through for its `metadata.json`; it mostly stands at one of its ends.
const MOST_INFLATED: u64 = 4 << 30;
/// A longer document is none.
const MOST_DOCUMENT: u64 = 1 << 20;
/// Bytes of a box that are read at once.
const READ_BYTES: usize = 256 << 10;

/// One file, and what it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) file: PathBuf,
    pub(super) target: BoxRef,
}

/// What `--box-metadata` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct About {
    /// `ORG/BOX`.
    name: Option<String>,
    version: Option<String>,
    provider: Option<String>,
    architecture: Option<String>,
    short_description: Option<String>,
    description: Option<String>,
    version_description: Option<String>,
}

impl About {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let wrong =
            |why: String| Failure::Usage(format!("--box-metadata {}: {why}", path.display()));
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MOST_DOCUMENT).read_to_string(&mut text))
            .map_err(|e| wrong(e.to_string()))?;
        // Windows writes a mark before it.
        let text = text.trim_start_matches('\u{feff}');
        serde_json::from_str(text).map_err(|e| wrong(e.to_string()))
    }

    pub(super) fn texts(&self) -> Texts {
        Texts {
            short_description: self.short_description.clone(),
            description: self.description.clone(),
            version_description: self.version_description.clone(),
        }
    }
}

/// What the command line says where files go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words<'a> {
    /// `FILE [ORG/BOX VERSION [PROVIDER [ARCH]]]`, or files alone.
    pub(super) said: &'a [String],
    /// `ORG/BOX/VERSION[/PROVIDER[/ARCH]]` with `{stem}`, `{provider}` and `{architecture}`.
    pub(super) to: Option<&'a str>,
    pub(super) about: &'a About,
}

impl Words<'_> {
    /// What is to be pushed; nothing of it was sent yet.
    pub(super) fn jobs(self) -> Result<Vec<Job>, Failure> {
        let Self { said, to, about } = self;
        let [file, rest @ ..] = said else {
            return Err(Failure::Usage("say which file".into()));
        };
        let names_all = about.name.is_some() && about.version.is_some();
        let names_box = rest.first().is_some_and(|word| is_box_name(word));
        let jobs: Vec<Job> = if to.is_some() || (names_all && !names_box) {
            let each = said.iter().map(|file| self.job(file, to.map(levels)));
            each.collect::<Result<_, _>>()?
        } else {
            let [name, more @ ..] = rest else {
                return Err(missing("the box", "ORG/BOX behind the file"));
            };
            if more.len() > 3 {
                let text = "there are more words than FILE ORG/BOX VERSION PROVIDER ARCH; for several files say --to";
                return Err(Failure::Usage(text.into()));
            }
            let Some((organization, box_name)) = name.split_once('/') else {
                return Err(Failure::Usage(format!(
                    "{name:?} names no box: it looks like ORGANIZATION/BOX"
                )));
            };
            let levels = [organization, box_name].into_iter();
            let levels = levels.chain(more.iter().map(String::as_str));
            vec![self.job(file, Some(levels.map(str::to_owned).collect()))?]
        };
        for (at, job) in jobs.iter().enumerate() {
            if let Some(other) = jobs[..at].iter().find(|other| other.target == job.target) {
                return Err(Failure::Usage(format!(
                    "{} and {} would both become {}; tell them apart by {{stem}}, {{provider}} or {{architecture}}",
                    other.file.display(),
                    job.file.display(),
                    job.target
                )));
            }
        }
        Ok(jobs)
    }

    /// One file; `said` are its levels as far as they were told.
    fn job(self, file: &str, said: Option<Vec<String>>) -> Result<Job, Failure> {
        let path = PathBuf::from(file);
        let about = self.about;
        let from_name = || {
            let (organization, name) = about.name.as_deref()?.split_once('/')?;
            Some(vec![organization.to_owned(), name.to_owned()])
        };
        let mut levels = said
            .or_else(from_name)
            .ok_or_else(|| missing("the box", "ORG/BOX, or --to"))?;
        if levels.len() == 2 {
            let version = about.version.clone();
            levels.push(version.ok_or_else(|| missing("the version", "VERSION behind the box"))?);
        }
        let wants = |word: &str| levels.iter().any(|level| level.contains(word));
        let mut own = (about.provider.clone(), about.architecture.clone());
        let open = (
            levels.len() < 4 || wants("{provider}"),
            levels.len() < 5 || wants("{architecture}"),
        );
        if (open.0 && own.0.is_none()) || (open.1 && own.1.is_none()) {
            let (provider, architecture) = says_itself(&path)?;
            own = (own.0.or(provider), own.1.or(architecture));
        }
        let (provider, architecture) = own;
        let unknown = |what: &str| {
            missing(
                what,
                &format!("it, or --box-metadata, since {} does not", path.display()),
            )
        };
        let said = |is_open: bool, name: Option<String>, what: &str| {
            if is_open {
                name.ok_or_else(|| unknown(what))
            } else {
                Ok(String::new())
            }
        };
        let provider = said(open.0, provider, "the provider")?;
        let architecture = said(open.1, architecture, "the architecture")?;
        for (at, open) in [(3, "{provider}"), (4, "{architecture}")] {
            if levels.len() == at {
                levels.push(open.to_owned());
            }
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let filled = levels.iter().map(|level| {
            let level = level.replace("{stem}", &stem);
            let level = level.replace("{provider}", &provider);
            level.replace("{architecture}", &architecture)
        });
        let target = named(&filled.collect::<Vec<_>>())?;
        Ok(Job { file: path, target })
    }
}

/// Whether a word is `ORG/BOX`, where it may be a file as well: what is there is one, and what is called like one was meant
/// to be there.
fn is_box_name(word: &str) -> bool {
    let path = Path::new(word);
    let is_box = || {
        let (organization, name) = word.split_once('/')?;
        let names: Result<(OrganizationName, BoxName), NameError> =
            organization.parse().and_then(|o| Ok((o, name.parse()?)));
        names.ok()
    };
    path.extension().is_none_or(|ending| ending != "box") && !path.exists() && is_box().is_some()
}

fn levels(template: &str) -> Vec<String> {
    template.split('/').map(str::to_owned).collect()
}

fn named(levels: &[String]) -> Result<BoxRef, Failure> {
    let [organization, name, version, provider, architecture] = levels else {
        let text = format!(
            "{:?} is no place for a box: it looks like ORG/BOX/VERSION/PROVIDER/ARCH",
            levels.join("/")
        );
        return Err(Failure::Usage(text));
    };
    let names = || {
        Ok(BoxRef {
            organization: organization.parse()?,
            name: name.parse()?,
            version: version.parse()?,
            provider: provider.parse()?,
            architecture: architecture.parse()?,
        })
    };
    names().map_err(|e: NameError| Failure::Usage(e.to_string()))
}

fn missing(what: &str, how: &str) -> Failure {
    Failure::Usage(format!("nothing says {what}: say {how}"))
}

/// Provider and architecture, as the box's own `metadata.json` has them.
fn says_itself(path: &Path) -> Result<(Option<String>, Option<String>), Failure> {
    let unreadable =
        |e: std::io::Error| Failure::Usage(format!("cannot read {}: {e}", path.display()));
    // Opening a pipe would wait for its other end.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unreadable(std::io::Error::other("it is no regular file")));
    }
    let mut file = File::open(path).map_err(unreadable)?;
    let mut inspector = Inspector::new(MOST_INFLATED);
    let mut bytes = vec![0; READ_BYTES];
    while !inspector.is_done() {
        let read = file.read(&mut bytes).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        let mut left = &bytes[..read];
        while !left.is_empty() && !inspector.is_done() {
            let taken = inspector.step(left);
            left = &left[taken..];
        }
    }
    Ok(match inspector.finish() {
        Finding::Says(metadata) => (Some(metadata.provider), metadata.architecture),
        _ => (None, None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(words: &[&str], to: Option<&str>, about: &About) -> Result<Vec<String>, String> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let words = Words {
            said: &words,
            to,
            about,
        };
        let told = |failure: Failure| failure.told().0;
        let jobs = words.jobs().map_err(told)?;
        Ok(jobs.iter().map(|job| job.target.to_string()).collect())
    }

    #[test]
    fn the_five_words_name_one_file_and_what_it_becomes() {
        let none = About::default();
        assert_eq!(
            jobs(
                &["a.box", "acme/web", "1.0", "virtualbox", "amd64"],
                None,
                &none
            )
            .unwrap(),
            ["acme/web/1.0/virtualbox/amd64"]
        );
        for (words, why) in [
            (&["a.box"][..], "ORG/BOX"),
            (&["a.box", "web", "1.0"], "names no box"),
            (&["a.box", "acme/web"], "VERSION"),
            (&["a.box", "acme/web", "1.0", "p", "a", "more"], "--to"),
        ] {
            let told = jobs(words, None, &none).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn a_template_names_several_files_and_two_that_become_one_are_refused() {
        let about = About {
            provider: Some("libvirt".to_owned()),
            architecture: Some("arm64".to_owned()),
            ..About::default()
        };
        assert_eq!(
            jobs(&["x/web.box", "x/db.box"], Some("acme/{stem}/1.0"), &about).unwrap(),
            ["acme/web/1.0/libvirt/arm64", "acme/db/1.0/libvirt/arm64"]
        );
        let told = jobs(&["a.box", "b.box"], Some("acme/web/1.0"), &about).unwrap_err();
        assert!(told.contains("would both become"), "{told}");
        let told = jobs(&["a.box"], Some("acme/web/1.0/p/a/x"), &about).unwrap_err();
        assert!(told.contains("ORG/BOX/VERSION/PROVIDER/ARCH"), "{told}");
    }

    #[test]
    fn a_document_says_what_the_words_leave_open() {
        let about: About = serde_json::from_str(
            r#"{"name":"acme/web","version":"2.0","provider":"hyperv","architecture":"amd64",
                "description":"What it is."}"#,
        )
        .unwrap();
        assert_eq!(
            jobs(&["a.box"], None, &about).unwrap(),
            ["acme/web/2.0/hyperv/amd64"]
        );
        assert_eq!(about.texts().description.as_deref(), Some("What it is."));
        assert!(serde_json::from_str::<About>(r#"{"box":"acme/web"}"#).is_err());
    }

    #[test]
    fn a_document_may_begin_with_the_mark_that_windows_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("about.json");
        std::fs::write(&path, "\u{feff}{\"version\":\"2.0\"}").unwrap();
        let about = About::read(&path).unwrap();
        assert_eq!(about.version.as_deref(), Some("2.0"));
    }

    #[test]
    fn words_win_over_a_document_that_names_all_unless_they_are_files() {
        let about: About = serde_json::from_str(
            r#"{"name":"acme/web","version":"2.0","provider":"hyperv","architecture":"amd64"}"#,
        )
        .unwrap();
        for (words, wanted) in [
            (&["a.box", "acme/other"][..], "acme/other/2.0/hyperv/amd64"),
            (
                &["a.box", "acme/other", "3.0"],
                "acme/other/3.0/hyperv/amd64",
            ),
            (
                &["a.box", "acme/web", "3.0", "libvirt", "arm64"],
                "acme/web/3.0/libvirt/arm64",
            ),
        ] {
            assert_eq!(jobs(words, None, &about).unwrap(), [wanted]);
        }
        // A file that is there, or should be, is no box.
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        std::fs::write(&there, "").unwrap();
        for second in [there.to_str().unwrap(), "out/absent.box", "absent.box"] {
            let told = jobs(&["a.box", second], None, &about).unwrap_err();
            assert!(told.contains("would both become"), "{told}");
        }
        let told = jobs(
            &["a.box", "acme/other", "3.0", "p", "a", "more"],
            None,
            &about,
        );
        assert!(told.unwrap_err().contains("--to"));
    }

    #[test]
    fn a_box_says_its_provider_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.box");
        let mut tar = tar::Builder::new(File::create(&path).unwrap());
        let text = br#"{"provider":"vmware_desktop","architecture":"arm64"}"#;
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, "metadata.json", &text[..])
            .unwrap();
        tar.into_inner().unwrap();
        let path = path.to_str().unwrap();
        let none = About::default();
        assert_eq!(
            jobs(&[path, "acme/web", "1.0"], None, &none).unwrap(),
            ["acme/web/1.0/vmware_desktop/arm64"]
        );
        assert_eq!(
            jobs(
                &[path],
                Some("acme/{stem}-{provider}/1.0/{provider}/any"),
                &none
            )
            .unwrap(),
            ["acme/web-vmware_desktop/1.0/vmware_desktop/any"]
        );
        std::fs::write(path, "no box").unwrap();
        let told = jobs(&[path, "acme/web", "1.0"], None, &none).unwrap_err();
        assert!(told.contains("nothing says the provider"), "{told}");
    }
}
