//! People, organizations, who belongs where, and keys of service accounts. Whoever and whatever is there by a name stays
//! as it is, and is taken for the same.

use std::collections::{HashMap, HashSet};

use boxgate_storage::catalog::{NameError, OrganizationName};
use boxgate_storage::clock::{Clock as _, SystemClock};
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::accounts::{
    Account, AccountChange, AccountId, NewAccount, Organization, OrganizationChange,
    OrganizationId, OrganizationRole, PlatformRole,
};
use boxgate_storage::metadata::tokens::{NewToken, TokenKind};
use boxgate_storage::{Error, ErrorKind};

use super::super::{Report, administered};
use super::boxes;
use super::dump::{Dump, Row};
use super::{OTHER_LETTERS, Vault, unanswered};
use crate::auth::password;

/// What rows of the other database are here.
#[derive(Debug, Default)]
pub(super) struct People {
    accounts: HashMap<i64, Account>,
    pub(super) organizations: HashMap<i64, Place>,
    /// Names of organizations that were brought before, and taken away here.
    pub(super) gone: HashMap<i64, String>,
}

/// An organization.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) id: OrganizationId,
    pub(super) name: OrganizationName,
    /// Who sends on its behalf.
    pub(super) owner: AccountId,
}

impl People {
    /// The account of a row of `users`, if it is here.
    pub(super) fn account(&self, id: Option<i64>) -> Option<AccountId> {
        Some(self.accounts.get(&id?)?.id)
    }
}

/// Makes whoever is missing.
///
/// # Errors
/// Why it ended early.
pub(super) async fn bring(
    vault: &Vault,
    metadata: &Metadata,
    dump: &Dump,
    report: &mut Report<'_>,
) -> Result<People, String> {
    let mut people = People::default();
    // BoxVault may tell names apart by case alone: the first one has it, or one would get what is another's.
    let (mut users, mut organizations) = (HashSet::new(), HashSet::new());
    for row in &dump.users {
        let Some(id) = row.number("id") else { continue };
        if let Some(name) = taken(row.text("username"), &mut users) {
            report.left(format!("user {name:?}"), OTHER_LETTERS).await;
            continue;
        }
        let is_admin = dump
            .roles
            .get(&id)
            .is_some_and(|roles| roles.contains("admin"));
        if let Some(account) = user(vault, metadata, (row, is_admin), report).await? {
            people.accounts.insert(id, account);
        }
    }
    for row in &dump.organizations {
        let Some(id) = row.number("id") else { continue };
        if let Some(name) = taken(row.text("name"), &mut organizations) {
            let what = format!("organization {name:?}");
            report.left(what, OTHER_LETTERS).await;
            continue;
        }
        let gone = report.imported.gone;
        match organization(vault, metadata, (dump, row, &people), report).await? {
            Some(place) => {
                people.organizations.insert(id, place);
            }
            None if report.imported.gone > gone => {
                let name = row.text("name").unwrap_or_default();
                people.gone.insert(id, name.to_owned());
            }
            None => {}
        }
    }
    memberships(metadata, dump, &people, report).await?;
    for row in &dump.keys {
        key(metadata, row, &people, report).await?;
    }
    Ok(people)
}

/// The name, where another row had it before in whatever letters.
fn taken<'n>(name: Option<&'n str>, seen: &mut HashSet<String>) -> Option<&'n str> {
    name.filter(|name| !seen.insert(name.to_lowercase()))
}

/// An account. It is made unable to sign in first, so that a run that is cut leaves nobody with more than is theirs.
async fn user(
    vault: &Vault,
    metadata: &Metadata,
    (row, is_admin): (&Row, bool),
    report: &mut Report<'_>,
) -> Result<Option<Account>, String> {
    let username = row.text("username").unwrap_or_default();
    let what = format!("user {username:?}");
    if let Err(error) = username.parse::<OrganizationName>() {
        report.left(what, no_such_user(&error)).await;
        return Ok(None);
    }
    let item = boxes::item("user", &username.to_lowercase());
    let there = metadata.account_by_username(username).await;
    let account = match there.map_err(unanswered)? {
        Some(there) if there.password_hash.is_some() || there.created != there.updated => {
            report.note(&item).await?;
            return Ok(Some(there));
        }
        Some(cut) => cut,
        None if report.is_gone(&item) => return Ok(None),
        None => {
            let new = NewAccount {
                username: username.to_owned(),
                email: row.owned("email"),
                password_hash: None,
                role: PlatformRole::User,
                membership: None,
                by: vault.actor.clone(),
            };
            report.imported.rows += 1;
            metadata.create_account(new).await.map_err(unanswered)?
        }
    };
    let stored = row.owned("password");
    let usable = stored.clone().filter(|hash| password::is_usable(hash));
    if usable.is_none() {
        let why = no_password(stored.as_deref());
        report.left(format!("password of {what}"), why).await;
    }
    let is_unverified = row.flag("verified") == Some(false);
    if is_unverified {
        let why = "it never confirmed its e-mail address: it is brought, and suspended";
        report.left(what, why).await;
    }
    let change = AccountChange {
        name: row.owned("name"),
        email: row.owned("email"),
        password_hash: usable,
        role: is_admin.then_some(PlatformRole::Admin),
        suspended: Some(is_unverified || row.flag("suspended") == Some(true)),
    };
    let changed = metadata.update_account(account.id, change).await;
    let changed = changed.map_err(unanswered)?;
    report.note(&item).await?;
    Ok(Some(changed))
}

