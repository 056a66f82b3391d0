//! Every row of the route table against every kind of caller: one written decision each, from the
//! row's policy alone. A new row is tested by being there.

use boxgate::route::{Door, Policy, ROUTES, Row};
use boxgate_storage::metadata::accounts::{OrganizationRole, PlatformRole};
use boxgate_storage::metadata::tokens::TokenKind;

use serde_json::json;
use sha2::Digest as _;

use crate::harness::{Request, Running};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Nobody,
    Forged,
    Expired,
    Revoked,
    Outsider,
    Reader,
    Maker,
    Admin,
    Owner,
    PlatformAdmin,
    Service,
    ForeignService,
    /// Whoever has a link that a plugin made to the bytes of a blob.
    Linked,
}

const CALLERS: [Caller; 13] = [
    Caller::Nobody,
    Caller::Forged,
    Caller::Expired,
    Caller::Revoked,
    Caller::Outsider,
    Caller::Reader,
    Caller::Maker,
    Caller::Admin,
    Caller::Owner,
    Caller::PlatformAdmin,
    Caller::Service,
    Caller::ForeignService,
    Caller::Linked,
];

/// The same for a request of one row: a link opens the one place that it leads to.
fn is_let_in(row: &Row, caller: Caller) -> bool {
    if caller == Caller::Linked {
        let is_its_place = row.policy == Policy::ReadBlob && row.path.contains("{b3}");
        return is_its_place || allowed(row.policy, Caller::Nobody);
    }
    allowed(row.policy, caller)
}

/// Whether a policy lets a caller through to a private box of `acme` that `maker` made.
fn allowed(policy: Policy, caller: Caller) -> bool {
    use Caller::{
        Admin, Expired, Forged, Maker, Nobody, Outsider, Owner, PlatformAdmin, Reader, Revoked,
        Service,
    };
    // A credential that ended is as good as one that never was.
    let bad = matches!(caller, Forged | Expired | Revoked);
    let person = matches!(
        caller,
        Outsider | Reader | Maker | Admin | Owner | PlatformAdmin
    );
    match policy {
        Policy::Public => true,
        Policy::Optional | Policy::OptionalStrict | Policy::Operations => !bad,
        Policy::Credential => !bad && caller != Nobody,
        Policy::Person => person,
        // The blob of a private box; a private ISO image.
        Policy::ReadBox | Policy::ReadBlob | Policy::ReadIso | Policy::Member => {
            matches!(caller, Reader | Maker | Admin | Owner | Service)
        }
        Policy::MemberPerson => matches!(caller, Reader | Maker | Admin | Owner),
        // The service account is the maker's.
        Policy::EditBox | Policy::PublishBox => matches!(caller, Maker | Admin | Owner | Service),
        Policy::OrganizationAdmin => matches!(caller, Admin | Owner | PlatformAdmin),
        Policy::OrganizationOwner => matches!(caller, Owner | PlatformAdmin),
        Policy::ManageIsos => matches!(caller, Admin | Owner),
        Policy::PlatformAdmin => caller == PlatformAdmin,
        // The outsider owns an organization elsewhere, and sees its uploads alone.
        Policy::AnyAdmin => matches!(caller, Outsider | Admin | Owner | PlatformAdmin),
        Policy::UploadAdmin => matches!(caller, Admin | Owner | PlatformAdmin),
    }
}

/// Whether an answer is a refusal of this caller, as opposed to whatever the row does with a request
/// that makes no sense otherwise.
fn is_refusal(status: u16, body: &str) -> bool {
    match status {
        401 | 403 => true,
        404 => body.contains("or you may not"),
        _ => false,
    }
}

