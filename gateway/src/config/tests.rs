mod limits;

use std::ffi::OsString;
use std::time::Duration;

use super::*;
use crate::route::{Door, DoorSet};

const MACHINE: Machine = Machine {
    memory_bytes: 4 << 30,
    open_files: 65_536,
};

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

/// Loads `text` as the file that `--config` names.
fn load_text(
    text: &str,
    environment: &[(&str, &str)],
    mut flags: Flags,
) -> Result<(Settings, Vec<Warning>), ConfigErrors> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("boxgate.toml");
    std::fs::write(&path, text).unwrap();
    flags.config = Some(path);
    load_from(&flags, variables(environment), MACHINE)
}

fn settings(text: &str) -> Settings {
    load_text(text, &[], Flags::default()).unwrap().0
}

#[test]
fn the_documented_file_says_exactly_the_defaults() {
    let text = include_str!("../../../docs/boxgate.toml");
    let documented: ConfigFile = toml::from_str(text).unwrap();
    assert_eq!(documented, ConfigFile::default());
    let table: toml::Table = text.parse().unwrap();
    assert_eq!(
        layers::leaf_paths(&table),
        layers::leaf_paths(&layers::schema()),
        "a key is missing in docs/boxgate.toml"
    );
}

#[test]
fn defaults_are_good_and_computed_from_the_machine() {
    assert_eq!(defaults().limits.json_depth, 32);
    let settings = settings("");
    assert_eq!(settings.uploads.part_budget_bytes, 512 << 20);
    assert_eq!(settings.limits.connections, 20_000);
    let settings::StoreSettings::Local(store) = &settings.stores["main"] else {
        panic!("a directory is the default");
    };
    assert_eq!(store.path, Path::new("./boxgate-data/blobs"));
    assert_eq!(settings.listeners[0].address.to_string(), "127.0.0.1:3000");
    assert_eq!(settings.auth.session_ttl, Duration::from_hours(24));
    assert!(!settings.catalog.new_box_public);
}

#[test]
fn the_part_budget_is_an_eighth_of_memory_within_bounds() {
    for (memory_bytes, budget) in [
        (256 << 20, 128 << 20),
        (4 << 30, 512 << 20),
        (64 << 30, 1 << 30),
    ] {
        let machine = Machine {
            memory_bytes,
            ..MACHINE
        };
        let (settings, _) = load_from(&Flags::default(), [], machine).unwrap();
        assert_eq!(settings.uploads.part_budget_bytes, budget);
        assert_eq!(settings.cache.size_bytes, budget);
    }
}

#[test]
fn the_ceiling_is_the_sum_of_its_terms() {
    let settings = settings(
        "[uploads]\npart_budget = \"128MiB\"\nmax_in_progress = 64\njoins_in_progress = 3\n\
         [cache]\nsize = \"64MiB\"\n[limits]\nconnections = 1064\nrate_keys = 2048\n[scripts]\nworkers = 1\n[hooks]\nat_once = 8\n[providers]\nat_once = 2\n\
         [webhooks]\nat_once = 64\n",
    );
    let ceiling = settings.ceiling();
    assert_eq!(
        ceiling.total(),
        (96 + 128 + (64 + 8) + (24 + 12) + 12 + 4 + 16 + 8 + 16 + 8 + 32) * (1 << 20)
            + 1000 * (64 << 10)
    );
    assert!(
        ceiling
            .to_string()
            .starts_with("491 MiB (base 96, part budget 128, cache 72, "),
        "{ceiling}"
    );
}

#[test]
fn two_configurations_differ_in_the_keys_that_were_changed() {
    let one = settings("[log]\nlevel = \"info\"\n[rates.address]\nrequests = 5\n");
    let other = settings("[log]\nlevel = \"warn\"\n[cache]\nsize = \"64MiB\"\n");
    let changed = ["cache.size", "log.level", "rates.address.requests"];
    assert_eq!(one.differs_in(&other), changed);
    assert_eq!(other.differs_in(&one), changed);
    assert!(one.differs_in(&one.clone()).is_empty());
}

