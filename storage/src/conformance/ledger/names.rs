//! Promises about publishing: names, equal bytes, and what becomes of bytes that nobody names.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::upload::{BLOCK, Sent, published, target};
use super::{DOOMED_FOR, Rig, START, gone};
use crate::blob::BlobKey;
use crate::error::ErrorKind;
use crate::metadata::uploads::{Target, UploadState};

async fn due(rig: &dyn Rig) -> Vec<BlobKey> {
    let trash = rig.ledger().due_trash(100).await.expect("trash");
    trash.into_iter().map(|t| t.key).collect()
}

async fn event(rig: &dyn Rig, number: usize) -> Value {
    serde_json::from_str(&rig.events().await[number].data).expect("events are JSON")
}

/// Publishing makes the name, the blob, its tree and one event, all at once; again it only repeats
/// its answer.
pub async fn publishing_makes_name_blob_tree_and_event(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let wanted = target("web");
    let sent = Sent::create(&ledger, org, wanted.clone(), 7, 3 * BLOCK)
        .await
        .expect("create");
    sent.complete(&ledger).await.expect("complete");
    assert_eq!(rig.file(org, &wanted).await, None);
    assert!(rig.events().await.is_empty());
    let first = ledger.publish(sent.fence()).await.expect("publish");
    assert_eq!(
        (first.blob.key, first.blob.length),
        (sent.row.key, 3 * BLOCK)
    );
    assert_eq!(first.blob.blake3, sent.completion().blake3);
    assert_eq!(first.blob.sha256, sent.completion().sha256);
    assert_eq!((first.replaced, first.version.as_str()), (false, "1.0"));
    assert_eq!(rig.file(org, &wanted).await, Some(first.blob));
    assert_eq!(rig.blob_tree(&first.blob).await, Some(sent.values()));
    let row = ledger
        .upload(sent.row.id)
        .await
        .expect("read")
        .expect("the row is there");
    assert_eq!(row.state, UploadState::Done);

    rig.clock().advance(Duration::from_secs(5));
    assert_eq!(ledger.publish(sent.fence()).await.expect("again"), first);
    let events = rig.events().await;
    assert_eq!(events.len(), 1, "one event however often it is asked for");
    assert_eq!(
        (events[0].name.as_str(), events[0].occurred),
        ("box.uploaded", START)
    );
    let data = event(rig, 0).await;
    for (member, value) in [
        ("organization", json!("acme")),
        ("box", json!("web")),
        ("version", json!("1.0")),
        ("provider", json!("virtualbox")),
        ("architecture", json!("amd64")),
        ("size", json!(3 * BLOCK)),
        ("checksum", json!(first.blob.checksum().to_hex())),
        ("checksumType", json!("SHA256")),
        ("new_digest", json!(first.blob.blake3.to_hex())),
        ("old_digest", Value::Null),
        ("tags", json!(["box/acme/web"])),
        ("actor", json!({"type": "account", "name": "ann"})),
        ("occurred_at", json!("2023-11-14T22:13:20.000Z")),
    ] {
        assert_eq!(data[member], value, "{member}");
    }
    assert!(due(rig).await.is_empty());
}

/// Names are one without case, a tag and its number are one version, and the first spelling stays.
pub async fn names_are_found_without_case_and_versions_without_v(rig: &dyn Rig) {
    let org = rig.add_organization("acme").await;
    let tag = Target {
        version: "v1.2.3".to_owned(),
        ..target("Web")
    };
    let (_, first) = published(rig, org, tag, 1).await;
    assert_eq!(first.version, "v1.2.3");
    let other = Target {
        version: "1.2.3".to_owned(),
        provider: "VirtualBox".to_owned(),
        architecture: "AMD64".to_owned(),
        ..target("wEB")
    };
    assert_eq!(rig.file(org, &other).await, Some(first.blob));
    let (_, second) = published(rig, org, other, 2).await;
    assert_eq!((second.file, second.replaced), (first.file, true));
    assert_eq!(second.version, "v1.2.3", "the spelling that came first");
    let data = event(rig, 1).await;
    assert_eq!(
        (&data["box"], &data["version"]),
        (&json!("Web"), &json!("v1.2.3"))
    );
    assert_eq!(data["old_digest"], first.blob.blake3.to_hex());
}