/// Why nobody here can be named so, and what to do.
fn no_such_user(error: &NameError) -> String {
    format!(
        "nobody here can have that name, which {}: rename it where it is and bring it then, or make an account for it \
         (POST /api/admin/users)",
        error.rule
    )
}

/// Why a password was not taken over, and what to do. Nothing of it is told but the name of its form.
fn no_password(stored: Option<&str>) -> String {
    let why = match stored {
        None => "it has none there, as it signed in by another service".to_owned(),
        Some(text) => {
            let form = text
                .strip_prefix('$')
                .and_then(|text| text.split('$').next());
            let is_word = |form: &&str| {
                (1..=16).contains(&form.len())
                    && form.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            };
            match form.filter(is_word) {
                Some(form) if ["2a", "2b", "2x", "2y"].contains(&form) => {
                    "it is no whole bcrypt, or one that takes too long to compare".to_owned()
                }
                Some(form) => format!("it is kept as {form}, and only bcrypt can be compared here"),
                None => {
                    "it is kept in an unknown form, and only bcrypt can be compared here".to_owned()
                }
            }
        }
    };
    format!("{why}: give the account one (PUT /api/admin/users/NAME with \"password\")")
}

async fn organization(
    vault: &Vault,
    metadata: &Metadata,
    (dump, row, people): (&Dump, &Row, &People),
    report: &mut Report<'_>,
) -> Result<Option<Place>, String> {
    let text = row.text("name").unwrap_or_default();
    let what = format!("organization {text:?}");
    let name: OrganizationName = match text.parse() {
        Ok(name) => name,
        Err(error) => {
            report.left(what, error.to_string()).await;
            return Ok(None);
        }
    };
    if vault.reserved.contains(&name.folded()) {
        let why = "its name is the first word of a route: rename it where it is, and bring it then";
        report.left(what, why).await;
        return Ok(None);
    }
    let item = boxes::item("organization", &name.folded());
    let there = metadata.organization(&name).await.map_err(unanswered)?;
    // One that was cut before it was changed to what it is to be.
    let is_cut = |there: &Organization| there.created == there.updated;
    let (made, owner) = if let Some(there) = there {
        let (id, owner) = match administered(metadata, &name).await {
            Ok(place) => place,
            Err(why) => {
                report.left(what, why).await;
                return Ok(None);
            }
        };
        if !is_cut(&there) {
            report.note(&item).await?;
            return Ok(Some(Place { id, name, owner }));
        }
        (there, owner)
    } else if report.is_gone(&item) {
        return Ok(None);
    } else {
        let Some(owner) = owner(dump, row, people) else {
            report.left(what, "nobody administers it").await;
            return Ok(None);
        };
        let made = metadata.create_organization(&name, row.text("description"), owner);
        let made = made.await.map_err(unanswered)?;
        report.imported.rows += 1;
        (made, owner)
    };
    let modes = ["private", "invite_only", "request_to_join"];
    let change = OrganizationChange {
        name: None,
        description: None,
        email: row.owned("email"),
        org_code: row.owned("org_code"),
        access_mode: row
            .owned("access_mode")
            .filter(|m| modes.contains(&m.as_str())),
        default_role: Some(OrganizationRole::Member),
        suspended: row.flag("suspended"),
    };
    let changed = metadata.update_organization(made.id, change).await;
    changed.map_err(unanswered)?;
    report.note(&item).await?;
    Ok(Some(Place {
        id: made.id,
        name: made.name,
        owner,
    }))
}

/// Who owns an organization; else who administers it, else whoever administers everything.
fn owner(dump: &Dump, row: &Row, people: &People) -> Option<AccountId> {
    let id = row.number("id");
    let of = |role: &str| {
        let mut members = dump.memberships.iter();
        let found =
            members.find(|m| m.number("organization_id") == id && m.text("role") == Some(role));
        people.account(found?.number("user_id"))
    };
    let admin = || {
        let mut accounts: Vec<&Account> = people.accounts.values().collect();
        accounts.sort_by_key(|account| account.id);
        let mut admins = accounts.into_iter();
        admins
            .find(|account| account.role == PlatformRole::Admin)
            .map(|account| account.id)
    };
    of("owner").or_else(|| of("admin")).or_else(admin)
}

