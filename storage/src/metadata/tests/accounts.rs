use super::*;
use crate::metadata::accounts::{
    AccountChange, AccountId, OrganizationChange, OrganizationId, OrganizationRole,
};

#[tokio::test]
async fn a_username_is_taken_without_case_and_found_without_case() {
    let house = House::new().await;
    assert_eq!(
        kind(house.metadata.create_account(account("aNN")).await),
        ErrorKind::Conflict
    );
    let found = house
        .metadata
        .account_by_username("ANN")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found, house.ann);
    assert_eq!(found.username, "Ann", "as it was spelled");
    assert_eq!(
        house.metadata.account_by_username("bob").await.unwrap(),
        None
    );
}

#[tokio::test]
async fn one_of_many_that_take_a_name_at_once_wins() {
    let house = House::new().await;
    let tries = (0..8).map(|_| house.metadata.create_account(account("bob")));
    let results = join_all(tries).await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 7));
    assert!(lost.into_iter().all(|r| kind(r) == ErrorKind::Conflict));
}

#[tokio::test]
async fn accounts_come_in_pages_by_id() {
    let house = House::new().await;
    for n in 0..4 {
        house
            .metadata
            .create_account(account(&format!("user-{n}")))
            .await
            .unwrap();
    }
    let first = house.metadata.accounts(None, 3).await.unwrap();
    let names: Vec<_> = first.iter().map(|a| a.username.as_str()).collect();
    assert_eq!(names, ["Ann", "user-0", "user-1"]);
    let rest = house.metadata.accounts(Some(first[2].id), 3).await.unwrap();
    assert_eq!(rest.len(), 2);
}

#[tokio::test]
async fn a_change_touches_only_the_fields_it_names() {
    let house = House::new().await;
    house.clock.advance(Duration::from_secs(1));
    let change = AccountChange {
        name: Some("Ann A.".to_owned()),
        role: Some(PlatformRole::Admin),
        suspended: Some(true),
        ..AccountChange::default()
    };
    let changed = house
        .metadata
        .update_account(house.ann.id, change)
        .await
        .unwrap();
    let expected = Account {
        name: Some("Ann A.".to_owned()),
        role: PlatformRole::Admin,
        suspended: true,
        updated: house.clock.now(),
        ..house.ann.clone()
    };
    assert_eq!(changed, expected);
    let gone = house
        .metadata
        .update_account(AccountId(99), AccountChange::default())
        .await;
    assert_eq!(kind(gone), ErrorKind::NotFound);
}

#[tokio::test]
async fn making_and_removing_an_account_is_told() {
    let house = House::new().await;
    let acme = house.acme.id;
    let new = NewAccount {
        membership: Some((acme, OrganizationRole::Member)),
        by: "Ann".to_owned(),
        ..account("bob")
    };
    let bob = house.metadata.create_account(new).await.unwrap();
    assert_eq!(house.metadata.members(acme).await.unwrap().len(), 2);
    let gone = NewAccount {
        membership: Some((OrganizationId(99), OrganizationRole::Member)),
        ..account("eve")
    };
    let refused = house.metadata.create_account(gone).await;
    assert_eq!(kind(refused), ErrorKind::NotFound);
    assert_eq!(
        house.metadata.account_by_username("eve").await.unwrap(),
        None
    );
    house.metadata.delete_account(bob.id, "Ann").await.unwrap();
    assert_eq!(
        kind(house.metadata.delete_account(bob.id, "Ann").await),
        ErrorKind::NotFound
    );
    assert_eq!(house.metadata.members(acme).await.unwrap().len(), 1);
    let events = house.events(1).await;
    let names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["user.created", "user.deleted"]);
    assert_eq!(events[0].1["username"], "bob");
    assert_eq!(events[0].1["organizations"], serde_json::json!(["Acme"]));
    assert_eq!(events[1].1["username"], "bob");
    for (name, data) in events {
        let ann = serde_json::json!({"type": "account", "name": "Ann"});
        assert_eq!(data["actor"], ann, "{name}");
    }
}

