use super::*;
use crate::blob::{BlobKey, UploadId};
use crate::catalog::{BoxName, BoxRef};
use crate::digest::{Blake3, Sha256};
use crate::metadata::accounts::OrganizationId;
use crate::metadata::catalog::{
    ArchitectureId, BoxFields, BoxFilter, BoxId, BoxRow, Counted, VersionFields, VersionStatus,
};
use crate::metadata::uploads::{
    Advance, Completion, Fence, Keep, Labels, MostOpen, NewUpload, Published, Sender, Target,
};
use crate::store::Receipt;

pub(super) fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub(super) fn full(path: &str) -> BoxRef {
    let mut levels = path.split('/');
    let mut next = || levels.next().unwrap();
    BoxRef {
        organization: name(next()),
        name: name(next()),
        version: name(next()),
        provider: name(next()),
        architecture: name(next()),
    }
}

#[tokio::test]
async fn strangers_find_public_boxes_alone_whatever_was_found_before() {
    let house = House::new().await;
    for (box_name, public) in [("open", true), ("shut", false)] {
        house.make_box(box_name, public).await;
        let box_name: BoxName = name(box_name);
        for _ in 0..2 {
            let found = house.metadata.public_box(house.acme.id, &box_name).await;
            assert_eq!(found.unwrap().is_some(), public, "{box_name}");
            let found = house.metadata.box_row(house.acme.id, &box_name).await;
            assert!(found.unwrap().is_some(), "{box_name}");
        }
    }
}

impl House {
    pub(super) async fn make_box(&self, box_name: &str, public: bool) -> BoxRow {
        let fields = BoxFields {
            published: true,
            public,
            ..BoxFields::default()
        };
        let box_name: BoxName = name(box_name);
        self.metadata
            .create_box(self.acme.id, &box_name, self.ann.id, fields, "Ann")
            .await
            .unwrap()
    }

    /// An open upload of one MiB to the full name.
    pub(super) async fn begin(&self, path: &str) -> Fence {
        let wanted = full(path);
        let org = self
            .metadata
            .organization(&wanted.organization)
            .await
            .unwrap()
            .unwrap();
        let ledger = self.metadata.ledger();
        let new = NewUpload {
            id: UploadId::random(),
            sender: Sender::person(self.ann.id),
            organization: org.id,
            key: BlobKey::random(),
            store: "main".to_owned(),
            length: Some(1 << 20),
            part_bytes: 8 << 20,
            pieces: None,
            joins: Vec::new(),
            target: Some(Target {
                box_name: wanted.name.to_string(),
                version: wanted.version.to_string(),
                provider: wanted.provider.to_string(),
                architecture: wanted.architecture.to_string(),
                new_box_public: true,
                declared: Some(("SHA256".to_owned(), "ab".repeat(32))),
                actor: "Ann".to_owned(),
                base_url: String::new(),
                into: None,
                labels: Labels::new(),
                iso: None,
            }),
            keep: Keep::No,
            note: None,
            expected: Vec::new(),
            most_open: MostOpen {
                per_account: 1,
                per_organization: 1,
            },
        };
        let fence = Fence {
            id: new.id,
            epoch: 1,
        };
        ledger.create(new).await.unwrap();
        fence
    }

    /// Publishes one MiB of `content` under the full name.
    pub(super) async fn put(&self, path: &str, content: u8) -> Published {
        let sha256 = Some(Sha256([content; 32]));
        self.put_with(path, content, sha256).await
    }

    async fn put_with(&self, path: &str, content: u8, sha256: Option<Sha256>) -> Published {
        let fence = self.begin(path).await;
        let ledger = self.metadata.ledger();
        let step = Advance {
            from: 0,
            to: 1 << 20,
            part: 0,
            values: vec![[content; 32]],
            hash_states: Vec::new(),
            receipt: Receipt::default(),
        };
        ledger.advance(fence, step).await.unwrap();
        let done = Completion {
            length: 1 << 20,
            blake3: Blake3([content; 32]),
            sha256,
        };
        ledger.complete(fence, Vec::new(), done).await.unwrap();
        ledger.publish(fence).await.unwrap()
    }
}

