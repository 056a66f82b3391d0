//! `client::push` against the gateway: what an earlier run left, in all the ways it may have been left.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxgate::client::Client;
use boxgate::client::push::append;
use boxgate::client::push::body::{FileBody, Flight};
use boxgate::client::push::plan::Cut;
use boxgate::client::push::protocol::{self, Begun, Created, Put};
use boxgate::client::push::source::Source;
use boxgate::client::push::{Notice, Order, Progress, PushError, Pushed, push};
use boxgate::config::connection::Credential;
use boxgate::config::{Connection, Secret};
use boxgate_storage::catalog::BoxRef;
use boxgate_storage::digest::{ContentHasher, Digests};
use boxgate_storage::metadata::accounts::PlatformRole;
use boxgate_storage::metadata::tokens::TokenKind;
use boxgate_storage::metadata::uploads::UploadState;

use crate::harness::{Request, Running, file_path};

const PART: u64 = 8 << 20;
/// Three parts and a rest.
const LENGTH: u64 = 3 * PART + 5;

/// A gateway, somebody who may push to it, and a file.
struct Scene {
    running: Running,
    client: Client,
    directory: tempfile::TempDir,
}

impl Scene {
    async fn set() -> Self {
        let running = Running::start().await;
        let connection = Connection {
            url: format!("http://{}", running.address),
            credential: Credential::Token(Secret::new(running.owner.clone())),
            cacert: None,
        };
        let directory = tempfile::tempdir().unwrap();
        let scene = Self {
            client: Client::try_new(&connection).unwrap(),
            running,
            directory,
        };
        std::fs::write(scene.file(), content(LENGTH)).unwrap();
        scene
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("a.box")
    }

    fn order(&self, version: &str, afresh: bool) -> Order {
        let target = BoxRef {
            organization: "acme".parse().unwrap(),
            name: "web".parse().unwrap(),
            version: version.parse().unwrap(),
            provider: "virtualbox".parse().unwrap(),
            architecture: "amd64".parse().unwrap(),
        };
        Order {
            file: self.file(),
            target,
            streams: 2,
            tries: 2,
            afresh,
            digest_first: false,
        }
    }

    /// What a push of that version leaves that is killed once these parts are held.
    async fn left(&self, version: &str, parts: &[u64]) -> Created {
        let order = self.order(version, false);
        let source = Source::open(&order.file).unwrap();
        let begun = protocol::create(&self.client, &order.target, LENGTH, None).await;
        let Begun::Made(created) = begun.unwrap() else {
            panic!("nobody said what bytes these are");
        };
        assert_eq!(created.part_bytes, PART);
        let target = order.target.to_string();
        source
            .keep(self.client.base(), &target, &created.upload, PART)
            .unwrap();
        for part in parts {
            self.put(&created, &source, *part).await;
        }
        created
    }

    /// What a push leaves on the gateway that went in order, once these bytes are sent.
    async fn left_in_order(&self, version: &str, bytes: &[u8]) -> Created {
        let target = self.order(version, false).target;
        let upload = append::create(&self.client, &target, LENGTH).await.unwrap();
        let path = upload.split_once(&self.running.address.to_string());
        let request = Request::new("PATCH", path.unwrap().1)
            .token(&self.running.owner)
            .header("Tus-Resumable", "1.0.0")
            .header("Content-Type", "application/offset+octet-stream")
            .header("Upload-Offset", "0")
            .body(bytes);
        let reply = self.running.send(request).await;
        assert_eq!(reply.status, 204, "{}", reply.head);
        Created {
            upload,
            part_bytes: 0,
        }
    }

    /// What a killed push left beside the file is gone: it ran on another machine.
    fn forget(&self) {
        std::fs::remove_file(format!("{}.boxgate-push", self.file().display())).unwrap();
    }

