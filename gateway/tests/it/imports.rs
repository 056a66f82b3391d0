//! What a BoxVault holds, taken over more than once: what was taken away here stays away, and all is told once.

use std::fs;
use std::path::Path;
use std::time::Duration;

use boxgate::import::boxvault::{Database, Vault};
use boxgate::import::{Import, Imported, Told};
use boxgate_storage::catalog::BoxRef;
use boxgate_storage::metadata::accounts::OrganizationRole;
use boxgate_storage::metadata::catalog::IsoChange;
use sha2::Digest as _;
use sqlx::{Connection as _, Executor as _};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::harness::Running;
use crate::uploads::noise;

/// Of "correct horse".
const BCRYPT: &str = "$2a$08$gOU5pFBlTIBMpNUJAOcFcuME8mACaoDoBD87pnLzjo/bkps.QeQoC";

const TABLES: &str = "
    CREATE TABLE organizations (id INTEGER, name TEXT);
    CREATE TABLE users (id INTEGER, username TEXT, password TEXT, verified INTEGER);
    CREATE TABLE user_organizations (id INTEGER, user_id INTEGER, organization_id INTEGER, role TEXT);
    CREATE TABLE service_accounts (id INTEGER, username TEXT, token TEXT, userId INTEGER, organization_id INTEGER);
    CREATE TABLE boxes (id INTEGER, name TEXT, organizationId INTEGER, userId INTEGER, isPublic INTEGER);
    CREATE TABLE versions (id INTEGER, boxId INTEGER, versionNumber TEXT);
    CREATE TABLE providers (id INTEGER, versionId INTEGER, name TEXT);
    CREATE TABLE architectures (id INTEGER, providerId INTEGER, name TEXT);
    CREATE TABLE files (id INTEGER, architectureId INTEGER, fileSize INTEGER, downloadCount INTEGER);
    CREATE TABLE isos (id INTEGER, name TEXT, description TEXT, size INTEGER, checksum TEXT, isPublic INTEGER,
        storagePath TEXT, organizationId INTEGER);
    INSERT INTO organizations VALUES (1, 'vaulted');
    INSERT INTO users VALUES (1, 'ann', '@BCRYPT@', 1), (2, 'bob', '@BCRYPT@', 1), (3, 'cid', '@BCRYPT@', 1),
        (4, 'eve o''dd', '@BCRYPT@', 1), (5, 'finn', '$argon2id$v=19$hidden', 1);
    INSERT INTO user_organizations VALUES (1, 1, 1, 'owner'), (2, 2, 1, 'member'), (3, 3, 1, 'member');
    INSERT INTO service_accounts VALUES (1, 'ann-1', '@KEY@', 1, 1);
    INSERT INTO boxes VALUES (1, 'one', 1, 1, 1), (2, 'two', 1, 1, 1);
    INSERT INTO versions VALUES (1, 1, '1.0'), (2, 1, '2.0'), (3, 2, '1.0');
    INSERT INTO providers VALUES (1, 1, 'virtualbox'), (2, 2, 'virtualbox'), (3, 3, 'virtualbox');
    INSERT INTO architectures VALUES (1, 1, 'amd64'), (2, 1, 'arm64'), (3, 2, 'amd64'), (4, 3, 'amd64');
    INSERT INTO files VALUES (1, 1, 1000, 0), (2, 2, 1000, 0), (3, 3, 1000, 0), (4, 4, 1000, 0);
";

/// A BoxVault on disk.
struct Scene {
    home: TempDir,
}

