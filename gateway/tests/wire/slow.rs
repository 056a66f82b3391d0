//! Who is slow on purpose, over each version of HTTP: heads, bodies and readers that stand still or trickle, and
//! QUIC clients of whom only the first packet comes.

use bytes::Buf as _;
use futures_util::FutureExt as _;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{TransportConfig, VarInt};
use tokio::net::UdpSocket;

use super::tls::{Secured, request, soon};
use super::*;

/// Much less than it stands still at, and much less in a second than is asked for.
const TICK: Duration = Duration::from_millis(20);

/// Does something small again and again, until it is refused; then waits to be dropped.
async fn trickle(mut step: impl AsyncFnMut() -> bool) -> std::convert::Infallible {
    let mut tick = tokio::time::interval(TICK);
    while step().await {
        tick.tick().await;
    }
    std::future::pending().await
}

/// Trickles until `over`, which must be soon.
async fn until<T>(over: impl Future<Output = T>, step: impl AsyncFnMut() -> bool) -> T {
    tokio::select! {
        over = soon(over) => over,
        never = trickle(step) => match never {},
    }
}

/// Asks for nothing, but bytes: each of them is late.
fn rate_alone(settings: &mut Settings) {
    settings.server.body_idle_timeout = LONG * 2;
    settings.server.slowest_rate_bytes = 64 << 20;
    settings.server.slowest_rate_window = Duration::from_secs(1);
}

/// Asks for any byte now and then.
fn idle_alone(settings: &mut Settings) {
    settings.server.body_idle_timeout = Duration::from_millis(300);
    settings.server.slowest_rate_bytes = 0;
}

/// What the last body at `/fail` came to, once there is one.
async fn failure(server: &Secured) -> BodyError {
    server.running.paths.body_failed.notified().await;
    server.running.paths.failed.lock().unwrap().pop().unwrap()
}

const SLOW_BODY: &[u8] = b"POST /fail HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n";

/// Sends bodies of `piece` after `piece` on each version, and tells what each came to.
async fn slow_bodies(server: &Secured, piece: &'static [u8]) -> [BodyError; 3] {
    let mut stream = server.tls(&["http/1.1"]).await;
    stream.write_all(SLOW_BODY).await.unwrap();
    let first = until(failure(server), async || {
        stream.write_all(piece).await.is_ok()
    })
    .await;
    let mut asks = server.h2().await;
    let (_answer, mut body) = asks.send_request(request("POST", "/fail"), false).unwrap();
    let second = until(failure(server), async || {
        body.send_data(Bytes::from_static(piece), false).is_ok()
    })
    .await;
    let mut third = server.h3().await;
    let mut stream = third.ask(request("POST", "/fail")).await;
    // Of nothing at all, h3 makes the end of the body: it stands still behind a byte.
    stream.send_data(Bytes::from_static(b"x")).await.unwrap();
    let third = until(failure(server), async || {
        piece.is_empty() || stream.send_data(Bytes::from_static(piece)).await.is_ok()
    })
    .await;
    [first, second, third]
}

#[tokio::test]
async fn bodies_that_trickle_are_ended_on_every_version() {
    let server = Secured::start(rate_alone).await;
    assert_eq!(slow_bodies(&server, b"x").await, [BodyError::TooSlow; 3]);
    server.running.stop().await;
}

#[tokio::test]
async fn bodies_that_stand_still_are_ended_on_every_version() {
    let server = Secured::start(idle_alone).await;
    // Frames with nothing in them are no progress.
    assert_eq!(slow_bodies(&server, b"").await, [BodyError::Idle; 3]);
    server.running.stop().await;
}

/// Waits until so many readers were cut for being slow.
async fn slow_readers(server: &Running, count: usize) {
    let line = format!("boxgate_downloads_broken_total{{reason=\"slow_reader\"}} {count}");
    server.metric(&line).await;
}

