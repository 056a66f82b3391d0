use super::*;
use crate::metadata::accounts::OrganizationId;
use crate::metadata::tokens::{NewToken, Token, TokenKind};

fn token(house: &House, kind: TokenKind, number: u8, name: Option<&str>) -> NewToken {
    NewToken {
        kind,
        hash: [number; 32],
        account: house.ann.id,
        organization: (kind != TokenKind::Personal).then_some(house.acme.id),
        name: name.map(str::to_owned),
        description: Some("for tests".to_owned()),
        expires: None,
    }
}

#[tokio::test]
async fn a_token_is_found_by_its_hash_with_its_account() {
    let house = House::new().await;
    let new = token(&house, TokenKind::Personal, 1, Some("laptop"));
    let made = house.metadata.create_token(new).await.unwrap();
    let (found, owner) = house
        .metadata
        .token_by_hash(&[1; 32])
        .await
        .unwrap()
        .unwrap();
    assert_eq!((&found, &owner), (&made, &house.ann));
    let expected = Token {
        id: made.id,
        kind: TokenKind::Personal,
        account: house.ann.id,
        organization: None,
        name: Some("laptop".to_owned()),
        description: Some("for tests".to_owned()),
        expires: None,
        created: house.clock.now(),
    };
    assert_eq!(found, expected);
    assert!(
        house
            .metadata
            .token_by_hash(&[2; 32])
            .await
            .unwrap()
            .is_none()
    );
    let listed = house
        .metadata
        .tokens(house.ann.id, TokenKind::Personal)
        .await
        .unwrap();
    assert_eq!(listed, [made]);
    assert!(
        house
            .metadata
            .tokens(house.ann.id, TokenKind::Session)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn an_expired_token_opens_nothing() {
    let house = House::new().await;
    let end = house.clock.now().plus(Duration::from_mins(1));
    let service = NewToken {
        expires: Some(end),
        ..token(&house, TokenKind::Service, 1, Some("acme-1"))
    };
    house.metadata.create_token(service).await.unwrap();
    let lasting = token(&house, TokenKind::Personal, 2, None);
    house.metadata.create_token(lasting).await.unwrap();
    house.clock.advance(Duration::from_secs(59));
    assert!(
        house
            .metadata
            .token_by_hash(&[1; 32])
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        house
            .metadata
            .service_account("acme-1")
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(house.metadata.purge_expired_tokens().await.unwrap(), 0);
    house.clock.advance(Duration::from_secs(1));
    assert!(
        house
            .metadata
            .token_by_hash(&[1; 32])
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        house
            .metadata
            .service_account("acme-1")
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(house.metadata.purge_expired_tokens().await.unwrap(), 1);
    assert!(
        house
            .metadata
            .token_by_hash(&[2; 32])
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn the_name_of_a_service_account_is_its_own_and_its_key_can_be_changed() {
    let house = House::new().await;
    let service = |number, name| token(&house, TokenKind::Service, number, Some(name));
    let made = house
        .metadata
        .create_token(service(1, "Acme-1"))
        .await
        .unwrap();
    let again = house.metadata.create_token(service(2, "aCME-1")).await;
    assert_eq!(kind(again), ErrorKind::Conflict);
    let personal = token(&house, TokenKind::Personal, 3, Some("acme-1"));
    house.metadata.create_token(personal).await.unwrap();
    let (found, hash, owner) = house
        .metadata
        .service_account("acme-1")
        .await
        .unwrap()
        .unwrap();
    assert_eq!((&found, hash, owner.id), (&made, [1; 32], house.ann.id));

    assert!(
        house
            .metadata
            .set_token_hash(made.id, [9; 32])
            .await
            .unwrap()
    );
    assert!(
        house
            .metadata
            .token_by_hash(&[1; 32])
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(
        house
            .metadata
            .token_by_hash(&[9; 32])
            .await
            .unwrap()
            .unwrap()
            .0,
        made
    );
    assert!(
        house
            .metadata
            .delete_token(made.id, house.ann.id)
            .await
            .unwrap()
    );
    assert!(
        !house
            .metadata
            .set_token_hash(made.id, [8; 32])
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn revoking_a_key_ends_the_sessions_made_with_it() {
    let house = House::new().await;
    let mut made = Vec::new();
    for (kind, number, name) in [
        (TokenKind::Service, 1, Some("acme-1")),
        (TokenKind::Service, 2, Some("acme-2")),
        (TokenKind::Session, 3, Some("acme-1")),
        (TokenKind::Session, 4, Some("acme-2")),
        (TokenKind::Session, 5, None),
    ] {
        let new = token(&house, kind, number, name);
        made.push(house.metadata.create_token(new).await.unwrap());
    }
    let signed_in = NewToken {
        organization: None,
        ..token(&house, TokenKind::Session, 6, None)
    };
    house.metadata.create_token(signed_in).await.unwrap();
    let bob = house.metadata.create_account(account("bob")).await.unwrap();
    assert!(
        !house
            .metadata
            .delete_token(made[0].id, bob.id)
            .await
            .unwrap(),
        "not his"
    );
    assert!(
        house
            .metadata
            .token_by_hash(&[3; 32])
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        house
            .metadata
            .delete_token(made[0].id, house.ann.id)
            .await
            .unwrap()
    );
    assert!(
        !house
            .metadata
            .delete_token(made[0].id, house.ann.id)
            .await
            .unwrap()
    );
    let mut left = Vec::new();
    for number in 1..=6 {
        if house
            .metadata
            .token_by_hash(&[number; 32])
            .await
            .unwrap()
            .is_some()
        {
            left.push(number);
        }
    }
    assert_eq!(left, [2, 4, 6]);
}

#[tokio::test]
async fn a_token_needs_its_account_and_organization() {
    let house = House::new().await;
    let nowhere = NewToken {
        organization: Some(OrganizationId(99)),
        ..token(&house, TokenKind::Service, 1, Some("acme-1"))
    };
    assert_eq!(
        kind(house.metadata.create_token(nowhere).await),
        ErrorKind::NotFound
    );
    let service = token(&house, TokenKind::Service, 1, Some("acme-1"));
    house.metadata.create_token(service).await.unwrap();
    house
        .metadata
        .delete_account(house.ann.id, "")
        .await
        .unwrap();
    assert!(
        house
            .metadata
            .token_by_hash(&[1; 32])
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn the_first_key_for_a_purpose_is_the_same_for_all_who_ask() {
    let house = House::new().await;
    let tries = (0..8_u8).map(|n| {
        let metadata = house.metadata.clone();
        async move { metadata.first_key("download-link", &[n; 4]).await.unwrap() }
    });
    let keys = join_all(tries).await;
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert_eq!(keys[0].purpose, "download-link");
    assert_eq!(
        house.metadata.keys("download-link").await.unwrap(),
        [keys[0].clone()]
    );
    assert!(house.metadata.keys("master").await.unwrap().is_empty());
}

#[tokio::test]
async fn what_one_process_put_down_the_next_one_is_told() {
    let house = House::new().await;
    let note = |text: &'static str| house.metadata.note("public-url", text.as_bytes());
    assert_eq!(note("https://a").await.unwrap(), None);
    assert_eq!(
        note("https://b").await.unwrap(),
        Some(b"https://a".to_vec())
    );
    assert_eq!(
        note("https://b").await.unwrap(),
        Some(b"https://b".to_vec())
    );
}