/// Equal bytes of one organization are kept once; those of another are its own.
pub async fn equal_bytes_are_kept_once_per_organization(rig: &dyn Rig) {
    let (ours, theirs) = (
        rig.add_organization("acme").await,
        rig.add_organization("evil").await,
    );
    let (_, first) = published(rig, ours, target("web"), 7).await;
    let (sent, second) = published(rig, ours, target("copy"), 7).await;
    assert_eq!(second.blob, first.blob);
    assert_ne!(second.file, first.file);
    assert_eq!(
        due(rig).await,
        [sent.row.key],
        "the new bytes are not needed"
    );
    let (other, third) = published(rig, theirs, target("web"), 7).await;
    assert_eq!(third.blob.key, other.row.key);

    assert!(rig.delete_file(ours, &target("web")).await);
    rig.clock().advance(DOOMED_FOR * 2);
    assert_eq!(
        due(rig).await,
        [sent.row.key],
        "the copy still names the blob"
    );
    assert_eq!(rig.file(ours, &target("copy")).await, Some(first.blob));
}

/// The same bytes to the same name replace nothing.
pub async fn equal_bytes_to_the_same_name_replace_nothing(rig: &dyn Rig) {
    let org = rig.add_organization("acme").await;
    let (_, first) = published(rig, org, target("web"), 7).await;
    let (sent, second) = published(rig, org, target("web"), 7).await;
    assert_eq!(
        (second.blob, second.file, second.replaced),
        (first.blob, first.file, false)
    );
    assert_eq!(due(rig).await, [sent.row.key]);
    assert!(rig.delete_file(org, &target("web")).await);
    rig.clock().advance(DOOMED_FOR);
    assert_eq!(
        due(rig).await,
        [sent.row.key, first.blob.key],
        "one name was one reference"
    );
}

/// What is replaced stays for a while, then becomes trash, and is forgotten when its bytes are gone.
pub async fn a_replaced_blob_stays_until_it_is_due(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let (_, first) = published(rig, org, target("web"), 1).await;
    let (_, second) = published(rig, org, target("web"), 2).await;
    assert!(second.replaced);
    assert_eq!(rig.file(org, &target("web")).await, Some(second.blob));
    rig.clock()
        .advance(DOOMED_FOR.saturating_sub(Duration::from_millis(1)));
    assert!(due(rig).await.is_empty());
    assert!(
        rig.blob_tree(&first.blob).await.is_some(),
        "downloads in progress read on"
    );
    ledger.forget(&gone(first.blob.key)).await.expect("forget");
    assert!(
        rig.blob_tree(&first.blob).await.is_some(),
        "not before it is deleting"
    );
    rig.clock().advance(Duration::from_millis(1));
    assert_eq!(due(rig).await, [first.blob.key]);
    assert_eq!(
        due(rig).await,
        [first.blob.key],
        "told again until it is forgotten"
    );
    ledger.forget(&gone(first.blob.key)).await.expect("forget");
    assert!(due(rig).await.is_empty());
    assert_eq!(rig.blob_tree(&first.blob).await, None);
    ledger.forget(&gone(second.blob.key)).await.expect("forget");
    assert_eq!(
        rig.file(org, &target("web")).await,
        Some(second.blob),
        "a live blob stays"
    );
}

/// Equal bytes revive a doomed blob, however late, but never one that is being deleted.
pub async fn equal_bytes_revive_a_doomed_blob_but_no_deleting_one(rig: &dyn Rig) {
    let org = rig.add_organization("acme").await;
    let (_, first) = published(rig, org, target("web"), 7).await;
    assert!(rig.delete_file(org, &target("web")).await);
    assert!(!rig.delete_file(org, &target("web")).await, "only once");
    rig.clock().advance(DOOMED_FOR * 3);
    let (sent, again) = published(rig, org, target("web"), 7).await;
    assert_eq!(again.blob, first.blob);
    assert!(!again.replaced, "the name held nothing");
    assert_eq!(
        due(rig).await,
        [sent.row.key],
        "the revived one is no trash"
    );
    rig.ledger()
        .forget(&gone(sent.row.key))
        .await
        .expect("forget");

    assert!(rig.delete_file(org, &target("web")).await);
    rig.clock().advance(DOOMED_FOR);
    assert_eq!(due(rig).await, [first.blob.key], "now it is deleting");
    let (fresh, new) = published(rig, org, target("web"), 7).await;
    assert_eq!(new.blob.key, fresh.row.key);
    rig.ledger()
        .forget(&gone(first.blob.key))
        .await
        .expect("forget");
    assert_eq!(rig.file(org, &target("web")).await, Some(new.blob));
    assert_eq!(rig.blob_tree(&new.blob).await, Some(fresh.values()));
}

