//! What is stored, looked after over the API of a running gateway.

use std::path::PathBuf;
use std::time::Duration;

use boxgate::upkeep::line::{Checked, Collected, Finding, Line, Scrubbed};
use boxgate::upkeep::{self, Chore, Job};
use boxgate_storage::blob::BlobKey;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::accounts::PlatformRole;
use boxgate_storage::metadata::tokens::TokenKind;
use boxgate_storage::metadata::upkeep::UpkeepRow;
use tokio_util::task::TaskTracker;

use crate::harness::{Request, Running, file_path};

const GC: &str = "/api/admin/gc";

/// A gateway with two boxes and an administrator.
struct Scene {
    running: Running,
    root: String,
}

impl Scene {
    async fn set(variables: &[(&str, &str)]) -> Self {
        let running = Running::start_with(variables).await;
        let root = running.account("root", PlatformRole::Admin).await;
        let root = running.token(root, TokenKind::Personal, None).await;
        for name in ["demo", "other"] {
            let reply = running.upload(name, "1.0", name.as_bytes()).await;
            assert_eq!(reply.status, 200, "{}", reply.json());
        }
        Self { running, root }
    }

    /// All lines of an answer.
    async fn lines(&self, method: &str, path: &str) -> Vec<Line> {
        let request = Request::new(method, path).token(&self.root);
        let reply = self.running.send(request).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
        // Each line comes in a chunk of its own; the sizes of chunks are no documents.
        let text = String::from_utf8(reply.body).unwrap();
        let lines = text.lines().filter(|line| line.starts_with('{'));
        let lines: Vec<Line> = lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let last = lines.iter().filter(|line| line.is_last()).count();
        assert!(last == 1 && lines.last().unwrap().is_last(), "{lines:?}");
        lines
    }

    async fn check(&self) -> (Vec<(String, String)>, Checked) {
        let mut lines = self.lines("GET", "/api/admin/fsck").await;
        let Some(Line::Checked(checked)) = lines.pop() else {
            panic!("{lines:?}");
        };
        let found = lines.into_iter().filter_map(|line| match line {
            Line::Finding(found) => {
                assert!(found.text.contains(&found.key) && !found.next.is_empty());
                Some((found.problem, found.names.join(",")))
            }
            _ => None,
        });
        (found.collect(), checked)
    }

    async fn collect(&self, query: &str) -> Collected {
        match self.lines("POST", &format!("{GC}{query}")).await.pop() {
            Some(Line::Collected(collected)) => collected,
            other => panic!("{other:?}"),
        }
    }

    async fn scrub(&self) -> (Vec<Finding>, Scrubbed) {
        let mut lines = self.lines("POST", "/api/admin/scrub?rate=0").await;
        let Some(Line::Scrubbed(scrubbed)) = lines.pop() else {
            panic!("{lines:?}");
        };
        let found = lines.into_iter().filter_map(|line| match line {
            Line::Finding(found) => Some(found),
            _ => None,
        });
        (found.collect(), scrubbed)
    }

    async fn download(&self, name: &str) -> crate::harness::Reply {
        let path = format!("{}/download", file_path(name, "1.0"));
        self.running.get(&path, &self.running.owner).await
    }

    /// The file of the store that holds these bytes.
    fn file_of(&self, bytes: &[u8]) -> PathBuf {
        let mut files = self.running.stored_files().into_iter();
        let is_it = |path: &PathBuf| std::fs::read(path).unwrap() == bytes;
        files.find(is_it).unwrap()
    }

