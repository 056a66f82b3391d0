use super::catalog::{full, name};
use super::*;
use crate::metadata::catalog::{BoxTree, VersionTree};

/// Two versions with two architectures each, one blob used twice.
async fn stocked() -> (House, BoxTree) {
    let house = House::new().await;
    for (path, content) in [
        ("acme/web/1.0/virtualbox/amd64", 1),
        ("acme/web/1.0/virtualbox/arm64", 2),
        ("acme/web/2.0/virtualbox/amd64", 1),
        ("acme/web/2.0/libvirt/amd64", 3),
        ("acme/other/1.0/virtualbox/amd64", 3),
    ] {
        house.put(path, content).await;
    }
    // The bytes that were not needed.
    forget_due(&house).await;
    let tree = house
        .metadata
        .box_tree(house.acme.id, &name("web"))
        .await
        .unwrap()
        .unwrap();
    (house, tree)
}

async fn forget_due(house: &House) -> usize {
    let ledger = house.metadata.ledger();
    let due = ledger.due_trash(100).await.unwrap();
    for trash in &due {
        ledger.forget(trash).await.unwrap();
    }
    due.len()
}

/// How many blobs go once those that lost their names are due.
async fn lost(house: &House) -> usize {
    house.clock.advance(DOOMED_FOR);
    forget_due(house).await
}

fn version<'t>(tree: &'t BoxTree, name: &str) -> &'t VersionTree {
    tree.versions
        .iter()
        .find(|v| v.row.name.as_str() == name)
        .unwrap()
}

#[tokio::test]
async fn deleting_a_box_takes_all_below_and_what_only_it_named() {
    let (house, tree) = stocked().await;
    let skip = house.events(0).await.len();
    assert!(house.metadata.delete_box(tree.row.id, "Ann").await.unwrap());
    assert!(!house.metadata.delete_box(tree.row.id, "Ann").await.unwrap());
    assert_eq!(
        house
            .metadata
            .box_row(house.acme.id, &name("web"))
            .await
            .unwrap(),
        None
    );
    for (table, left) in [
        ("boxes", 1),
        ("versions", 1),
        ("providers", 1),
        ("architectures", 1),
        ("files", 1),
    ] {
        assert_eq!(house.count(table).await, left, "{table}");
    }
    let events = house.events(skip).await;
    assert_eq!(events.len(), 1);
    let (event, data) = &events[0];
    assert_eq!(
        (event.as_str(), &data["box"]),
        ("box.deleted", &"web".into())
    );
    assert_eq!(data.get("version"), None);
    assert_eq!(data["old_digest"], Value::Null, "there were several");
    assert_eq!(data["actor"]["name"], "Ann");
    let audit = house.audit().await;
    let last = audit.last().unwrap();
    let expected = (
        "Ann".to_owned(),
        "box.delete".to_owned(),
        "Acme/web".to_owned(),
    );
    assert_eq!(*last, expected);
    assert_eq!(lost(&house).await, 2, "the third is named by the other box");
    let other = full("acme/other/1.0/virtualbox/amd64");
    let other = house.metadata.resolve_file(&other).await.unwrap().unwrap();
    house.metadata.blob_tree(&other.file.blob).await.unwrap();
}

