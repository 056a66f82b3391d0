//! Starts a private gateway and speaks plain HTTP/1.1 to it, byte for byte as a test wants it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use boxgate::app::App;
use boxgate::auth::{credential, password};
use boxgate::config::{self, Flags, Machine};
use boxgate::gateway::Gateway;
use boxgate::telemetry::Telemetry;
use boxgate_storage::blob::UploadId;
use boxgate_storage::clock::{Clock, SystemClock, UnixMillis};
use boxgate_storage::conformance::database;
use boxgate_storage::metadata::accounts::{
    AccountId, NewAccount, OrganizationId, OrganizationRole, PlatformRole,
};
use boxgate_storage::metadata::tokens::{NewToken, TokenKind};
use boxgate_storage::upload::{Keep, Sender, UploadIntent};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A running gateway with an organization `acme`, owned by `owner`.
pub(crate) struct Running {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) address: SocketAddr,
    pub(crate) organization: OrganizationId,
    /// Token of the organization's owner.
    pub(crate) owner: String,
    stop: boxgate::server::Drain,
    task: JoinHandle<()>,
    directory: TempDir,
}

impl Running {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With `BOXGATE_` variables.
    pub(crate) async fn start_with(variables: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), variables).await
    }

    pub(crate) async fn start_in(directory: TempDir, variables: &[(&str, &str)]) -> Self {
        Self::start_at(directory, variables, Arc::new(SystemClock)).await
    }

    /// By another clock.
    pub(crate) async fn start_at(
        directory: TempDir,
        variables: &[(&str, &str)],
        clock: Arc<dyn Clock>,
    ) -> Self {
        let file = directory.path().join("boxgate.toml");
        let flags = Flags {
            config: Some(file).filter(|file| file.exists()),
            data_dir: Some(directory.path().join("data")),
            listen: Some("127.0.0.1:0".into()),
            ..Flags::default()
        };
        let quick = [("BOXGATE_SERVER__DRAIN_ACCEPT", "0s")];
        let is_public = variables
            .iter()
            .any(|(name, _)| *name == "BOXGATE_PUBLIC_URL");
        // A second node names the database of the first.
        let named = variables
            .iter()
            .find(|(name, _)| *name == "BOXGATE_METADATA__URL");
        let url = match named {
            Some((_, url)) => Some((*url).to_owned()),
            None => database::url(directory.path()).await,
        };
        let shared = match url {
            Some(url) => vec![
                ("BOXGATE_METADATA__URL", url),
                ("BOXGATE_MASTER_KEY", "5e".repeat(32)),
                ("BOXGATE_PUBLIC_URL", "http://gateway".to_owned()),
            ],
            None => Vec::new(),
        };
        let shared = shared.iter().map(|(k, v)| (*k, v.as_str()));
        let environment = quick
            .into_iter()
            .chain(shared)
            .chain(variables.iter().copied())
            .map(|(k, v)| (k.into(), v.into()));
        let (mut settings, _) = config::load_from(&flags, environment, Machine::probe()).unwrap();
        if !is_public {
            // What is asked of answers is the same on every database.
            settings.public_url.clear();
        }
        let app = App::start_at(settings, Telemetry::silent(), clock);
        let app = Box::pin(app).await.unwrap();
        app.recover().await.unwrap();
        let gateway = Arc::clone(app.gateway());
        let address = app.addresses()[0];
        let stop = app.drain();
        let task = tokio::spawn(app.serve());
        let mut running = Self {
            gateway,
            address,
            organization: OrganizationId(0),
            owner: String::new(),
            stop,
            task,
            directory,
        };
        let name = "acme".parse().unwrap();
        let owner = match running
            .gateway
            .metadata
            .account_by_username("owner")
            .await
            .unwrap()
        {
            Some(account) => account.id,
            None => running.account("owner", PlatformRole::User).await,
        };
        running.organization = match running.gateway.metadata.organization(&name).await.unwrap() {
            Some(organization) => organization.id,
            None => {
                running
                    .gateway
                    .metadata
                    .create_organization(&name, None, owner)
                    .await
                    .unwrap()
                    .id
            }
        };
        running.owner = running.token(owner, TokenKind::Personal, None).await;
        running
    }

    pub(crate) fn data_dir(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) async fn account(&self, name: &str, role: PlatformRole) -> AccountId {
        let new = NewAccount {
            username: name.into(),
            email: None,
            password_hash: Some(password::hash("secret".into()).await),
            role,
            membership: None,
            by: String::new(),
        };
        self.gateway.metadata.create_account(new).await.unwrap().id
    }

    pub(crate) async fn member(&self, name: &str, role: OrganizationRole) -> AccountId {
        let id = self.account(name, PlatformRole::User).await;
        self.gateway
            .metadata
            .set_membership(id, self.organization, role)
            .await
            .unwrap();
        id
    }

    /// An upload of `account` to `acme` that nobody writes to yet.
    pub(crate) async fn begin_upload(&self, account: AccountId) -> UploadId {
        let intent = UploadIntent {
            store: None,
            sender: Sender::person(account),
            organization: self.organization,
            target: None,
            length: Some(100),
            expected: Vec::new(),
            part_bytes: None,
            cut: None,
            keep: Keep::UntilIdle,
            note: None,
        };
        self.gateway.engine.create(intent).await.unwrap().id
    }

    pub(crate) async fn token(
        &self,
        account: AccountId,
        kind: TokenKind,
        organization: Option<OrganizationId>,
    ) -> String {
        self.token_until(account, kind, organization, None).await
    }

    /// A token that is good until then.
    pub(crate) async fn token_until(
        &self,
        account: AccountId,
        kind: TokenKind,
        organization: Option<OrganizationId>,
        expires: Option<UnixMillis>,
    ) -> String {
        let text = credential::fresh();
        let new = NewToken {
            kind,
            hash: credential::hash(&text),
            account,
            organization,
            name: (kind == TokenKind::Service).then(|| format!("svc-{}", &text[..8])),
            description: None,
            expires,
        };
        self.gateway.metadata.create_token(new).await.unwrap();
        text
    }

    /// A token of the owner's that was good until a moment ago.
    pub(crate) async fn ended_token(&self) -> String {
        let owner = self.owner_account().await;
        let ended = Some(UnixMillis(1));
        self.token_until(owner, TokenKind::Personal, None, ended)
            .await
    }

    /// A token of the owner's that was taken back.
    pub(crate) async fn revoked_token(&self) -> String {
        let owner = self.owner_account().await;
        let text = self.token(owner, TokenKind::Personal, None).await;
        let metadata = &self.gateway.metadata;
        let found = metadata.token_by_hash(&credential::hash(&text)).await;
        let (token, _) = found.unwrap().unwrap();
        metadata.delete_token(token.id, owner).await.unwrap();
        text
    }

    async fn owner_account(&self) -> AccountId {
        let metadata = &self.gateway.metadata;
        let owner = metadata.account_by_username("owner").await;
        owner.unwrap().unwrap().id
    }

    /// Stops as SIGTERM does, and gives the data directory back for another start.
    pub(crate) async fn stop(self) -> TempDir {
        self.signal();
        self.stopped().await
    }

    /// Begins to stop as at SIGTERM.
    pub(crate) fn signal(&self) {
        self.stop.signal();
    }

    /// Waits until it has stopped.
    pub(crate) async fn stopped(self) -> TempDir {
        self.task.await.unwrap();
        self.directory
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, request: Request) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // A refusal may arrive, and the connection close, before all of the body is sent.
        let _refused_early = stream.write_all(&request.to_bytes()).await;
        read_reply(&mut stream).await
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Reply {
        self.send(Request::new("GET", path).token(token)).await
    }

    /// Uploads raw bytes as `acme/{box_name}/{version}` for virtualbox on amd64.
    pub(crate) async fn upload(&self, box_name: &str, version: &str, body: &[u8]) -> Reply {
        let path = file_path(box_name, version);
        self.send(Request::new("POST", &path).token(&self.owner).body(body))
            .await
    }

    /// Lets anybody find and read `acme/{box_name}`, or members only.
    pub(crate) async fn set_public(&self, box_name: &str, public: bool) {
        let path = format!("/api/organization/acme/box/{box_name}");
        let change = Request::new("PUT", &path)
            .token(&self.owner)
            .json(&serde_json::json!({ "isPublic": public }));
        assert_eq!(self.send(change).await.status, 200);
    }

    /// All files under the store's directory.
    pub(crate) fn stored_files(&self) -> Vec<std::path::PathBuf> {
        stored_files(&self.data_dir())
    }
}

