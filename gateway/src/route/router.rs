//! From a method and a path to a row, for the doors that are there.

use std::collections::BTreeMap;

use http::Method;

use super::{Door, DoorSet, ROUTES, Row};
use crate::config::settings::Doors;

/// The table, compiled for matching with each door's prefix.
#[derive(Debug)]
pub struct Router {
    paths: matchit::Router<Vec<&'static Row>>,
    rows: Vec<(String, &'static Row)>,
    reserved: Vec<String>,
}

/// What a method and a path lead to.
#[derive(Debug)]
pub enum Found {
    /// This row, with the values of its path's names.
    Row(&'static Row, PathNames),
    /// The path exists at this door, but not with this method; these do.
    OtherMethods(Door, Vec<Method>),
    /// Nothing.
    Nothing,
}

/// Values of the `{names}` in a row's path, already percent-decoded.
#[derive(Debug, Clone, Default)]
pub struct PathNames(Vec<(String, String)>);

impl PathNames {
    /// Names that stand elsewhere than in the path, for the policies that want them.
    pub fn of<const N: usize>(names: [(&str, String); N]) -> Self {
        Self(names.map(|(n, v)| (n.to_owned(), v)).to_vec())
    }

    /// All names with their values.
    pub fn all(&self) -> std::collections::BTreeMap<String, String> {
        self.0.iter().cloned().collect()
    }

    /// The value of one name; empty when the row's path has no such name.
    pub fn value(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map_or("", |(_, v)| v)
    }
}

/// Words that stay free for routes to come, beside those that the table itself takes.
const ALSO_RESERVED: &[&str] = &[
    "-",
    "admin",
    "api",
    "assets",
    "badge",
    "blobs",
    "boxes",
    "download",
    "favicon.ico",
    "files",
    "health",
    "hooks",
    "keys",
    "livez",
    "metrics",
    "openapi",
    "openapi.json",
    "plugins",
    "providers",
    "readyz",
    "robots.txt",
    "runtime",
    "runtimes",
    "servers",
    "swagger.json",
    "uploads",
];

/// Whether a box may be named so: the second word of a route is no box of any organization.
///
/// # Errors
/// Why not, for whoever chose the name.
pub fn free_box_name(name: &str) -> Result<(), String> {
    let is_taken = ROUTES.iter().any(|row| {
        let mut words = row.path.split('/').skip(1);
        let (first, second, more) = (words.next(), words.next(), words.next());
        first.is_some_and(|first| first.starts_with('{'))
            && second.is_some_and(|second| second.eq_ignore_ascii_case(name))
            && more.is_none()
    });
    if is_taken {
        return Err(format!(
            "box {name:?} is reserved: it is the second word of a route. Choose another name."
        ));
    }
    Ok(())
}

impl Router {
    /// Compiles the rows of the enabled doors.
    ///
    /// # Errors
    /// When two rows would shadow each other; the text names both paths.
    pub fn try_new(doors: &Doors) -> Result<Self, String> {
        Self::of(doors, DoorSet::ALL)
    }

    /// The same for those of them that a listener has.
    ///
    /// # Errors
    /// As [`Self::try_new`].
    pub fn of(doors: &Doors, there: DoorSet) -> Result<Self, String> {
        let mut by_path: BTreeMap<String, Vec<&'static Row>> = BTreeMap::new();
        let mut listed = Vec::new();
        for row in ROUTES.iter().filter(|row| there.contains(row.door)) {
            if let Some(prefix) = prefix(doors, row.door) {
                let path = path_of(prefix, row);
                listed.push((path.clone(), row));
                by_path.entry(path).or_default().push(row);
            }
        }
        let mut reserved: Vec<String> = ALSO_RESERVED.iter().map(|&w| w.to_owned()).collect();
        let mut paths = matchit::Router::new();
        for (path, rows) in by_path {
            let first = path
                .trim_start_matches('/')
                .split('/')
                .next()
                .unwrap_or_default();
            if !first.starts_with('{') {
                reserved.push(first.to_ascii_lowercase());
            }
            paths
                .insert(path.clone(), rows)
                .map_err(|e| format!("route {path}: {e}"))?;
        }
        reserved.sort();
        reserved.dedup();
        Ok(Self {
            paths,
            rows: listed,
            reserved,
        })
    }

    /// What a method and a normalized, percent-decoded path lead to.
    pub fn find(&self, method: &Method, path: &str) -> Found {
        let Ok(found) = self.paths.at(path) else {
            return Found::Nothing;
        };
        // `/{org}/{box}` takes any two words; the first words of routes are nobody's organization.
        let named = found.value.iter().all(|row| row.path.starts_with("/{org}"));
        if named
            && found
                .params
                .get("org")
                .is_some_and(|org| self.is_reserved(org))
        {
            return Found::Nothing;
        }
        let row_of = |method: &Method| found.value.iter().find(|row| row.method == method);
        // A row of its own comes first: HEAD of an upload does what GET must not.
        let row = row_of(method).or_else(|| {
            (method == Method::HEAD)
                .then(|| row_of(&Method::GET))
                .flatten()
        });
        match row {
            Some(row) => Found::Row(
                row,
                PathNames(
                    found
                        .params
                        .iter()
                        .map(|(n, v)| (n.to_owned(), v.to_owned()))
                        .collect(),
                ),
            ),
            None => match found.value.first() {
                Some(first) => {
                    let methods = found.value.iter().map(|row| row.method.clone());
                    Found::OtherMethods(first.door, methods.collect())
                }
                None => Found::Nothing,
            },
        }
    }