#[test]
fn a_flag_beats_a_variable_which_beats_the_file_which_beats_the_default() {
    let file = "data_dir = \"/file\"\n";
    let variable = [("BOXGATE_DATA_DIR", "/variable")];
    let flag = Flags {
        data_dir: Some("/flag".into()),
        ..Flags::default()
    };
    let dir = |loaded: Result<(Settings, Vec<Warning>), ConfigErrors>| loaded.unwrap().0.data_dir;
    assert_eq!(
        dir(load_text("", &[], Flags::default())),
        Path::new("./boxgate-data")
    );
    assert_eq!(
        dir(load_text(file, &[], Flags::default())),
        Path::new("/file")
    );
    assert_eq!(
        dir(load_text(file, &variable, Flags::default())),
        Path::new("/variable")
    );
    assert_eq!(dir(load_text(file, &variable, flag)), Path::new("/flag"));
}

#[test]
fn plugins_are_read_from_where_the_flag_says() {
    let file = "[scripts]\ndirs = [\"/file\"]\n";
    let flags = Flags {
        plugins: vec!["/a".into(), "/b".into()],
        ..Flags::default()
    };
    let dirs = |flags| load_text(file, &[], flags).unwrap().0.scripts.dirs;
    assert_eq!(dirs(flags), [Path::new("/a"), Path::new("/b")]);
    assert_eq!(dirs(Flags::default()), [Path::new("/file")]);
}

#[test]
fn listen_sets_the_first_listener_only() {
    let file =
        "[[listeners]]\naddress = \"127.0.0.1:1\"\n[[listeners]]\naddress = \"127.0.0.1:2\"\n";
    let flags = Flags {
        listen: Some("127.0.0.1:9".into()),
        ..Flags::default()
    };
    let (both, _) = load_text(file, &[("BOXGATE_LISTEN", "127.0.0.1:8")], flags).unwrap();
    let ports: Vec<u16> = both.listeners.iter().map(|l| l.address.port()).collect();
    assert_eq!(ports, [9, 2]);
    let (variable, _) =
        load_text("", &[("BOXGATE_LISTEN", "127.0.0.1:0")], Flags::default()).unwrap();
    assert_eq!(variable.listeners[0].address.port(), 0);
}

#[test]
fn a_tree_of_boxes_is_served_alone_where_no_address_is_said() {
    let flags = Flags {
        boxitory: Some("/srv/boxes".into()),
        ..Flags::default()
    };
    let addresses = |settings: &Settings| -> Vec<_> {
        let listeners = settings.listeners.iter();
        listeners
            .map(|l| (l.address.to_string(), l.doors))
            .collect()
    };
    let (alone, _) = load_text("", &[], flags.clone()).unwrap();
    let only = DoorSet::only(Door::Boxitory);
    assert_eq!(addresses(&alone), [("0.0.0.0:8083".to_owned(), only)]);
    assert_eq!(alone.boxitory.unwrap().home, Path::new("/srv/boxes"));
    let variable = [("BOXGATE_LISTEN", "127.0.0.1:9")];
    let (said, _) = load_text("", &variable, flags.clone()).unwrap();
    assert_eq!(addresses(&said), [("127.0.0.1:9".to_owned(), DoorSet::ALL)]);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("boxitory.properties");
    std::fs::write(
        &path,
        "server.port=8084\nbox.home=/other\nbox.sort_desc=true\n",
    )
    .unwrap();
    let with_properties = Flags {
        boxitory_properties: Some(path),
        ..Flags::default()
    };
    let environment = [("BOX_HOST_PREFIX", "sftp://h:"), ("BOX_SORT_DESC", "false")];
    let (told, _) = load_text("", &environment, with_properties.clone()).unwrap();
    assert_eq!(addresses(&told), [("0.0.0.0:8084".to_owned(), only)]);
    let tree = told.boxitory.unwrap();
    assert_eq!(
        (
            tree.home.as_path(),
            tree.host_prefix.as_str(),
            tree.sort_desc
        ),
        (Path::new("/other"), "sftp://h:", false)
    );
    let both = Flags {
        boxitory: flags.boxitory,
        ..with_properties
    };
    let (both, _) = load_text("", &[], both).unwrap();
    assert_eq!(both.boxitory.unwrap().home, Path::new("/srv/boxes"));

    let (none, _) = load_text("", &[("BOX_HOME", "/x")], Flags::default()).unwrap();
    assert!(none.boxitory.is_none() && !none.doors.boxitory.enabled);
    let wrong =
        "[[listeners]]\ndoors = [\"attic\"]\n[boxitory]\nchecksum = \"crc\"\npath_type = \"ftp\"\n";
    let wrong = load_text(wrong, &[], Flags::default())
        .unwrap_err()
        .to_string();
    for key in [
        "listeners[0].doors",
        "boxitory.checksum",
        "boxitory.path_type",
    ] {
        assert!(wrong.contains(key), "{key}: {wrong}");
    }
}