impl Scene {
    async fn set() -> Self {
        let scene = Self {
            home: tempfile::tempdir().unwrap(),
        };
        for (n, path) in [
            "one/1.0/virtualbox/amd64",
            "one/1.0/virtualbox/arm64",
            "one/2.0/virtualbox/amd64",
            "two/1.0/virtualbox/amd64",
        ]
        .into_iter()
        .enumerate()
        {
            let seed = u8::try_from(n).unwrap();
            scene.write(
                &format!("boxes/vaulted/{path}/vagrant.box"),
                &noise(1000, seed),
            );
        }
        let image = noise(3000, 9);
        let sha256 = hex::encode(sha2::Sha256::digest(&image));
        scene.write(&format!("isos/{sha256}.iso"), &image);
        let key = hex::encode(sha2::Sha256::digest(b"key"));
        let rows = TABLES.replace("@BCRYPT@", BCRYPT).replace("@KEY@", &key);
        scene.execute(&rows).await;
        scene
            .execute(&format!(
                "INSERT INTO isos VALUES (1, 'debian.iso', 'netinst', 3000, '{sha256}', 1, '{sha256}.iso', 1),
                     (2, 'gone.iso', NULL, 5, '{sha256}', 0, 'nowhere.iso', 1),
                     (3, 'out.iso', NULL, 5, '{sha256}', 0, '../vault.sqlite', 1)"
            ))
            .await;
        scene
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.home.path().join(path)
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        fs::write(path, bytes).unwrap();
    }

    async fn execute(&self, sql: &str) {
        let path = self.path("vault.sqlite");
        let url = format!("sqlite://{}?mode=rwc", path.display());
        sqlx::any::install_default_drivers();
        let mut database = sqlx::AnyConnection::connect(&url).await.unwrap();
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        database.execute(sqlx::raw_sql(sql)).await.unwrap();
        database.close().await.unwrap();
    }

    /// What is told of an import, and how it ended.
    async fn import(&self, running: &Running, again: bool) -> (Vec<String>, Imported) {
        let database = self.path("vault.sqlite");
        let import = Import::BoxVault(Vault {
            files: self.path("boxes"),
            isos: Some(self.path("isos")),
            database: Some(Database::named(database.to_str().unwrap()).unwrap()),
            again,
            reserved: std::collections::BTreeSet::new(),
            new_box_public: false,
            actor: "import".to_owned(),
        });
        let left = std::sync::Mutex::new(Vec::new());
        let told = |told| {
            if let Told::Left(what, why) = told {
                left.lock().unwrap().push(format!("{what}: {why}"));
            }
            std::future::ready(())
        };
        let imported = import.run(running.gateway.stock(), told).await.unwrap();
        (left.into_inner().unwrap(), imported)
    }
}

