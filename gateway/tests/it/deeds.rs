//! What plugins may do to boxes, verb by verb: a plugin with the grant for one verb on one organization's boxes does that to
//! those, and nothing else to any.

use std::fmt::Write as _;

use boxgate_storage::metadata::accounts::PlatformRole;
use boxgate_storage::metadata::tokens::TokenKind;
use serde_json::{Value, json};

use crate::harness::{Request, Running, file_path};
use crate::scripts::write_plugin;

/// What needs no blob at hand; what destroys the scene comes last.
const VERBS: [&str; 7] = [
    "list",
    "lookup",
    "versions",
    "release",
    "revoke",
    "set_public",
    "delete",
];

const MAIN: &str = r#"
    fn webhook_in(req) {
        let told = req.json();
        let answer = #{};
        try {
            let done = switch told.verb {
                "list" => box::list(told.org),
                "lookup" => box::lookup(told.org, told.box),
                "versions" => box::versions(told.org, told.box),
                "release" => box::release(told.org, told.box, "1.0.0"),
                "revoke" => box::revoke(told.org, told.box, "1.0.0"),
                "set_public" => box::set_public(told.org, told.box, true),
                "delete" => box::delete(told.org, told.box, "1.0.0"),
            };
            // A listing tells the boxes that are granted, and is never refused.
            if told.verb == "list" && done.len() == 0 { throw "does not ask for it"; }
            answer.done = type_of(done);
        } catch (e) {
            answer.refused = `${e}`;
        }
        answer
    }
"#;

/// What a plugin is answered that was granted `granted` for `acme`, and does `verb` to a box.
async fn done(running: &Running, granted: &str, verb: &str, (org, name): (&str, &str)) -> Value {
    let path = format!("/hooks/may-{}/go", granted.replace('_', "-"));
    let told = json!({ "verb": verb, "org": org, "box": name });
    let reply = running.send(Request::new("POST", &path).json(&told)).await;
    assert_eq!(reply.status, 200, "{granted} {verb}: {}", reply.head);
    reply.json()
}

#[tokio::test]
async fn a_plugin_does_to_boxes_what_it_was_granted_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    for verb in VERBS {
        let manifest =
            format!("[webhook_in.go]\nverify = \"none\"\n[catalog]\nallow = [\"{verb}:acme/*\"]\n");
        let name = format!("may-{}", verb.replace('_', "-"));
        write_plugin(directory.path(), &name, &manifest, MAIN);
    }
    let trusting = [("BOXGATE_SCRIPTS__TRUST_LOCAL", "true")];
    let running = Running::start_in(directory, &trusting).await;
    for status in running.gateway.scripts.status() {
        assert_eq!(status.error, None, "{}", status.plugin);
    }
    let outsider = running.account("outsider", PlatformRole::User).await;
    let metadata = &running.gateway.metadata;
    let elsewhere = "elsewhere".parse().unwrap();
    let made = metadata.create_organization(&elsewhere, None, outsider);
    made.await.unwrap();
    let of_outsider = running.token(outsider, TokenKind::Personal, None).await;
    assert_eq!(running.upload("demo", "1.0.0", b"ours").await.status, 200);
    let theirs = file_path("demo", "1.0.0").replace("/acme/", "/elsewhere/");
    let upload = Request::new("POST", &theirs)
        .token(&of_outsider)
        .body(b"theirs");
    assert_eq!(running.send(upload).await.status, 200);

    let mut wrong = String::new();
    for granted in VERBS {
        for verb in VERBS {
            for (whose, place, is_there) in [
                ("own", ("acme", "demo"), true),
                ("other", ("elsewhere", "demo"), true),
                ("absent", ("acme", "gone"), false),
            ] {
                let answer = done(&running, granted, verb, place).await;
                let refused = answer["refused"].as_str().unwrap_or_default();
                let may = granted == verb && place.0 == "acme";
                let is_forbidden = refused.contains("does not ask for it");
                // A listing is of all boxes of an organization, and what is looked up need not be there.
                let is_done = may && (is_there || matches!(verb, "list" | "lookup"));
                if is_forbidden == may || refused.is_empty() != is_done {
                    let _unwritten = writeln!(wrong, "{granted} granted, {verb} {whose}: {answer}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let kept = running.send(Request::new("GET", &format!("{theirs}/info")).token(&of_outsider));
    assert_eq!(kept.await.status, 200);
    let gone = format!("{}/info", file_path("demo", "1.0.0"));
    assert_eq!(running.get(&gone, &running.owner).await.status, 404);
    running.stop().await;
}
