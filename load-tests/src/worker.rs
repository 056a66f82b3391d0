//! One worker does one upload or download, from its intended start to the end of the answer.

use std::io::ErrorKind;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use crate::content::{Content, Digests};
use crate::error::{Failure, Result};
use crate::http::{self, Ask, Envelope};
use crate::scenario::Carrier;
use crate::server::Server;

/// What one worker found.
#[derive(Debug)]
pub(crate) struct Done {
    /// From the intended start to the end of the answer.
    pub(crate) latency: Duration,
    /// What was not right, in words.
    pub(crate) wrong: Option<String>,
    /// The path of an upload that was refused, or never came to be asked for: nothing was made there.
    pub(crate) refused: Option<String>,
}

/// An upload to make, or one to fetch.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// Where to.
    pub(crate) server: Server,
    /// The gateway's key.
    pub(crate) key: String,
    /// Path of the file.
    pub(crate) path: String,
    /// When it is to begin.
    pub(crate) begin: Instant,
    /// What is sent, or was.
    pub(crate) content: Content,
    /// What the answer must say.
    pub(crate) digests: Digests,
}

#[derive(Debug, Deserialize)]
struct Stored {
    details: Details,
}

#[derive(Debug, Deserialize)]
struct Details {
    blake3: String,
    /// Null where it is computed when all is answered (`digests.sha256 = "deferred"`).
    sha256: Option<String>,
}

impl Details {
    /// What is not as it was sent. All bytes stand behind BLAKE3, too.
    fn unlike(self, sent: &Digests) -> Option<String> {
        let told = Digests {
            blake3: self.blake3,
            sha256: self.sha256.unwrap_or_else(|| sent.sha256.clone()),
        };
        (told != *sent).then(|| format!("other digests than were sent: {told:?}"))
    }
}

/// Uploads, and holds the answer against the digests.
pub(crate) async fn upload(job: Job, carrier: Carrier) -> Done {
    sleep_until(job.begin).await;
    let ask = Ask {
        method: "POST",
        path: &job.path,
        token: Some(&job.key),
    };
    let answer = http::upload(job.server.clone(), ask, &job.content, &envelope(carrier)).await;
    let latency = job.begin.elapsed();
    let refused = is_refusal(&answer).then(|| job.path.clone());
    let wrong = match answer {
        Err(failure) => Some(failure.to_string()),
        Ok(answer) if answer.status != 200 => Some(format!(
            "{}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        )),
        Ok(answer) => match serde_json::from_slice::<Stored>(&answer.body) {
            Err(e) => Some(format!("an answer that is not understood: {e}")),
            Ok(Stored { details }) => details.unlike(&job.digests),
        },
    };
    Done {
        latency,
        wrong,
        refused,
    }
}

/// Downloads, and compares byte by byte.
pub(crate) async fn download(job: Job) -> Done {
    fetched(job, false).await
}

/// Downloads, and compares by BLAKE3 too, which costs this side a third of a second per GB.
pub(crate) async fn compare(job: Job) -> Done {
    fetched(job, true).await
}

async fn fetched(job: Job, digest: bool) -> Done {
    sleep_until(job.begin).await;
    let found = fetch(&job, digest).await;
    Done {
        latency: job.begin.elapsed(),
        wrong: found.unwrap_or_else(|failure| Some(failure.to_string())),
        refused: None,
    }
}

/// Whether an upload surely made nothing: it was refused, or nobody was there to be asked.
pub(crate) fn is_refusal(answer: &Result<http::Answer>) -> bool {
    match answer {
        Ok(answer) => answer.status / 100 == 4,
        Err(Failure::Connection(e)) => matches!(
            e.kind(),
            ErrorKind::ConnectionRefused
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
        ),
        Err(_) => false,
    }
}

async fn fetch(job: &Job, digest: bool) -> Result<Option<String>> {
    let path = format!("{}/download", job.path);
    let ask = Ask {
        method: "GET",
        path: &path,
        token: Some(&job.key),
    };
    let mut checker = job.content.checker();
    let mut hasher = digest.then(blake3::Hasher::new);
    let (status, _headers) =
        http::download(job.server.clone(), ask, &mut checker, hasher.as_mut()).await?;
    if status != 200 {
        return Ok(Some(format!("a download is answered {status}")));
    }
    if !checker.is_whole() {
        return Ok(Some("a download gave other bytes than were sent".into()));
    }
    let told = hasher.map(|hasher| hasher.finalize().to_hex().to_string());
    Ok(told
        .filter(|told| *told != job.digests.blake3)
        .map(|_other| "a download has another digest".into()))
}

fn envelope(carrier: Carrier) -> Envelope {
    match carrier {
        Carrier::Raw => Envelope {
            content_type: "application/octet-stream".into(),
            before: Vec::new(),
            behind: Vec::new(),
        },
        Carrier::Multipart => {
            // Long enough that random bytes cannot hold it, as clients choose theirs.
            let boundary = "------------------------d74496d66958873e";
            Envelope {
                content_type: format!("multipart/form-data; boundary={boundary}"),
                before: format!(
                    "--{boundary}\r\ncontent-disposition: form-data; name=\"file\"; \
                     filename=\"load.box\"\r\ncontent-type: application/octet-stream\r\n\r\n"
                )
                .into_bytes(),
                behind: format!("\r\n--{boundary}--\r\n").into_bytes(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_sha256_is_held_against_blake3() {
        let sent = Digests {
            blake3: "aa".into(),
            sha256: "bb".into(),
        };
        for (details, right) in [
            (r#"{"blake3":"aa","sha256":"bb"}"#, true),
            (r#"{"blake3":"aa","sha256":null}"#, true),
            (r#"{"blake3":"aa"}"#, true),
            (r#"{"blake3":"ab","sha256":null}"#, false),
            (r#"{"blake3":"aa","sha256":"aa"}"#, false),
        ] {
            let body = format!("{{\"details\":{details}}}");
            let Stored { details: told } = serde_json::from_str(&body).unwrap();
            assert_eq!(told.unlike(&sent).is_none(), right, "{details}");
        }
    }

    #[test]
    fn only_what_was_surely_refused_made_nothing() {
        let answered = |status| {
            Ok(http::Answer {
                status,
                headers: http::Headers::default(),
                body: Vec::new(),
            })
        };
        let failed = |kind: ErrorKind| Err(Failure::from(std::io::Error::from(kind)));
        for made_nothing in [
            answered(401),
            answered(413),
            failed(ErrorKind::ConnectionRefused),
        ] {
            assert!(is_refusal(&made_nothing), "{made_nothing:?}");
        }
        for unknown in [
            answered(200),
            answered(507),
            failed(ErrorKind::UnexpectedEof),
            failed(ErrorKind::TimedOut),
        ] {
            assert!(!is_refusal(&unknown), "{unknown:?}");
        }
    }
}
