//! A tree of boxes that is served where it is, while somebody else writes to it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use boxgate_storage::metadata::accounts::PlatformRole;
use boxgate_storage::metadata::tokens::TokenKind;
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::harness::{Reply, Request, Running};

/// A tree of `box/file` and bytes.
struct Tree(TempDir);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for (path, bytes) in files {
            tree.write(path, bytes);
        }
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn home(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}

/// A gateway on the tree, with keys of `[boxitory]` in capitals.
async fn serve(tree: &Tree, keys: &[(&str, &str)]) -> Running {
    serve_at(tree.home(), keys).await
}

async fn serve_at(home: &str, keys: &[(&str, &str)]) -> Running {
    let named: Vec<_> = keys
        .iter()
        .map(|(key, value)| (format!("BOXGATE_BOXITORY__{key}"), *value))
        .collect();
    let mut variables: Vec<_> = named.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    variables.push(("BOXGATE_BOXITORY__HOME", home));
    Running::start_with(&variables).await
}

async fn get(running: &Running, path: &str) -> Reply {
    running.get(path, "").await
}

fn text(reply: &Reply) -> String {
    String::from_utf8(reply.body.clone()).unwrap()
}

/// Versions in the order of the answer.
async fn versions(running: &Running, box_name: &str) -> Vec<String> {
    let reply = get(running, &format!("/{box_name}")).await;
    assert_eq!(reply.status, 200, "{box_name}: {}", text(&reply));
    let document = reply.json();
    let versions = document["versions"].as_array().unwrap().iter();
    versions
        .map(|v| v["version"].as_str().unwrap().to_owned())
        .collect()
}