#[tokio::test]
async fn what_was_taken_away_here_is_brought_again_only_if_that_is_asked_for() {
    let running = Running::start().await;
    let scene = Scene::set().await;
    let metadata = running.gateway.metadata.clone();
    let (_, first) = scene.import(&running, false).await;
    assert_eq!((first.files, first.gone), (5, 0));
    let (_, second) = scene.import(&running, false).await;
    assert_eq!(
        (second.files, second.there, second.rows, second.gone),
        (0, 5, 0, 0)
    );

    let organization = metadata.organization(&"vaulted".parse().unwrap()).await;
    let organization = organization.unwrap().unwrap().id;
    let account = async |name: &str| metadata.account_by_username(name).await.unwrap();
    let (bob, cid) = (
        account("bob").await.unwrap().id,
        account("cid").await.unwrap().id,
    );
    metadata.remove_membership(bob, organization).await.unwrap();
    metadata.delete_account(cid, "test").await.unwrap();
    let key = metadata.service_account("ann-1").await.unwrap();
    let (key, _, owner) = key.unwrap();
    assert!(metadata.delete_token(key.id, owner.id).await.unwrap());
    let tree = async |name: &str| {
        let name = name.parse().unwrap();
        metadata.box_tree(organization, &name).await.unwrap()
    };
    metadata
        .delete_box(tree("two").await.unwrap().row.id, "test")
        .await
        .unwrap();
    let one = tree("one").await.unwrap();
    let version = |name: &str| {
        let mut versions = one.versions.iter();
        versions.find(|v| v.row.name.as_str() == name).unwrap()
    };
    metadata
        .delete_version(version("2.0").row.id, "test")
        .await
        .unwrap();
    let arm = version("1.0").providers[0].architectures.iter();
    let arm = arm
        .clone()
        .find(|a| a.row.name.as_str() == "arm64")
        .unwrap();
    metadata.delete_file(arm.row.id, "test").await.unwrap();
    let iso = "debian.iso".parse().unwrap();
    let vaulted = "vaulted".parse().unwrap();
    let found = metadata.iso_by_name(&vaulted, &iso).await.unwrap().unwrap();
    assert_eq!(
        (found.public, found.description.as_deref()),
        (true, Some("netinst"))
    );
    metadata.delete_iso(found.id, "test").await.unwrap();

    let (left, third) = scene.import(&running, false).await;
    assert_eq!(
        (third.files, third.there, third.rows),
        (0, 1, 0),
        "{left:?}"
    );
    // A membership, an account, a key, a box, a version, a file and an ISO image.
    assert_eq!(third.gone, 7, "{left:?}");
    for gone in ["bob", "cid", "ann-1", "two", "2.0", "arm64", "debian.iso"] {
        let told = left.iter().find(|line| line.contains(gone));
        assert_eq!(
            told, None,
            "what is not brought on purpose is not complained of"
        );
    }
    assert_eq!(account("cid").await, None);
    assert_eq!(tree("two").await, None);
    let members = metadata.members(organization).await.unwrap();
    assert_eq!(members.len(), 1, "its owner alone");

    let (left, again) = scene.import(&running, true).await;
    assert_eq!(
        (again.files, again.there, again.gone),
        (4, 1, 0),
        "{left:?}"
    );
    assert!(account("cid").await.is_some() && tree("two").await.is_some());
    assert!(metadata.service_account("ann-1").await.unwrap().is_some());
    let members = metadata.members(organization).await.unwrap();
    let role = |id| members.iter().find(|m| m.account == id).map(|m| m.role);
    assert_eq!(role(bob), Some(OrganizationRole::Member));
    running.stop().await;
}

#[tokio::test]
async fn an_image_that_is_healed_stays_as_it_was_made_here() {
    let running = Running::start().await;
    let scene = Scene::set().await;
    let metadata = running.gateway.metadata.clone();
    scene.import(&running, false).await;
    let (vaulted, iso) = ("vaulted".parse().unwrap(), "debian.iso".parse().unwrap());
    let found = async || metadata.iso_by_name(&vaulted, &iso).await.unwrap().unwrap();
    let image = found().await;
    let ours = IsoChange {
        public: Some(false),
        description: Some(Some("ours".to_owned())),
        ..IsoChange::default()
    };
    metadata.update_iso(image.id, ours, "test").await.unwrap();
    metadata.quarantine_blob(&image.blob.key).await.unwrap();
    let (left, healed) = scene.import(&running, false).await;
    assert_eq!(healed.files, 1, "{left:?}");
    let now = found().await;
    assert!(!now.quarantined && !now.public);
    assert_eq!(now.description.as_deref(), Some("ours"));

    // As a run leaves it that was killed between the bytes and what is said of them.
    let unsaid = IsoChange {
        description: Some(None),
        ..IsoChange::default()
    };
    metadata.update_iso(image.id, unsaid, "test").await.unwrap();
    let (_, again) = scene.import(&running, true).await;
    assert_eq!(again.files, 0);
    assert_eq!(found().await.description.as_deref(), Some("netinst"));
    running.stop().await;
}