#[tokio::test]
async fn names_are_unique_without_case_at_every_level() {
    let house = House::new().await;
    let web = house.make_box("Web", false).await;
    let (metadata, ann) = (&house.metadata, house.ann.id);
    let fields = BoxFields::default();
    let again = metadata
        .create_box(house.acme.id, &name("wEB"), ann, fields.clone(), "Ann")
        .await;
    assert_eq!(kind(again), ErrorKind::Conflict);
    let nowhere = OrganizationId(99);
    let nowhere = metadata
        .create_box(nowhere, &name("web"), ann, fields, "Ann")
        .await;
    assert_eq!(kind(nowhere), ErrorKind::NotFound);

    let version = async |box_id, text: &str| {
        let fields = VersionFields::default();
        metadata
            .create_version(box_id, &name(text), VersionStatus::Active, fields, "Ann")
            .await
    };
    let tag = version(web.id, "v1.2.3-RC").await.unwrap();
    assert_eq!(tag.name.as_str(), "v1.2.3-RC");
    assert_eq!(kind(version(web.id, "1.2.3-rc").await), ErrorKind::Conflict);
    assert_eq!(kind(version(BoxId(99), "1.2.3").await), ErrorKind::NotFound);

    let provider = async |text: &str| {
        metadata
            .create_provider(tag.id, &name(text), Some("a provider"), "Ann")
            .await
    };
    let made = provider("VirtualBox").await.unwrap();
    assert_eq!(made.description.as_deref(), Some("a provider"));
    assert_eq!(kind(provider("virtualbox").await), ErrorKind::Conflict);

    let architecture = async |text: &str| {
        metadata
            .create_architecture(made.id, &name(text), None, false, "Ann")
            .await
    };
    architecture("AMD64").await.unwrap();
    assert_eq!(kind(architecture("amd64").await), ErrorKind::Conflict);
}

#[tokio::test]
async fn one_of_many_that_make_a_version_at_once_wins() {
    let house = House::new().await;
    let web = house.make_box("web", false).await;
    let tries = (0..8).map(|n| {
        let spelling = name(if n % 2 == 0 { "1.0" } else { "v1.0" });
        let metadata = house.metadata.clone();
        async move {
            let fields = VersionFields::default();
            metadata
                .create_version(web.id, &spelling, VersionStatus::Active, fields, "Ann")
                .await
        }
    });
    let results = join_all(tries).await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 7));
    assert!(lost.into_iter().all(|r| kind(r) == ErrorKind::Conflict));
}

