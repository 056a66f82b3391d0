//! Starting again, gracefully stopped or not.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Request, Running, file_path, parse_reply};

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
async fn a_data_directory_belongs_to_one_process() {
    use std::sync::Arc;
    let running = Running::start().await;
    let settings = running.gateway.settings.clone();
    let telemetry = boxgate::telemetry::Telemetry::silent();
    let error = boxgate::app::App::start(settings, telemetry).await.unwrap_err();
    assert!(error.to_string().contains("another boxgate runs on it"), "{error}");
    running.stop().await;
}