/// What is said of a file that is wrong.
fn mistakes(text: &str) -> String {
    load_text(text, &[], Flags::default())
        .unwrap_err()
        .to_string()
}

#[test]
fn two_listeners_at_one_port_are_told_before_the_start() {
    let both = |one: &str, other: &str| {
        format!("[[listeners]]\naddress = \"{one}\"\n[[listeners]]\naddress = \"{other}\"\n")
    };
    for (one, other) in [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("127.0.0.1:80", "0.0.0.0:80"),
        ("[::]:80", "[::1]:80"),
    ] {
        let told = mistakes(&both(one, other));
        assert!(
            told.contains("listeners[1].address") && told.contains(one),
            "{told}"
        );
    }
    for (one, other) in [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("0.0.0.0:80", "[::1]:80"),
        ("127.0.0.1:80", "127.0.0.1:81"),
    ] {
        settings(&both(one, other));
    }
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("runtime.json");
    std::fs::write(&path, r#"{"HttpWebServer": {"Http": {"Port": 3000}}}"#).unwrap();
    let told = mistakes(&format!(
        "[runtimes.default]\nimport = {path:?}\nimport_web_server = true\n"
    ));
    assert!(
        told.contains("127.0.0.1:3000") && told.contains("import_web_server"),
        "{told}"
    );
}

#[test]
fn what_a_runtime_cannot_do_is_told_also_where_it_does_nothing_yet() {
    let told = mistakes("[runtimes.default]\nbackup_frequency = \"@never\"\n");
    assert!(told.contains("runtimes.default.backup_frequency"), "{told}");
    let key = "k".repeat(36);
    let stored = |more: &str| {
        format!("[runtimes.one]\nenabled = true\napi_key = \"{key}\"\nstore = \"main\"\n{more}")
    };
    let told = mistakes(&stored(
        "rollback_on_reload_failure = true\nimage_file_path = \"a b\"\n",
    ));
    for key in [
        "rollback_on_reload_failure",
        "organization",
        "image_file_path",
    ] {
        assert!(
            told.contains(&format!("runtimes.one.{key}")),
            "{key}: {told}"
        );
    }
    let told = mistakes(&stored("organization = \"acme\"\n").replace("\"main\"", "\"attic\""));
    assert!(
        told.contains("runtimes.one.store") && told.contains("attic"),
        "{told}"
    );
    let settings = settings(&stored(
        "organization = \"acme\"\nimage_file_path = \"/x/shop.sbimg\"\n",
    ));
    let kept = settings.runtimes["one"].stored.clone().unwrap();
    assert_eq!(
        (kept.store.as_str(), kept.name.as_str()),
        ("main", "shop.sbimg")
    );
}

#[test]
fn an_image_is_in_one_place_and_not_among_the_gateways_own_files() {
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("one", home.path().join("link")).unwrap();
    std::fs::create_dir(home.path().join("one")).unwrap();
    let at = |path: &str| home.path().join(path).display().to_string();
    let runtime = |name: &str, path: &str| {
        let key = "k".repeat(36);
        format!(
            "[runtimes.{name}]\nenabled = true\napi_key = \"{key}\"\nimage_file_path = {path:?}\n"
        )
    };
    let set = |images: &[&str]| {
        let names = ["a", "b"].into_iter().zip(images);
        let runtimes = names.map(|(name, path)| runtime(name, &at(path)));
        format!(
            "data_dir = {:?}\n{}",
            at("data"),
            runtimes.collect::<String>()
        )
    };
    let (longest, too_long) = ("n".repeat(200), "n".repeat(201));
    for (images, said) in [
        (&["data/image"][..], "data_dir"),
        (&["one/../data/blobs/image"], "data_dir"),
        (&["data/images/../image"], "data_dir"),
        (&["one/image", "one/./image"], "same image"),
        (&["one/image", "two/../one/image"], "same image"),
        (&["one/image", "link/image"], "same image"),
        (&[too_long.as_str()], "200 bytes"),
    ] {
        let told = mistakes(&set(images));
        assert!(
            told.contains("image_file_path") && told.contains(said),
            "{images:?}: {told}"
        );
    }
    settings(&set(&["data-of-others/image", "one/image"]));
    settings(&set(&["data/images/image"]));
    settings(&set(&[longest.as_str()]));
}

#[test]
fn variables_set_nested_keys_numbers_truth_values_and_lists() {
    let (settings, warnings) = load_text(
        "",
        &[
            ("BOXGATE_UPLOADS__PART_BUDGET", "64MiB"),
            ("BOXGATE_UPLOADS__MAX_IN_PROGRESS", "3"),
            ("BOXGATE_DOORS__VAGRANT__ENABLED", "false"),
            (
                "BOXGATE_PUBLIC_URL",
                "https://a.example/, http://b.example:8080",
            ),
            ("BOXGATE_URL", "http://elsewhere"),
            ("PATH", "/bin"),
        ],
        Flags::default(),
    )
    .unwrap();
    assert_eq!(settings.uploads.part_budget_bytes, 64 << 20);
    assert_eq!(settings.uploads.max_in_progress, 3);
    assert!(!settings.doors.vagrant.enabled);
    assert_eq!(
        settings.public_url,
        ["https://a.example", "http://b.example:8080"]
    );
    assert_eq!(warnings, []);
}

#[test]
fn an_unknown_variable_is_warned_about() {
    let (_, warnings) =
        load_text("", &[("BOXGATE_UPLOADS__PARTS", "1")], Flags::default()).unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].to_string().contains("BOXGATE_UPLOADS__PARTS"));
}