/// Adds who is missing; nobody's role is changed.
async fn memberships(
    metadata: &Metadata,
    dump: &Dump,
    people: &People,
    report: &mut Report<'_>,
) -> Result<(), String> {
    let mut known: HashMap<OrganizationId, HashSet<AccountId>> = HashMap::new();
    for row in &dump.memberships {
        let account = people.account(row.number("user_id"));
        let place = row
            .number("organization_id")
            .and_then(|id| people.organizations.get(&id));
        // Who or what was not brought is told already.
        let (Some(account), Some(place)) = (account, place) else {
            continue;
        };
        let text = row.text("role").unwrap_or("member");
        let role = match text {
            "user" => Some(OrganizationRole::Member),
            text => OrganizationRole::from_name(text),
        };
        let Some(role) = role else {
            let what = format!(
                "membership of {} in {}",
                account_name(people, account),
                place.name
            );
            let why = format!("there is no role {text:?} here");
            report.left(what, why).await;
            continue;
        };
        if let std::collections::hash_map::Entry::Vacant(vacant) = known.entry(place.id) {
            let members = metadata.members(place.id).await.map_err(unanswered)?;
            vacant.insert(members.into_iter().map(|m| m.account).collect());
        }
        let members = known.entry(place.id).or_default();
        let member = account_name(people, account).to_lowercase();
        let item = boxes::item("membership", &format!("{}/{member}", place.name.folded()));
        if members.insert(account) {
            if report.is_gone(&item) {
                continue;
            }
            let set = metadata.set_membership(account, place.id, role).await;
            set.map_err(unanswered)?;
            report.imported.rows += 1;
        }
        report.note(&item).await?;
    }
    Ok(())
}

fn account_name(people: &People, id: AccountId) -> &str {
    let mut accounts = people.accounts.values();
    accounts
        .find(|account| account.id == id)
        .map_or("", |account| &account.username)
}

/// The key of a service account, which works on: both keep its SHA-256.
async fn key(
    metadata: &Metadata,
    row: &Row,
    people: &People,
    report: &mut Report<'_>,
) -> Result<(), String> {
    let name = row.text("username").unwrap_or_default();
    let what = format!("service account {name:?}");
    let item = boxes::item("key", &name.to_lowercase());
    let there = metadata.service_account(name).await.map_err(unanswered)?;
    if there.is_none() && report.is_gone(&item) {
        return Ok(());
    }
    let hash = row.text("token").and_then(|hex| {
        let mut hash = [0; 32];
        hex::decode_to_slice(hex, &mut hash).ok()?;
        Some(hash)
    });
    let expires = match (row.text("expiresAt"), row.time("expiresAt")) {
        (Some(_), None) => {
            report.left(what, "it is not known when it ends").await;
            return Ok(());
        }
        (_, expires) => expires,
    };
    let account = people.account(row.number("userId"));
    let place = row
        .number("organization_id")
        .and_then(|id| people.organizations.get(&id));
    let why = match (hash, account, place) {
        _ if name.is_empty() => "it has no name",
        (None, _, _) => "its key is not kept as a SHA-256",
        (_, None, _) => "its owner was not brought",
        (_, _, None) => "it is of no organization that was brought",
        (Some(hash), Some(account), Some(place)) => {
            if expires.is_some_and(|ends| ends <= SystemClock.now()) {
                report.left(what, "its key has expired").await;
                return Ok(());
            }
            match there {
                Some((_, known, _)) if known == hash => return report.note(&item).await,
                Some(_) => "another service account has its name",
                None => {
                    let new = NewToken {
                        kind: TokenKind::Service,
                        hash,
                        account,
                        organization: Some(place.id),
                        name: Some(name.to_owned()),
                        description: row.owned("description"),
                        expires,
                    };
                    match metadata.create_token(new).await {
                        Ok(_) => {
                            report.imported.rows += 1;
                            return report.note(&item).await;
                        }
                        Err(error) if is_conflict(&error) => "another credential is the same key",
                        Err(error) => return Err(unanswered(error)),
                    }
                }
            }
        }
    };
    report.left(what, why).await;
    Ok(())
}

fn is_conflict(error: &Error) -> bool {
    error.kind() == ErrorKind::Conflict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_why_a_password_or_a_name_is_not_taken_over_and_nothing_of_the_password() {
        for (stored, why) in [
            (None, "it signed in by another service"),
            (Some("$argon2id$v=19$m=1$secret"), "kept as argon2id,"),
            (Some("$2b$99$secret"), "no whole bcrypt"),
            (Some("secret"), "unknown form"),
            (Some("$secret secret$"), "unknown form"),
            (Some("$"), "unknown form"),
        ] {
            let told = no_password(stored);
            assert!(
                told.contains(why) && told.contains("/api/admin/users"),
                "{told}"
            );
            assert!(!told.contains("secret"), "{told}");
        }
        let error = "eve o'dd".parse::<OrganizationName>().unwrap_err();
        let told = no_such_user(&error);
        assert!(told.contains("must consist of letters"), "{told}");
        assert!(
            !told.contains("organization") && told.contains("rename it"),
            "{told}"
        );
    }
}
