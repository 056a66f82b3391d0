//! The PROXY protocol: whom a balancer names counts, and nobody else may name anybody.

use boxgate::config::settings::ClientIp;

use super::*;

const ASK: &str =
    "GET /who HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.1\r\nConnection: close\r\n\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A server behind a balancer on this machine.
async fn behind_a_balancer(change: impl FnOnce(&mut Settings)) -> Running {
    serve(|settings| {
        settings.trusted_proxies =
            vec!["127.0.0.1".parse::<boxgate::config::Cidr>().unwrap()].into();
        settings.server.client_ip = ClientIp::ProxyProtocol;
        change(settings);
    })
    .await
}

/// A header of version 2 with that command and family, and what follows them.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[0x20 | command, family], &length, rest].concat()
}

/// A header of version 2 for a client at 198.51.100.7, and `more` behind its addresses.
fn of_client(more: &[u8]) -> Vec<u8> {
    let addresses = [198, 51, 100, 7, 127, 0, 0, 1, 0x12, 0x34, 0, 80];
    binary(1, 0x11, &[&addresses[..], more].concat())
}

impl Running {
    /// The answer to `header` and a request right behind it.
    async fn told(&self, header: &[u8]) -> String {
        let mut socket = self.connect().await;
        let all = [header, ASK.as_bytes()].concat();
        // Who is not believed may be cut off in the middle.
        let _cut = socket.write_all(&all).await;
        read_to_end(&mut socket).await
    }
}

#[tokio::test]
async fn a_balancer_names_its_client_in_both_versions() {
    let server = behind_a_balancer(|_| {}).await;
    let six = [
        &[0x20_u8, 1, 0x0d, 0xb8][..],
        &[0; 11],
        &[7],
        &[0; 16],
        &[0; 4],
    ]
    .concat();
    let tlv = [0x04, 0x00, 0x03, 1, 2, 3];
    let longest = "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
    let table: [(&[u8], &str); 8] = [
        (
            b"PROXY TCP4 198.51.100.7 127.0.0.1 4660 80\r\n",
            "198.51.100.7",
        ),
        (b"PROXY TCP6 2001:db8::7 ::1 4660 80\r\n", "2001:db8::7"),
        (
            b"PROXY TCP6 ::ffff:198.51.100.7 ::1 4660 80\r\n",
            "198.51.100.7",
        ),
        // It speaks for itself: it looks whether we are there.
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (longest.as_bytes(), "127.0.0.1"),
        (&of_client(&tlv), "198.51.100.7"),
        (&binary(1, 0x21, &six), "2001:db8::7"),
        (&binary(0, 0, &[]), "127.0.0.1"),
    ];
    for (header, client) in table {
        let answer = server.told(header).await;
        let shown = String::from_utf8_lossy(header);
        assert!(
            answer.ends_with(&format!("{client} a")),
            "{shown}: {answer}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_header_may_come_in_pieces_and_counts_for_all_requests_of_its_connection() {
    let server = behind_a_balancer(|_| {}).await;
    for header in [
        b"PROXY TCP4 198.51.100.7 127.0.0.1 4660 80\r\n".to_vec(),
        of_client(&[0; 300]),
    ] {
        let mut socket = server.connect().await;
        for piece in header.chunks(7) {
            socket.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        for _ in 0..2 {
            let ask = ASK.replace("Connection: close\r\n", "");
            socket.write_all(ask.as_bytes()).await.unwrap();
            let answer = read_answer(&mut socket).await;
            assert!(answer.ends_with("198.51.100.7 a"), "{answer}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_balancer_that_names_nobody_is_not_served() {
    let server = behind_a_balancer(|settings| {
        settings.server.handshake_timeout = Duration::from_millis(200);
    })
    .await;
    let too_long = [&b"PROXY UNKNOWN "[..], &[b'f'; 120], b"\r\n"].concat();
    let table: [&[u8]; 9] = [
        // None at all.
        b"",
        b"PROXY TCP4 198.51.100.7\r\n",
        b"PROXY TCP4 198.51.100.777 127.0.0.1 4660 80\r\n",
        b"proxy tcp4 198.51.100.7 127.0.0.1 4660 80\r\n",
        b"PROXY TCP4 198.51.100.7 127.0.0.1 4660 80\n",
        &too_long,
        // Version 3, a family that is none, and addresses that are cut short.
        &[SIGNATURE, &[0x31, 0x11, 0, 0]].concat(),
        &binary(1, 0x51, &[0; 12]),
        &binary(1, 0x11, &[0; 4]),
    ];
    for header in table {
        let answer = server.told(header).await;
        let shown = String::from_utf8_lossy(header);
        assert_eq!(answer, "", "{shown}");
    }
    // And one who begins and never ends.
    let mut silent = server.connect().await;
    silent.write_all(b"PROXY TCP4 198.5").await.unwrap();
    assert_eq!(read_to_end(&mut silent).await, "");
    let refused = "boxgate_connections_refused_total{limit=\"proxy_protocol\"} 10";
    server.metric(refused).await;
    server.metric("boxgate_connections 0").await;
    server.stop().await;
}

#[tokio::test]
async fn a_stranger_names_nobody() {
    let server = behind_a_balancer(|settings| {
        settings.trusted_proxies =
            vec!["192.0.2.0/24".parse::<boxgate::config::Cidr>().unwrap()].into();
    })
    .await;
    // To one who is no proxy it is what it looks like: a broken request.
    for header in [
        b"PROXY TCP4 198.51.100.7 127.0.0.1 4660 80\r\n".to_vec(),
        of_client(&[]),
    ] {
        let answer = server.told(&header).await;
        assert!(!answer.contains("198.51.100.7"), "{answer}");
        assert_ne!(status(&answer), "200");
    }
    // Nor by a field, although others are believed that way elsewhere.
    let answer = server.told(b"").await;
    assert!(answer.ends_with("127.0.0.1 a"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn connections_count_for_the_client_that_was_named() {
    let server = behind_a_balancer(|settings| settings.limits.connections_per_address = 2).await;
    let ask = ASK.replace("Connection: close\r\n", "");
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut socket = server.connect().await;
        let all = [&of_client(&[])[..], ask.as_bytes()].concat();
        socket.write_all(&all).await.unwrap();
        read_answer(&mut socket).await;
        held.push(socket);
    }
    assert_eq!(server.told(&of_client(&[])).await, "");
    server
        .metric("boxgate_connections_refused_total{limit=\"address\"} 1")
        .await;
    let other = b"PROXY TCP4 198.51.100.8 127.0.0.1 4660 80\r\n";
    assert!(server.told(other).await.ends_with("198.51.100.8 a"));
    drop(held);
    server.metric("boxgate_connections 0").await;
    assert!(
        server
            .told(&of_client(&[]))
            .await
            .ends_with("198.51.100.7 a")
    );
    server.stop().await;
}