#[test]
fn all_mistakes_are_told_together_with_their_keys() {
    let text = r#"
        public_url = ["boxes.example.com"]
        trusted_proxies = ["10.0.0.1/8"]
        nonsense = 1
        [uploads]
        part_budget = "8"
        max_length = 5
        decode_base64 = "maybe"
        [metadata]
        url = "mysql://db"
        [stores.main]
        kind = "ftp"
        [stores.other]
        kind = "local"
        [doors.boxvault]
        prefix = "a/../b"
        [log]
        level = "loud"
        [files]
        cors_origins = ["app.example.com"]
        [empty]
    "#;
    let environment = [("BOXGATE_LIMITS__JSON_DEPTH", "deep")];
    let errors = load_text(text, &environment, Flags::default()).unwrap_err();
    let keys: Vec<&str> = errors
        .0
        .iter()
        .map(|mistake| mistake.key.as_str())
        .collect();
    for key in [
        "BOXGATE_LIMITS__JSON_DEPTH",
        "nonsense",
        "uploads.part_budget",
        "uploads.max_length",
        "stores.other.path",
        "empty",
        "metadata.url",
        "BOXGATE_MASTER_KEY",
        "doors.boxvault.prefix",
        "public_url",
        "trusted_proxies",
        "stores.main.kind",
        "uploads.decode_base64",
        "log.level",
        "files.cors_origins",
    ] {
        assert!(keys.contains(&key), "{key} is missing in {keys:?}");
    }
    assert_eq!(keys.len(), 15, "{errors}");
    let shown = errors.to_string();
    assert!(
        shown.contains("metadata.url: expected \"\" for the embedded database"),
        "{shown}"
    );
    assert!(
        shown.contains("expected a size such as \"8MiB\""),
        "{shown}"
    );
}

