//! Several stores at once: which one takes an upload, that each blob stays where it is, and looking after one of them.

use boxgate::upkeep::line::Line;
use boxgate_storage::metadata::accounts::PlatformRole;
use boxgate_storage::metadata::tokens::TokenKind;
use tempfile::TempDir;

use crate::harness::{Reply, Request, Running, blobs_of, file_path, stored_files};

/// A gateway on two directories, whose uploads go to `used`.
async fn with_two(directory: TempDir, used: &str) -> Running {
    let second = directory.path().join("second");
    let variables = [
        ("BOXGATE_STORES__MAIN__KIND", "local"),
        ("BOXGATE_STORES__SECOND__PATH", second.to_str().unwrap()),
        ("BOXGATE_UPLOADS__STORE", used),
        ("BOXGATE_SCRIPTS__CHECK_EVERY", "0s"),
    ];
    Running::start_in(directory, &variables).await
}

/// How many blobs the second store holds.
fn in_second(running: &Running) -> usize {
    let data = running.data_dir();
    blobs_of(&data.parent().unwrap().join("second")).len()
}

async fn download(running: &Running, name: &str) -> Reply {
    let path = format!("{}/download", file_path(name, "1.0.0"));
    running.get(&path, &running.owner).await
}

#[tokio::test]
async fn a_blob_stays_in_the_store_that_took_it() {
    let running = with_two(tempfile::tempdir().unwrap(), "main").await;
    assert_eq!(running.upload("old", "1.0.0", b"old").await.status, 200);
    let running = with_two(running.stop().await, "second").await;
    assert_eq!(running.upload("new", "1.0.0", b"new").await.status, 200);
    assert_eq!((running.stored_files().len(), in_second(&running)), (1, 1));
    for name in ["old", "new"] {
        assert_eq!(download(&running, name).await.body, name.as_bytes());
    }
    // An equal box needs no second copy, wherever uploads go now.
    assert_eq!(running.upload("again", "1.0.0", b"old").await.status, 200);
    let root = running.account("root", PlatformRole::Admin).await;
    let root = running.token(root, TokenKind::Personal, None).await;
    for (query, blobs) in [("", 2), ("?store=main", 1), ("?store=second", 1)] {
        let path = format!("/api/admin/fsck{query}");
        let reply = running.send(Request::new("GET", &path).token(&root)).await;
        assert_eq!(reply.status, 200, "{query}");
        let text = String::from_utf8(reply.body).unwrap();
        let lines = text.lines().filter(|line| line.starts_with('{'));
        let Some(Line::Checked(checked)) =
            lines.map(|l| serde_json::from_str(l).unwrap()).next_back()
        else {
            panic!("{query}: {text}");
        };
        assert_eq!(
            (checked.blobs, checked.stored, checked.findings),
            (blobs, blobs, 0),
            "{query}"
        );
    }
    let strange = Request::new("POST", "/api/admin/scrub?store=third").token(&root);
    assert_eq!(running.send(strange).await.status, 400);
    // A store that is named no more serves nothing, and the others go on.
    let running = Running::start_in(running.stop().await, &[]).await;
    assert_eq!(download(&running, "old").await.body, b"old");
    assert_eq!(download(&running, "new").await.status, 503);
}

#[tokio::test]
async fn scripts_choose_the_store_of_an_upload() {
    let directory = tempfile::tempdir().unwrap();
    let plugins = directory.path().join("data/plugins");
    std::fs::create_dir_all(&plugins).unwrap();
    let source = r#"
        fn route(req) { if req.path.contains("/routed") { return "second"; } }
        fn on_upload_start(u) {
            switch u.box { "cold" => #{ store: "second" }, "routed-back" => #{ store: "main" }, _ => () }
        }
    "#;
    std::fs::write(plugins.join("places.rhai"), source).unwrap();
    let running = with_two(directory, "main").await;
    for (name, second) in [("hot", 0), ("cold", 1), ("routed", 2), ("routed-back", 2)] {
        let reply = running.upload(name, "1.0.0", name.as_bytes()).await;
        assert_eq!(reply.status, 200, "{name}");
        assert_eq!(in_second(&running), second, "{name}");
        assert_eq!(download(&running, name).await.body, name.as_bytes());
    }
    assert_eq!(stored_files(&running.data_dir()).len(), 2);
    // Resumable ones as well.
    let create = Request::new("POST", "/files?target=acme/cold/2.0.0/virtualbox/amd64");
    let create = create
        .token(&running.owner)
        .header("Tus-Resumable", "1.0.0");
    let create = create
        .header("Upload-Length", "4")
        .without("Content-Length");
    let reply = running.send(create).await;
    assert_eq!(reply.status, 201, "{}", reply.head);
    assert_eq!(in_second(&running), 3);
}
