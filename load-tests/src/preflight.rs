//! Whether a gateway elsewhere takes what it will be given, asked once and in little before anything is played: a run
//! against a port that nobody listens at would otherwise measure how fast a connection is refused.

use std::time::Duration;

use tokio::time::{Instant, interval, timeout};

use crate::content::{Block, Content};
use crate::deployed::Deployed;
use crate::error::{Failure, Result};
use crate::gateway;
use crate::http::{self, Answer, Ask, Envelope};
use crate::worker;

/// How long it may take until it is ready, and then for one small upload.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked whether it is ready.
const ASKED_EVERY: Duration = Duration::from_millis(200);
/// Bytes of the upload.
const LENGTH: u64 = 1024;

/// Asks whether it is ready, and uploads a box of its own, which is taken away again.
///
/// # Errors
/// When a run could not succeed: why, and what to do.
pub(crate) async fn check(deployed: &Deployed) -> Result<()> {
    check_within(deployed, PATIENCE).await
}

async fn check_within(deployed: &Deployed, patience: Duration) -> Result<()> {
    ready(deployed, patience).await?;
    let name = deployed.give("check");
    let path = gateway::file_path(&deployed.organization, &name, "1.0.0");
    let content = Content::new(&Block::random(), 1, LENGTH);
    let envelope = Envelope {
        content_type: "application/octet-stream".to_owned(),
        ..Envelope::default()
    };
    let ask = Ask {
        method: "POST",
        path: &path,
        token: Some(&deployed.token),
    };
    let uploading = http::upload(deployed.server.clone(), ask, &content, &envelope);
    let uploaded = timeout(patience, uploading).await.unwrap_or_else(|_late| {
        let seconds = patience.as_secs();
        Err(Failure::said(format!("no answer within {seconds} s")))
    });
    if worker::is_refusal(&uploaded) {
        deployed.never_made(&name);
    }
    match uploaded {
        Ok(answer) if answer.status == 200 => deployed.take_away(&name).await.map_err(|failure| {
            Failure::said(format!(
                "a box cannot be deleted there, and a run would leave its own: {failure}. The credential must be able to make, \
                 read and delete boxes in {}",
                deployed.organization
            ))
        }),
        Ok(answer) => Err(Failure::said(refusal(deployed, &answer))),
        Err(failure) => Err(Failure::said(format!(
            "{}: an upload of {LENGTH} bytes failed: {failure}",
            deployed.server.url()
        ))),
    }
}

/// Waits until it is ready. One that tells this to others only is asked for no more than an answer.
async fn ready(deployed: &Deployed, patience: Duration) -> Result<()> {
    let late = Instant::now() + patience;
    let mut tick = interval(ASKED_EVERY);
    loop {
        tick.tick().await;
        let ask = Ask {
            method: "GET",
            path: "/readyz",
            token: Some(&deployed.token),
        };
        let left = late.saturating_duration_since(Instant::now());
        // The last time, too, it has the time for an answer.
        let left = left.max(ASKED_EVERY);
        let asked = timeout(left, http::get(deployed.server.clone(), ask)).await;
        let said = match asked {
            Ok(Ok(answer)) if answer.status < 500 => return Ok(()),
            Ok(Ok(answer)) => format!("it answers {}; its log tells why", answer.in_short()),
            // What was said of a certificate tells the next step already.
            Ok(Err(Failure::Said(said))) => return Err(Failure::said(said)),
            Ok(Err(failure)) => format!("{failure}; is it running, and are host and port right?"),
            Err(_late) => "no answer; does it hang, or is a firewall between?".to_owned(),
        };
        if Instant::now() >= late {
            let (url, seconds) = (deployed.server.url(), patience.as_secs());
            return Err(Failure::said(format!(
                "{url} is not ready within {seconds} s: {said}"
            )));
        }
    }
}