/// A damaged blob is never taken for equal bytes; sending them again heals every name that held it.
pub async fn a_damaged_blob_is_healed_by_sending_it_again(rig: &dyn Rig) {
    let org = rig.add_organization("acme").await;
    let (_, bad) = published(rig, org, target("web"), 7).await;
    let (dropped, _) = published(rig, org, target("copy"), 7).await;
    rig.ledger()
        .forget(&gone(dropped.row.key))
        .await
        .expect("forget");
    rig.quarantine(&bad.blob.key).await;
    let (_, good) = published(rig, org, target("web"), 7).await;
    assert_ne!(good.blob.key, bad.blob.key);
    assert!(good.replaced);
    for name in ["web", "copy"] {
        assert_eq!(
            rig.file(org, &target(name)).await,
            Some(good.blob),
            "{name}"
        );
    }
    let (dropped, third) = published(rig, org, target("third"), 7).await;
    assert_eq!(
        third.blob, good.blob,
        "the whole one serves, not the damaged one"
    );
    rig.ledger()
        .forget(&gone(dropped.row.key))
        .await
        .expect("forget");
    rig.clock().advance(DOOMED_FOR);
    assert_eq!(due(rig).await, [bad.blob.key]);
}

/// An organization that went away takes nothing: what is open ends with it, what is whole stays for the abort.
pub async fn nothing_is_published_into_an_organization_that_is_gone(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let (_, kept) = published(rig, org, target("web"), 1).await;
    let sent = Sent::create(&ledger, org, target("web"), 2, BLOCK)
        .await
        .expect("create");
    sent.complete(&ledger).await.expect("complete");
    let open = Sent::create(&ledger, org, target("open"), 3, BLOCK)
        .await
        .expect("create");
    rig.remove_organization(org).await;
    let ended = ledger.upload(open.row.id).await.expect("read");
    assert_eq!(ended.map(|row| row.state), Some(UploadState::Aborted));
    assert_eq!(due(rig).await, [open.row.key]);
    rig.ledger()
        .forget(&gone(open.row.key))
        .await
        .expect("forget");
    let error = ledger
        .publish(sent.fence())
        .await
        .expect_err("it must be refused");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let row = ledger
        .upload(sent.row.id)
        .await
        .expect("read")
        .expect("the row is there");
    assert_eq!(row.state, UploadState::Completing);
    assert!(ledger.abort(sent.row.id, None).await.expect("abort"));
    assert_eq!(due(rig).await, [sent.row.key]);
    rig.clock().advance(DOOMED_FOR);
    assert_eq!(
        due(rig).await,
        [sent.row.key, kept.blob.key],
        "its blobs lost their names"
    );
}

/// Many uploads to one name at once: each is published whole, the last one stays, the rest go.
pub async fn uploads_to_one_name_at_once_leave_one_whole_winner(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let ledger = &ledger;
    let all = join_all((0..16).map(|content| async move {
        let sent = Sent::create(ledger, org, target("web"), content, 3 * BLOCK).await?;
        sent.complete(ledger).await?;
        ledger.publish(sent.fence()).await
    }))
    .await;
    let all: Vec<_> = all
        .into_iter()
        .map(|one| one.expect("each is published"))
        .collect();
    assert_eq!(
        all.iter().filter(|p| !p.replaced).count(),
        1,
        "only one came first"
    );
    assert!(
        all.iter().all(|p| p.file == all[0].file),
        "one name is one file"
    );
    let winner = rig
        .file(org, &target("web"))
        .await
        .expect("the name holds a blob");
    assert!(all.iter().any(|p| p.blob == winner));
    rig.clock().advance(DOOMED_FOR);
    let gone = due(rig).await;
    assert_eq!(gone.len(), 15);
    assert!(!gone.contains(&winner.key));
    assert_eq!(rig.events().await.len(), 16);
}
