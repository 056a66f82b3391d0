//! What else is served here: a tree of boxes, and, to those who operate the platform, images of runtimes.

use askama::Template;

use super::{Answer, Visit, page, size};
use crate::boxitory::document::{box_path, file_path};
use crate::boxitory::index::{Index, Shelf};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::runtime::Runtime;

/// Boxes of a tree that are shown.
const SHOWN: usize = 500;

#[derive(Template)]
#[template(path = "others.html")]
struct OthersPage<'a> {
    title: &'a str,
    visit: &'a Visit,
    has_tree: bool,
    shelves: Vec<ShelfLine>,
    left_out: usize,
    runtimes: Vec<RuntimeLine>,
}

struct ShelfLine {
    name: String,
    url: String,
    /// By which Vagrant takes it.
    line: String,
    latest: String,
    versions: usize,
    files: Vec<(String, String)>,
}

struct RuntimeLine {
    name: String,
    path: String,
    is_enabled: bool,
    may_deploy: bool,
    deployed: Option<String>,
    reload: String,
}

/// `GET /-/others`.
pub fn show(gateway: &Gateway, call: &Call) -> Answer {
    let visit = Visit::by(gateway, call);
    let index = gateway.boxitory.as_ref().and_then(|tree| tree.index());
    let index = index.filter(|_| visit.has_tree);
    let names = index.map(Index::names).unwrap_or_default();
    let door = &gateway.settings.doors.boxitory.prefix;
    let shelves = names.iter().take(SHOWN).filter_map(|name| index?.get(name));
    let runtimes: Vec<_> = if visit.operates {
        gateway
            .runtimes
            .all()
            .map(|runtime| runtime_line(runtime))
            .collect()
    } else {
        Vec::new()
    };
    page(&OthersPage {
        title: "Also here",
        has_tree: visit.has_tree,
        shelves: shelves
            .map(|shelf| shelf_line(&shelf, door, &visit.root))
            .collect(),
        left_out: names.len().saturating_sub(SHOWN),
        runtimes,
        visit: &visit,
    })
}

fn shelf_line(shelf: &Shelf, prefix: &str, root: &str) -> ShelfLine {
    let url = format!("{prefix}{}", box_path(shelf.name()));
    let latest = shelf.latest();
    let providers = latest.map(|version| &version.providers);
    let files = providers.into_iter().flatten().map(|provider| {
        let path = file_path(shelf.name(), provider, "latest");
        (provider.to_string(), format!("{prefix}{path}"))
    });
    ShelfLine {
        name: shelf.name().to_owned(),
        line: format!("vagrant box add {}", pasted(&format!("{root}{url}"))),
        url,
        latest: latest
            .map(|version| version.digits.to_string())
            .unwrap_or_default(),
        versions: shelf.versions().len(),
        files: files.collect(),
    }
}

/// A word as a shell takes it, whatever is in it: names of directories are anybody's.
fn pasted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/:.,_-%@+=".contains(c);
    if word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn runtime_line(runtime: &Runtime) -> RuntimeLine {
    let told = runtime.status();
    let last = &told["lastDeploy"];
    let deployed = last["size"].as_u64().map(|bytes| {
        let at = last["at"].as_str().unwrap_or_default();
        format!("{}, {at}", size(bytes))
    });
    RuntimeLine {
        name: runtime.name.clone(),
        path: if runtime.name == "default" {
            "/runtime/image".to_owned()
        } else {
            format!("/runtimes/{}/image", runtime.name)
        },
        is_enabled: runtime.settings.enabled,
        may_deploy: runtime.settings.allow_deployments,
        deployed,
        reload: told["reload"].as_str().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::pasted;

    #[test]
    fn a_shell_takes_a_pasted_word_as_one() {
        for (word, wanted) in [
            ("http://a:3000/f26%20x", "http://a:3000/f26%20x"),
            ("/x$(id)", "'/x$(id)'"),
            ("/a;id&b", "'/a;id&b'"),
            ("/it's", r"'/it'\''s'"),
            ("/~a", "'/~a'"),
        ] {
            assert_eq!(pasted(word), wanted);
        }
    }
}
