//! Uploads in progress, seen and ended by those who administer them.

use boxgate_storage::metadata::accounts::{OrganizationRole, PlatformRole};
use boxgate_storage::metadata::tokens::TokenKind;
use boxgate_storage::metadata::uploads::UploadState;
use boxgate_storage::upload::{Keep, Sender, UploadIntent};
use bytes::Bytes;

use crate::harness::{Reply, Request, Running};

/// A gateway with uploads in progress in two organizations, and people around them.
struct Scene {
    running: Running,
    /// Ids of two of `acme` and one of `elsewhere`.
    ours: [String; 2],
    theirs: String,
    /// Tokens.
    root: String,
    manager: String,
    member: String,
    outsider: String,
}

impl Scene {
    async fn set() -> Self {
        let running = Running::start().await;
        let metadata = running.gateway.metadata.clone();
        let personal = TokenKind::Personal;
        let root = running.account("root", PlatformRole::Admin).await;
        let manager = running.member("manager", OrganizationRole::Admin).await;
        let member = running.member("member", OrganizationRole::Member).await;
        let outsider = running.account("outsider", PlatformRole::User).await;
        let name = "elsewhere".parse().unwrap();
        let elsewhere = metadata.create_organization(&name, None, outsider);
        let intent = UploadIntent {
            store: None,
            sender: Sender::person(outsider),
            organization: elsewhere.await.unwrap().id,
            target: None,
            length: None,
            expected: Vec::new(),
            part_bytes: None,
            cut: None,
            keep: Keep::UntilIdle,
            note: None,
        };
        let theirs = running.gateway.engine.create(intent).await.unwrap().id;
        let mut ours = Vec::new();
        for _ in 0..2 {
            ours.push(running.begin_upload(member).await.to_string());
        }
        ours.sort();
        Self {
            ours: [ours[0].clone(), ours[1].clone()],
            theirs: theirs.to_string(),
            root: running.token(root, personal, None).await,
            manager: running.token(manager, personal, None).await,
            member: running.token(member, personal, None).await,
            outsider: running.token(outsider, personal, None).await,
            running,
        }
    }

    async fn listed(&self, query: &str, token: &str) -> Vec<String> {
        let path = format!("/api/admin/uploads{query}");
        let reply = self.running.get(&path, token).await;
        assert_eq!(reply.status, 200, "{}", reply.json());
        let rows = reply.json().as_array().unwrap().clone();
        rows.iter()
            .map(|row| row["id"].as_str().unwrap().to_owned())
            .collect()
    }

    async fn delete(&self, id: &str, token: &str) -> Reply {
        let path = format!("/api/admin/uploads/{id}");
        self.running
            .send(Request::new("DELETE", &path).token(token))
            .await
    }
}

#[tokio::test]
async fn each_administrator_sees_the_uploads_that_are_theirs_to_see() {
    let scene = Scene::set().await;
    let mut all = [scene.ours.to_vec(), vec![scene.theirs.clone()]].concat();
    all.sort();
    assert_eq!(scene.listed("", &scene.root).await, all);
    let of_acme = "?organization=acme";
    assert_eq!(scene.listed(of_acme, &scene.root).await, scene.ours);
    assert_eq!(scene.listed(of_acme, &scene.manager).await, scene.ours);
    assert_eq!(scene.listed("", &scene.manager).await, scene.ours);
    assert_eq!(
        scene.listed("", &scene.outsider).await,
        std::slice::from_ref(&scene.theirs)
    );
    let behind = format!("?after={}&limit=1", all[0]);
    assert_eq!(scene.listed(&behind, &scene.root).await, all[1..2]);
    // What is another's looks like what is not there.
    for organization in ["acme", "nowhere"] {
        let path = format!("/api/admin/uploads?organization={organization}");
        let reply = scene.running.get(&path, &scene.outsider).await;
        let text = format!("Organization '{organization}' does not exist, or you may not use it.");
        assert_eq!(
            (reply.status, reply.json()["detail"].as_str()),
            (404, Some(&*text))
        );
    }
    let reply = scene.running.get("/api/admin/uploads", &scene.member).await;
    assert_eq!(reply.status, 403);
    let reply = scene.running.get("/api/admin/users", "").await;
    assert_eq!(reply.status, 403);
    assert_eq!(reply.json()["code"].as_str(), Some("REFUSED"));
    for query in ["?after=x", "?limit=x", "?organization=a/b"] {
        let path = format!("/api/admin/uploads{query}");
        assert_eq!(
            scene.running.get(&path, &scene.root).await.status,
            400,
            "{query}"
        );
    }
    scene.running.stop().await;
}

