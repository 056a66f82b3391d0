use boxgate_storage::blob::{BlobKey, BlobMeta};
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::digest::Sha256;
use boxgate_storage::metadata::accounts::{AccountId, OrganizationId};
use boxgate_storage::metadata::catalog::{
    Announced, ArchitectureId, ArchitectureRow, BoxFields, BoxId, BoxRow, FileId, ProviderId,
    ProviderRow, VersionFields, VersionId, VersionRow,
};

use super::*;

const T: UnixMillis = UnixMillis(0);

fn architecture(name: &str, default_box: bool, stored: bool) -> ArchitectureTree {
    let blob = BlobMeta {
        key: BlobKey::from_bytes([1; 16]),
        length: 3,
        blake3: Blake3([2; 32]),
        sha256: Some(Sha256([3; 32])),
    };
    let file = FileRow {
        id: FileId(1),
        architecture_id: ArchitectureId(1),
        blob,
        labels: std::collections::BTreeMap::new(),
        downloads: 0,
        declared: Some(("BLAKE3".into(), "00".into())),
        created: T,
        updated: T,
    };
    ArchitectureTree {
        row: ArchitectureRow {
            id: ArchitectureId(1),
            provider_id: ProviderId(1),
            name: name.parse().unwrap(),
            description: None,
            default_box,
            announced: Announced::default(),
            created: T,
            updated: T,
        },
        file: stored.then_some(file),
        before: None,
    }
}

fn version_tree(
    name: &str,
    status: VersionStatus,
    architectures: Vec<ArchitectureTree>,
) -> VersionTree {
    VersionTree {
        row: VersionRow {
            id: VersionId(1),
            box_id: BoxId(1),
            name: name.parse().unwrap(),
            status,
            fields: VersionFields {
                description: Some("**new** <script>alert(1)</script> [x](javascript:1)".into()),
                ..VersionFields::default()
            },
            created: T,
            updated: T,
        },
        providers: vec![ProviderTree {
            row: ProviderRow {
                id: ProviderId(1),
                version_id: VersionId(1),
                name: "virtualbox".parse().unwrap(),
                description: None,
                created: T,
                updated: T,
            },
            architectures,
        }],
    }
}

fn tree(versions: Vec<VersionTree>) -> BoxTree {
    BoxTree {
        row: BoxRow {
            id: BoxId(1),
            organization: OrganizationId(1),
            name: "demo".parse().unwrap(),
            account: AccountId(1),
            fields: BoxFields::default(),
            created: T,
            updated: T,
        },
        organization_name: "acme".parse().unwrap(),
        username: None,
        versions,
    }
}

#[test]
fn only_released_stored_and_valid_versions_are_listed_newest_first() {
    let stored = || vec![architecture("amd64", true, true)];
    let value = render(
        &tree(vec![
            version_tree("1.2.0", VersionStatus::Active, stored()),
            version_tree("v1.10.0", VersionStatus::Active, stored()),
            version_tree("latest", VersionStatus::Active, stored()),
            version_tree("2.0.0", VersionStatus::Unreleased, stored()),
            version_tree("3.0.0", VersionStatus::Revoked, stored()),
            version_tree(
                "4.0.0",
                VersionStatus::Active,
                vec![architecture("amd64", true, false)],
            ),
        ]),
        "http://h",
        ComparedBy::Sha256,
    );
    let names: Vec<_> = value["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| &v["version"])
        .collect();
    assert_eq!(names, ["1.10.0", "1.2.0"]);
    assert_eq!(value["name"], "acme/demo");
}

#[test]
fn what_cannot_be_compared_yet_is_not_listed_and_what_it_replaced_is() {
    let mut deferred = architecture("amd64", true, true);
    let before = deferred.file.clone();
    if let Some(file) = &mut deferred.file {
        file.blob.sha256 = None;
        file.blob.blake3 = Blake3([9; 32]);
    }
    let replaced = ArchitectureTree {
        before,
        ..deferred.clone()
    };
    let versions = |of: &ArchitectureTree, by: ComparedBy| {
        let version = version_tree("1.0", VersionStatus::Active, vec![of.clone()]);
        render(&tree(vec![version]), "http://h", by)["versions"].clone()
    };
    assert_eq!(
        versions(&deferred, ComparedBy::Sha256),
        serde_json::json!([])
    );
    for each in [&deferred, &replaced] {
        let shown = versions(each, ComparedBy::Blake3);
        let provider = &shown[0]["providers"][0];
        assert_eq!(provider["blake3"], "09".repeat(32));
        assert_eq!(provider["checksum"], Value::Null);
        assert_eq!(provider["checksum_type"], Value::Null);
    }
    let shown = versions(&replaced, ComparedBy::Sha256);
    let provider = &shown[0]["providers"][0];
    assert_eq!(provider["checksum"], "03".repeat(32));
    let url = provider["url"].as_str().unwrap();
    assert!(url.ends_with(&format!("?b3={}", "02".repeat(32))), "{url}");
}

#[test]
fn the_default_architecture_comes_last_and_urls_pin_the_digest() {
    let value = render(
        &tree(vec![version_tree(
            "v1.0",
            VersionStatus::Active,
            vec![
                architecture("amd64", true, true),
                architecture("arm64", false, true),
            ],
        )]),
        "http://h",
        ComparedBy::Sha256,
    );
    let providers = value["versions"][0]["providers"].as_array().unwrap();
    assert_eq!(providers[0]["architecture"], "arm64");
    assert_eq!(providers[1]["architecture"], "amd64");
    assert_eq!(providers[1]["default_architecture"], true);
    assert_eq!(providers[1]["checksum_type"], "sha256");
    assert_eq!(providers[1]["checksum"], "03".repeat(32));
    let url = format!(
        "http://h/acme/boxes/demo/versions/v1.0/providers/virtualbox/amd64/vagrant.box?b3={}",
        "02".repeat(32)
    );
    assert_eq!(providers[1]["url"], url);
}

#[test]
fn descriptions_are_rendered_without_html_of_strangers() {
    let value = render(
        &tree(vec![version_tree(
            "1",
            VersionStatus::Active,
            vec![architecture("a", true, true)],
        )]),
        "http://h",
        ComparedBy::Sha256,
    );
    let html = value["versions"][0]["description_html"].as_str().unwrap();
    assert!(html.contains("<strong>new</strong>"), "{html}");
    assert!(
        !html.contains("<script") && !html.contains("javascript:"),
        "{html}"
    );
}