pub(crate) fn stored_files(data_dir: &Path) -> Vec<std::path::PathBuf> {
    blobs_of(&data_dir.join("blobs"))
}

/// The files of a local store that hold bytes of boxes.
pub(crate) fn blobs_of(store: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let Ok(shards) = std::fs::read_dir(store) else {
        return files;
    };
    for shard in shards {
        let shard = shard.unwrap().path();
        if shard.is_dir() {
            let all = std::fs::read_dir(shard).unwrap().map(|e| e.unwrap().path());
            // What stands beside them is no blob.
            files.extend(all.filter(|path| path.extension().is_none()));
        }
    }
    files.sort();
    files
}

pub(crate) fn file_path(box_name: &str, version: &str) -> String {
    format!(
        "/api/organization/acme/box/{box_name}/version/{version}/provider/virtualbox/architecture/amd64/file"
    )
}

/// A request, written as given.
#[derive(Debug)]
pub(crate) struct Request {
    head: String,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self {
            head: format!("{method} {path} HTTP/1.1\r\nHost: gateway\r\n"),
            body: Vec::new(),
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.head.extend([name, ": ", value, "\r\n"]);
        self
    }

    /// The same without a header.
    pub(crate) fn without(mut self, name: &str) -> Self {
        let lines = self.head.split_inclusive("\r\n");
        let prefix = format!("{name}: ");
        self.head = lines.filter(|line| !line.starts_with(&prefix)).collect();
        self
    }

