//! Connections that move to another thread once they are answered at once.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{LONG, read_answer, read_to_end, serve, status};

/// More than it takes to move.
const MANY: usize = 100;

async fn ask(socket: &mut TcpStream, head: &str, body: &str) -> String {
    let request = format!("{head} HTTP/1.1\r\nHost: a\r\nContent-Length: ");
    let request = if body.is_empty() {
        format!("{head} HTTP/1.1\r\nHost: a\r\n\r\n")
    } else {
        format!("{request}{}\r\n\r\n{body}", body.len())
    };
    socket.write_all(request.as_bytes()).await.unwrap();
    read_answer(socket).await
}

/// The thread that answers at once.
async fn thread(socket: &mut TcpStream) -> String {
    let answer = ask(socket, "GET /at-once", "").await;
    let (head, thread) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(status(head), "200");
    thread.to_owned()
}

/// Asks until it would have moved.
async fn settle(socket: &mut TcpStream) {
    let mut last = String::new();
    for _ in 0..MANY {
        last = thread(socket).await;
    }
    assert!(last.starts_with("lane-"), "{last}");
}

#[tokio::test]
async fn a_connection_moves_and_comes_back_for_a_body() {
    let server = serve(|_| {}).await;
    let mut socket = server.connect().await;
    let home = thread(&mut socket).await;
    assert!(!home.starts_with("lane-"), "{home}");
    for length in [1, 300_000] {
        settle(&mut socket).await;
        let body = "x".repeat(length);
        let answer = ask(&mut socket, "POST /echo", &body).await;
        assert_eq!(status(&answer), "200");
        assert!(answer.ends_with(&body));
        assert_eq!(thread(&mut socket).await, home);
    }
    drop(socket);
    server.metric("boxgate_connections 0").await;
    server.stop().await;
}

#[tokio::test]
async fn work_without_a_body_is_done_at_home_and_its_connection_stays() {
    let server = serve(|_| {}).await;
    let mut socket = server.connect().await;
    let home = thread(&mut socket).await;
    settle(&mut socket).await;
    for (path, expected) in [("/thread", "200"), ("/refuse", "403"), ("/panic", "500")] {
        let answer = ask(&mut socket, &format!("GET {path}"), "").await;
        assert_eq!(status(&answer), expected, "{path}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert!(path != "/thread" || body == home, "{body}");
        let stays = thread(&mut socket).await;
        assert!(stays.starts_with("lane-"), "{stays}");
    }
    for _ in 0..MANY {
        ask(&mut socket, "GET /thread", "").await;
    }
    assert_eq!(thread(&mut socket).await, home, "that is too much of it");
    server.stop().await;
}

#[tokio::test]
async fn a_long_answer_is_begun_at_home() {
    let server = serve(|_| {}).await;
    let mut socket = server.connect().await;
    let home = thread(&mut socket).await;
    for (path, at_home) in [("/short", false), ("/long", true)] {
        settle(&mut socket).await;
        let answer = ask(&mut socket, &format!("GET {path}"), "").await;
        assert_eq!(status(&answer), "200", "{path}");
        let asks = answer.split_once("\r\n\r\n").unwrap().1.trim_end();
        assert_eq!(asks == home, at_home, "{path}: {asks}");
        assert_eq!(asks.starts_with("lane-"), !at_home, "{path}: {asks}");
    }
    server.stop().await;
}

#[tokio::test]
async fn who_leaves_a_lane_while_work_is_done_ends_the_work() {
    let server = serve(|_| {}).await;
    let mut socket = server.connect().await;
    settle(&mut socket).await;
    socket
        .write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let asked = timeout(LONG, server.paths.waiting.notified()).await;
    asked.unwrap();
    drop(socket);
    let lines = server.access_lines(MANY + 1).await;
    assert_eq!(lines[MANY]["status"], 499);
    server.metric("boxgate_connections 0").await;
    server.stop().await;
}

#[tokio::test]
async fn stopping_ends_connections_on_lanes() {
    let server = serve(|settings| settings.server.drain_requests = Duration::from_mins(1)).await;
    let (mut idle, mut waiting) = (server.connect().await, server.connect().await);
    settle(&mut idle).await;
    settle(&mut waiting).await;
    waiting
        .write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let asked = timeout(LONG, server.paths.waiting.notified()).await;
    asked.unwrap();
    server.drain.signal();
    assert_eq!(read_to_end(&mut idle).await, "");
    server.paths.go.notify_one();
    let last = read_to_end(&mut waiting).await;
    assert!(last.ends_with("done"), "{last}");
    server.stop().await;
}