#[tokio::test]
async fn the_first_architecture_is_the_default_until_another_is_made_so() {
    let house = House::new().await;
    house.put("acme/web/1.0/virtualbox/amd64", 1).await;
    let tree = house
        .metadata
        .box_tree(house.acme.id, &name("web"))
        .await
        .unwrap()
        .unwrap();
    let provider = &tree.versions[0].providers[0];
    let first = provider.architectures[0].row.clone();
    assert!(first.default_box);
    let make = async |text: &str, default| {
        let provider = provider.row.id;
        house
            .metadata
            .create_architecture(provider, &name(text), None, default, "Ann")
            .await
    };
    let defaults = async || {
        let tree = house
            .metadata
            .box_tree(house.acme.id, &name("web"))
            .await
            .unwrap()
            .unwrap();
        let architectures = &tree.versions[0].providers[0].architectures;
        let defaults = architectures.iter().filter(|a| a.row.default_box);
        defaults.map(|a| a.row.name.to_string()).collect::<Vec<_>>()
    };
    make("arm64", false).await.unwrap();
    assert_eq!(defaults().await, ["amd64"]);
    make("riscv64", true).await.unwrap();
    assert_eq!(defaults().await, ["riscv64"]);
    let update = async |id, default| {
        house
            .metadata
            .update_architecture(id, None, Some("about"), default, "Ann")
            .await
            .unwrap()
    };
    let updated = update(first.id, Some(true)).await;
    assert_eq!(
        (updated.default_box, updated.description.as_deref()),
        (true, Some("about"))
    );
    assert_eq!(defaults().await, ["amd64"]);
    assert!(update(first.id, None).await.default_box, "left as it was");
    let none = update(first.id, Some(false)).await;
    assert!(!none.default_box);
    assert_eq!(
        defaults().await,
        ["arm64"],
        "the oldest of the others: none has a box"
    );
    // It goes to one that has a box before others.
    let of = async |text: &str| {
        let tree = house.metadata.box_tree(house.acme.id, &name("web")).await;
        let tree = tree.unwrap().unwrap();
        let mut all = tree.versions[0].providers[0].architectures.iter();
        let found = all.find(|a| a.row.name.as_str() == text);
        found.unwrap().row.id
    };
    let delete = async |text: &str| {
        let id = of(text).await;
        house.metadata.delete_architecture(id, "Ann").await.unwrap()
    };
    assert!(delete("arm64").await);
    assert_eq!(defaults().await, ["amd64"]);
    assert!(delete("riscv64").await);
    assert_eq!(defaults().await, ["amd64"], "it had none to give on");
    update(first.id, Some(false)).await;
    assert!(defaults().await.is_empty(), "the last may be none");
    make("mips", false).await.unwrap();
    assert_eq!(defaults().await, ["mips"]);
    let gone = house
        .metadata
        .update_architecture(ArchitectureId(99), None, None, None, "Ann")
        .await;
    assert_eq!(kind(gone), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_box_update_tells_what_changed_and_purges_both_names() {
    let house = House::new().await;
    let web = house.make_box("web", false).await;
    house.make_box("taken", false).await;
    house.clock.advance(Duration::from_secs(1));
    let skip = house.events(0).await.len();
    let fields = BoxFields {
        readme: Some("# Hi".to_owned()),
        public: true,
        ..web.fields.clone()
    };
    let update = async |new: Option<&str>, fields: &BoxFields| {
        let new: Option<BoxName> = new.map(name);
        house
            .metadata
            .update_box(web.id, new.as_ref(), fields.clone(), "Ann")
            .await
    };
    assert_eq!(
        kind(update(Some("TAKEN"), &fields).await),
        ErrorKind::Conflict
    );
    let updated = update(Some("site"), &fields).await.unwrap();
    assert_eq!((updated.name.as_str(), &updated.fields), ("site", &fields));
    assert_eq!(
        (updated.created, updated.updated),
        (web.created, house.clock.now())
    );
    update(None, &fields).await.unwrap();
    let events = house.events(skip).await;
    assert_eq!(events.len(), 1, "what changed nothing is not told");
    let (event, data) = &events[0];
    assert_eq!(
        (event.as_str(), &data["box"]),
        ("box.updated", &"site".into())
    );
    assert_eq!(
        data["changed"],
        serde_json::json!(["name", "readme", "public"])
    );
    assert_eq!(
        data["tags"],
        serde_json::json!(["box/acme/site", "box/acme/web"])
    );
    assert_eq!(
        house
            .metadata
            .box_row(house.acme.id, &name("WEB"))
            .await
            .unwrap(),
        None
    );
    let found = house
        .metadata
        .box_row(house.acme.id, &name("SITE"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.id, web.id);
    assert_eq!(
        kind(
            house
                .metadata
                .update_box(BoxId(99), None, fields, "Ann")
                .await
        ),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn versions_and_providers_are_renamed_and_described() {
    let house = House::new().await;
    house.put("acme/web/v1.0/virtualbox/amd64", 1).await;
    house.put("acme/web/2.0/virtualbox/amd64", 2).await;
    let tree = house
        .metadata
        .box_tree(house.acme.id, &name("web"))
        .await
        .unwrap()
        .unwrap();
    let version = &tree.versions[0];
    let fields = VersionFields {
        release_notes: Some("notes".to_owned()),
        deprecated: true,
        deprecation_reason: Some("old".to_owned()),
        ..VersionFields::default()
    };
    let update = async |new: Option<&str>, status| {
        let new = new.map(name);
        house
            .metadata
            .update_version(version.row.id, new.as_ref(), status, fields.clone(), "Ann")
            .await
    };
    assert_eq!(kind(update(Some("V2.0"), None).await), ErrorKind::Conflict);
    let updated = update(Some("1.0"), Some(VersionStatus::Revoked))
        .await
        .unwrap();
    assert_eq!(
        (updated.name.as_str(), updated.status),
        ("1.0", VersionStatus::Revoked)
    );
    assert_eq!(updated.fields, fields);
    assert_eq!(
        update(None, None).await.unwrap().status,
        VersionStatus::Revoked
    );

    let provider = version.providers[0].row.id;
    let new = name("libvirt");
    let renamed = house
        .metadata
        .update_provider(provider, Some(&new), None, "Ann")
        .await
        .unwrap();
    assert_eq!(
        (renamed.name.as_str(), renamed.description),
        ("libvirt", None)
    );
    let found = house
        .metadata
        .resolve_file(&full("acme/web/v1.0/libvirt/amd64"))
        .await
        .unwrap();
    assert_eq!(found.unwrap().version.status, VersionStatus::Revoked);
    let events = house.events(0).await;
    let updates: Vec<_> = events
        .iter()
        .filter(|(name, _)| name == "box.updated")
        .collect();
    assert_eq!(updates.len(), 3);
    assert_eq!(updates[2].1["changed"], serde_json::json!(["providers"]));
}

#[tokio::test]
async fn publishing_makes_parents_and_keeps_those_that_are() {
    let house = House::new().await;
    let private = house.make_box("own", false).await;
    house.put("acme/own/1.0/virtualbox/amd64", 1).await;
    house.put("acme/new/1.0/virtualbox/amd64", 2).await;
    let own = house
        .metadata
        .box_row(house.acme.id, &name("own"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(own, private, "visibility of a box that was there stays");
    let new = house
        .metadata
        .box_tree(house.acme.id, &name("new"))
        .await
        .unwrap()
        .unwrap();
    assert!(new.row.fields.public && new.row.fields.published);
    assert_eq!(new.row.account, house.ann.id);
    assert_eq!(new.versions[0].row.status, VersionStatus::Active);
    let file = new.versions[0].providers[0].architectures[0]
        .file
        .clone()
        .unwrap();
    assert_eq!(file.declared, Some(("SHA256".to_owned(), "ab".repeat(32))));
    assert_eq!((file.downloads, file.blob.length), (0, 1 << 20));
    let counted = Counted::File(file.id);
    house.metadata.count_download(counted).await.unwrap();
    let found = house
        .metadata
        .resolve_file(&full("ACME/NEW/v1.0/VirtualBox/AMD64"))
        .await
        .unwrap();
    let found = found.unwrap();
    assert_eq!((found.file.downloads, found.store.as_str()), (1, "main"));
    assert!(!found.quarantined);
    let tree = house.metadata.blob_tree(&found.file.blob).await.unwrap();
    assert_eq!(*tree.values, [[2; 32]]);
}

#[tokio::test]
async fn listings_show_what_the_filter_says_by_id() {
    let house = House::new().await;
    let bob = house.metadata.create_account(account("bob")).await.unwrap();
    house.make_box("open", true).await;
    house.make_box("closed", false).await;
    let draft = BoxFields {
        public: true,
        ..BoxFields::default()
    };
    let (acme, bobs) = (house.acme.id, name("bobs"));
    house
        .metadata
        .create_box(acme, &bobs, bob.id, draft, "bob")
        .await
        .unwrap();
    let list = async |filter| {
        let trees = house.metadata.box_trees(filter).await.unwrap();
        trees
            .into_iter()
            .map(|t| t.row.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        list(BoxFilter::Organization(acme)).await,
        ["open", "closed", "bobs"]
    );
    assert_eq!(
        list(BoxFilter::Organization(OrganizationId(99))).await,
        [] as [&str; 0]
    );
    assert_eq!(list(BoxFilter::Discover(None)).await, ["open"]);
    assert_eq!(
        list(BoxFilter::Discover(Some(bob.id))).await,
        ["open", "bobs"]
    );
    assert_eq!(
        list(BoxFilter::Discover(Some(house.ann.id))).await,
        ["open", "closed"]
    );
    house.metadata.delete_account(bob.id, "").await.unwrap();
    let tree = house
        .metadata
        .box_tree(acme, &name("BOBS"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (tree.organization_name.as_str(), tree.username),
        ("Acme", None)
    );
    assert!(
        house
            .metadata
            .box_tree(acme, &name("none"))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_replaced_file_is_found_by_its_digest_for_a_while() {
    let house = House::new().await;
    let path = full("acme/web/1.0/virtualbox/amd64");
    let first = house.put("acme/web/1.0/virtualbox/amd64", 1).await;
    house.clock.advance(Duration::from_secs(1));
    let second = house.put("acme/web/1.0/virtualbox/amd64", 2).await;
    let find = async |content: u8| {
        let found = house
            .metadata
            .resolve_former_file(&path, &Blake3([content; 32]))
            .await;
        found.unwrap().map(|resolved| resolved.file)
    };
    assert_eq!(find(2).await.unwrap().blob, second.blob);
    let former = find(1).await.unwrap();
    assert_eq!((former.blob, Some(former.id)), (first.blob, first.file));
    assert!(
        former.updated < house.clock.now(),
        "when it was published, not when it was replaced"
    );
    assert_eq!(find(3).await, None);
    house.clock.advance(DOOMED_FOR);
    assert_eq!(find(1).await, None, "its time is over");
    assert!(find(2).await.is_some());
}

#[tokio::test]
async fn a_former_file_that_vagrant_is_shown_is_found_for_as_long_as_it_is_shown() {
    let house = House::new().await;
    let path = "acme/web/1.0/virtualbox/amd64";
    let first = house.put(path, 1).await;
    house.put("acme/keeps/1.0/virtualbox/amd64", 1).await;
    let second = house.put_with(path, 2, None).await;
    house.clock.advance(DOOMED_FOR + Duration::from_secs(1));

    let shown = async || {
        let tree = house.metadata.box_tree(house.acme.id, &name("web")).await;
        let tree = tree.unwrap().unwrap();
        let architecture = &tree.versions[0].providers[0].architectures[0];
        architecture.shown_file().map(|file| file.blob.blake3)
    };
    let find_first = async || {
        let found = house
            .metadata
            .resolve_former_file(&full(path), &first.blob.blake3)
            .await;
        found.unwrap().map(|resolved| resolved.file.blob.blake3)
    };
    assert_eq!(shown().await, Some(first.blob.blake3));
    assert_eq!(find_first().await, Some(first.blob.blake3));

    let learned = house
        .metadata
        .learn_sha256(&second.blob.key, Sha256([2; 32]));
    learned.await.unwrap();
    assert_eq!(shown().await, Some(second.blob.blake3));
    assert_eq!(find_first().await, None);
}

#[tokio::test]
async fn a_former_file_goes_with_its_name_and_with_its_blob() {
    let house = House::new().await;
    let path = "acme/web/1.0/virtualbox/amd64";
    let first = house.put(path, 1).await;
    house.put(path, 2).await;
    house.put(path, 1).await; // the first again: revived, and the second is the former one now
    let find = async |content: u8| {
        let found = house
            .metadata
            .resolve_former_file(&full(path), &Blake3([content; 32]))
            .await;
        found.unwrap().map(|resolved| resolved.file.blob.blake3)
    };
    assert_eq!(find(1).await, Some(first.blob.blake3));
    assert!(find(2).await.is_some());
    let file = house
        .metadata
        .resolve_file(&full(path))
        .await
        .unwrap()
        .unwrap()
        .file;
    assert!(
        house
            .metadata
            .delete_file(file.architecture_id, "Ann")
            .await
            .unwrap()
    );
    assert_eq!((find(1).await, find(2).await), (None, None));
    house.put(path, 3).await;
    assert_eq!(
        (find(1).await, find(2).await),
        (None, None),
        "a new file has no past"
    );
    house.clock.advance(DOOMED_FOR);
    let ledger = house.metadata.ledger();
    for trash in ledger.due_trash(10).await.unwrap() {
        ledger.forget(&trash).await.unwrap();
    }
    assert_eq!(
        (
            house.count("blobs").await,
            house.count("former_files").await
        ),
        (1, 0)
    );
    assert_eq!(house.count("blob_trees").await, 1);
    assert_eq!(house.count("parts").await, 0);
}

#[tokio::test]
async fn a_damaged_blob_is_told_apart() {
    let house = House::new().await;
    let path = "acme/web/1.0/virtualbox/amd64";
    let bad = house.put(path, 1).await;
    house.metadata.quarantine_blob(&bad.blob.key).await.unwrap();
    assert!(
        house
            .metadata
            .resolve_file(&full(path))
            .await
            .unwrap()
            .unwrap()
            .quarantined
    );
    house.put(path, 1).await;
    assert!(
        !house
            .metadata
            .resolve_file(&full(path))
            .await
            .unwrap()
            .unwrap()
            .quarantined
    );
}

#[tokio::test]
async fn ended_uploads_are_forgotten_by_age() {
    let house = House::new().await;
    house.put("acme/web/1.0/virtualbox/amd64", 1).await;
    house.clock.advance(Duration::from_secs(10));
    house.put("acme/web/1.0/virtualbox/amd64", 2).await;
    let until = house.clock.now().minus(Duration::from_secs(5));
    assert_eq!(house.metadata.purge_uploads(until).await.unwrap(), 1);
    assert_eq!(house.count("uploads").await, 1);
}