    async fn put(&self, created: &Created, source: &Source, part: u64) -> Put {
        let cut = Cut {
            length: LENGTH,
            part_bytes: PART,
        };
        let flight = Arc::new(Flight::new(Arc::default()));
        let body = FileBody::new(
            Arc::clone(&source.file),
            cut.range(part),
            Arc::clone(&flight),
        );
        protocol::put(&self.client, &created.upload, part, body, &flight)
            .await
            .unwrap()
    }

    async fn push(&self, version: &str, afresh: bool) -> (Result<Pushed, PushError>, Vec<Notice>) {
        let notices = Mutex::new(Vec::new());
        let tell = |notice: Notice| notices.lock().unwrap().push(notice);
        let order = self.order(version, afresh);
        let pushed = push(&self.client, &order, &Progress::default(), &tell).await;
        (pushed, notices.into_inner().unwrap())
    }

    /// What is published under that version is the file, and nothing is left beside it.
    async fn is_published(&self, version: &str) {
        let path = format!("{}/download", file_path("web", version));
        let reply = self.running.get(&path, &self.running.owner).await;
        assert_eq!(reply.status, 200);
        assert!(reply.body == content(LENGTH));
        assert!(!self.directory.path().join("a.box.boxgate-push").exists());
    }

    /// Where an upload stands in the gateway itself.
    async fn state(&self, created: &Created) -> UploadState {
        let id = created.upload.rsplit('/').next().unwrap().parse().unwrap();
        let row = self.running.gateway.engine.peek(id).await.unwrap();
        row.unwrap().state
    }
}