#[test]
fn parts_wait_for_no_others_and_no_second_core_hashes_where_that_is_unwanted() {
    let usual = settings("").uploads;
    assert_eq!(usual.commit_bytes, 64 << 20);
    assert_eq!(usual.commit_within, Duration::from_millis(250));
    let text = "[uploads]\ncommit_bytes = \"0\"\n[digests]\nsecond_core = \"never\"";
    let unwanted = settings(text);
    assert_eq!(
        (unwanted.uploads.commit_bytes, unwanted.digests.lanes),
        (0, 0)
    );
    let text = "[uploads]\ncommit_within = \"0\"\n[digests]\nsecond_core = \"always\"";
    let told = mistakes(text);
    for key in ["uploads.commit_within", "digests.second_core"] {
        assert!(told.contains(key), "{told}");
    }
}

#[test]
fn a_file_that_is_no_toml_is_told_with_its_line() {
    let errors = load_text("a = 1\nb = = 2\n", &[], Flags::default()).unwrap_err();
    assert!(
        errors.to_string().contains("boxgate.toml: line 2: "),
        "{errors}"
    );
}

#[test]
fn a_missing_file_is_a_mistake_only_when_it_was_named() {
    let flags = Flags {
        config: Some("/nonexistent/boxgate.toml".into()),
        ..Flags::default()
    };
    assert!(load_from(&flags, [], MACHINE).is_err());
    assert!(load_from(&Flags::default(), [], MACHINE).is_ok());
}

#[test]
fn secrets_come_from_a_variable_or_its_file_and_are_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, "from-file\n").unwrap();
    let named = path.to_str().unwrap();
    let (direct, _) = load_text("", &[("BOXGATE_MASTER_KEY", "shown")], Flags::default()).unwrap();
    assert_eq!(direct.master_key.as_ref().unwrap().expose(), "shown");
    assert!(!format!("{direct:?}").contains("shown"));
    let (filed, _) = load_text(
        "",
        &[
            ("BOXGATE_MASTER_KEY_FILE", named),
            ("BOXGATE_BOOTSTRAP_PASSWORD_FILE", named),
        ],
        Flags::default(),
    )
    .unwrap();
    assert_eq!(filed.master_key.as_ref().unwrap().expose(), "from-file");
    let printed = print(&filed);
    assert!(printed.contains("# BOXGATE_MASTER_KEY = ***"), "{printed}");
    assert!(!printed.contains("from-file"));
    let both = [
        ("BOXGATE_MASTER_KEY", "a"),
        ("BOXGATE_MASTER_KEY_FILE", named),
    ];
    assert!(load_text("", &both, Flags::default()).is_err());
}

#[test]
fn a_plugins_secret_that_cannot_be_read_is_no_mistake_and_a_raise_beyond_bounds_is_one() {
    let read = settings("[scripts.secrets]\nLOST = \"/nonexistent/secret\"\n");
    assert!(read.scripts.secrets.is_empty());
    let why = &read.scripts.unreadable_secrets["LOST"];
    assert!(why.contains("/nonexistent/secret"), "{why}");
    for (line, good) in [
        ("raise = 10", true),
        ("raise = 11", false),
        ("raise = 0", false),
        ("raise_text = 4", true),
        ("raise_text = 5", false),
    ] {
        let text = format!("[scripts.grants.acme]\n{line}\n");
        let loaded = load_text(&text, &[], Flags::default());
        assert_eq!(loaded.is_ok(), good, "{line}");
    }
}