    /// All rows in the order of the table, each with its path below its door's prefix.
    pub fn rows(&self) -> &[(String, &'static Row)] {
        &self.rows
    }

    /// Names that no organization may have, folded.
    pub fn reserved(&self) -> &[String] {
        &self.reserved
    }

    /// Whether an organization of that name would be shadowed by a route.
    pub fn is_reserved(&self, organization: &str) -> bool {
        self.reserved
            .binary_search(&organization.to_ascii_lowercase())
            .is_ok()
    }
}

/// Below a prefix, the root of a door is the prefix: no normal path ends with a slash.
fn path_of(prefix: &str, row: &Row) -> String {
    match (prefix, row.path) {
        ("", path) => path.to_owned(),
        (prefix, "/") => prefix.to_owned(),
        (prefix, path) => format!("{prefix}{path}"),
    }
}

/// What stands before a door's paths; `None` when it is switched off.
fn prefix(doors: &Doors, door: Door) -> Option<&str> {
    match door {
        Door::BoxVault => doors
            .boxvault
            .enabled
            .then_some(doors.boxvault.prefix.as_str()),
        Door::Vagrant => doors
            .vagrant
            .enabled
            .then_some(doors.vagrant.prefix.as_str()),
        Door::VagrantCloud => doors
            .vagrant_cloud
            .enabled
            .then_some(doors.vagrant_cloud.prefix.as_str()),
        Door::Files => doors.files.enabled.then_some(doors.files.prefix.as_str()),
        Door::Blobs => doors.blobs.enabled.then_some(doors.blobs.prefix.as_str()),
        Door::Hooks => doors.hooks.enabled.then_some(doors.hooks.prefix.as_str()),
        Door::Providers => doors
            .providers
            .enabled
            .then_some(doors.providers.prefix.as_str()),
        Door::Runtime => doors
            .runtime
            .enabled
            .then_some(doors.runtime.prefix.as_str()),
        Door::Boxitory => doors
            .boxitory
            .enabled
            .then_some(doors.boxitory.prefix.as_str()),
        Door::Operations => doors
            .operations
            .enabled
            .then_some(doors.operations.prefix.as_str()),
        Door::Admin => Some(""),
        Door::Page => doors.page.enabled.then_some(doors.page.prefix.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Route;

    fn doors() -> Doors {
        let open = || crate::config::settings::Door {
            enabled: true,
            prefix: String::new(),
        };
        Doors {
            boxvault: open(),
            vagrant: open(),
            vagrant_cloud: open(),
            files: open(),
            blobs: open(),
            hooks: open(),
            providers: open(),
            runtime: open(),
            boxitory: open(),
            operations: open(),
            page: open(),
        }
    }

    #[test]
    fn no_row_shadows_another_and_every_row_finds_itself() {
        let router = Router::try_new(&doors()).unwrap();
        for row in ROUTES {
            let path = example(row);
            match router.find(&row.method, &path) {
                Found::Row(found, _) => {
                    assert_eq!((found.route, found.path), (row.route, row.path), "{path}");
                }
                other => panic!("{path}: {other:?}"),
            }
        }
    }

    /// How a door is reached in the settings; each but that of administration, which is always there.
    type Of = fn(&mut Doors) -> &mut crate::config::settings::Door;
    const DOORS: [(Door, Of); 11] = [
        (Door::BoxVault, |doors| &mut doors.boxvault),
        (Door::Vagrant, |doors| &mut doors.vagrant),
        (Door::VagrantCloud, |doors| &mut doors.vagrant_cloud),
        (Door::Files, |doors| &mut doors.files),
        (Door::Blobs, |doors| &mut doors.blobs),
        (Door::Hooks, |doors| &mut doors.hooks),
        (Door::Providers, |doors| &mut doors.providers),
        (Door::Runtime, |doors| &mut doors.runtime),
        (Door::Boxitory, |doors| &mut doors.boxitory),
        (Door::Operations, |doors| &mut doors.operations),
        (Door::Page, |doors| &mut doors.page),
    ];

    /// A path that a row takes, with the names of its values for values.
    fn example(row: &Row) -> String {
        row.path.replace(['{', '}'], "")
    }

    fn leads_to(router: &Router, row: &Row, path: &str) -> bool {
        matches!(router.find(&row.method, path), Found::Row(found, _) if found.route == row.route)
    }

    #[test]
    fn each_door_is_switched_off_and_moved_by_itself() {
        for (door, of) in DOORS {
            let mut without = doors();
            of(&mut without).enabled = false;
            let without = Router::try_new(&without).unwrap();
            let mut moved = doors();
            of(&mut moved).prefix = "/moved/away".to_owned();
            let moved = Router::try_new(&moved).unwrap();
            assert!(moved.is_reserved("moved"), "{door:?}");
            for row in ROUTES {
                let path = example(row);
                if row.door != door {
                    assert!(leads_to(&without, row, &path), "{path} without {door:?}");
                    assert!(leads_to(&moved, row, &path), "{path}, {door:?} moved");
                    continue;
                }
                let away = path_of("/moved/away", row).replace(['{', '}'], "");
                assert!(leads_to(&moved, row, &away), "{away}");
                for router in [&without, &moved] {
                    let found = router.find(&row.method, &path);
                    let is_there = matches!(found, Found::Row(found, _) if found.door == door);
                    assert!(!is_there, "{path} of {door:?}");
                }
            }
        }
    }

    /// A path that both take, and the values that names of the first have in it.
    fn in_common(row: &Row, other: &Row) -> Option<(String, Vec<(&'static str, &'static str)>)> {
        let (mut path, mut values) = (String::new(), Vec::new());
        let (mut a, mut b) = (row.path.split('/').skip(1), other.path.split('/').skip(1));
        loop {
            let (ours, theirs) = match (a.next(), b.next()) {
                (None, None) => return Some((path, values)),
                (Some(ours), Some(theirs)) => (ours, theirs),
                _ => return None,
            };
            let word = match (ours.starts_with('{'), theirs.starts_with('{')) {
                (true, true) => "x",
                (true, false) => {
                    values.push((ours.trim_matches(['{', '}']), theirs));
                    theirs
                }
                (false, true) => ours,
                (false, false) if ours == theirs => ours,
                (false, false) => return None,
            };
            path = format!("{path}/{word}");
        }
    }

    #[test]
    fn what_another_row_takes_away_from_a_row_are_names_that_nothing_can_have() {
        let router = Router::try_new(&doors()).unwrap();
        let mut looked_at = 0;
        for row in ROUTES {
            // The names of a tree are somebody else's: docs say how to keep it apart.
            for other in ROUTES.iter().filter(|_| row.door != Door::Boxitory) {
                let Some((path, values)) = in_common(row, other) else {
                    continue;
                };
                if values.is_empty() || leads_to(&router, row, &path) {
                    continue;
                }
                looked_at += 1;
                let is_refused = |&(name, value): &(&str, &str)| match name {
                    "org" => router.is_reserved(value),
                    "box" => free_box_name(value).is_err(),
                    // Refused where providers are told of.
                    "arch" => value == "upload",
                    // Numbers, and random digits.
                    "id" | "user" | "upload" | "webhook" | "key" | "iso" => {
                        value.chars().any(|c| !c.is_ascii_hexdigit())
                    }
                    _ => false,
                };
                assert!(
                    values.iter().any(is_refused),
                    "{path}: {} is taken away from {} by names that may be: {values:?}",
                    other.path,
                    row.path
                );
            }
        }
        assert!(looked_at > 10, "{looked_at}");
    }

    #[test]
    fn a_box_is_not_named_like_the_second_word_of_a_route() {
        for word in ["latestVersion", "latestversion"] {
            assert!(free_box_name(word).is_err(), "{word}");
        }
        for word in ["demo", "boxes", "versions", "download"] {
            assert!(free_box_name(word).is_ok(), "{word}");
        }
    }

    #[test]
    fn a_listener_has_the_doors_that_it_names_and_each_where_it_names_none() {
        let named = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
            DoorSet::named(&names).map_err(str::to_owned)
        };
        assert_eq!(named(&[]), Ok(DoorSet::ALL));
        assert_eq!(named(&["vagrant", "attic"]), Err("attic".to_owned()));
        let alone = named(&["boxitory"]).unwrap();
        assert_eq!(alone, DoorSet::only(Door::Boxitory));
        let router = Router::of(&doors(), alone).unwrap();
        assert!(matches!(
            router.find(&Method::GET, "/health"),
            Found::Row(row, _) if row.route == Route::BoxitoryBox
        ));
        assert!(matches!(
            router.find(&Method::GET, "/api/status"),
            Found::Nothing
        ));
        let all = named(&Door::EACH.map(Door::name)).unwrap();
        assert!(ROUTES.iter().all(|row| all.contains(row.door)));
    }

    #[test]
    fn first_words_of_routes_are_reserved() {
        let router = Router::try_new(&doors()).unwrap();
        for word in ["api", "API", "health", "files", "uploads", "runtimes"] {
            assert!(router.is_reserved(word), "{word}");
        }
        assert!(!router.is_reserved("myorg"));
    }

    #[test]
    fn a_known_path_with_another_method_names_those_that_work() {
        let router = Router::try_new(&doors()).unwrap();
        assert!(matches!(
            router.find(&Method::PATCH, "/api/auth/signin"),
            Found::OtherMethods(_, methods) if methods == [Method::POST]
        ));
        for path in ["/nothing/here/either", "/api/nothing", "/API/boxes/x"] {
            assert!(
                matches!(router.find(&Method::POST, path), Found::Nothing),
                "{path}"
            );
        }
    }
}
