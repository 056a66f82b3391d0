//! What is stored, looked after over the API of a running gateway.

use std::path::PathBuf;

use boxgate::upkeep::line::{Checked, Collected, Line};
use boxgate::upkeep::{self, Chore};
use boxgate_storage::blob::BlobKey;
use boxgate_storage::metadata::accounts::PlatformRole;
use boxgate_storage::metadata::tokens::TokenKind;
use tokio_util::task::TaskTracker;

use crate::harness::{Request, Running};

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
    let files = scene.running.stored_files();
    let demo = files
        .iter()
        .find(|path| std::fs::read(path).unwrap() == b"demo")
        .unwrap();
    std::fs::remove_file(demo).unwrap();
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
    let turn = scene.running.gateway.upkeep.turn(Chore::Check).unwrap();
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
    let turn = gateway.upkeep.turn(Chore::Check);
    let (stock, ending) = (gateway.stock(), gateway.upkeep.ending());
    drop(upkeep::tell(stock, Chore::Check, turn, ending, &tasks));
    tasks.close();
    tasks.wait().await;
    // The process is to end.
    let turn = gateway.upkeep.turn(Chore::Check);
    assert!(turn.is_some());
    let (stock, ending) = (gateway.stock(), gateway.upkeep.ending().child_token());
    ending.cancel();
    let mut told = upkeep::tell(stock, Chore::Check, turn, ending, &TaskTracker::new());
    let line = told.recv().await;
    assert!(matches!(line, Some(Line::Failed(_))), "{line:?}");
    assert!(gateway.upkeep.turn(Chore::Check).is_some());
    scene.running.stop().await;
}