#[tokio::test]
async fn an_organization_is_made_with_its_owner() {
    let house = House::new().await;
    let acme = &house.acme;
    assert_eq!(
        (acme.name.as_str(), acme.description.as_deref()),
        ("Acme", Some("boxes"))
    );
    assert_eq!(
        (acme.access_mode.as_str(), acme.suspended),
        ("private", false)
    );
    assert_eq!(acme.org_code.as_deref(), Some("B00001"));
    let name = "aCME".parse().unwrap();
    assert_eq!(
        house.metadata.organization(&name).await.unwrap().as_ref(),
        Some(acme)
    );
    let again = house
        .metadata
        .create_organization(&name, None, house.ann.id)
        .await;
    assert_eq!(kind(again), ErrorKind::Conflict);
    let orphan = "orphan".parse().unwrap();
    let orphan = house
        .metadata
        .create_organization(&orphan, None, AccountId(99))
        .await;
    assert_eq!(kind(orphan), ErrorKind::NotFound);
    let members = house.metadata.members(acme.id).await.unwrap();
    assert_eq!(members.len(), 1);
    assert_eq!(
        (members[0].username.as_str(), members[0].role),
        ("Ann", OrganizationRole::Owner)
    );
    assert!(members[0].primary);
}

#[tokio::test]
async fn organizations_are_searched_by_a_part_of_their_name() {
    let house = House::new().await;
    for name in ["web-tools", "web_tools", "tools"] {
        let name = name.parse().unwrap();
        house
            .metadata
            .create_organization(&name, None, house.ann.id)
            .await
            .unwrap();
    }
    let search = async |part: &str| {
        let found = house.metadata.organizations(part).await.unwrap();
        found
            .into_iter()
            .map(|o| o.name.as_str().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(search("").await.len(), 4);
    assert_eq!(search("WEB").await, ["web-tools", "web_tools"]);
    assert_eq!(
        search("b_t").await,
        ["web_tools"],
        "an underscore is no wildcard"
    );
    assert_eq!(search("%").await, [] as [&str; 0]);
}

#[tokio::test]
async fn an_organization_is_renamed_unless_the_name_is_taken() {
    let house = House::new().await;
    let other = "other".parse().unwrap();
    let other = house
        .metadata
        .create_organization(&other, None, house.ann.id)
        .await
        .unwrap();
    let rename = |name: &str| OrganizationChange {
        name: Some(name.parse().unwrap()),
        access_mode: Some("invite_only".to_owned()),
        default_role: Some(OrganizationRole::Admin),
        ..OrganizationChange::default()
    };
    let taken = house
        .metadata
        .update_organization(other.id, rename("ACME"))
        .await;
    assert_eq!(kind(taken), ErrorKind::Conflict);
    let renamed = house
        .metadata
        .update_organization(other.id, rename("Third"))
        .await
        .unwrap();
    assert_eq!(
        (renamed.name.as_str(), renamed.default_role),
        ("Third", OrganizationRole::Admin)
    );
    assert_eq!(renamed.access_mode, "invite_only");
    house
        .metadata
        .update_organization(other.id, rename("THIRD"))
        .await
        .unwrap();
    let gone = OrganizationChange::default();
    let gone = house
        .metadata
        .update_organization(OrganizationId(99), gone)
        .await;
    assert_eq!(kind(gone), ErrorKind::NotFound);
}

#[tokio::test]
async fn the_first_organization_of_an_account_is_its_primary() {
    let house = House::new().await;
    let bob = house.metadata.create_account(account("bob")).await.unwrap();
    let second = "second".parse().unwrap();
    let second = house
        .metadata
        .create_organization(&second, None, house.ann.id)
        .await
        .unwrap();
    for id in [second.id, house.acme.id] {
        house
            .metadata
            .set_membership(bob.id, id, OrganizationRole::Member)
            .await
            .unwrap();
    }
    house
        .metadata
        .set_membership(bob.id, second.id, OrganizationRole::Admin)
        .await
        .unwrap();
    let of_bob = house.metadata.memberships(bob.id).await.unwrap();
    let shown: Vec<_> = of_bob
        .iter()
        .map(|m| (m.organization, m.role, m.primary))
        .collect();
    let member = OrganizationRole::Member;
    let expected = [
        (house.acme.id, member, true),
        (second.id, OrganizationRole::Admin, false),
    ];
    assert_eq!(shown, expected);
    assert_eq!(of_bob[0].organization_name.as_str(), "Acme");
    assert!(
        house
            .metadata
            .remove_membership(bob.id, house.acme.id)
            .await
            .unwrap()
    );
    assert!(
        !house
            .metadata
            .remove_membership(bob.id, house.acme.id)
            .await
            .unwrap()
    );
    assert!(house.metadata.memberships(bob.id).await.unwrap()[0].primary);
    let nobody = house
        .metadata
        .set_membership(AccountId(99), second.id, member)
        .await;
    assert_eq!(kind(nobody), ErrorKind::NotFound);
}