#[test]
fn what_is_printed_loads_to_the_same_settings() {
    let first = settings("data_dir = \"/var/lib/boxgate\"\n[auth]\nsession_ttl = \"90s\"\n");
    let printed = print(&first);
    assert!(printed.contains("part_budget = \"512MiB\""), "{printed}");
    let second = settings(&printed);
    assert_eq!(print(&second), printed);
    assert_eq!(second.auth.session_ttl, Duration::from_secs(90));
}

#[test]
fn the_header_that_names_the_client_is_chosen_by_name() {
    use settings::ClientIp;
    let of = |name: &str| {
        settings(&format!("[server]\nclient_ip = \"{name}\"\n"))
            .server
            .client_ip
    };
    assert_eq!(of("forwarded"), ClientIp::Forwarded);
    assert_eq!(
        of("CF-Connecting-IP"),
        ClientIp::Header("cf-connecting-ip".parse().unwrap())
    );
    let text = "[server]\nclient_ip = \"proxy-protocol\"\n";
    let named = format!("trusted_proxies = [\"10.0.0.1\"]\n{text}");
    let server = settings(&named).server;
    assert_eq!(server.client_ip, ClientIp::ProxyProtocol);
    let refused = load_text(text, &[], Flags::default()).unwrap_err();
    assert!(refused.to_string().contains("trusted_proxies"), "{refused}");
}

#[test]
fn a_policy_says_what_it_changes_and_others_stand_beside_those_that_are_always_there() {
    use rates::Per;
    let of = |text: &str| {
        let rates = settings(text).rates.into_iter();
        let rates = rates.map(|rate| (rate.name.clone(), rate));
        rates.collect::<std::collections::BTreeMap<_, _>>()
    };
    let known = of("");
    assert_eq!(
        known.keys().collect::<Vec<_>>(),
        ["address", "organization", "principal"]
    );
    let changed = of(
        "[rates.principal]\nrequests = 7\n[rates.organization]\nenabled = false\n\
                      [rates.slow-downloads]\nper = \"address\"\nclasses = [\"download\"]\nrequests = 2\nburst = 3\n",
    );
    assert_eq!(changed["principal"].requests.get(), 7);
    assert_eq!(changed["principal"].burst, known["principal"].burst);
    assert_eq!(changed["principal"].per, Per::Principal);
    assert_eq!(changed["address"], known["address"]);
    assert!(!changed.contains_key("organization"));
    assert_eq!(changed["slow-downloads"].burst.get(), 3);
    let variables = [
        ("BOXGATE_RATES__ADDRESS__BURST", "5"),
        ("BOXGATE_RATES__MORE__REQUESTS", "6"),
    ];
    let (by_variable, warnings) = load_text("", &variables, Flags::default()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert!(
        by_variable
            .rates
            .iter()
            .any(|r| r.name == "address" && r.burst.get() == 5)
    );
    assert!(
        by_variable
            .rates
            .iter()
            .any(|r| r.name == "more" && r.requests.get() == 6)
    );
    for (text, key) in [
        ("[rates.address]\nrequests = 0\n", "rates.address.requests"),
        ("[rates.address]\nper = \"door\"\n", "rates.address.per"),
        (
            "[rates.address]\nclasses = [\"all\"]\n",
            "rates.address.classes",
        ),
        ("[rates.address]\nreqests = 1\n", "rates.address.reqests"),
        ("[rates.\"A b\"]\nrequests = 1\n", "rates.A b"),
    ] {
        let refused = load_text(text, &[], Flags::default()).unwrap_err();
        assert!(refused.to_string().contains(key), "{refused}");
    }
}

#[test]
fn the_secret_of_an_origin_is_long_and_never_shown() {
    let with = |secret: &str| format!("[server]\norigin_secret = \"{secret}\"\n");
    assert!(settings("").server.origin.is_none());
    let secret = "0123456789abcdef";
    let good = settings(&with(secret));
    assert!(good.server.origin.is_some());
    assert!(!print(&good).contains(secret));
    assert!(load_text(&with("short"), &[], Flags::default()).is_err());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secrets");
    std::fs::write(&file, format!("{secret}\n{secret}2\n")).unwrap();
    let from_file = format!("[server]\norigin_secret_file = \"{}\"\n", file.display());
    assert!(settings(&from_file).server.origin.is_some());
}

#[test]
fn a_bucket_is_named_with_its_credential_and_its_secret_is_never_shown() {
    use settings::StoreSettings;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, "from-file\n").unwrap();
    let base = "[stores.main]\nkind = \"s3\"\nendpoint = \"http://127.0.0.1:3900\"\n\
                bucket = \"boxes\"\naccess_key_id = \"id\"\n";
    let inline = settings(&format!("{base}secret_access_key = \"hush\"\n"));
    let filed = settings(&format!(
        "{base}secret_access_key_file = \"{}\"\n",
        path.display()
    ));
    for (settings, secret) in [(inline, "hush"), (filed, "from-file")] {
        let StoreSettings::S3(options) = &settings.stores["main"] else {
            panic!("a bucket");
        };
        assert_eq!(options.secret_access_key, secret);
        assert_eq!(
            (options.region.as_str(), options.path_style),
            ("us-east-1", true)
        );
        assert!(!format!("{settings:?}").contains(secret));
        let printed = print(&settings);
        assert!(!printed.contains(secret), "{printed}");
        assert!(
            printed.contains("# stores.main.secret_access_key = ***"),
            "{printed}"
        );
    }
    for (line, key) in [
        ("", "stores.main.secret_access_key"),
        (
            "secret_access_key = \"a\"\nprefix = \"b\"\n",
            "stores.main.prefix",
        ),
        (
            "secret_access_key = \"a\"\nsecret_access_key_file = \"/nonexistent\"\n",
            "stores.main.secret_access_key_file",
        ),
        (
            "secret_access_key = \"a\"\nretry_for = \"0s\"\n",
            "stores.main.retry_for",
        ),
    ] {
        let errors = load_text(&format!("{base}{line}"), &[], Flags::default()).unwrap_err();
        assert!(
            errors.0.iter().any(|mistake| mistake.key == key),
            "{key}: {errors}"
        );
    }
}