#[tokio::test]
async fn readers_that_trickle_are_cut_on_every_version() {
    const ASK: &[u8] = b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n";
    let plain = serve(rate_alone).await;
    let mut some = [0; 1000];
    let mut socket = plain.connect().await;
    socket.write_all(ASK).await.unwrap();
    until(slow_readers(&plain, 1), async || {
        socket.read_exact(&mut some).await.is_ok()
    })
    .await;
    plain.stop().await;

    let server = Secured::start(rate_alone).await;
    let mut stream = server.tls(&["http/1.1"]).await;
    stream.write_all(ASK).await.unwrap();
    until(slow_readers(&server.running, 1), async || {
        stream.read_exact(&mut some).await.is_ok()
    })
    .await;

    let mut asks = server.h2().await;
    let (answer, _) = asks.send_request(request("GET", "/endless"), true).unwrap();
    let mut body = soon(answer).await.unwrap().into_body();
    until(slow_readers(&server.running, 2), async || {
        let Some(Ok(data)) = body.data().await else {
            return false;
        };
        body.flow_control().release_capacity(data.len()).is_ok()
    })
    .await;

    let mut third = server.h3().await;
    let mut stream = third.ask(request("GET", "/endless")).await;
    stream.finish().await.unwrap();
    soon(stream.recv_response()).await.unwrap();
    until(slow_readers(&server.running, 3), async || {
        let data = stream.recv_data().await;
        data.is_ok_and(|data| data.is_some_and(|mut data| data.copy_to_bytes(1).len() == 1))
    })
    .await;
    server.running.stop().await;
}

#[tokio::test]
async fn heads_that_trickle_are_ended_on_every_version() {
    let server = Secured::start(|settings| {
        settings.server.head_timeout = Duration::from_millis(500);
        settings.server.idle_timeout = LONG * 2;
        settings.server.h3_idle_timeout = LONG * 2;
    })
    .await;
    let mut stream = server.tls(&["http/1.1"]).await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        .await
        .unwrap();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let mut answer = Vec::new();
    let _end = until(reading.read_to_end(&mut answer), async || {
        writing.write_all(b"y").await.is_ok()
    })
    .await;
    assert_eq!(status(&String::from_utf8_lossy(&answer)), "408");

    // What HTTP/2 begins with, then a head that never ends, in a frame that never does.
    const BEGUN: &[u8] =
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\x3f\xff\x01\0\0\0\0\x01";
    let mut stream = server.tls(&["h2"]).await;
    stream.write_all(BEGUN).await.unwrap();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let mut told = Vec::new();
    let _end = until(reading.read_to_end(&mut told), async || {
        writing.write_all(b"\x82").await.is_ok()
    })
    .await;

    // Of HTTP/3 a connection on which nothing is asked.
    let third = server.h3().await;
    soon(third.driving).await.unwrap();
    server.running.metric("boxgate_connections 0").await;
    server.running.stop().await;
}

/// The first packet of a client of QUIC, and a socket that it takes for the server.
async fn first_packet(server: &Secured) -> (UdpSocket, Vec<u8>) {
    let between = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let tls = QuicClientConfig::try_from(server.client(&["h3"])).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let address = between.local_addr().unwrap();
    let _connecting = endpoint.connect_with(config, address, "localhost").unwrap();
    let mut packet = vec![0; 2000];
    let length = soon(between.recv(&mut packet)).await.unwrap();
    packet.truncate(length);
    // What the client says to this address from now on is heard by nobody.
    let elsewhere = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    elsewhere.connect(server.running.address).await.unwrap();
    elsewhere.send(&packet).await.unwrap();
    (elsewhere, packet)
}

#[tokio::test]
async fn a_quic_address_that_never_answers_gets_three_times_what_it_sent_at_most() {
    let server = Secured::start(|settings| {
        settings.server.handshake_timeout = Duration::from_secs(4);
    })
    .await;
    let (socket, packet) = first_packet(&server).await;
    let mut got = 0;
    let mut buffer = [0; 2000];
    let mut ended = Box::pin(
        server
            .running
            .metric("boxgate_tls_handshakes_failed_total 1"),
    );
    loop {
        tokio::select! {
            () = &mut ended => break,
            length = socket.recv(&mut buffer) => got += length.unwrap(),
        }
    }
    drop(ended);
    assert!(got > 0, "it is answered");
    // RFC 9000 §8.1, but for the last word once its time is over, which quinn does not count.
    let most = 3 * packet.len() + 200;
    assert!(got <= most, "{got} for {}", packet.len());
    server.running.metric("boxgate_connections 0").await;
    server.running.stop().await;
}