    pub(crate) fn token(self, token: &str) -> Self {
        if token.is_empty() {
            self
        } else {
            self.header("Authorization", &format!("Bearer {token}"))
        }
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self.header("Content-Length", &body.len().to_string())
    }

    pub(crate) fn json(self, value: &serde_json::Value) -> Self {
        let body = value.to_string();
        self.header("Content-Type", "application/json")
            .body(body.as_bytes())
    }

    /// Bytes without a Content-Length of their own.
    pub(crate) fn raw_body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.clone().into_bytes();
        bytes.extend_from_slice(b"Connection: close\r\n\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (n, v) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim())
        })
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// Whether as many bytes came as the head promised.
    pub(crate) fn is_whole(&self) -> bool {
        self.header("content-length").and_then(|l| l.parse().ok()) == Some(self.body.len())
    }
}

pub(crate) async fn read_reply(stream: &mut TcpStream) -> Reply {
    let mut bytes = Vec::new();
    // An answer that breaks resets the connection; what came before it is the reply.
    let _reset = stream.read_to_end(&mut bytes).await;
    parse_reply(&bytes)
}

pub(crate) fn parse_reply(mut bytes: &[u8]) -> Reply {
    loop {
        let end = bytes
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .unwrap_or_else(|| {
                panic!("no head in {:?}", String::from_utf8_lossy(bytes));
            });
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        bytes = &bytes[end + 4..];
        if status != 100 {
            return Reply {
                status,
                head,
                body: bytes.to_vec(),
            };
        }
    }
}