/// What a refusal of the upload means for a run.
fn refusal(deployed: &Deployed, answer: &Answer) -> String {
    let organization = &deployed.organization;
    let step = match answer.status {
        401 => "the credential is not taken: put one that is valid into BOXGATE_TOKEN".to_owned(),
        403 | 404 => format!(
            "--organization {organization}: there is none of that name, or the credential may not make boxes in it"
        ),
        413 => "it takes no box of that length".to_owned(),
        429 => "it takes no more requests of this machine for now: limits.rate_exempt names who is exempt".to_owned(),
        507 => "its store has no room: free some, or lower limits.min_free".to_owned(),
        _ => "its log tells why".to_owned(),
    };
    format!(
        "{}: an upload of {LENGTH} bytes is refused, so that nothing is played: {step} ({})",
        deployed.server.url(),
        answer.in_short()
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{Read as _, Write as _};
    use std::sync::{Arc, Mutex};

    use super::*;

    pub(crate) type Asked = Arc<Mutex<Vec<String>>>;

    /// Reads each request whole and answers by its method; which ones came is told in order.
    pub(crate) fn serving(answers: fn(&str) -> &'static str) -> (Deployed, Asked) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Asked::default();
        let told = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let (mut seen, mut byte) = (Vec::new(), [0]);
                while !seen.ends_with(b"\r\n\r\n") {
                    stream.read_exact(&mut byte).unwrap();
                    seen.push(byte[0]);
                }
                let text = String::from_utf8(seen).unwrap();
                let length = text
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                let length = length.map_or(0, |length| length.parse().unwrap());
                stream.read_exact(&mut vec![0; length]).unwrap();
                let method = text.split(' ').next().unwrap().to_owned();
                let status = answers(&method);
                told.lock().unwrap().push(method);
                let answer = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
                );
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let deployed = Deployed::new(address.into(), "key".to_owned(), "acme".to_owned());
        (deployed, asked)
    }

    async fn failed(deployed: &Deployed, patience: Duration) -> String {
        let checked = deployed.during(check_within(deployed, patience)).await;
        checked.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_gateway_that_takes_a_box_keeps_none() {
        let (deployed, asked) = serving(|_| "200");
        check(&deployed).await.unwrap();
        assert_eq!(*asked.lock().unwrap(), ["GET", "POST", "DELETE"]);
        assert!(deployed.leave().await.is_empty());
        assert_eq!(asked.lock().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_the_next_step_and_no_box_is_named() {
        type Row = (fn(&str) -> &'static str, &'static str);
        let rows: [Row; 4] = [
            (
                |method| if method == "POST" { "401" } else { "200" },
                "BOXGATE_TOKEN",
            ),
            (
                |method| if method == "POST" { "404" } else { "200" },
                "--organization acme",
            ),
            (
                |method| if method == "POST" { "507" } else { "200" },
                "no room",
            ),
            // One that tells outsiders nothing of itself is played, too.
            (
                |method| if method == "POST" { "401" } else { "403" },
                "BOXGATE_TOKEN",
            ),
        ];
        for (answers, wanted) in rows {
            let (deployed, asked) = serving(answers);
            let why = failed(&deployed, PATIENCE).await;
            assert!(
                why.contains(wanted) && !why.contains("stays there"),
                "{why}"
            );
            assert_eq!(asked.lock().unwrap()[..2], ["GET", "POST"]);
        }
    }

    #[tokio::test]
    async fn one_that_is_not_ready_is_told_in_bounded_time() {
        let (deployed, asked) = serving(|_| "503");
        let why = failed(&deployed, Duration::ZERO).await;
        assert!(why.contains("is not ready within 0 s"), "{why}");
        assert!(!asked.lock().unwrap().contains(&"POST".to_owned()));
        // Nobody listens there.
        let address: std::net::SocketAddr = "127.0.0.1:1".parse().unwrap();
        let dead = Deployed::new(address.into(), "key".to_owned(), "acme".to_owned());
        let why = failed(&dead, ASKED_EVERY).await;
        assert!(
            why.contains("is it running") && !why.contains("stays there"),
            "{why}"
        );
        // That one takes the connection, and says nothing.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let hung = Deployed::new(address.into(), "key".to_owned(), "acme".to_owned());
        let why = failed(&hung, ASKED_EVERY).await;
        assert!(
            why.contains("does it hang") && !why.contains("stays there"),
            "{why}"
        );
        drop(listener);
    }
}