/// Asks until the answer is as wanted: the system tells of changes in its own time.
async fn until(running: &Running, path: &str, wanted: impl Fn(&Reply) -> bool + Sync) -> Reply {
    let asking = async {
        loop {
            let reply = get(running, path).await;
            if wanted(&reply) {
                return reply;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let asked = timeout(Duration::from_secs(30), asking).await;
    asked.unwrap_or_else(|_elapsed| panic!("{path} never became what is wanted"))
}

#[tokio::test]
async fn the_json_is_that_of_the_page_byte_for_byte() {
    let tree = Tree::new(&[
        ("f26/f26_1_virtualbox.box", ""),
        ("f26/f26_2_virtualbox.box", ""),
    ]);
    let running = serve(&tree, &[("HOST_PREFIX", "sftp://my_box_server:")]).await;
    let reply = get(&running, "/f26").await;
    let url = |v| {
        let home = tree.home();
        format!("sftp://my_box_server:{home}/f26/f26_{v}_virtualbox.box")
    };
    let want = format!(
        "{{\"name\":\"f26\",\"description\":\"f26\",\"versions\":[\
         {{\"version\":\"1\",\"providers\":[{{\"url\":\"{}\",\"name\":\"virtualbox\"}}]}},\
         {{\"version\":\"2\",\"providers\":[{{\"url\":\"{}\",\"name\":\"virtualbox\"}}]}}]}}",
        url(1),
        url(2)
    );
    assert_eq!(text(&reply), want);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    running.stop().await;
}

#[tokio::test]
async fn with_every_switch_the_fields_keep_their_order() {
    let tree = Tree::new(&[
        ("f25/f25_1_virtualbox.box", ""),
        ("f25/f25_2_libvirt.box", ""),
        ("f25/descriptions.csv", "1;;;first"),
    ]);
    let keys = [
        ("HOST_PREFIX", "sftp://h:"),
        ("CHECKSUM", "MD5"),
        ("LIST_PROVIDERS", "true"),
        ("LOCAL_URL", "true"),
        ("CHECKSUM_ENSURE", "1"),
        ("SORT_DESC", "true"),
    ];
    let running = serve(&tree, &keys).await;
    let reply = get(&running, "/f25").await;
    let file = |name| format!("{}/f25/{name}", tree.home());
    let (one, two) = (file("f25_1_virtualbox.box"), file("f25_2_libvirt.box"));
    let want = format!(
        "{{\"name\":\"f25\",\"description\":\"f25\",\"versions\":[\
         {{\"version\":\"2\",\"providers\":[{{\"url\":\"sftp://h:{two}\",\"localUrl\":\"{two}\",\
         \"name\":\"libvirt\",\"checksum\":\"d41d8cd98f00b204e9800998ecf8427e\",\"checksum_type\":\"md5\"}}]}},\
         {{\"version\":\"1\",\"description\":\"first\",\"providers\":[{{\"url\":\"sftp://h:{one}\",\
         \"localUrl\":\"{one}\",\"name\":\"virtualbox\",\"checksum_type\":\"md5\"}}]}}],\
         \"providers\":[\"libvirt\",\"virtualbox\"]}}"
    );
    assert_eq!(text(&reply), want);
    running.stop().await;
}

#[tokio::test]
async fn the_index_follows_what_happens_on_disk() {
    let tree = Tree::new(&[("f25/f25_1_virtualbox.box", "one")]);
    // Nothing is found by looking: only what the system tells.
    let running = serve(&tree, &[("RESCAN", "1h")]).await;
    assert_eq!(versions(&running, "f25").await, ["1"]);
    let page = get(&running, "/").await;
    assert!(!text(&page).contains("f26"));

    tree.write("f25/f25_2_virtualbox.box", "two");
    let has_two = |reply: &Reply| text(reply).contains("\"2\"");
    until(&running, "/f25", has_two).await;
    tree.write("f26/f26_7_libvirt.box", "seven");
    until(&running, "/f26/latestVersion", |reply| reply.body == b"7").await;
    until(&running, "/", |page| text(page).contains("/f26")).await;

    tree.write("f25/descriptions.csv", "2;;;first");
    until(&running, "/f25", |reply| text(reply).contains("first")).await;
    let appended = fs::OpenOptions::new()
        .append(true)
        .open(tree.path("f25/descriptions.csv"));
    std::io::Write::write_all(&mut appended.unwrap(), b"\n2;;;later\n").unwrap();
    until(&running, "/f25", |reply| text(reply).contains("later")).await;

    fs::rename(tree.path("f25"), tree.path("f27")).unwrap();
    until(&running, "/f25", |reply| reply.status == 404).await;
    let f27 = get(&running, "/f27").await;
    assert_eq!(f27.status, 404, "its files have another name");
    fs::remove_dir_all(tree.path("f26")).unwrap();
    until(&running, "/f26", |reply| reply.status == 404).await;
    tree.write("f26/f26_8_libvirt.box", "eight");
    until(&running, "/f26/latestVersion", |reply| reply.body == b"8").await;
    tree.write("f26/f26_9_libvirt.box", "nine");
    until(&running, "/f26/latestVersion", |reply| reply.body == b"9").await;
    running.stop().await;
}

#[tokio::test]
async fn what_the_system_does_not_tell_of_is_found_by_looking() {
    let outside = Tree::new(&[("new/f25/f25_2_virtualbox.box", "two"), ("old/x", "")]);
    outside.write("old/f25/f25_1_virtualbox.box", "one");
    let link = outside.path("home");
    symlink("old", &link).unwrap();
    let running = serve_at(link.to_str().unwrap(), &[("RESCAN", "50ms")]).await;
    assert_eq!(versions(&running, "f25").await, ["1"]);
    // Another tree in its place, by one rename: no directory that is watched changes.
    symlink("new", outside.path("next")).unwrap();
    fs::rename(outside.path("next"), &link).unwrap();
    until(&running, "/f25/latestVersion", |reply| reply.body == b"2").await;
    // And that one is watched from then on.
    outside.write("new/f25/f25_3_virtualbox.box", "three");
    until(&running, "/f25/latestVersion", |reply| reply.body == b"3").await;
    running.stop().await;
}

#[tokio::test]
async fn a_tree_that_is_not_there_is_said_without_its_path_and_may_come() {
    let outside = Tree::new(&[]);
    let home = outside.path("nowhere");
    let home = home.to_str().unwrap();
    let running = serve_at(home, &[("RESCAN", "50ms")]).await;
    for path in ["/", "/box", "/box/latestVersion", "/download/box/p/1"] {
        let reply = get(&running, path).await;
        assert_eq!(reply.status, 500, "{path}");
        assert_eq!(
            text(&reply),
            "Repository directory is not a valid directory."
        );
    }
    outside.write("nowhere/box/box_4_p.box", "four");
    until(&running, "/box/latestVersion", |reply| reply.body == b"4").await;
    fs::remove_dir_all(outside.path("nowhere")).unwrap();
    outside.write("nowhere", "a file");
    until(&running, "/", |reply| reply.status == 500).await;
    running.stop().await;
}

#[tokio::test]
async fn hostile_entries_of_a_tree_are_no_boxes_and_block_nobody() {
    let outside = Tree::new(&[("secret", "the secret")]);
    for name in ["a b", "100%", "a..b", "ä", "<script>", "q?#x"] {
        outside.write(&format!("home/{name}/{name}_1_virtualbox.box"), name);
    }
    let at = |path: &str| outside.path(&format!("home/{path}"));
    symlink(outside.path("secret"), at("a b/a b_2_virtualbox.box")).unwrap();
    symlink("/etc/passwd", at("a b/a b_3_virtualbox.box")).unwrap();
    symlink("/dev/zero", at("a b/a b_4_virtualbox.box")).unwrap();
    mkfifoat(CWD, at("a b/a b_5_virtualbox.box"), Mode::RUSR).unwrap();
    mkfifoat(CWD, at("a b/descriptions.csv"), Mode::RUSR).unwrap();
    mkfifoat(CWD, at("a b/a b_1_virtualbox.box.md5"), Mode::RUSR).unwrap();
    mkfifoat(CWD, at("pipe"), Mode::RUSR).unwrap();
    symlink(".", at("loop")).unwrap();
    symlink("nowhere", at("gone")).unwrap();
    let raw = std::ffi::OsStr::new("raw");
    let odd = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff\xfe");
    fs::create_dir(at("").join(odd)).unwrap();
    fs::write(at("").join(odd).join(raw), "").unwrap();
    outside.write("home/back\\slash/back\\slash_1_virtualbox.box", "");
    outside.write("home/...csv/descriptions.csv", "");

    let home = outside.path("home");
    let running = serve_at(home.to_str().unwrap(), &[("CHECKSUM", "md5")]).await;
    let page = text(&get(&running, "/").await);
    for (path, name) in [
        ("/a%20b", "a b"),
        ("/100%25", "100%"),
        ("/a..b", "a..b"),
        ("/%C3%A4", "ä"),
        ("/%3Cscript%3E", "<script>"),
        ("/q%3F%23x", "q?#x"),
    ] {
        assert!(
            page.contains(&format!("<a href=\"{path}\">")),
            "{path}: {page}"
        );
        let reply = get(&running, path).await;
        assert_eq!(reply.json()["name"], name, "{path}");
        assert_eq!(versions(&running, &path[1..]).await, ["1"], "{path}");
        let reply = get(&running, &format!("/download{path}/virtualbox/latest")).await;
        assert_eq!(
            (reply.status, text(&reply)),
            (200, name.to_owned()),
            "{path}"
        );
    }
    assert!(
        !page.contains("<script>") && !page.contains("slash"),
        "{page}"
    );
    for path in [
        "/..",
        "/%2e%2e",
        "/%2e%2e%2fsecret",
        "/a%00b",
        "/a%5cb",
        "/%ff%fe",
        "/download/..%2f/virtualbox/1",
        "/download/%2e%2e/secret/1",
    ] {
        assert_eq!(get(&running, path).await.status, 400, "{path}");
    }
    for path in ["/loop", "/gone", "/pipe", "/raw", "/%25ff", "/a%20b%2e"] {
        assert_eq!(get(&running, path).await.status, 404, "{path}");
    }
    for version in 2..=5 {
        let path = format!("/download/a%20b/virtualbox/{version}");
        assert_eq!(get(&running, &path).await.status, 404, "{path}");
    }
    running.stop().await;
}

#[tokio::test]
async fn what_takes_the_place_of_a_box_after_it_was_found_is_not_served() {
    let tree = Tree::new(&[("f25/f25_1_virtualbox.box", "one"), ("secret", "secret")]);
    let running = serve(&tree, &[]).await;
    let path = "/download/f25/virtualbox/1";
    let file = tree.path("f25/f25_1_virtualbox.box");
    for make in [
        (|file: &Path| symlink("/etc/hostname", file).unwrap()) as fn(&Path),
        |file| mkfifoat(CWD, file, Mode::RUSR).unwrap(),
        |file| fs::create_dir(file).unwrap(),
        |_file| (),
    ] {
        if file.is_dir() {
            fs::remove_dir(&file).unwrap();
        } else {
            fs::remove_file(&file).unwrap();
        }
        make(&file);
        // Whether or not the index knows already.
        let reply = get(&running, path).await;
        assert!(matches!(reply.status, 404 | 500), "{}", reply.status);
        let reply = until(&running, path, |reply| reply.status == 404).await;
        assert_eq!(text(&reply), "404 box [f25] does not exist");
    }
    running.stop().await;
}

/// Begins a download and leaves the bytes where they are; gives the connection and how many are promised.
async fn begin(running: &Running, path: &str) -> (TcpStream, usize) {
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let request = Request::new("GET", path).to_bytes();
    stream.write_all(&request).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap();
    let length = length.split("\r\n").next().unwrap().parse().unwrap();
    (stream, length)
}

#[tokio::test]
async fn an_answer_whose_file_changes_breaks_and_one_that_is_replaced_does_not() {
    const LENGTH: u64 = 96 << 20;
    let tree = Tree::new(&[("big/big_1_virtualbox.box", "")]);
    let file = tree.path("big/big_1_virtualbox.box");
    let grow = |length| {
        let file = fs::OpenOptions::new().write(true).open(&file).unwrap();
        file.set_len(length).unwrap();
    };
    grow(LENGTH);
    let running = serve(&tree, &[]).await;
    let path = "/download/big/virtualbox/latest";

    let (mut stream, length) = begin(&running, path).await;
    assert_eq!(length as u64, LENGTH);
    fs::write(tree.path("next"), "another").unwrap();
    fs::rename(tree.path("next"), &file).unwrap();
    let mut body = Vec::new();
    stream.read_to_end(&mut body).await.unwrap();
    assert_eq!(body.len() as u64, LENGTH, "what was opened is sent whole");
    assert_eq!(get(&running, path).await.body, b"another");

    for change in [LENGTH + 1, LENGTH / 2] {
        grow(LENGTH);
        let (mut stream, length) = begin(&running, path).await;
        grow(change);
        let mut body = Vec::new();
        let _reset = stream.read_to_end(&mut body).await;
        assert!(body.len() < length, "{change}");
    }
    running.stop().await;
}

#[tokio::test]
async fn downloads_have_ranges_and_validators() {
    let tree = Tree::new(&[("f25/f25_1_virtualbox.box", "0123456789")]);
    let running = serve(&tree, &[]).await;
    let path = "/download/f25/virtualbox/1";
    let whole = get(&running, path).await;
    let tag = whole.header("etag").unwrap().to_owned();
    let modified = whole.header("last-modified").unwrap().to_owned();
    assert_eq!(tag.len(), 66);
    let ask = |method: &str, headers: &[(&str, &str)]| {
        let mut request = Request::new(method, path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        running.send(request)
    };
    for (headers, status, body) in [
        (&[("Range", "bytes=2-4")][..], 206, "234"),
        (&[("Range", "bytes=-3")], 206, "789"),
        (&[("Range", "bytes=7-")], 206, "789"),
        (&[("Range", "bytes=10-")], 200, "0123456789"),
        (&[("Range", "bytes=0-1,4-5")], 200, "0123456789"),
        (&[("Range", "bytes=2-4"), ("If-Range", &tag)], 206, "234"),
        (
            &[("Range", "bytes=2-4"), ("If-Range", "\"x\"")],
            200,
            "0123456789",
        ),
        (&[("If-None-Match", &tag)], 304, ""),
        (&[("If-Modified-Since", &modified)], 304, ""),
        (&[("If-Match", "\"x\"")], 412, ""),
    ] {
        let reply = ask("GET", headers).await;
        assert_eq!(
            (reply.status, text(&reply).as_str()),
            (status, body),
            "{headers:?}"
        );
    }
    let head = ask("HEAD", &[]).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in [
        "content-type",
        "content-disposition",
        "content-length",
        "accept-ranges",
        "etag",
        "last-modified",
        "cache-control",
    ] {
        assert_eq!(head.header(name), whole.header(name), "{name}");
        assert!(head.header(name).is_some(), "{name}");
    }
    // Other bytes of the same length, written in place.
    tree.write("f25/f25_1_virtualbox.box", "abcdefghij");
    let reply = ask("GET", &[("Range", "bytes=2-4"), ("If-Range", &tag)]).await;
    assert_eq!((reply.status, text(&reply).as_str()), (200, "abcdefghij"));
    running.stop().await;
}

/// The bytes of case 21: decimal numbers one after the other.
fn numbers(to: u32) -> String {
    (0..to).map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn checksums_are_computed_once_however_many_ask_and_only_for_the_highest() {
    let million = numbers(1_000_000);
    let files: Vec<_> = (1..=3).map(|v| format!("vm1/vm1_{v}_vb.box")).collect();
    let mut files: Vec<_> = files
        .iter()
        .map(|name| (name.as_str(), million.as_str()))
        .collect();
    let thousand = numbers(1_000);
    files.push(("vm2/vm2_1_vb.box", &thousand));
    let tree = Tree::new(&files);
    let keys = [
        ("CHECKSUM", "md5"),
        ("CHECKSUM_ENSURE", "2"),
        ("CHECKSUM_PERSIST", "false"),
        ("CHECKSUM_WAIT", "1m"),
        ("SORT_DESC", "true"),
    ];
    let running = serve(&tree, &keys).await;
    let of = |box_name: &'static str| {
        let running = &running;
        async move {
            let document = get(running, &format!("/{box_name}")).await.json();
            let versions = document["versions"].as_array().unwrap().clone();
            let checksum = |v: &serde_json::Value| v["providers"][0]["checksum"].clone();
            versions.iter().map(checksum).collect::<Vec<_>>()
        }
    };
    let asked = futures_util::future::join_all((0..5).map(|_| of("vm1")));
    let (one, two) = tokio::join!(asked, of("vm2"));
    for checksums in one {
        let md5 = "6dd69c522eac6e1689f4896d96db7c95";
        assert_eq!(checksums, [md5.into(), md5.into(), serde_json::Value::Null]);
    }
    assert_eq!(two, ["6b21c4a111ac178feacf9ec9d0c71f17"]);
    let kept = fs::read_dir(tree.path("vm1")).unwrap().count();
    assert_eq!(kept, 3, "nothing was written");
    // What is known is of the bytes that were read, and no others.
    tree.write("vm2/vm2_1_vb.box", "blabol");
    until(&running, "/vm2", |reply| {
        text(reply).contains("f34835fa588de624b2782bd5307c344c")
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_box_that_never_rests_has_no_checksum_and_keeps_nobody_waiting() {
    let tree = Tree::new(&[("vm/vm_1_vb.box", "")]);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(tree.path("vm/vm_1_vb.box"))
        .unwrap();
    // Long enough that reading it takes longer than the pause between two writes.
    file.set_len(64 << 20).unwrap();
    let writing = tokio_util::sync::CancellationToken::new();
    let ended = writing.clone();
    let writer = std::thread::spawn(move || {
        while !ended.is_cancelled() {
            std::os::unix::fs::FileExt::write_at(&file, b"x", 0).unwrap();
        }
    });
    let keys = [("CHECKSUM", "sha256"), ("CHECKSUM_WAIT", "10ms")];
    let running = serve(&tree, &keys).await;
    let reply = get(&running, "/vm").await;
    let provider = &reply.json()["versions"][0]["providers"][0];
    assert_eq!(provider["checksum_type"], "sha256");
    assert_eq!(provider["checksum"], serde_json::Value::Null);
    writing.cancel();
    writer.join().unwrap();
    age(&tree, "vm/vm_1_vb.box");
    let has_checksum =
        |reply: &Reply| reply.json()["versions"][0]["providers"][0]["checksum"].is_string();
    let reply = until(&running, "/vm", has_checksum).await;
    let bytes = fs::read(tree.path("vm/vm_1_vb.box")).unwrap();
    let want = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&bytes));
    assert_eq!(
        reply.json()["versions"][0]["providers"][0]["checksum"],
        want
    );
    until(&running, "/vm", |_| {
        tree.path("vm/vm_1_vb.box.sha256").exists()
    })
    .await;
    let kept = fs::read_to_string(tree.path("vm/vm_1_vb.box.sha256")).unwrap();
    assert_eq!(kept, format!("{want}  vm_1_vb.box"));
    running.stop().await;
}

/// Dates a file back, before HTTP has dates: nobody writes to it any more.
fn age(tree: &Tree, name: &str) {
    let file = fs::File::options().write(true).open(tree.path(name));
    let long_ago = std::time::SystemTime::UNIX_EPOCH - std::time::Duration::from_hours(1);
    file.unwrap().set_modified(long_ago).unwrap();
}

#[tokio::test]
async fn the_checksum_of_a_box_that_may_be_on_its_way_is_told_and_not_kept() {
    let tree = Tree::new(&[("vm/vm_1_vb.box", "blab")]);
    let kept = tree.path("vm/vm_1_vb.box.md5");
    let running = serve(&tree, &[("CHECKSUM", "md5"), ("CHECKSUM_WAIT", "30s")]).await;
    let reply = get(&running, "/vm").await;
    let provider = &reply.json()["versions"][0]["providers"][0];
    assert!(provider["checksum"].is_string());
    assert!(!kept.exists());
    tree.write("vm/vm_1_vb.box", "blabol");
    age(&tree, "vm/vm_1_vb.box");
    let all = "f34835fa588de624b2782bd5307c344c";
    until(&running, "/vm", |reply| text(reply).contains(all)).await;
    until(&running, "/vm", |_| kept.exists()).await;
    assert_eq!(
        fs::read_to_string(&kept).unwrap(),
        format!("{all}  vm_1_vb.box")
    );
    let reply = get(&running, "/download/vm/vb/1").await;
    assert_eq!(reply.status, 200);
    let date = reply.header("last-modified");
    assert_eq!(date, Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    running.stop().await;
}

#[tokio::test]
async fn a_huge_list_of_descriptions_is_not_read() {
    let tree = Tree::new(&[("f25/f25_1_virtualbox.box", "")]);
    let mut csv = String::from("1;;;said\n");
    while csv.len() <= 8 << 20 {
        csv.push_str("2;;;a line of a version that is not there\n");
    }
    tree.write("f25/descriptions.csv", &csv);
    let running = serve(&tree, &[]).await;
    let reply = get(&running, "/f25").await;
    assert_eq!(
        reply.json()["versions"][0]["description"],
        serde_json::Value::Null
    );
    csv.truncate(8 << 20);
    tree.write("f25/descriptions.csv", &csv);
    until(&running, "/f25", |reply| text(reply).contains("said")).await;
    tree.write("f25/descriptions.csv", b"1;;;said\n2;;;\xff\n");
    until(&running, "/f25", |reply| !text(reply).contains("said")).await;
    running.stop().await;
}

#[tokio::test]
async fn a_listener_of_its_own_has_every_name_and_no_other_door() {
    let tree = Tree::new(&[]);
    for name in ["health", "api", "files", "download", "metrics", "f25"] {
        tree.write(&format!("{name}/{name}_1_virtualbox.box"), name);
    }
    let directory = tempfile::tempdir().unwrap();
    let toml = format!(
        "[[listeners]]\ndoors = [\"boxitory\"]\n[boxitory]\nhome = \"{}\"\n",
        tree.home()
    );
    fs::write(directory.path().join("boxgate.toml"), toml).unwrap();
    let running = Running::start_in(directory, &[]).await;
    for name in ["health", "api", "files", "download", "metrics", "f25"] {
        assert_eq!(versions(&running, name).await, ["1"], "{name}");
        let reply = get(&running, &format!("/{name}/latestVersion/")).await;
        assert_eq!(text(&reply), "1", "{name}");
    }
    for path in [
        "/api/status",
        "/livez",
        "/f25/1",
        "/download/f25/virtualbox",
    ] {
        let reply = get(&running, path).await;
        assert_eq!(reply.status, 404, "{path}");
        assert_eq!(
            reply.header("content-type"),
            Some(if path == "/livez" {
                "text/plain;charset=UTF-8"
            } else {
                "application/json"
            })
        );
    }
    let reply = get(&running, "/f25/a/b").await;
    let (document, path) = (reply.json(), "/f25/a/b");
    assert_eq!(document["path"], path);
    assert_eq!(document["status"], 404);
    let request = Request::new("GET", path).header("Accept", "text/html,*/*;q=0.8");
    let page = running.send(request).await;
    assert_eq!(page.header("content-type"), Some("text/html;charset=UTF-8"));
    for method in ["POST", "DELETE", "OPTIONS", "PUT"] {
        let reply = running.send(Request::new(method, "/f25").body(b"x")).await;
        assert_eq!(reply.status, 405, "{method}");
        assert_eq!(reply.header("allow"), Some("GET, HEAD"));
        assert_eq!(
            text(&reply),
            format!("Request method '{method}' not supported")
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn below_a_prefix_it_shadows_nobody_and_beside_the_others_only_its_own_words() {
    let tree = Tree::new(&[("f25/f25_1_virtualbox.box", "one")]);
    let prefixed = Running::start_with(&[
        ("BOXGATE_BOXITORY__HOME", tree.home()),
        ("BOXGATE_DOORS__BOXITORY__PREFIX", "/old/boxes"),
    ])
    .await;
    assert_eq!(
        get(&prefixed, "/old/boxes/f25/latestVersion").await.body,
        b"1"
    );
    assert_eq!(
        get(&prefixed, "/old/boxes/download/f25/virtualbox/1")
            .await
            .body,
        b"one"
    );
    for path in ["/old/boxes", "/old/boxes/"] {
        let page = text(&get(&prefixed, path).await);
        assert!(
            page.contains("<a href=\"/old/boxes/f25\">"),
            "{path}: {page}"
        );
        assert!(
            page.contains("<a href=\"/old/boxes/download/f25/virtualbox/latest\">"),
            "{page}"
        );
    }
    let reply = get(&prefixed, "/old/boxes/f25/a/b").await;
    assert_eq!(
        (reply.status, reply.json()["error"].as_str()),
        (404, Some("Not Found"))
    );
    assert!(get(&prefixed, "/f25").await.json()["message"].is_string());
    prefixed.stop().await;

    let beside = serve(&tree, &[]).await;
    beside.upload("demo", "1.0.0", b"a box").await;
    assert_eq!(get(&beside, "/f25").await.status, 200);
    let request = Request::new("GET", "/acme/demo").token(&beside.owner);
    assert_eq!(beside.send(request).await.json()["name"], "acme/demo");
    assert_eq!(get(&beside, "/livez").await.status, 200);
    assert_eq!(
        get(&beside, "/acme/latestVersion").await.body,
        b"404 box [acme] does not exist"
    );
    beside.stop().await;
}

/// The lines of an import into `acme`, and its last one.
async fn import(running: &Running, token: &str, dir: &Path) -> (Vec<Value>, Value) {
    let path = format!(
        "/api/admin/import/boxitory?dir={}&organization=acme&architecture=amd64",
        dir.display()
    );
    let reply = running.send(Request::new("POST", &path).token(token)).await;
    assert_eq!(reply.status, 200, "{}", text(&reply));
    let said = text(&reply);
    // Chunks of the answer have lines of their own.
    let lines = said
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut lines: Vec<Value> = lines.filter(Value::is_object).collect();
    let last = lines.pop().unwrap();
    (lines, last)
}

#[tokio::test]
async fn what_changes_in_a_directory_changes_for_all_names_of_it() {
    let tree = Tree::new(&[
        ("store/b_1_vb.box", "one"),
        ("home/other/other_1_vb.box", ""),
    ]);
    for name in ["a", "b"] {
        symlink("../store", tree.path(&format!("home/{name}"))).unwrap();
    }
    tree.write("store/a_1_vb.box", "one, too");
    let home = tree.path("home");
    // Nothing is found by looking.
    let running = serve_at(home.to_str().unwrap(), &[("RESCAN", "24h")]).await;
    for name in ["a", "b"] {
        assert_eq!(versions(&running, name).await, ["1"]);
    }
    for name in ["a", "b"] {
        tree.write(&format!("store/{name}_2_vb.box"), "two");
    }
    for name in ["a", "b"] {
        let path = format!("/{name}/latestVersion");
        until(&running, &path, |reply| reply.body == b"2").await;
    }
    // The system may have told of it by the name that goes.
    fs::remove_file(home.join("b")).unwrap();
    until(&running, "/b", |reply| reply.status == 404).await;
    tree.write("store/a_3_vb.box", "three");
    until(&running, "/a/latestVersion", |reply| reply.body == b"3").await;
    running.stop().await;
}

/// What was not brought, with the reasons.
fn left(lines: &[Value]) -> Vec<String> {
    let left = lines.iter().filter_map(|line| line.get("left"));
    let mut left: Vec<String> = left
        .map(|left| {
            format!(
                "{}: {}",
                left["path"].as_str().unwrap(),
                left["why"].as_str().unwrap()
            )
        })
        .collect();
    left.sort();
    left
}

#[tokio::test]
async fn a_tree_is_taken_into_the_catalog_whole_once_and_nothing_is_replaced() {
    let outside = Tree::new(&[("secret", "secret")]);
    let md5 = "f34835fa588de624b2782bd5307c344c";
    for (path, bytes) in [
        ("f25/f25_1_virtualbox.box", "one"),
        ("f25/f25_2_virtualbox.box", "two"),
        ("f25/f25_2_libvirt.box", "two, too"),
        ("f25/descriptions.csv", "1;;;first\n2;;;second\n9;;;none\n"),
        ("good/good_1_vb.box", "blabol"),
        ("good/good_1_vb.box.md5", &format!("{md5}  good_1_vb.box")),
        ("bad/bad_1_vb.box", "balbol"),
        ("bad/bad_1_vb.box.md5", &format!("{md5}  bad_1_vb.box")),
        ("empty/empty_1_vb.box", ""),
        ("a b/a b_1_vb.box", "its name has a space"),
        ("F25/F25_1_virtualbox.box", "the same in capitals"),
        ("odd/odd.box", "no version"),
    ] {
        outside.write(&format!("home/{path}"), bytes);
    }
    let home = outside.path("home");
    symlink("/dev/zero", home.join("odd/odd_1_vb.box")).unwrap();
    symlink("../../secret", home.join("odd/odd_2_vb.box")).unwrap();
    mkfifoat(CWD, home.join("odd/odd_3_vb.box"), Mode::RUSR).unwrap();
    let running = Running::start().await;
    let root = running.account("root", PlatformRole::Admin).await;
    let root = running.token(root, TokenKind::Personal, None).await;
    // What is in the catalog stays.
    assert_eq!(running.upload("taken", "1", b"ours").await.status, 200);
    outside.write("home/taken/taken_1_virtualbox.box", "theirs, not ours");

    let (lines, last) = import(&running, &root, &home).await;
    let imported = &last["imported"];
    assert_eq!(
        (&imported["files"], &imported["there"]),
        (&4.into(), &0.into()),
        "{last}"
    );
    let not_brought = left(&lines);
    let want = [
        ("a b/a b_1_vb.box", "the catalog takes no such name"),
        (
            "bad/bad_1_vb.box",
            "its bytes are not those of the checksum beside it",
        ),
        ("empty/empty_1_vb.box", "it is empty"),
        (
            "f25/f25_1_virtualbox.box",
            "another file has its name in other letters",
        ),
        ("odd/odd.box", "its name is not BOX_VERSION_PROVIDER.box"),
        ("odd/odd_1_vb.box", "it is no regular file"),
        ("odd/odd_2_vb.box", "a link that leaves the tree"),
        ("odd/odd_3_vb.box", "it is no regular file"),
        (
            "taken/taken_1_virtualbox.box",
            "the catalog has another file of that name",
        ),
    ];
    assert_eq!(imported["left"], want.len());
    for ((path, why), line) in want.iter().zip(&not_brought) {
        assert!(
            line.starts_with(path) && line.contains(why),
            "{path} {why}: {line}"
        );
    }
    let file =
        |name: &str| format!("/api/organization/acme/{name}/architecture/amd64/file/download");
    for (name, bytes) in [
        (
            "box/f25/version/1/provider/virtualbox",
            "the same in capitals",
        ),
        ("box/f25/version/2/provider/virtualbox", "two"),
        ("box/f25/version/2/provider/libvirt", "two, too"),
        ("box/good/version/1/provider/vb", "blabol"),
        ("box/taken/version/1/provider/virtualbox", "ours"),
    ] {
        let reply = running.get(&file(name), &running.owner).await;
        assert_eq!(
            (reply.status, text(&reply).as_str()),
            (200, bytes),
            "{name}"
        );
    }
    let version = running
        .get("/api/organization/acme/box/F25/version/2", &running.owner)
        .await;
    assert_eq!(version.json()["description"], "second");

    // Once more: nothing but what is new, or was not right.
    outside.write("home/f25/f25_3_virtualbox.box", "three");
    outside.write("home/bad/bad_1_vb.box", "blabol");
    let (_, last) = import(&running, &root, &home).await;
    let imported = &last["imported"];
    assert_eq!(
        (&imported["files"], &imported["there"]),
        (&2.into(), &4.into()),
        "{last}"
    );
    assert_eq!(imported["bytes"], "three".len() + "blabol".len());
    let stored = running.stored_files().len();
    let (_, last) = import(&running, &root, &home).await;
    assert_eq!(last["imported"]["files"], 0);
    assert_eq!(running.stored_files().len(), stored);
    running.stop().await;
}

#[tokio::test]
async fn an_import_is_for_administrators_and_says_what_it_cannot_find() {
    let running = Running::start().await;
    let root = running.account("root", PlatformRole::Admin).await;
    let root = running.token(root, TokenKind::Personal, None).await;
    let path = "/api/admin/import/boxitory?organization=acme&architecture=amd64&dir=";
    let ask = |dir: &str, token: &str| {
        running.send(Request::new("POST", &format!("{path}{dir}")).token(token))
    };
    assert_eq!(ask("/tmp", &running.owner).await.status, 403);
    assert_eq!(ask("", &root).await.status, 400);
    assert_eq!(ask("relative/path", &root).await.status, 400);
    let reply = ask("/nonexistent", &root).await;
    assert!(
        text(&reply).contains("/nonexistent cannot be read"),
        "{}",
        text(&reply)
    );
    let reply = Request::new(
        "POST",
        "/api/admin/import/boxitory?organization=nobody&architecture=amd64&dir=/tmp",
    );
    let reply = running.send(reply.token(&root)).await;
    assert!(
        text(&reply).contains("no organization is named nobody"),
        "{}",
        text(&reply)
    );
    running.stop().await;
}
