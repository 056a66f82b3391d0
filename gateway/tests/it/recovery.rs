//! Starting again, gracefully stopped or not.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Request, Running, file_path, parse_reply};
use crate::resumable::located;
use crate::uploads::noise;

#[tokio::test]
async fn what_was_stored_is_there_after_a_stop_and_a_start() {
    let running = Running::start().await;
    running.upload("demo", "1.0", b"box").await;
    let directory = running.stop().await;
    let running = Running::start_in(directory, &[]).await;
    let path = format!("{}/download", file_path("demo", "1.0"));
    assert_eq!(running.get(&path, &running.owner).await.body, b"box");
    running.stop().await;
}

#[tokio::test]
async fn a_stop_lets_a_download_finish_and_takes_no_new_one() {
    let running = Running::start().await;
    let bytes = vec![7; 64 << 20];
    running.upload("demo", "1.0", &bytes).await;
    let path = format!("{}/download", file_path("demo", "1.0"));
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let request = Request::new("GET", &path).token(&running.owner).to_bytes();
    stream.write_all(&request).await.unwrap();
    let mut got = vec![0; 1000];
    stream.read_exact(&mut got).await.unwrap();
    let stopping = tokio::spawn(running.stop());
    stream.read_to_end(&mut got).await.unwrap();
    let reply = parse_reply(&got);
    assert!(reply.is_whole() && reply.body == bytes);
    stopping.await.unwrap();
}

#[tokio::test]
async fn an_upload_whose_stored_bytes_are_lost_says_so_to_each_request() {
    let running = Running::start().await;
    let bytes = noise(3 << 20, 5);
    let begin = |version: &str| {
        let target = format!("/files?target=acme/demo/{version}/virtualbox/amd64");
        Request::new("POST", &target)
            .token(&running.owner)
            .header("Upload-Complete", "?0")
            .body(&bytes[..2 << 20])
    };
    let mut paths = Vec::new();
    for version in ["1.0", "2.0"] {
        paths.push(located(&running.send(begin(version)).await));
    }
    let files = running.stored_files();
    assert_eq!(files.len(), 2);
    let directory = running.stop().await;
    for file in files {
        std::fs::OpenOptions::new()
            .write(true)
            .open(file)
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
    }
    let running = Running::start_in(directory, &[]).await;
    let append = |path: &str| {
        Request::new("PATCH", path)
            .token(&running.owner)
            .header("Content-Type", "application/partial-upload")
            .header("Upload-Offset", "2097152")
            .header("Upload-Complete", "?1")
            .body(&bytes[2 << 20..])
    };
    // The first one finds out.
    for _ in 0..2 {
        let reply = running.send(append(&paths[0])).await;
        let code = reply.json()["code"].clone();
        assert_eq!((reply.status, code), (410, "STATE_LOST".into()));
    }
    let reply = running.send(append(&paths[1])).await;
    assert_eq!(reply.status, 410);
    let asked = Request::new("HEAD", &paths[1]).token(&running.owner);
    assert_eq!(running.send(asked).await.status, 410);
    running.stop().await;
}

#[tokio::test]
async fn a_data_directory_belongs_to_one_process() {
    let running = Running::start().await;
    let settings = running.gateway.settings.clone();
    let telemetry = boxgate::telemetry::Telemetry::silent();
    let error = boxgate::app::App::start(settings, telemetry)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("another boxgate runs on it"),
        "{error}"
    );
    running.stop().await;
}
