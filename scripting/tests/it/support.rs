//! What the tests of this crate begin with: plugins in a temporary folder, and facts.

use std::path::PathBuf;
use std::sync::Arc;

use boxgate_scripting::facts::{Blob, Labels, Principal, Request, Upload};
use boxgate_scripting::{Options, Scripts};

/// A folder of plugins that is gone with its value.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("plugins")).unwrap();
        Self(dir)
    }

    /// One with a plugin of one file.
    pub(crate) fn with(name: &str, source: &str) -> Self {
        let folder = Self::new();
        folder.write(&format!("{name}.rhai"), source);
        folder
    }

    /// Where plugins stand.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.0.path().join("plugins")
    }

    /// Writes a file below it.
    pub(crate) fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.plugins().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    /// The options to load it with.
    pub(crate) fn options(&self) -> Options {
        Options::in_directory(self.plugins(), self.0.path().join("last-good"))
    }

    /// All plugins, loaded.
    pub(crate) fn open(&self) -> Scripts {
        Scripts::open(self.options()).unwrap()
    }
}

/// A request.
pub(crate) fn request(method: &str, host: &str, path: &str) -> Arc<Request> {
    Arc::new(Request {
        method: method.into(),
        host: host.into(),
        path: path.into(),
        client_ip: Some([192, 0, 2, 7].into()),
        id: "r1".into(),
        headers: vec![("user-agent".into(), "curl".into())],
        query: "a=1&b=x%20y".into(),
        ..Request::default()
    })
}

/// A service account of an organization.
pub(crate) fn service(organization: &str) -> Arc<Principal> {
    Arc::new(Principal {
        kind: "service".into(),
        name: "ci".into(),
        roles: Labels::from([(organization.to_owned(), "member".to_owned())]),
        ..Principal::default()
    })
}

/// An upload of so many bytes.
pub(crate) fn upload(size: u64) -> Arc<Upload> {
    Arc::new(Upload {
        organization: "acme".into(),
        name: "demo".into(),
        size: Some(size),
        ..Upload::default()
    })
}

/// A blob.
pub(crate) fn blob() -> Arc<Blob> {
    Arc::new(Blob {
        organization: "acme".into(),
        name: "demo".into(),
        version: "1.0.0".into(),
        size: 10,
        checksum: "ab".repeat(32).into(),
        ..Blob::default()
    })
}
