use super::*;
use crate::metadata::tokens::{NewToken, TokenKind};
use crate::metadata::uploads::{Advance, UploadState};
use crate::store::Receipt;

#[tokio::test]
async fn uploads_in_progress_are_listed_with_the_names_behind_them() {
    let house = House::new().await;
    let other = "globex".parse().unwrap();
    let other = house
        .metadata
        .create_organization(&other, None, house.ann.id)
        .await
        .unwrap();
    let mut ours = Vec::new();
    for version in ["1.0", "1.1", "1.2"] {
        let path = format!("Acme/web/{version}/virtualbox/amd64");
        ours.push(house.begin(&path).await.id);
    }
    let theirs = house.begin("globex/web/1.0/virtualbox/amd64").await.id;
    house.put("Acme/done/1.0/virtualbox/amd64", 7).await;
    let given_up = house.begin("Acme/web/2.0/virtualbox/amd64").await.id;
    house.metadata.ledger().abort(given_up, None).await.unwrap();
    ours.sort();
    let mut all = [ours.clone(), vec![theirs]].concat();
    all.sort();
    for (organization, expected) in [
        (None, all),
        (Some(house.acme.id), ours),
        (Some(other.id), vec![theirs]),
    ] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = house
                .metadata
                .uploads_in_progress(organization, after, (2, false))
                .await
                .unwrap();
            assert!(page.len() <= 2);
            let Some(last) = page.last() else { break };
            after = Some(last.row.id);
            found.extend(page.iter().map(|upload| upload.row.id));
        }
        assert_eq!(found, expected);
    }
    let named = house.metadata.named_upload(theirs).await.unwrap().unwrap();
    assert_eq!(named.username.as_deref(), Some("Ann"));
    assert_eq!(named.organization, Some("globex".parse().unwrap()));
    house
        .metadata
        .delete_account(house.ann.id, "")
        .await
        .unwrap();
    let named = house.metadata.named_upload(theirs).await.unwrap().unwrap();
    assert_eq!((named.row.id, named.username), (theirs, None));
}

#[tokio::test]
async fn the_listing_reads_no_upload_that_is_over() {
    let house = House::embedded().await;
    let mut reader = house.metadata.reader("test").await.unwrap();
    let plan = sqlx::query(
        "EXPLAIN QUERY PLAN SELECT id FROM uploads WHERE state IN ('open', 'completing')
             AND organization = COALESCE(NULL, organization) AND id > $1 ORDER BY id LIMIT 10",
    )
    .bind(Vec::<u8>::new())
    .fetch_all(&mut *reader)
    .await
    .unwrap();
    let steps: Vec<_> = plan.iter().map(|r| r.text("detail").unwrap()).collect();
    assert!(
        steps.iter().any(|step| step.contains("uploads_by_state")),
        "{steps:?}"
    );
}

#[tokio::test]
async fn an_abort_on_behalf_of_somebody_is_in_the_audit_once() {
    let house = House::new().await;
    let id = house.begin("Acme/web/1.0/virtualbox/amd64").await.id;
    let ledger = house.metadata.ledger();
    assert!(ledger.abort_by(id, "root").await.unwrap());
    assert!(!ledger.abort_by(id, "root").await.unwrap());
    let named = house.metadata.named_upload(id).await.unwrap().unwrap();
    assert_eq!(named.row.state, UploadState::Aborted);
    let told = ("root".into(), "upload.abort".into(), id.to_string());
    let told: Vec<_> = house
        .audit()
        .await
        .into_iter()
        .filter(|a| *a == told)
        .collect();
    assert_eq!(told.len(), 1);
}

#[tokio::test]
async fn uploads_from_before_senders_were_told_apart_go_to_whoever_their_target_names() {
    let house = House::new().await;
    let key = |name: &str, hash| NewToken {
        kind: TokenKind::Service,
        hash: [hash; 32],
        account: house.ann.id,
        organization: Some(house.acme.id),
        name: Some(name.to_owned()),
        description: None,
        expires: None,
    };
    // Read as a pattern, the second would be the first.
    for (name, hash) in [("ann-1.2", 1), ("ann-1_2", 2)] {
        house.metadata.create_token(key(name, hash)).await.unwrap();
    }
    let person = house.begin("Acme/web/1.0/virtualbox/amd64").await.id;
    let service = house.begin("Acme/web/2.0/virtualbox/amd64").await.id;
    let before = house.metadata.write("test", move |tx| {
        async move {
            let acted = "UPDATE uploads SET target = REPLACE(target, '\"Ann\"', '\"ann-1_2\"')
                         WHERE id = $1";
            let acted = sqlx::query(acted).bind(service.as_bytes().to_vec());
            acted.execute(&mut tx.connection).await.unwrap();
            for text in [
                "ALTER TABLE uploads DROP COLUMN service",
                include_str!("../migrations/0007_senders.sql"),
            ] {
                let done = sqlx::raw_sql(text).execute(&mut tx.connection).await;
                done.unwrap();
            }
            Ok(())
        }
        .boxed()
    });
    before.await.unwrap();
    for (id, expected) in [(person, None), (service, Some("ann-1_2"))] {
        let row = house.metadata.ledger().upload(id).await.unwrap().unwrap();
        assert_eq!(row.sender.service.as_deref(), expected);
    }
}

#[test]
fn the_first_step_of_a_part_is_told_from_those_within_it() {
    for part_bytes in [1_u64 << 20, 8 << 20, 1 << 30] {
        for part in [0_u32, 1, 2, 3, 4, 7, 64, 1000] {
            let eighth = part_bytes / 8;
            let within = (1..8).flat_map(|n| [n * eighth - 1, n * eighth, n * eighth + 1]);
            for into in std::iter::once(0).chain(within) {
                let from = u64::from(part) * part_bytes + into;
                let step = Advance {
                    from,
                    to: from + 1,
                    part,
                    values: Vec::new(),
                    hash_states: Vec::new(),
                    receipt: Receipt::default(),
                };
                assert_eq!(step.begins_part(), into == 0, "{part_bytes} {part} {into}");
            }
        }
    }
}