#[tokio::test]
async fn another_image_of_the_same_length_is_not_taken_for_the_same() {
    let running = Running::start().await;
    let scene = Scene::set().await;
    scene.import(&running, false).await;
    let other = noise(3000, 10);
    let sha256 = hex::encode(sha2::Sha256::digest(&other));
    scene.write(&format!("isos/{sha256}.iso"), &other);
    let older = std::time::SystemTime::UNIX_EPOCH;
    let path = scene.path(&format!("isos/{sha256}.iso"));
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(older).unwrap();
    scene
        .execute(&format!(
            "UPDATE isos SET checksum = '{sha256}', storagePath = '{sha256}.iso' WHERE id = 1"
        ))
        .await;
    let (left, _) = scene.import(&running, false).await;
    let told = left
        .iter()
        .find(|line| line.starts_with("vaulted/iso/debian.iso"));
    assert!(
        told.is_some_and(|line| line.contains("another file of that name")),
        "{left:#?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn downloads_that_a_killed_run_did_not_count_are_counted_once() {
    let running = Running::start().await;
    let scene = Scene::set().await;
    scene.execute("UPDATE files SET downloadCount = 7").await;
    let metadata = running.gateway.metadata.clone();
    scene.import(&running, false).await;
    let name = "vaulted/two/1.0/virtualbox/amd64";
    let mut parts = name.split('/');
    let mut next = || parts.next().unwrap();
    let name = BoxRef {
        organization: next().parse().unwrap(),
        name: next().parse().unwrap(),
        version: next().parse().unwrap(),
        provider: next().parse().unwrap(),
        architecture: next().parse().unwrap(),
    };
    // Of a number that changes no node tells the others, nor itself where several may be: it is seen within a second.
    let counted = async |wanted: u64| {
        let begun = Instant::now();
        loop {
            let found = metadata.resolve_file(&name).await.unwrap().unwrap();
            if found.file.downloads == wanted || begun.elapsed() > Duration::from_mins(1) {
                break assert_eq!(found.file.downloads, wanted);
            }
            tokio::task::yield_now().await;
        }
    };
    counted(7).await;
    scene.execute("UPDATE files SET downloadCount = 9").await;
    // As a run leaves it that was killed between the bytes and their count: nothing of it is remembered.
    scene.import(&running, true).await;
    counted(9).await;
    scene.import(&running, true).await;
    counted(9).await;
    running.stop().await;
}

#[tokio::test]
async fn what_cannot_be_brought_is_told_once_with_what_to_do() {
    let running = Running::start().await;
    let scene = Scene::set().await;
    // Files that cannot be opened, and a directory.
    scene.write("secret", b"secret");
    let arm = scene.path("boxes/vaulted/one/1.0/virtualbox/arm64/vagrant.box");
    fs::remove_file(&arm).unwrap();
    std::os::unix::fs::symlink(scene.path("secret"), &arm).unwrap();
    let two = scene.path("boxes/vaulted/two");
    fs::remove_dir_all(&two).unwrap();
    std::os::unix::fs::symlink(scene.home.path(), &two).unwrap();
    let (left, imported) = scene.import(&running, false).await;
    let told = |what: &str| left.iter().filter(|line| line.contains(what)).count();
    assert_eq!(told("one/1.0/virtualbox/arm64"), 1, "{left:#?}");
    assert_eq!(told("vaulted/two"), 1, "{left:#?}");
    for (what, why) in [
        (
            "user \"eve o'dd\": nobody here can have that name",
            "rename it",
        ),
        (
            "password of user \"finn\": it is kept as argon2id",
            "PUT /api/admin/users",
        ),
        (
            "vaulted/iso/gone.iso: nowhere.iso cannot be read",
            "No such file",
        ),
        (
            "vaulted/iso/out.iso: its file \"../vault.sqlite\"",
            "none of the directory",
        ),
    ] {
        let line = left.iter().find(|line| line.starts_with(what));
        assert!(
            line.is_some_and(|line| line.contains(why)),
            "{what}: {left:#?}"
        );
    }
    assert!(
        !left.concat().contains("hidden"),
        "no part of a password: {left:#?}"
    );
    assert_eq!(left.len(), 6, "{left:#?}");
    assert_eq!(imported.files, 3);
    running.stop().await;
}
