//! One worker does one upload or download, from its intended start to the end of the answer.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use crate::content::{Content, Digests};
use crate::error::Result;
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
    sha256: String,
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
    let wrong = match answer {
        Err(failure) => Some(failure.to_string()),
        Ok(answer) if answer.status != 200 => Some(format!(
            "{}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        )),
        Ok(answer) => match serde_json::from_slice::<Stored>(&answer.body) {
            Err(e) => Some(format!("an answer that is not understood: {e}")),
            Ok(Stored { details }) => {
                let told = Digests {
                    blake3: details.blake3,
                    sha256: details.sha256,
                };
                (told != job.digests).then(|| format!("other digests than were sent: {told:?}"))
            }
        },
    };
    Done { latency, wrong }
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
