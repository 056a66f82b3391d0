//! Whole connections of HTTP/1: whatever comes, the connection ends, what is answered is an answer, and others are served.

use std::sync::Arc;
use std::time::Duration;

use boxgate::config;
use boxgate::http::response;
use boxgate::server::{Drain, InboundBody, OutboundBody, Respond, Server};
use boxgate::telemetry::Telemetry;
use futures_util::future::{BoxFuture, join_all};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Catches a hang.
const LONG: Duration = Duration::from_mins(1);

/// Reads what comes and says how much it was.
struct Counting;

impl Respond for Counting {
    fn respond(
        self: Arc<Self>,
        request: Request<InboundBody>,
    ) -> BoxFuture<'static, Response<OutboundBody>> {
        Box::pin(async move {
            let mut body = request.into_body();
            let mut bytes = 0;
            while let Ok(Some(chunk)) = body.chunk().await {
                bytes += chunk.len();
            }
            response::text(StatusCode::OK, bytes.to_string())
        })
    }
}

#[tokio::test]
async fn a_connection_of_any_bytes_ends_and_others_are_served() {
    let mut settings = config::defaults();
    settings.listeners[0].address = "127.0.0.1:0".parse().unwrap();
    settings.server.drain_accept = Duration::ZERO;
    let server = Server::bind(&settings, Telemetry::silent(), None)
        .await
        .unwrap();
    let address = server.addresses()[0];
    let drain = Drain::new(&settings.server);
    let serving = tokio::spawn(server.serve(Arc::new(Counting), drain.clone()));
    let corpus = super::corpus("connection");
    let seed = super::number("BOXGATE_FUZZ_SEED", 1);
    let kept = corpus.iter().cloned();
    let changed = (0..super::number("BOXGATE_FUZZ_RUNS", 5_000) / 20).map(|run| {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_add(run));
        super::changed(&corpus, &mut random)
    });
    let inputs: Vec<Vec<u8>> = kept.chain(changed).collect();
    for together in inputs.chunks(16) {
        let all = join_all(together.iter().map(|input| exchange(address, input)));
        let answers = tokio::time::timeout(LONG, all).await;
        let answers = answers.unwrap_or_else(|_| panic!("it hangs at one of {}", shown(together)));
        for (input, answer) in together.iter().zip(answers) {
            let is_one = answer.is_empty() || answer.starts_with(b"HTTP/1.");
            assert!(
                is_one,
                "{}\n{}",
                input.escape_ascii(),
                answer.escape_ascii()
            );
        }
    }
    let good = exchange(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(
        good.starts_with(b"HTTP/1.1 200 OK\r\n"),
        "{}",
        good.escape_ascii()
    );
    drain.signal();
    tokio::time::timeout(LONG, serving).await.unwrap().unwrap();
}

fn shown(inputs: &[Vec<u8>]) -> String {
    let shown = inputs.iter().map(|input| input.escape_ascii().to_string());
    shown.collect::<Vec<_>>().join("\n\n")
}

/// Sends these bytes and no more, and reads until the end.
async fn exchange(address: std::net::SocketAddr, input: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    // Who is refused early may not be read to the end, and a reset is an end as well.
    let _refused = socket.write_all(input).await;
    let _refused = socket.shutdown().await;
    let _reset = socket.read_to_end(&mut answer).await;
    answer
}
