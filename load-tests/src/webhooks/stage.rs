//! A gateway, a receiver, and those who change boxes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until};

use super::receiver::{Receiver, Told};
use crate::content::{Block, Content};
use crate::error::{Failure, Result};
use crate::gateway::{self, Gateway};
use crate::http::{self, Answer, Ask, Envelope};
use crate::latency::Latency;
use crate::play::Options;

/// Boxes that are changed in turns.
const BOXES: u32 = 16;
/// Bytes of an upload.
const UPLOAD_BYTES: u64 = 16 << 10;
/// Changes at once where they come as fast as they can.
const AT_ONCE: u32 = 32;
/// How long nothing may come that must come.
const PATIENCE: Duration = Duration::from_mins(1);

/// All that plays.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) gateway: Gateway,
    pub(super) receiver: Receiver,
    block: Block,
    salt: u64,
    wrong: Vec<String>,
}

/// What changes by schedule took.
#[derive(Debug)]
pub(super) struct Loaded {
    changes: Latency,
    uploads: Latency,
    /// Events that came of them.
    pub(super) events: u32,
}

impl Loaded {
    pub(super) fn changes(&self) -> &Latency {
        &self.changes
    }

    pub(super) fn uploads(&self) -> &Latency {
        &self.uploads
    }
}

/// Something that somebody does.
struct Deed {
    upload: Option<Content>,
    path: String,
    salt: u64,
}

