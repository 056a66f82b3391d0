//! One server in the place of another, at the same socket.

use std::sync::Arc;

use boxgate::config;
use boxgate::server::{BodyError, Drain, Server};
use boxgate::telemetry::Telemetry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{LONG, Paths, read_to_end};

#[tokio::test]
async fn a_successor_serves_who_came_meanwhile_and_answers_under_way_go_on() {
    let mut settings = config::defaults();
    settings.listeners[0].address = "127.0.0.1:0".parse().unwrap();
    let mut first = Server::bind(&settings, Telemetry::silent(), None)
        .await
        .unwrap();
    let address = first.addresses()[0];
    let ports = first.take_ports();
    let (paths, drain) = (Arc::new(Paths::default()), Drain::new(&settings.server));
    let running = tokio::spawn(first.run(paths.clone(), drain.clone()));
    let ask = async |head: &str| {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        socket
    };

    // A request that waits for its answer, an upload that goes on, and an answer that is on its way.
    let mut waiting = ask("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    timeout(LONG, paths.waiting.notified()).await.unwrap();
    let mut upload = ask("POST /fail HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf").await;
    let mut reader = ask("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut some = [0; 1024];
    timeout(LONG, reader.read_exact(&mut some))
        .await
        .unwrap()
        .unwrap();

    let sockets = ports.sockets().unwrap();
    assert!(drain.hand_over());
    paths.go.notify_one();
    let answer = read_to_end(&mut waiting).await;
    assert!(
        answer.to_lowercase().contains("connection: close\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("done"), "{answer}");
    let remains = timeout(LONG, running).await.unwrap().unwrap();
    let failed = paths.failed.lock().unwrap().clone();
    assert!(matches!(failed[..], [BodyError::Draining]), "{failed:?}");
    let told = read_to_end(&mut upload).await;
    assert!(told.starts_with("HTTP/1.1 408 "), "{told}");

    // Nobody accepts, and nobody is refused.
    assert!(ports.sockets().unwrap().is_empty());
    let mut early = ask("GET /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let second = Server::bind_with(sockets, &settings, Telemetry::silent(), None)
        .await
        .unwrap();
    assert_eq!(second.addresses(), [address]);
    let next = Drain::new(&settings.server);
    let serving = tokio::spawn(second.serve(Arc::new(Paths::default()), next.clone()));
    let answer = read_to_end(&mut early).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");

    // More than any buffer held: it still comes from the first.
    let mut more = vec![0; 16 << 20];
    timeout(LONG, reader.read_exact(&mut more))
        .await
        .unwrap()
        .unwrap();
    drop(reader);
    timeout(LONG, remains.finish()).await.unwrap();
    next.signal();
    next.signal();
    timeout(LONG, serving).await.unwrap().unwrap();
}