#[tokio::test]
async fn who_administers_several_organizations_says_which() {
    let scene = Scene::set().await;
    let metadata = &scene.running.gateway.metadata;
    let manager = metadata
        .account_by_username("manager")
        .await
        .unwrap()
        .unwrap();
    let second = "second".parse().unwrap();
    let made = metadata
        .create_organization(&second, None, manager.id)
        .await;
    let reply = scene
        .running
        .get("/api/admin/uploads", &scene.manager)
        .await;
    let text = reply.json()["detail"].as_str().unwrap().to_owned();
    assert_eq!(reply.status, 400);
    assert!(text.contains("acme") && text.contains("second"), "{text}");
    // A token for one organization leaves no choice.
    let narrowed = TokenKind::Personal;
    let token = scene
        .running
        .token(manager.id, narrowed, Some(made.unwrap().id))
        .await;
    assert_eq!(scene.listed("", &token).await, Vec::<String>::new());
    scene.running.stop().await;
}

#[tokio::test]
async fn reading_leaves_the_writer_alone_and_abort_ends_it() {
    let scene = Scene::set().await;
    let [id, _] = &scene.ours;
    let engine = &scene.running.gateway.engine;
    let mut writer = engine.resume(id.parse().unwrap(), 0).await.unwrap();
    writer.write(Bytes::from_static(&[7; 40])).await.unwrap();
    let path = format!("/api/admin/uploads/{id}");
    let shown = scene.running.get(&path, &scene.manager).await.json();
    assert_eq!(shown["state"], "open");
    assert_eq!(shown["owner"]["username"], "member");
    assert_eq!(shown["organization"]["name"], "acme");
    assert_eq!(
        (&shown["busy"], &shown["length"]),
        (&true.into(), &100.into())
    );
    scene.listed("", &scene.root).await;
    writer.write(Bytes::from_static(&[7; 40])).await.unwrap();

    let reply = scene.delete(id, &scene.manager).await;
    assert_eq!(reply.status, 204);
    let late = writer.write(Bytes::from_static(&[7; 20])).await;
    let late = match late {
        Ok(()) => writer.finish().await.map(drop),
        refused => refused,
    };
    assert!(late.is_err(), "its writer is fenced");
    let row = engine.peek(id.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(row.state, UploadState::Aborted);
    assert_eq!(scene.listed("", &scene.manager).await, scene.ours[1..]);
    let shown = scene.running.get(&path, &scene.manager).await.json();
    assert_eq!(shown["state"], "aborted");
    let again = scene.delete(id, &scene.manager).await;
    assert_eq!(
        (again.status, &again.json()["code"]),
        (409, &"NOT_IN_PROGRESS".into())
    );
    scene.running.stop().await;
}

#[tokio::test]
async fn another_organizations_upload_looks_like_none_and_a_finished_one_stays() {
    let scene = Scene::set().await;
    let absent = "0".repeat(32);
    for (id, token) in [
        (&scene.theirs, &scene.manager),
        (&scene.ours[0], &scene.outsider),
        (&scene.ours[0], &scene.member),
        (&absent, &scene.manager),
        (&absent, &scene.root),
        (&"no-id".to_owned(), &scene.root),
    ] {
        let path = format!("/api/admin/uploads/{id}");
        let shown = scene.running.get(&path, token).await;
        let deleted = scene.delete(id, token).await;
        assert_eq!((shown.status, deleted.status), (404, 404), "{id}");
        assert_eq!(shown.json(), deleted.json());
        let text = "This upload does not exist, or you may not administer it.";
        assert_eq!(shown.json()["detail"], text);
    }
    let engine = &scene.running.gateway.engine;
    let [id, _] = &scene.ours;
    let mut writer = engine.resume(id.parse().unwrap(), 0).await.unwrap();
    writer.write(Bytes::from_static(&[7; 100])).await.unwrap();
    let published = writer.finish().await.unwrap();
    let reply = scene.delete(id, &scene.root).await;
    assert_eq!(reply.status, 409);
    let row = engine.peek(id.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(row.published.unwrap().blob, published.blob);
    scene.running.stop().await;
}