    /// Waits until a metric has a value; one that never gets it hangs the test.
    async fn metric(&self, line: &str) {
        let there = async {
            loop {
                let text = self.running.gateway.metrics_text().await;
                if text.lines().any(|found| found == line) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_mins(1), there).await;
        waited.unwrap_or_else(|_never| panic!("no {line}"));
    }

    fn plant(&self) -> PathBuf {
        let key = BlobKey::random().to_string();
        let blobs = self.running.data_dir().join("blobs");
        let path = blobs.join(&key[..2]).join(&key);
        std::fs::write(&path, b"stray").unwrap();
        path
    }
}

#[tokio::test]
async fn a_check_tells_what_is_wrong_and_with_which_names() {
    let scene = Scene::set(&[]).await;
    let (found, checked) = scene.check().await;
    assert_eq!(found, []);
    assert_eq!((checked.blobs, checked.stored), (2, 2));
    std::fs::remove_file(scene.file_of(b"demo")).unwrap();
    scene.plant();
    let (mut found, checked) = scene.check().await;
    found.sort();
    let of = |problem: &str, names: &str| (problem.to_owned(), names.to_owned());
    let demo = of("missing", "acme/demo/1.0/virtualbox/amd64");
    assert_eq!(found, [demo, of("orphan", "")]);
    assert_eq!(checked.findings, 2);
    scene.running.stop().await;
}

#[tokio::test]
async fn a_collection_waits_for_its_second_look_and_can_be_tried_first() {
    let scene = Scene::set(&[("BOXGATE_GC__ORPHAN_AGE", "1ms")]).await;
    let stray = scene.plant();
    for _ in 0..2 {
        let tried = scene.collect("?dry_run=true").await;
        let main = tried.stores["main"];
        assert!(tried.dry_run);
        assert_eq!((main.stored, main.orphans, main.removed), (3, 1, 0));
    }
    let first = scene.collect("").await;
    assert_eq!((first.removed.count, first.stores["main"].orphans), (0, 1));
    assert!(stray.exists());
    // The clock of the rows counts milliseconds: none of these looks is later than the first by accident.
    let gone = loop {
        let next = scene.collect("").await;
        if next.removed.count > 0 {
            break next;
        }
    };
    assert_eq!((gone.removed.count, gone.removed.bytes), (1, 5));
    assert!(!stray.exists());
    assert_eq!(scene.check().await.0, []);
    scene.running.stop().await;
}

#[tokio::test]
async fn too_many_orphans_stop_a_collection_until_somebody_says_otherwise() {
    let variables = [
        ("BOXGATE_GC__ORPHAN_AGE", "1ms"),
        ("BOXGATE_GC__FEW_ORPHANS", "1"),
    ];
    let scene = Scene::set(&variables).await;
    let strays = [scene.plant(), scene.plant()];
    for _ in 0..3 {
        assert!(scene.collect("").await.stores["main"].stopped);
    }
    assert!(strays.iter().all(|path| path.exists()));
    let mut removed = 0;
    while removed < 2 {
        let released = scene.collect("?remove_many_orphans=true").await;
        assert!(!released.stores["main"].stopped);
        removed += released.removed.count;
    }
    assert_eq!(scene.running.stored_files().len(), 2);
    let odd = Request::new("POST", &format!("{GC}?dry_run=perhaps")).token(&scene.root);
    assert_eq!(scene.running.send(odd).await.status, 400);
    scene.running.stop().await;
}

#[tokio::test]
async fn the_same_work_runs_once_at_a_time() {
    let scene = Scene::set(&[]).await;
    let turn = scene.running.gateway.upkeep.turn(&Chore::Check).unwrap();
    let reply = scene.running.get("/api/admin/fsck", &scene.root).await;
    assert_eq!(reply.status, 409);
    assert_eq!(reply.json()["code"], "ALREADY_RUNS");
    // Other work does not wait for it.
    scene.collect("").await;
    drop(turn);
    assert_eq!(scene.check().await.0, []);
    scene.running.stop().await;
}

#[tokio::test]
async fn work_ends_with_its_reader_and_with_the_process() {
    let scene = Scene::set(&[]).await;
    let gateway = &scene.running.gateway;
    // Its reader is gone before it begins.
    let tasks = TaskTracker::new();
    let job = |ending| Job {
        stock: gateway.stock(),
        chore: Chore::Check,
        turn: gateway.upkeep.turn(&Chore::Check),
        ending,
        telemetry: None,
    };
    drop(upkeep::tell(job(gateway.upkeep.ending()), &tasks));
    tasks.close();
    tasks.wait().await;
    // The process is to end.
    let ending = gateway.upkeep.ending().child_token();
    ending.cancel();
    let job = job(ending);
    assert!(job.turn.is_some());
    let mut told = upkeep::tell(job, &TaskTracker::new());
    let line = told.recv().await;
    assert!(matches!(line, Some(Line::Failed(_))), "{line:?}");
    assert!(gateway.upkeep.turn(&Chore::Check).is_some());
    scene.running.stop().await;
}

#[tokio::test]
async fn a_scrub_names_what_is_damaged_and_the_same_upload_heals_it() {
    let scene = Scene::set(&[]).await;
    assert_eq!(scene.scrub().await.0, []);
    std::fs::write(scene.file_of(b"demo"), b"dEmo").unwrap();
    std::fs::remove_file(scene.file_of(b"other")).unwrap();
    let (mut found, scrubbed) = scene.scrub().await;
    found.sort_by(|a, b| a.problem.cmp(&b.problem));
    let told: Vec<_> = found
        .iter()
        .map(|found| (&*found.problem, &*found.names[0]))
        .collect();
    let names = [
        "acme/demo/1.0/virtualbox/amd64",
        "acme/other/1.0/virtualbox/amd64",
    ];
    assert_eq!(told, [("damaged", names[0]), ("missing", names[1])]);
    assert!(
        found[0].text.contains("MiB 0 (from 0)"),
        "{}",
        found[0].text
    );
    assert_eq!(
        (scrubbed.damaged, scrubbed.blobs, scrubbed.bytes),
        (2, 2, 9)
    );
    for name in ["demo", "other"] {
        let reply = scene.download(name).await;
        assert_eq!(
            (reply.status, &reply.json()["error"]),
            (503, &"BLOB_DAMAGED".into())
        );
        scene.running.upload(name, "1.0", name.as_bytes()).await;
        let reply = scene.download(name).await;
        assert_eq!((reply.status, reply.body), (200, name.as_bytes().to_vec()));
    }
    // Nobody holds what was damaged any more.
    assert_eq!(scene.scrub().await.0, []);
    assert_eq!(scene.check().await.0, []);
    assert_eq!(scene.download("demo").await.status, 200);
    let odd = Request::new("POST", "/api/admin/scrub?rate=fast").token(&scene.root);
    assert_eq!(scene.running.send(odd).await.status, 400);
    scene.running.stop().await;
}

#[tokio::test]
async fn stores_are_looked_through_in_the_background() {
    let scene = Scene::set(&[
        ("BOXGATE_GC__EVERY", "1ms"),
        ("BOXGATE_GC__ORPHAN_AGE", "1ms"),
        ("BOXGATE_SCRUB__EVERY", "1ms"),
        ("BOXGATE_SCRUB__RATE", "0"),
    ])
    .await;
    let stray = scene.plant();
    scene.metric("boxgate_gc_removed_bytes_total 5").await;
    assert!(!stray.exists());
    scene.metric("boxgate_gc_orphans{store=\"main\"} 0").await;
    std::fs::write(scene.file_of(b"demo"), b"dEmo").unwrap();
    let path = format!("{}/download", file_path("demo", "1.0"));
    let served =
        async { while scene.running.get(&path, &scene.running.owner).await.status != 503 {} };
    let waited = tokio::time::timeout(Duration::from_mins(1), served).await;
    waited.unwrap();
    // What a stopped process claimed is free at once.
    let directory = scene.running.stop().await;
    let never = [("BOXGATE_GC__EVERY", "0"), ("BOXGATE_SCRUB__EVERY", "0")];
    let running = Running::start_in(directory, &never).await;
    for name in ["gc", "scrub"] {
        let metadata = &running.gateway.metadata;
        let claimed = metadata
            .claim(name, "another", Duration::from_mins(1))
            .await;
        assert!(claimed.unwrap(), "{name}");
        let second = metadata
            .claim(name, "a third", Duration::from_mins(1))
            .await;
        assert!(!second.unwrap(), "{name}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_scrub_in_the_background_goes_on_where_its_row_says() {
    let running = Running::start_with(&[("BOXGATE_SCRUB__EVERY", "0")]).await;
    for name in ["a", "b", "c", "d"] {
        running.upload(name, "1.0", name.as_bytes()).await;
    }
    // All but the last of them were read; one of those is damaged since.
    let files = running.stored_files();
    let key = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let state = format!("{{\"key\":\"{}\",\"offset\":1}}", key(&files[2]));
    let row = UpkeepRow {
        ended: UnixMillis(0),
        state: Some(state),
    };
    running
        .gateway
        .metadata
        .keep_upkeep("scrub", row)
        .await
        .unwrap();
    std::fs::write(&files[0], b"?").unwrap();
    std::fs::write(&files[3], b"?").unwrap();
    let directory = running.stop().await;
    let running = Running::start_in(directory, &[]).await;
    let metadata = &running.gateway.metadata;
    let over = async {
        while metadata
            .upkeep("scrub")
            .await
            .unwrap()
            .unwrap()
            .state
            .is_some()
        {}
    };
    tokio::time::timeout(Duration::from_mins(1), over)
        .await
        .unwrap();
    let text = running.gateway.metrics_text().await;
    for line in [
        "boxgate_scrub_damaged_total 1",
        "boxgate_scrub_bytes_total 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    let ended = metadata.upkeep("scrub").await.unwrap().unwrap().ended;
    assert!(ended > UnixMillis(0));
    running.stop().await;
}