#[test]
fn stores_are_named_and_uploads_go_to_one_of_them() {
    let text = "[uploads]\nstore = \"disk-2\"\n[stores.disk-2]\npath = \"/srv/boxes\"\n";
    let variables = [("BOXGATE_STORES__BUCKET__KIND", "local")];
    let path = [("BOXGATE_STORES__BUCKET__PATH", "/srv/others")];
    let both: Vec<_> = variables.into_iter().chain(path).collect();
    let (loaded, warnings) = load_text(text, &both, Flags::default()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let names: Vec<_> = loaded.stores.keys().collect();
    assert_eq!(names, ["bucket", "disk-2"], "main only where none is named");
    assert_eq!(loaded.uploads.store, "disk-2");
    for (text, key) in [
        ("[stores.other]\npath = \"/srv/a\"\n", "uploads.store"),
        (
            "[stores.main]\n[stores.\"a.b\"]\npath = \"/a\"\n",
            "stores.a.b",
        ),
        (
            "[stores.main]\npath = \"/srv/a\"\n[stores.z]\npath = \"/srv/a\"\n",
            "stores.z.path",
        ),
        (
            "[stores.main]\nkind = \"local\"\n[stores.z]\nkind = \"local\"\n",
            "stores.z.path",
        ),
    ] {
        let errors = load_text(text, &[], Flags::default()).unwrap_err();
        let keys: Vec<_> = errors
            .0
            .iter()
            .map(|mistake| mistake.key.as_str())
            .collect();
        assert_eq!(keys, [key], "{errors}");
    }
}