impl Stage {
    /// Starts a gateway in an empty directory, on an empty database.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) async fn open(options: &Options, server: Option<&str>) -> Result<Self> {
        let directory = &options.directory;
        std::fs::create_dir_all(directory).map_err(|e| Failure::file(directory, e))?;
        let mut settings = BTreeMap::new();
        if let Some(server) = server {
            settings.insert("metadata.url".to_owned(), make_database(server)?);
            settings.insert("public_url".to_owned(), "http://127.0.0.1:1".to_owned());
            settings.insert("master_key".to_owned(), "ab".repeat(32));
        }
        let gateway = Gateway::start(&options.gateway, directory, &settings).await?;
        let stage = Self {
            gateway,
            receiver: Receiver::start().await?,
            block: Block::random(),
            salt: 0,
            wrong: Vec::new(),
        };
        for n in 0..BOXES {
            let path = format!("/api/organization/{}/box", stage.gateway.organization());
            let body = json!({"name": box_name(n), "description": ""});
            stage.admin("POST", &path, Some(&body), 201).await?;
        }
        Ok(stage)
    }

    /// What was wrong, once the gateway has stopped.
    pub(super) async fn close(mut self) -> Result<Vec<String>> {
        let metrics = self.gateway.metrics().await?;
        for (name, label) in [
            ("boxgate_http_request_seconds_count", "status=\"5xx\""),
            ("boxgate_http_panics_total", ""),
            ("boxgate_webhook_skipped_total", ""),
        ] {
            let count = metrics.sum(name, label);
            if count.is_none_or(|count| count > 0.0) {
                self.wrong.push(format!("{name} is {count:?}"));
            }
        }
        let data = self.gateway.site().data.clone();
        if !self.gateway.stop().await? {
            self.wrong
                .push("the gateway did not end well within a minute of SIGTERM".into());
        }
        gateway::remove(&data)?;
        Ok(self.wrong)
    }

    async fn admin(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        status: u16,
    ) -> Result<Value> {
        let token = Some(self.gateway.admin());
        let ask = Ask {
            method,
            path,
            token,
        };
        let answer = match body {
            Some(body) => http::tell(self.gateway.address(), ask, body).await?,
            None => http::get(self.gateway.address(), ask).await?,
        };
        if answer.status != status {
            return Err(Failure::said(complaint(method, path, &answer)));
        }
        Ok(serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    /// An endpoint of the receiver's; its id.
    pub(super) async fn endpoint(&self, path: &str, more: &[(&str, Value)]) -> Result<String> {
        let mut wish =
            json!({"url": self.receiver.url(path), "events": ["box.uploaded", "box.updated"]});
        for (name, value) in more {
            wish[*name] = value.clone();
        }
        let made = self
            .admin("POST", "/api/admin/webhooks", Some(&wish), 201)
            .await?;
        let id = made["id"].as_str().unwrap_or_default();
        Ok(id.to_owned())
    }

    /// Removes endpoints, and forgets what was told.
    pub(super) async fn remove(&self, ids: &[String]) -> Result<()> {
        for id in ids {
            let path = format!("/api/admin/webhooks/{id}");
            self.admin("DELETE", &path, None, 204).await?;
        }
        self.receiver.forget();
        Ok(())
    }

    /// Has all be sent once more that was taken since.
    pub(super) async fn recover(&self, id: &str, since: jiff::Timestamp) -> Result<()> {
        let path = format!("/api/admin/webhooks/{id}/recover");
        let body = json!({"since": since.to_string(), "status": "delivered"});
        self.admin("POST", &path, Some(&body), 202).await.map(drop)
    }

    /// Changes and uploads in turns, each at its time.
    pub(super) async fn load(&mut self, count: u32, every: Duration) -> Result<Loaded> {
        let begin = Instant::now();
        let mut doing = JoinSet::new();
        for n in 0..count {
            let deed = self.deed(n, n % 2 == 1);
            let (address, token) = (self.gateway.address(), self.gateway.admin().to_owned());
            let start = begin + every * n;
            doing.spawn(async move {
                sleep_until(start).await;
                let done = deed.done(address, &token).await;
                (deed.upload.is_some(), start.elapsed(), done)
            });
        }
        let mut loaded = Loaded {
            changes: Latency::default(),
            uploads: Latency::default(),
            events: count,
        };
        while let Some(done) = doing.join_next().await {
            let (upload, took, done) = done.expect("nobody panics or is aborted");
            if upload {
                loaded.uploads.record(took);
            } else {
                loaded.changes.record(took);
            }
            self.wrong.extend(done.err());
        }
        Ok(loaded)
    }

    /// So many changes as fast as they can be made; how many they are.
    pub(super) async fn burst(&mut self, count: u32) -> Result<u32> {
        let mut doing = JoinSet::new();
        for first in 0..AT_ONCE.min(count) {
            let numbers = (first..count).step_by(AT_ONCE as usize);
            let deeds: Vec<Deed> = numbers.map(|n| self.deed(n, false)).collect();
            let (address, token) = (self.gateway.address(), self.gateway.admin().to_owned());
            doing.spawn(async move {
                let mut wrong = Vec::new();
                for deed in deeds {
                    wrong.extend(deed.done(address, &token).await.err());
                }
                wrong
            });
        }
        while let Some(wrong) = doing.join_next().await {
            self.wrong
                .extend(wrong.expect("nobody panics or is aborted"));
        }
        Ok(count)
    }

    fn deed(&mut self, n: u32, upload: bool) -> Deed {
        self.salt += 1;
        let name = box_name(n % BOXES);
        let content = Content::new(&self.block, self.salt, UPLOAD_BYTES);
        Deed {
            path: if upload {
                self.gateway.file_path(&name, "1.0.0")
            } else {
                format!(
                    "/api/organization/{}/box/{name}",
                    self.gateway.organization()
                )
            },
            upload: upload.then_some(content),
            salt: self.salt,
        }
    }

    /// Waits until all of these were told so many events; what they were told.
    ///
    /// # Errors
    /// When nothing comes for a minute before that.
    pub(super) async fn told(&mut self, paths: &[String], events: u32) -> Result<Vec<Told>> {
        let mut tick = interval(Duration::from_millis(20));
        let mut last = (0, Instant::now());
        loop {
            tick.tick().await;
            let counts: Vec<usize> = paths.iter().map(|path| self.receiver.count(path)).collect();
            if counts.iter().all(|count| *count >= events as usize) {
                break;
            }
            let sum: usize = counts.iter().sum();
            if sum > last.0 {
                last = (sum, Instant::now());
            }
            if last.1.elapsed() > PATIENCE {
                return Err(Failure::said(format!(
                    "nothing comes for a minute: {counts:?} of {events} (the gateway's log: {})",
                    self.gateway.site().log.display()
                )));
            }
        }
        let told: Vec<Told> = paths.iter().map(|path| self.receiver.told(path)).collect();
        for (path, told) in paths.iter().zip(&told) {
            if told.unsigned > 0 {
                self.wrong
                    .push(format!("{} at {path} without a signature", told.unsigned));
            }
            if told.ids.len() != events as usize {
                self.wrong.push(format!(
                    "{} messages at {path}, not {events}",
                    told.ids.len()
                ));
            }
        }
        Ok(told)
    }

    /// Waits until so many deliveries wait for each of these.
    ///
    /// # Errors
    /// When they do not within a minute.
    pub(super) async fn waits(&self, ids: &[String], events: u32) -> Result<()> {
        let late = Instant::now() + PATIENCE;
        let mut tick = interval(Duration::from_millis(100));
        loop {
            tick.tick().await;
            let mut all = true;
            for id in ids {
                let found = self
                    .admin("GET", &format!("/api/admin/webhooks/{id}"), None, 200)
                    .await?;
                all &= found["queued"].as_u64() == Some(events.into());
            }
            if all {
                return Ok(());
            }
            if Instant::now() > late {
                return Err(Failure::said("not all that happened waits for everybody"));
            }
        }
    }
}

impl Deed {
    async fn done(
        &self,
        address: std::net::SocketAddr,
        token: &str,
    ) -> std::result::Result<(), String> {
        let (method, token) = (
            if self.upload.is_some() { "POST" } else { "PUT" },
            Some(token),
        );
        let ask = Ask {
            method,
            path: &self.path,
            token,
        };
        let answer = if let Some(content) = &self.upload {
            let envelope = Envelope {
                content_type: "application/octet-stream".to_owned(),
                ..Envelope::default()
            };
            http::upload(address, ask, content, &envelope).await
        } else {
            let body = json!({"description": format!("the {}th change", self.salt)});
            http::tell(address, ask, &body).await
        };
        match answer {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(complaint(method, &self.path, &answer)),
            Err(failure) => Err(format!("{method} {}: {failure}", self.path)),
        }
    }
}

fn complaint(method: &str, path: &str, answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    format!("{method} {path} is answered {}: {text}", answer.status)
}

fn box_name(n: u32) -> String {
    format!("told-{n}")
}

/// A database of our own on that server; its URL.
fn make_database(server: &str) -> Result<String> {
    let name = format!("boxgate_load_{}", std::process::id());
    let mut command = Command::new("psql");
    command
        .args(["--quiet", "--dbname", server, "--command"])
        .arg(format!("CREATE DATABASE {name}"))
        .stdin(Stdio::null());
    let made = command
        .status()
        .map_err(|e| Failure::file(Path::new("psql"), e))?;
    if !made.success() {
        return Err(Failure::said(format!("psql made no database: {made}")));
    }
    let (base, parameters) = server.split_once('?').unwrap_or((server, ""));
    let (place, _) = base
        .rsplit_once('/')
        .ok_or_else(|| Failure::said("the server's URL names no database"))?;
    Ok(format!("{place}/{name}?{parameters}"))
}