fn content(length: u64) -> Vec<u8> {
    (0..length).map(|n| (n % 249) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_goes_on_with_what_is_held_in_any_order() {
    let scene = Scene::set().await;
    scene.left("1.0", &[2, 0]).await;
    let (pushed, notices) = scene.push("1.0", false).await;
    let pushed = pushed.unwrap();
    assert_eq!(pushed.held_before, 2 * PART);
    let digest = blake3::hash(&content(LENGTH)).to_hex();
    assert_eq!(pushed.outcome.blake3, digest.as_str());
    assert!(matches!(notices[0], Notice::GoesOn { held, .. } if held == 2 * PART));
    scene.is_published("1.0").await;
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_nobody_heard_is_heard_by_the_next_push() {
    let scene = Scene::set().await;
    scene.left("1.0", &[0, 1, 2, 3]).await;
    let (pushed, _) = scene.push("1.0", false).await;
    assert_eq!(pushed.unwrap().held_before, LENGTH);
    scene.is_published("1.0").await;
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_gone_begins_afresh_and_says_so() {
    let scene = Scene::set().await;
    let created = scene.left("1.0", &[0]).await;
    protocol::cancel(&scene.client, &created.upload)
        .await
        .unwrap();
    let (pushed, notices) = scene.push("1.0", false).await;
    assert_eq!(pushed.unwrap().held_before, 0);
    assert!(matches!(notices[0], Notice::Gone), "{notices:?}");
    scene.is_published("1.0").await;
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_to_elsewhere_is_given_up_only_when_that_is_wanted() {
    let scene = Scene::set().await;
    let created = scene.left("1.0", &[0]).await;
    let (refused, _) = scene.push("2.0", false).await;
    let refused = refused.unwrap_err();
    assert!(
        matches!(&refused, PushError::Elsewhere { target, .. } if target == "acme/web/1.0/virtualbox/amd64")
    );
    assert_eq!(scene.state(&created).await, UploadState::Open);
    let (pushed, _) = scene.push("2.0", true).await;
    pushed.unwrap();
    assert_eq!(scene.state(&created).await, UploadState::Aborted);
    scene.is_published("2.0").await;
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_another_client_sends_in_order_is_left_alone() {
    let scene = Scene::set().await;
    let created = scene.left("1.0", &[]).await;
    let path = created
        .upload
        .split_once(&scene.running.address.to_string());
    let request = Request::new("PATCH", path.unwrap().1)
        .token(&scene.running.owner)
        .header("Content-Type", "application/partial-upload")
        .header("Upload-Offset", "0")
        .header("Upload-Complete", "?0")
        .body(&content(100));
    let reply = scene.running.send(request).await;
    assert_eq!(reply.status, 204, "{}", reply.head);
    let (refused, _) = scene.push("1.0", false).await;
    assert!(matches!(refused, Err(PushError::TakenOver)), "{refused:?}");
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bytes_under_the_same_time_and_length_are_found_by_their_digest() {
    let scene = Scene::set().await;
    scene.left("1.0", &[0]).await;
    let before = std::fs::metadata(scene.file()).unwrap().modified();
    let file = std::fs::File::options().write(true).open(scene.file());
    let file = file.unwrap();
    file.write_all_at(b"other", 0).unwrap();
    file.set_modified(before.unwrap()).unwrap();
    // As on a volume that keeps no time of such a change.
    let kept = format!("{}.boxgate-push", scene.file().display());
    let mut state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
    let now = file.metadata().unwrap();
    state["changed_ns"] = (now.ctime() * 1_000_000_000 + now.ctime_nsec()).into();
    std::fs::write(&kept, state.to_string()).unwrap();
    drop(file);
    let (refused, _) = scene.push("1.0", false).await;
    assert!(
        matches!(refused, Err(PushError::WrongDigest { .. })),
        "{refused:?}"
    );
    // The next push sends all of it.
    let (pushed, _) = scene.push("1.0", false).await;
    assert_eq!(pushed.unwrap().held_before, 0);
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_no_ends_the_push_at_once() {
    let scene = Scene::set().await;
    let outsider = scene.running.account("outsider", PlatformRole::User).await;
    let token = scene.running.token(outsider, TokenKind::Personal, None);
    for (token, status) in [("0".repeat(64), 401), (token.await, 404)] {
        let connection = Connection {
            url: scene.client.base().to_owned(),
            credential: Credential::Token(Secret::new(token)),
            cacert: None,
        };
        let client = Client::try_new(&connection).unwrap();
        let order = scene.order("1.0", false);
        let refused = push(&client, &order, &Progress::default(), &|_| {}).await;
        let Err(PushError::Refused(error)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(error.status(), Some(status));
        assert!(!error.is_temporary());
    }
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_the_organization_holds_are_published_by_their_digest_and_not_sent() {
    let scene = Scene::set().await;
    let by_digest = async |version: &str| {
        let order = Order {
            digest_first: true,
            ..scene.order(version, false)
        };
        push(&scene.client, &order, &Progress::default(), &|_| {})
            .await
            .unwrap()
    };
    let first = by_digest("1.0").await;
    assert!(!first.was_known, "nobody had them");
    assert_eq!(first.held_before, 0);
    let again = by_digest("2.0").await;
    assert!(again.was_known);
    assert_eq!(again.held_before, LENGTH);
    assert_eq!(again.outcome, first.outcome);
    scene.is_published("2.0").await;
    // The blob is one, and goes with its last name alone.
    let path = "/api/organization/acme/box/web/version/1.0";
    let delete = Request::new("DELETE", path).token(&scene.running.owner);
    assert_eq!(scene.running.send(delete).await.status, 200);
    scene.is_published("2.0").await;
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_only_others_hold_are_sent() {
    let scene = Scene::set().await;
    scene.push("1.0", false).await.0.unwrap();
    let sha256 = <sha2::Sha256 as sha2::Digest>::digest(content(LENGTH));
    let sha256 = STANDARD.encode(sha256);
    let asked = |path: &str, token: &str, digest: &str| {
        Request::new("POST", path)
            .token(token)
            .header("Upload-Length", &LENGTH.to_string())
            .header("X-Checksum-Deploy", "true")
            .header("Repr-Digest", digest)
    };
    let begin = async |path: &str, token: &str, digest: &str| {
        scene.running.send(asked(path, token, digest)).await
    };
    let told = format!("sha-256=:{sha256}:");
    let outsider = scene.running.account("outsider", PlatformRole::User).await;
    let metadata = &scene.running.gateway.metadata;
    let others = "others".parse().unwrap();
    metadata
        .create_organization(&others, None, outsider)
        .await
        .unwrap();
    let token = scene
        .running
        .token(outsider, TokenKind::Personal, None)
        .await;
    let theirs = "/files?target=others/web/1.0/virtualbox/amd64";
    let ours = "/files?target=acme/web/2.0/virtualbox/amd64";
    let reply = begin(theirs, &token, &told).await;
    assert_eq!(reply.status, 201, "{}", reply.head);
    assert!(reply.header("Upload-Part-Size").is_some());
    assert_eq!(begin(ours, &token, &told).await.status, 404);
    let with_another = format!("{told}, sha-512=:{}:", STANDARD.encode([0; 64]));
    for digest in ["", "sha-256=:AAAA:", &with_another] {
        let reply = begin(ours, &scene.running.owner, digest).await;
        assert_ne!(reply.status, 200, "{digest}");
    }
    for (name, value) in [("Tus-Resumable", "1.0.0"), ("Upload-Complete", "?0")] {
        let request = asked(ours, &scene.running.owner, &told).header(name, value);
        let reply = scene.running.send(request).await;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status, 400, "{text}");
        assert!(text.contains("X-Checksum-Deploy"), "{text}");
    }
    let reply = begin(ours, &scene.running.owner, &told).await;
    assert_eq!(reply.status, 200, "{}", reply.head);
    scene.running.stop().await;
}

/// The digests of such a file, as a push computes them.
fn digests_of(bytes: &[u8]) -> Digests {
    let mut hasher = ContentHasher::new([]);
    hasher.update(bytes);
    hasher.finish()
}

fn is_found(notices: &[Notice]) -> bool {
    matches!(&notices[..2], [Notice::Found { held: found, .. }, Notice::Same { held, .. }] if found == held)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_whose_state_is_lost_is_found_by_what_the_gateway_holds() {
    let scene = Scene::set().await;
    // Another push to the same name, of a file that differs in its last byte, is the newer one of the two.
    let right = scene.left("1.0", &[2, 0, 3]).await;
    let mut other = content(LENGTH);
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(scene.file(), &other).unwrap();
    let wrong = scene.left("1.0", &[0, 3]).await;
    // A new machine: the same bytes under another name, and nothing beside them.
    scene.forget();
    std::fs::write(scene.file(), content(LENGTH)).unwrap();
    let (pushed, notices) = scene.push("1.0", false).await;
    let pushed = pushed.unwrap();
    assert_eq!(pushed.held_before, 2 * PART + 5);
    assert!(is_found(&notices), "{notices:?}");
    assert_eq!(scene.state(&right).await, UploadState::Done);
    assert_eq!(scene.state(&wrong).await, UploadState::Open);
    scene.is_published("1.0").await;
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_cannot_be_read_is_as_good_as_none() {
    let scene = Scene::set().await;
    let left = scene.left("1.0", &[0, 1]).await;
    let state = format!("{}.boxgate-push", scene.file().display());
    std::fs::write(state, "{\"version\":").unwrap();
    let (pushed, notices) = scene.push("1.0", false).await;
    assert_eq!(pushed.unwrap().held_before, 2 * PART);
    assert!(matches!(notices[0], Notice::Unusable(_)), "{notices:?}");
    assert!(is_found(&notices[1..]), "{notices:?}");
    assert_eq!(scene.state(&left).await, UploadState::Done);
    scene.is_published("1.0").await;
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_in_order_whose_state_is_lost_is_found_by_what_the_gateway_holds() {
    let scene = Scene::set().await;
    // Into a part, and into a block of it.
    let held = usize::try_from(PART + (3 << 20) + 17).unwrap();
    let mut bytes = content(LENGTH);
    bytes.truncate(held);
    let right = scene.left_in_order("1.0", &bytes).await;
    // Another file, that differs in the last byte of what is held, is the newer one of the two.
    *bytes.last_mut().unwrap() ^= 1;
    let wrong = scene.left_in_order("1.0", &bytes).await;
    let (pushed, notices) = scene.push("1.0", false).await;
    assert_eq!(pushed.unwrap().held_before, held as u64);
    assert!(is_found(&notices), "{notices:?}");
    assert_eq!(scene.state(&right).await, UploadState::Done);
    assert_eq!(scene.state(&wrong).await, UploadState::Open);
    scene.is_published("1.0").await;
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_of_other_bytes_is_left_alone() {
    let scene = Scene::set().await;
    let mut other = content(LENGTH);
    other[1] ^= 1;
    std::fs::write(scene.file(), &other).unwrap();
    let left = scene.left("1.0", &[0, 1]).await;
    scene.forget();
    std::fs::write(scene.file(), content(LENGTH)).unwrap();
    let (pushed, notices) = scene.push("1.0", false).await;
    assert_eq!(pushed.unwrap().held_before, 0);
    assert!(
        matches!(&notices[..2], [Notice::Found { .. }, Notice::NotSame]),
        "{notices:?}"
    );
    assert_eq!(scene.state(&left).await, UploadState::Open);
    scene.is_published("1.0").await;
    // Nor is it looked for by one that is to begin anew.
    let (pushed, notices) = scene.push("1.0", true).await;
    assert_eq!(pushed.unwrap().held_before, 0);
    assert!(!notices.iter().any(|n| matches!(n, Notice::Found { .. })));
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_two_files_never_become_one_box() {
    let scene = Scene::set().await;
    let created = scene.left("1.0", &[0]).await;
    // Somebody with a file that begins alike finds it, and goes on with it.
    let mut other = content(LENGTH);
    *other.last_mut().unwrap() ^= 1;
    let theirs = digests_of(&other);
    protocol::declare(&scene.client, &created.upload, &theirs)
        .await
        .unwrap();
    // The first one was not dead: what it sends is taken, and not published.
    let source = Source::open(&scene.file()).unwrap();
    for part in [1, 2] {
        scene.put(&created, &source, part).await;
    }
    drop(source);
    let (refused, _) = scene.push("1.0", false).await;
    assert!(matches!(refused, Err(PushError::Refused(_))), "{refused:?}");
    let path = format!("{}/download", file_path("web", "1.0"));
    let reply = scene.running.get(&path, &scene.running.owner).await;
    assert_eq!(reply.status, 404);
    // Nor does a third one declare its own.
    let ours = digests_of(&content(LENGTH));
    let declared = protocol::declare(&scene.client, &created.upload, &ours).await;
    assert!(declared.unwrap_err().status().is_some());
    scene.push("1.0", true).await.0.unwrap();
    scene.is_published("1.0").await;
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_found_is_not_sent_either_where_the_organization_holds_its_bytes() {
    let scene = Scene::set().await;
    scene.push("1.0", false).await.0.unwrap();
    let left = scene.left("2.0", &[0]).await;
    scene.forget();
    let order = Order {
        digest_first: true,
        ..scene.order("2.0", false)
    };
    let pushed = push(&scene.client, &order, &Progress::default(), &|_| {}).await;
    assert!(pushed.unwrap().was_known);
    assert_eq!(scene.state(&left).await, UploadState::Open);
    // And of bytes that it does not hold the one that holds some is gone on with.
    let mut other = content(LENGTH);
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(scene.file(), &other).unwrap();
    let left = scene.left("3.0", &[0]).await;
    scene.forget();
    let order = Order {
        digest_first: true,
        ..scene.order("3.0", false)
    };
    let pushed = push(&scene.client, &order, &Progress::default(), &|_| {}).await;
    assert_eq!(pushed.unwrap().held_before, PART);
    assert_eq!(scene.state(&left).await, UploadState::Done);
    scene.running.stop().await;
}
