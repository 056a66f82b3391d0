//! People, organizations, who belongs where, and keys of service accounts. Whoever and whatever is there by a name stays
//! as it is, and is taken for the same.

use std::collections::{HashMap, HashSet};

use boxgate_storage::catalog::OrganizationName;
use boxgate_storage::clock::{Clock as _, SystemClock};
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::accounts::{
    Account, AccountChange, AccountId, NewAccount, Organization, OrganizationChange,
    OrganizationId, OrganizationRole, PlatformRole,
};
use boxgate_storage::metadata::tokens::{NewToken, TokenKind};
use boxgate_storage::{Error, ErrorKind};

use super::super::{Report, administered};
use super::dump::{Dump, Row};
use super::{OTHER_LETTERS, Vault, unanswered};
use crate::auth::password;

/// What rows of the other database are here.
#[derive(Debug, Default)]
pub(super) struct People {
    accounts: HashMap<i64, Account>,
    pub(super) organizations: HashMap<i64, Place>,
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
        if let Some(place) = organization(vault, metadata, (dump, row, &people), report).await? {
            people.organizations.insert(id, place);
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
        report.left(what, error.to_string()).await;
        return Ok(None);
    }
    let there = metadata.account_by_username(username).await;
    let account = match there.map_err(unanswered)? {
        Some(there) if there.password_hash.is_some() || there.created != there.updated => {
            return Ok(Some(there));
        }
        Some(cut) => cut,
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
    let usable = stored.filter(|hash| password::is_usable(hash));
    if usable.is_none() {
        let why = "it has no password that could be taken over (it signed in by another service): give it one";
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
    changed.map(Some).map_err(unanswered)
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
            return Ok(Some(Place { id, name, owner }));
        }
        (there, owner)
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
        if members.insert(account) {
            let set = metadata.set_membership(account, place.id, role).await;
            set.map_err(unanswered)?;
            report.imported.rows += 1;
        }
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
            let there = metadata.service_account(name).await.map_err(unanswered)?;
            match there {
                Some((_, known, _)) if known == hash => return Ok(()),
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
                            return Ok(());
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