#[tokio::test]
async fn deleting_a_version_leaves_its_siblings() {
    let (house, tree) = stocked().await;
    let skip = house.events(0).await.len();
    let gone = version(&tree, "1.0").row.id;
    assert!(house.metadata.delete_version(gone, "Ann").await.unwrap());
    assert!(!house.metadata.delete_version(gone, "Ann").await.unwrap());
    let tree = house
        .metadata
        .box_tree(house.acme.id, &name("web"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(tree.versions.len(), 1);
    assert_eq!(tree.versions[0].providers.len(), 2);
    let (_, data) = &house.events(skip).await[0];
    assert_eq!(
        (&data["version"], data.get("provider")),
        (&"1.0".into(), None)
    );
    assert_eq!(
        lost(&house).await,
        1,
        "the other blob is named by version 2.0 too"
    );
}

#[tokio::test]
async fn deleting_a_provider_or_an_architecture_tells_the_digest_of_the_only_file() {
    let (house, tree) = stocked().await;
    let skip = house.events(0).await.len();
    let libvirt = version(&tree, "2.0")
        .providers
        .iter()
        .find(|p| p.row.name.as_str() == "libvirt");
    assert!(
        house
            .metadata
            .delete_provider(libvirt.unwrap().row.id, "Ann")
            .await
            .unwrap()
    );
    let architectures = &version(&tree, "1.0").providers[0].architectures;
    let arm64 = architectures
        .iter()
        .find(|a| a.row.name.as_str() == "arm64")
        .unwrap();
    assert!(
        house
            .metadata
            .delete_architecture(arm64.row.id, "Ann")
            .await
            .unwrap()
    );
    assert!(
        !house
            .metadata
            .delete_architecture(arm64.row.id, "Ann")
            .await
            .unwrap()
    );
    let events = house.events(skip).await;
    assert_eq!(events[0].1["provider"], "libvirt");
    assert_eq!(events[0].1.get("architecture"), None);
    assert_eq!(events[0].1["old_digest"], "03".repeat(32));
    assert_eq!(events[1].1["architecture"], "arm64");
    assert_eq!(events[1].1["old_digest"], "02".repeat(32));
    assert_eq!(lost(&house).await, 1);
}

#[tokio::test]
async fn deleting_a_file_leaves_its_architecture() {
    let (house, tree) = stocked().await;
    let amd64 = &version(&tree, "1.0").providers[0].architectures[0];
    assert!(
        house
            .metadata
            .delete_file(amd64.row.id, "Ann")
            .await
            .unwrap()
    );
    assert!(
        !house
            .metadata
            .delete_file(amd64.row.id, "Ann")
            .await
            .unwrap()
    );
    let tree = house
        .metadata
        .box_tree(house.acme.id, &name("web"))
        .await
        .unwrap()
        .unwrap();
    let left = &version(&tree, "1.0").providers[0].architectures[0];
    assert_eq!((&left.row, &left.file), (&amd64.row, &None));
    assert_eq!(lost(&house).await, 0, "version 2.0 names the blob too");
}

#[tokio::test]
async fn deleting_an_organization_takes_everything_and_tells_of_each_box() {
    let (house, _) = stocked().await;
    let keep = "keep".parse().unwrap();
    house
        .metadata
        .create_organization(&keep, None, house.ann.id)
        .await
        .unwrap();
    house.put("keep/web/1.0/virtualbox/amd64", 1).await;
    let skip = house.events(0).await.len();
    house
        .metadata
        .delete_organization(house.acme.id, "Ann")
        .await
        .unwrap();
    let again = house
        .metadata
        .delete_organization(house.acme.id, "Ann")
        .await;
    assert_eq!(kind(again), ErrorKind::NotFound);
    assert_eq!(
        house.metadata.organization(&house.acme.name).await.unwrap(),
        None
    );
    let events = house.events(skip).await;
    let boxes: Vec<_> = events.iter().map(|(_, data)| data["box"].clone()).collect();
    assert_eq!(boxes, ["web", "other"]);
    assert_eq!(
        house
            .metadata
            .memberships(house.ann.id)
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        lost(&house).await,
        3,
        "equal bytes of another organization are its own"
    );
    let kept = full("keep/web/1.0/virtualbox/amd64");
    assert!(house.metadata.resolve_file(&kept).await.unwrap().is_some());
}

#[tokio::test]
async fn every_change_with_an_actor_is_in_the_audit() {
    let (house, tree) = stocked().await;
    let web = house.make_box("made", false).await;
    house
        .metadata
        .update_box(web.id, None, web.fields.clone(), "bob")
        .await
        .unwrap();
    house.metadata.delete_box(tree.row.id, "eve").await.unwrap();
    let audit = house.audit().await;
    let audit: Vec<_> = audit
        .iter()
        .map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str()))
        .collect();
    assert_eq!(
        audit[0],
        ("Ann", "upload.publish", "Acme/web/1.0/virtualbox/amd64")
    );
    assert_eq!(
        audit[5..],
        [
            ("Ann", "box.create", "Acme/made"),
            ("bob", "box.update", "Acme/made"),
            ("eve", "box.delete", "Acme/web"),
        ]
    );
}
