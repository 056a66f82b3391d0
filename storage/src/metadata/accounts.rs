//! People and organizations: who there is, and who belongs where.
//!
//! Each method that takes `actor` writes an `audit` row in the same transaction, and the events of the
//! contract (`user.created`, `user.deleted`, `box.deleted`) go into the outbox.

mod members;
pub(super) mod organizations;
mod people;

use crate::catalog::OrganizationName;
use crate::clock::UnixMillis;

pub(super) use people::{account_columns, account_of};

macro_rules! row_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub i64);
    };
}
pub(crate) use row_id;

row_id! {
    /// Row id of an account.
    AccountId
}
row_id! {
    /// Row id of an organization, the tenant of everything it owns.
    OrganizationId
}

/// What an account may do on the platform as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlatformRole {
    /// Nothing beyond its organizations.
    User,
    /// Administer users, organizations and operations; no data-plane rights by itself.
    Admin,
}

impl PlatformRole {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }

    pub(super) fn from_name(text: &str) -> Option<Self> {
        [Self::User, Self::Admin]
            .into_iter()
            .find(|r| r.as_str() == text)
    }
}

/// What a member may do within an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OrganizationRole {
    /// Read private boxes, create boxes, change those it created.
    Member,
    /// Change every box.
    Admin,
    /// Delete the organization.
    Owner,
}

impl OrganizationRole {
    /// `member`, `admin` or `owner`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// From its name.
    pub fn from_name(text: &str) -> Option<Self> {
        [Self::Member, Self::Admin, Self::Owner]
            .into_iter()
            .find(|r| r.as_str() == text)
    }
}

/// A person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Row id.
    pub id: AccountId,
    /// Unique without case.
    pub username: String,
    /// Display name.
    pub name: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
    /// Password hash in PHC form; `None` cannot sign in with a password.
    pub password_hash: Option<String>,
    /// Platform role.
    pub role: PlatformRole,
    /// Suspended accounts may do nothing.
    pub suspended: bool,
    /// When it was made.
    pub created: UnixMillis,
    /// When it was last changed.
    pub updated: UnixMillis,
}

/// A new person.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// Same grammar as every name; checked by the caller through `OrganizationName`.
    pub username: String,
    /// E-mail address.
    pub email: Option<String>,
    /// Password hash in PHC form.
    pub password_hash: Option<String>,
    /// Platform role.
    pub role: PlatformRole,
    /// The organization that it belongs to from the start.
    pub membership: Option<(OrganizationId, OrganizationRole)>,
    /// Who makes it; empty when nobody in particular does.
    pub by: String,
}

/// Changes to an account; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct AccountChange {
    /// Display name.
    pub name: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
    /// Password hash in PHC form.
    pub password_hash: Option<String>,
    /// Platform role.
    pub role: Option<PlatformRole>,
    /// Suspension.
    pub suspended: Option<bool>,
}

/// An owner of boxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organization {
    /// Row id.
    pub id: OrganizationId,
    /// Unique without case.
    pub name: OrganizationName,
    /// E-mail address.
    pub email: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// BoxVault's `org_code`, such as `B00001`.
    pub org_code: Option<String>,
    /// `private`, `invite_only` or `request_to_join`: whether discovery shows it.
    pub access_mode: String,
    /// Role of those who join.
    pub default_role: OrganizationRole,
    /// Stored for BoxVault's clients; not consulted on the byte path.
    pub suspended: bool,
    /// When it was made.
    pub created: UnixMillis,
    /// When it was last changed.
    pub updated: UnixMillis,
}

/// Changes to an organization; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct OrganizationChange {
    /// New name.
    pub name: Option<OrganizationName>,
    /// Description.
    pub description: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
    /// `org_code`.
    pub org_code: Option<String>,
    /// Access mode.
    pub access_mode: Option<String>,
    /// Role of those who join.
    pub default_role: Option<OrganizationRole>,
    /// Suspension.
    pub suspended: Option<bool>,
}

/// That an account belongs to an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Who.
    pub account: AccountId,
    /// Name of the account.
    pub username: String,
    /// Where.
    pub organization: OrganizationId,
    /// Name of the organization.
    pub organization_name: OrganizationName,
    /// As what.
    pub role: OrganizationRole,
    /// Whether it is the account's first organization.
    pub primary: bool,
    /// Since when.
    pub joined: UnixMillis,
}