#[tokio::test]
async fn every_row_answers_every_caller_as_its_policy_says() {
    // A door that is there only with a tree; and each request about an upload has one of its own.
    let running = Running::start_with(&[
        ("BOXGATE_BOXITORY__HOME", "/nonexistent"),
        ("BOXGATE_UPLOADS__OPEN_PER_PRINCIPAL", "10000"),
    ])
    .await;
    let metadata = running.gateway.metadata.clone();
    let maker = running.member("maker", OrganizationRole::Member).await;
    let reader = running.member("reader", OrganizationRole::Member).await;
    let admin = running.member("manager", OrganizationRole::Admin).await;
    let outsider = running.account("outsider", PlatformRole::User).await;
    let elsewhere = metadata
        .create_organization(&"elsewhere".parse().unwrap(), None, outsider)
        .await
        .unwrap();
    let platform = running.account("root", PlatformRole::Admin).await;
    let person = TokenKind::Personal;
    let mut wrong = Vec::new();
    for row in ROUTES {
        for caller in CALLERS {
            // Rows change things, and some delete the box: it is there anew for each request.
            let fields = boxgate_storage::metadata::catalog::BoxFields::default();
            let name = "demo".parse().unwrap();
            drop(
                metadata
                    .create_box(running.organization, &name, maker, fields, "test")
                    .await,
            );
            if row.policy == Policy::ReadBlob {
                assert_eq!(running.upload("held", "1.0", b"held").await.status, 200);
            }
            let iso = if row.path.contains("/iso/") {
                crate::isos::uploaded(&running, "held.iso", b"image").await
            } else {
                0
            };
            let token = match caller {
                Caller::Nobody | Caller::Linked => String::new(),
                Caller::Forged => "ab".repeat(32),
                // They were the owner's.
                Caller::Expired => running.ended_token().await,
                Caller::Revoked => running.revoked_token().await,
                Caller::Outsider => running.token(outsider, person, None).await,
                Caller::Reader => running.token(reader, person, None).await,
                Caller::Maker => running.token(maker, person, None).await,
                Caller::Admin => running.token(admin, person, None).await,
                Caller::Owner => running.owner.clone(),
                Caller::PlatformAdmin => running.token(platform, person, None).await,
                Caller::Service => {
                    running
                        .token(maker, TokenKind::Service, Some(running.organization))
                        .await
                }
                Caller::ForeignService => {
                    running
                        .token(outsider, TokenKind::Service, Some(elsewhere.id))
                        .await
                }
            };
            if destroys_the_scene(row) && is_let_in(row, caller) {
                continue;
            }
            // So is an upload in progress.
            let is_ours = row.path.contains("{upload}") && row.door != Door::Runtime;
            let upload = if is_ours {
                running.begin_upload(maker).await.to_string()
            } else {
                String::new()
            };
            let path = row
                .path
                .replace("{upload}", &upload)
                .replace("{iso}", &iso.to_string())
                .replace("/iso/name/{name}", "/iso/name/held.iso")
                .replace("{org}", "acme")
                .replace("{box}", "demo")
                .replace("{user}", "nobody-of-that-name")
                .replace("{b3}", &blake3::hash(b"held").to_hex())
                .replace("{sha256}", &hex::encode(sha2::Sha256::digest(b"held")))
                .replace(['{', '}'], "");
            let path = match caller {
                Caller::Linked => format!("{path}?token={}", link_of_plugin(&running).await),
                _ => path,
            };
            let request = Request::new(row.method.as_str(), &path).token(&token);
            let request = if row.method == "GET" {
                request
            } else {
                request.body(b"")
            };
            let reply = running.send(request).await;
            let body = String::from_utf8_lossy(&reply.body).into_owned();
            let forbidden_by_design = body.contains("Sign-up is closed");
            let refused = is_refusal(reply.status, &body) && !forbidden_by_design;
            // Signing in with no name is not a refusal of the caller.
            if refused == is_let_in(row, caller) {
                wrong.push(format!(
                    "{} {} ({:?}) for {caller:?}: {} {body}",
                    row.method, row.path, row.policy, reply.status
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    running.stop().await;
}

/// What stands in a link that a plugin is given to the box `held`, where that is.
async fn link_of_plugin(running: &Running) -> String {
    let gateway = &running.gateway;
    let digest = boxgate_storage::digest::Blake3(*blake3::hash(b"held").as_bytes());
    let named = boxgate_storage::metadata::catalog::BlobDigest::Blake3(digest);
    let owner = gateway.metadata.account_by_username("owner").await;
    let reader = Some((owner.unwrap().unwrap().id, None));
    let held = gateway.metadata.readable_blob(named, reader).await.unwrap();
    let now = gateway.clock.now();
    let (signer, _) = gateway.link_keys.at_hand(now);
    let until = now.plus(std::time::Duration::from_hours(1));
    held.and_then(|held| signer.sign_blob(&digest, &held.blob.key, until))
        .unwrap_or_else(|| "none".to_owned())
}

/// An answer but for what is another one each time: its date, its id, and the names that were asked for.
fn of_anyone(reply: &crate::harness::Reply, names: &[(&str, &str)]) -> String {
    let own = ["date:", "x-request-id:", "content-length:", "ratelimit"];
    let lines = reply.head.lines();
    let head: Vec<&str> = lines
        .filter(|line| {
            !own.iter()
                .any(|name| line.to_ascii_lowercase().starts_with(name))
        })
        .collect();
    let mut text = format!(
        "{}\n{}",
        head.join("\n"),
        String::from_utf8_lossy(&reply.body)
    );
    if let Some(id) = reply.header("x-request-id") {
        text = text.replace(id, "ID");
    }
    // A number of one digit stands in much else.
    for (name, stands_for) in names.iter().filter(|(name, _)| name.len() > 3) {
        text = text.replace(name, stands_for);
    }
    text
}

/// One of each kind who may not see what is private in `acme`, with a credential.
async fn strangers(running: &Running) -> [(&'static str, String); 6] {
    let metadata = &running.gateway.metadata;
    let outsider = running.account("outsider", PlatformRole::User).await;
    let elsewhere = metadata
        .create_organization(&"elsewhere".parse().unwrap(), None, outsider)
        .await
        .unwrap();
    [
        ("nobody", String::new()),
        ("forged", "ab".repeat(32)),
        ("expired", running.ended_token().await),
        ("revoked", running.revoked_token().await),
        (
            "outsider",
            running.token(outsider, TokenKind::Personal, None).await,
        ),
        (
            "foreign service",
            running
                .token(outsider, TokenKind::Service, Some(elsewhere.id))
                .await,
        ),
    ]
}

/// Strangers of every kind, at every row that names a box, an ISO image, an upload or a digest: what is there and not theirs
/// answers as what is not there.
#[tokio::test]
async fn hidden_and_absent_are_one_answer_at_every_row_that_names_something() {
    let running = Running::start_with(&[("BOXGATE_BOXITORY__HOME", "/nonexistent")]).await;
    let metadata = running.gateway.metadata.clone();
    assert_eq!(running.upload("demo", "1.0", b"held").await.status, 200);
    let iso = crate::isos::uploaded(&running, "held.iso", b"image")
        .await
        .to_string();
    let owner = metadata
        .account_by_username("owner")
        .await
        .unwrap()
        .unwrap();
    let upload = running.begin_upload(owner.id).await.to_string();
    let strangers = strangers(&running).await;
    let (b3, sha256) = (
        blake3::hash(b"held").to_hex().to_string(),
        hex::encode(sha2::Sha256::digest(b"held")),
    );
    let things = [
        ("{box}", "demo", "gone"),
        ("{iso}", iso.as_str(), "999999999"),
        (
            "/iso/name/{name}",
            "/iso/name/held.iso",
            "/iso/name/gone.iso",
        ),
        (
            "{upload}",
            upload.as_str(),
            "0123456789abcdef0123456789abcdef",
        ),
        ("{b3}", b3.as_str(), "ee"),
        ("{sha256}", sha256.as_str(), "ee"),
    ];
    let digest = "ee".repeat(32);
    let (mut compared, mut wrong) = (0, Vec::new());
    for row in ROUTES {
        for (place, there, absent) in things {
            if !row.path.contains(place) {
                continue;
            }
            let absent = if absent == "ee" { &digest } else { absent };
            let path = |name: &str| {
                let path = row.path.replace(place, name).replace("{org}", "acme");
                let path = path
                    .replace("{version}", "1.0")
                    .replace("{provider}", "virtualbox");
                path.replace("{arch}", "amd64").replace(['{', '}'], "")
            };
            for (who, token) in &strangers {
                let ask = |name: &str| {
                    let request = Request::new(row.method.as_str(), &path(name)).token(token);
                    if row.method == "GET" {
                        request
                    } else {
                        request.body(b"")
                    }
                };
                let hidden = running.send(ask(there)).await;
                let gone = running.send(ask(absent)).await;
                let hidden = of_anyone(&hidden, &[(there, "NAME")]);
                let gone = of_anyone(&gone, &[(absent, "NAME")]);
                compared += 1;
                if hidden != gone {
                    wrong.push(format!(
                        "{} {} for {who}:\n{hidden}\n--- absent:\n{gone}",
                        row.method, row.path
                    ));
                }
            }
        }
    }
    assert!(compared > 500, "{compared}");
    assert!(
        wrong.is_empty(),
        "{} of {compared}:\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
    let kept = running.get("/acme/demo", &running.owner).await;
    assert_eq!(kept.status, 200);
    running.stop().await;
}

fn destroys_the_scene(row: &Row) -> bool {
    use boxgate::route::Route;
    matches!(
        row.route,
        Route::DeleteOrganization | Route::RefreshToken | Route::CloudSignOut
    )
}

#[tokio::test]
async fn absent_and_forbidden_boxes_look_alike() {
    let running = Running::start().await;
    running.upload("hidden", "1.0", b"bytes").await;
    let outsider = running.account("outsider", PlatformRole::User).await;
    let token = running.token(outsider, TokenKind::Personal, None).await;
    for path in [
        "/acme/BOX",
        "/api/organization/acme/box/BOX",
        "/acme/boxes/BOX/versions/1.0/providers/virtualbox/amd64/vagrant.box",
        "/api/organization/acme/box/BOX/version/1.0/provider/virtualbox/architecture/amd64/file/info",
    ] {
        let hidden = running.get(&path.replace("BOX", "hidden"), &token).await;
        let absent = running.get(&path.replace("BOX", "absent"), &token).await;
        assert_eq!(hidden.status, 404, "{path}");
        let text = |reply: &crate::harness::Reply, name: &str| {
            String::from_utf8_lossy(&reply.body).replace(name, "BOX")
        };
        assert_eq!(text(&hidden, "hidden"), text(&absent, "absent"), "{path}");
    }
    running.stop().await;
}

#[tokio::test]
async fn credentials_are_taken_from_every_place_and_end_with_revocation() {
    let running = Running::start().await;
    running.upload("demo", "1.0", b"bytes").await;
    let path = "/acme/demo";
    for (name, value) in [
        ("x-access-token", running.owner.clone()),
        ("Authorization", format!("Bearer {}", running.owner)),
        ("X-Atlas-Token", running.owner.clone()),
    ] {
        let reply = running
            .send(Request::new("GET", path).header(name, &value))
            .await;
        assert_eq!(reply.status, 200, "{name}");
    }
    let by_query = format!("{path}?access_token={}", running.owner);
    let reply = running.get(&by_query, "").await;
    assert_eq!(reply.status, 200);
    assert!(!String::from_utf8_lossy(&reply.body).contains(&running.owner));
    let (token, account) = running
        .gateway
        .metadata
        .token_by_hash(&boxgate::auth::credential::hash(&running.owner))
        .await
        .unwrap()
        .unwrap();
    running
        .gateway
        .metadata
        .delete_token(token.id, account.id)
        .await
        .unwrap();
    assert_eq!(running.get(path, &running.owner).await.status, 401);
    running.stop().await;
}

#[tokio::test]
async fn who_signs_in_often_at_the_same_time_guesses_no_oftener() {
    let running = Running::start_with(&[("BOXGATE_AUTH__LOGIN_FAILURES_PER_MINUTE", "3")]).await;
    running.account("ann", PlatformRole::User).await;
    let at_once = async |many: usize, password: &str| {
        let sent = (0..many).map(|k| {
            let (path, body) = if k % 2 == 0 {
                let body = json!({ "username": "ann", "password": password });
                ("/api/auth/signin", body)
            } else {
                let body = json!({ "user": { "login": "ann", "password": password } });
                ("/api/v2/authenticate", body)
            };
            running.send(Request::new("POST", path).json(&body))
        });
        let replies = futures_util::future::join_all(sent).await;
        let mut statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
        statuses.sort_unstable();
        statuses
    };
    assert_eq!(at_once(12, "secret").await, [200; 12]);
    let wrong = at_once(48, "guess").await;
    assert_eq!(wrong, [vec![401; 3], vec![429; 45]].concat());
    assert_eq!(at_once(1, "secret").await, [429]);
    running.stop().await;
}