#[tokio::test]
async fn where_places_get_few_a_quic_client_must_show_its_address_first() {
    let server = Secured::start(|settings| settings.limits.h2_connections = 4).await;
    let mut others = Vec::new();
    for crowded in [false, false, false, true] {
        if crowded {
            let (socket, _) = first_packet(&server).await;
            let mut answer = [0; 2000];
            soon(socket.recv(&mut answer)).await.unwrap();
            // RFC 9000 §17.2.5.
            assert_eq!(answer[0] >> 4, 0xf, "it is a Retry: {:#x}", answer[0]);
        }
        let mut third = server.h3().await;
        let mut stream = third.ask(request("GET", "/who")).await;
        stream.finish().await.unwrap();
        assert_eq!(soon(stream.recv_response()).await.unwrap().status(), 200);
        others.push((third, stream));
    }
    drop(others);
    server.running.stop().await;
}

/// A request for `/wait`, by hand, behind what HTTP/2 begins with.
const WAITS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
    \0\0\x14\x01\x05\0\0\0\x01\x82\x87\x04\x05/wait\x01\x09localhost";

#[tokio::test]
async fn who_answers_no_ping_of_http_2_is_dropped() {
    let server = Secured::start(|settings| {
        settings.server.h2_ping = Duration::from_millis(300);
        settings.server.h2_ping_timeout = Duration::from_millis(300);
    })
    .await;
    let mut stream = server.tls(&["h2"]).await;
    stream.write_all(WAITS).await.unwrap();
    soon(server.running.paths.waiting.notified()).await;
    // As one whose machine is gone: nothing is read, nothing is closed.
    server.running.metric("boxgate_connections 0").await;
    drop(stream);
    server.running.stop().await;
}

#[tokio::test]
async fn who_is_silent_on_http_3_is_dropped() {
    let server = Secured::start(|settings| {
        settings.server.h3_idle_timeout = Duration::from_millis(500);
    })
    .await;
    let mut third = server.h3().await;
    let mut stream = third.ask(request("GET", "/wait")).await;
    stream.finish().await.unwrap();
    soon(server.running.paths.waiting.notified()).await;
    soon(third.driving).await.unwrap();
    server.running.paths.go.notify_one();
    server.running.metric("boxgate_connections 0").await;
    server.running.stop().await;
}

#[tokio::test]
async fn streams_beside_requests_are_few_on_http_3() {
    let server = Secured::start(|_| {}).await;
    let (quic, _endpoint) = server.quic(TransportConfig::default()).await;
    let mut open = Vec::new();
    while let Some(stream) = quic.open_uni().now_or_never() {
        open.push(stream.unwrap());
    }
    assert_eq!(open.len(), 8);
    drop((open, quic));
    server.running.stop().await;
}

/// A client of QUIC that is never silent.
fn lively() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(1)));
    transport
}

/// Is cut soon after it is told to stop.
fn stops_soon(settings: &mut Settings) {
    settings.server.drain_requests = Duration::from_millis(100);
    settings.server.drain_hurried = Duration::from_millis(100);
}

#[tokio::test]
async fn who_has_no_room_for_what_http_3_begins_with_is_ended_and_a_stop_does_not_wait_for_it() {
    let no_room = || {
        let mut transport = lively();
        transport.max_concurrent_uni_streams(VarInt::from_u32(0));
        transport
    };
    let server = Secured::start(|settings| {
        settings.server.handshake_timeout = Duration::from_secs(1);
    })
    .await;
    let (quic, _endpoint) = server.quic(no_room()).await;
    soon(quic.closed()).await;
    server.running.metric("boxgate_connections 0").await;
    server.running.stop().await;

    let server = Secured::start(|settings| {
        settings.server.handshake_timeout = LONG * 2;
        stops_soon(settings);
    })
    .await;
    let (quic, _endpoint) = server.quic(no_room()).await;
    server.running.stop().await;
    drop(quic);
}

#[tokio::test]
async fn who_has_no_room_for_the_last_word_of_http_3_is_not_waited_for() {
    let server = Secured::start(stops_soon).await;
    let (quic, _endpoint) = server.quic(lively()).await;
    // RFC 9114 §6.2.1, §7.1: the stream's type, then that of the settings and their length.
    let mut control = soon(quic.accept_uni()).await.unwrap();
    let mut begun = [0; 3];
    soon(control.read_exact(&mut begun)).await.unwrap();
    let [0, 4, length @ 0..64] = begun else {
        panic!("{begun:?}");
    };
    drop((control, quic));

    let mut transport = lively();
    transport.stream_receive_window(VarInt::from_u32(3 + u32::from(length)));
    let (quic, _endpoint) = server.quic(transport).await;
    // Its own and those of QPACK; none is read, for that would make room.
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(soon(quic.accept_uni()).await.unwrap());
    }
    server.running.stop().await;
    drop((streams, quic));
}
