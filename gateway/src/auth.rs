//! Who is asking, and whether they may: credentials to a [`Principal`], policies to a yes or no.
//!
//! Authorization is never cached with a blob and never decided twice: a door acts on what
//! [`authorize`] returned.

pub mod cookie;
pub mod credential;
pub mod link;
pub mod link_keys;
pub mod master_key;
pub mod origin;
pub mod password;

use boxgate_storage::catalog::{BoxName, OrganizationName};
use boxgate_storage::digest::{Blake3, Sha256};
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::accounts::{
    Account, AccountId, Membership, Organization, OrganizationId, OrganizationRole, PlatformRole,
};
use boxgate_storage::metadata::catalog::{
    BlobDigest, BoxRow, BoxTree, HeldBlob, Iso, IsoId, VersionRow, VersionStatus,
};
use boxgate_storage::metadata::recent::Moment;
use boxgate_storage::metadata::tokens::{Token, TokenId, TokenKind};
use boxgate_storage::metadata::uploads::{NamedUpload, Sender, Target};
use http::StatusCode;

use crate::refusal::Refusal;
use crate::route::{PathNames, Policy};

pub use credential::Credential;

/// An account as it acts in one request.
#[derive(Debug, Clone)]
pub struct Principal {
    /// On whose behalf.
    pub account: Account,
    /// By which credential.
    pub token: Token,
    /// Where it belongs, already narrowed to the credential's organization.
    pub memberships: Vec<Membership>,
}

impl Principal {
    /// The name under which it acts: the service account's, else the person's.
    pub fn name(&self) -> &str {
        match (self.is_service(), &self.token.name) {
            (true, Some(name)) => name,
            _ => &self.account.username,
        }
    }

    /// Whose uploads it goes on with: a service account only its own, by whichever key or session.
    pub fn sender(&self) -> Sender {
        Sender {
            account: self.account.id,
            // A session that does not say which key made it is no person's, either.
            service: self
                .is_service()
                .then(|| self.token.name.clone().unwrap_or_default()),
        }
    }

    /// Whether a service account acts, by its key or by a session made with it.
    pub fn is_service(&self) -> bool {
        self.token.kind == TokenKind::Service
            || (self.token.kind == TokenKind::Session && self.token.organization.is_some())
    }

    /// Its role in an organization.
    pub fn role_in(&self, organization: OrganizationId) -> Option<OrganizationRole> {
        self.memberships
            .iter()
            .find(|m| m.organization == organization)
            .map(|m| m.role)
    }

    /// Whether it may administer the platform; a service account never may.
    pub fn is_platform_admin(&self) -> bool {
        self.account.role == PlatformRole::Admin && !self.is_service()
    }

    /// Whether it may administer an organization's people and uploads; a service account never may.
    pub fn administers(&self, organization: OrganizationId) -> bool {
        let role = self.role_in(organization);
        self.is_platform_admin()
            || (!self.is_service() && role.is_some_and(|role| role >= OrganizationRole::Admin))
    }

    /// Whether it may read a box.
    pub fn may_read(&self, row: &BoxRow) -> bool {
        row.fields.public || self.role_in(row.organization).is_some()
    }

    /// Whether it may change a box.
    pub fn may_edit(&self, row: &BoxRow) -> bool {
        match self.role_in(row.organization) {
            Some(OrganizationRole::Admin | OrganizationRole::Owner) => true,
            Some(OrganizationRole::Member) => row.account == self.account.id,
            None => false,
        }
    }
}

/// Whether a listing shows a box. An unpublished one is listed to its maker alone, however readable it is by its name.
pub fn is_listed(principal: Option<&Principal>, row: &BoxRow) -> bool {
    match principal {
        None => row.fields.public && row.fields.published,
        Some(p) => p.may_read(row) && (row.fields.published || row.account == p.account.id),
    }
}

/// Whether a version is the caller's to see: one that is not released, or was revoked, is its organization's business.
pub fn sees(
    principal: Option<&Principal>,
    organization: OrganizationId,
    version: &VersionRow,
) -> bool {
    version.status == VersionStatus::Active
        || principal.is_some_and(|p| p.role_in(organization).is_some())
}

/// The box without what is not the caller's to see of it.
pub fn shown(principal: Option<&Principal>, mut tree: BoxTree) -> BoxTree {
    let organization = tree.row.organization;
    tree.versions
        .retain(|v| sees(principal, organization, &v.row));
    tree
}

/// A request that acts by the token that asked for its URL: in its extensions.
#[derive(Debug, Clone, Copy)]
pub struct ByTokenOf(pub TokenId);

/// What a policy found out on its way to yes, so that no door looks it up again.
#[derive(Debug, Default)]
pub struct Grant {
    /// When it was asked for: what is found out is at least as new.
    pub since: Option<Moment>,
    /// Who is asking, if anyone.
    pub principal: Option<Principal>,
    /// The organization named in the path.
    pub organization: Option<Organization>,
    /// The box named in the path, if it exists.
    pub row: Option<BoxRow>,
    /// The upload named in the path.
    pub upload: Option<Box<NamedUpload>>,
    /// The blob whose digest stands in the path.
    pub blob: Option<HeldBlob>,
    /// The ISO image named in the path.
    pub iso: Option<Box<Iso>>,
}

impl Grant {
    /// The right to read one blob, whoever asks.
    pub fn of_blob(blob: HeldBlob) -> Self {
        Self {
            blob: Some(blob),
            ..Self::default()
        }
    }
}

/// The account behind a credential; `None` when it is unknown, expired or revoked.
///
/// # Errors
/// When the database does not answer, and 403 for a suspended account.
pub async fn authenticate(
    metadata: &Metadata,
    credential: &Credential,
) -> Result<Option<Principal>, Refusal> {
    let Some((token, account)) = metadata.token_by_hash(&credential.hash()).await? else {
        return Ok(None);
    };
    if !credential.names(&token, &account) {
        return Ok(None);
    }
    principal_of(metadata, token, account).await.map(Some)
}

/// The account behind a credential that is known by its hash alone; the name that came with it was
/// compared before.
///
/// # Errors
/// As [`authenticate`].
pub async fn authenticate_hash(
    metadata: &Metadata,
    hash: &[u8; 32],
) -> Result<Option<Principal>, Refusal> {
    match metadata.token_by_hash(hash).await? {
        Some((token, account)) => principal_of(metadata, token, account).await.map(Some),
        None => Ok(None),
    }
}

/// The account behind a token that is known by its row alone; `None` once it ended.
///
/// # Errors
/// As [`authenticate`].
pub async fn authenticate_id(
    metadata: &Metadata,
    id: TokenId,
) -> Result<Option<Principal>, Refusal> {
    match metadata.token_by_id(id).await? {
        Some((token, account)) => principal_of(metadata, token, account).await.map(Some),
        None => Ok(None),
    }
}

async fn principal_of(
    metadata: &Metadata,
    token: Token,
    account: Account,
) -> Result<Principal, Refusal> {
    if account.suspended {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "This account is suspended.",
        ));
    }
    let mut memberships = metadata.memberships(account.id).await?;
    if let Some(only) = token.organization {
        memberships.retain(|m| m.organization == only);
    }
    Ok(Principal {
        account,
        token,
        memberships,
    })
}

/// Ends the sessions of an account, all or those made with one service account's key: whoever holds one
/// has to sign in again.
///
/// # Errors
/// When the database does not answer.
pub async fn end_sessions(
    metadata: &Metadata,
    account: AccountId,
    made_with: Option<&Token>,
) -> Result<(), Refusal> {
    for session in metadata.tokens(account, TokenKind::Session).await? {
        let wanted = made_with.is_none_or(|key| session.name.is_some() && session.name == key.name);
        if wanted {
            metadata.delete_token(session.id, account).await?;
        }
    }
    Ok(())
}

/// Answers a credential that is missing, as BoxVault does.
pub fn no_token() -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "No token provided!")
}

/// Answers a credential that is missing where no client of BoxVault's calls (RFC 9110 §15.5.2).
pub fn no_credential() -> Refusal {
    Refusal::new(
        StatusCode::UNAUTHORIZED,
        "This needs a credential: Authorization: Bearer TOKEN, or x-access-token: TOKEN.",
    )
    .code("NO_CREDENTIAL")
}

/// Answers a credential that is bad, expired or revoked, as BoxVault does.
pub fn bad_token() -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized!").code("TOKEN_INVALID")
}

/// Whether `policy` lets this caller through to what the path names.
///
/// `operator_network`: whether the client's address is one that operators call from.
/// Absent and forbidden look alike: who may not read a box gets the answer for an absent one.
///
/// # Errors
/// The refusal to send, its status already right for every door.
pub async fn authorize(
    metadata: &Metadata,
    policy: Policy,
    principal: Option<Principal>,
    names: &PathNames,
    operator_network: bool,
) -> Result<Grant, Refusal> {
    let mut grant = Grant {
        since: Some(metadata.moment()),
        principal,
        ..Grant::default()
    };
    match policy {
        Policy::Public | Policy::Optional | Policy::OptionalStrict => {}
        Policy::Operations => {
            let admin = grant
                .principal
                .as_ref()
                .is_some_and(Principal::is_platform_admin);
            if !operator_network && !admin {
                return Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    "This answers loopback, the networks of operations.allow, and administrators.",
                ));
            }
        }
        Policy::Credential => drop(required(&grant)?),
        Policy::Person => drop(person(&grant)?),
        Policy::PlatformAdmin => {
            if !person(&grant)?.is_platform_admin() {
                return Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    "Only an administrator of the platform may do this.",
                ));
            }
        }
        Policy::AnyAdmin => {
            let principal = person(&grant)?;
            let mut memberships = principal.memberships.iter();
            let any = memberships.any(|m| principal.administers(m.organization));
            if !any && !principal.is_platform_admin() {
                return Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    "Only an administrator of the platform or of an organization may do this.",
                ));
            }
        }
        Policy::UploadAdmin => administer_upload(metadata, &mut grant, names).await?,
        Policy::Member => in_organization(metadata, &mut grant, names, Needs::Membership).await?,
        Policy::MemberPerson => {
            person(&grant)?;
            in_organization(metadata, &mut grant, names, Needs::Membership).await?;
        }
        Policy::OrganizationAdmin => {
            person(&grant)?;
            let needs = Needs::RoleOrPlatform(OrganizationRole::Admin);
            in_organization(metadata, &mut grant, names, needs).await?;
        }
        Policy::OrganizationOwner => {
            person(&grant)?;
            let needs = Needs::RoleOrPlatform(OrganizationRole::Owner);
            in_organization(metadata, &mut grant, names, needs).await?;
        }
        Policy::ManageIsos => {
            person(&grant)?;
            let needs = Needs::Role(OrganizationRole::Admin);
            in_organization(metadata, &mut grant, names, needs).await?;
        }
        Policy::ReadBox => read_box(metadata, &mut grant, names).await?,
        Policy::ReadBlob => read_blob(metadata, &mut grant, names).await?,
        Policy::ReadIso => read_iso(metadata, &mut grant, names).await?,
        Policy::EditBox | Policy::PublishBox => {
            let may_make = policy == Policy::PublishBox;
            change_box(metadata, &mut grant, names, may_make).await?;
        }
    }
    Ok(grant)
}

/// What a path names, whoever may use it; `None` where that is not there.
///
/// # Errors
/// When the database does not answer, or a name is none.
pub async fn named(
    metadata: &Metadata,
    policy: Policy,
    principal: Option<Principal>,
    names: &PathNames,
) -> Result<Option<Grant>, Refusal> {
    let (organization, row) = box_of(metadata, names, |_| true).await?;
    let is_there = match policy {
        Policy::ReadBox | Policy::EditBox => row.is_some(),
        Policy::PublishBox => organization.is_some(),
        _ => false,
    };
    Ok(is_there.then(|| Grant {
        principal,
        organization,
        row,
        ..Grant::default()
    }))
}

/// Whoever sent a request, once more: a credential may have been revoked while the bytes came in.
///
/// # Errors
/// The refusal to send.
pub async fn sender_again(
    metadata: &Metadata,
    head: &http::request::Parts,
    sender: &Sender,
) -> Result<Principal, Refusal> {
    let principal = if let Some(ByTokenOf(id)) = head.extensions.get() {
        authenticate_id(metadata, *id).await?
    } else {
        let credential = Credential::find(&head.headers, head.uri.query());
        authenticate(metadata, &credential.ok_or_else(no_token)?).await?
    };
    principal
        .filter(|p| p.sender() == *sender)
        .ok_or_else(bad_token)
}

/// What an upload becomes, as far as rights go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Becomes<'a> {
    /// The file of a box of that name.
    Box(&'a str),
    /// An ISO image.
    Iso,
    /// A blob without a name.
    Blob,
}

impl<'a> Becomes<'a> {
    /// What one to that target becomes.
    pub fn of(target: Option<&'a Target>) -> Self {
        match target {
            Some(target) if target.iso.is_some() => Self::Iso,
            Some(target) => Self::Box(&target.box_name),
            None => Self::Blob,
        }
    }
}

/// Whether a principal may publish that into an organization.
///
/// # Errors
/// The refusal to send.
pub async fn may_publish(
    metadata: &Metadata,
    principal: Principal,
    organization: OrganizationId,
    what: Becomes<'_>,
) -> Result<(), Refusal> {
    let organization = metadata
        .organization_by_id(organization)
        .await?
        .ok_or_else(|| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "The organization was deleted while the upload came in. Nothing was published.",
            )
            .code("NOT_FOUND")
        })?;
    let organization = organization.name.to_string();
    let (policy, names) = match what {
        Becomes::Box(name) => (
            Policy::PublishBox,
            PathNames::of([("org", organization), ("box", name.to_owned())]),
        ),
        Becomes::Iso => (Policy::ManageIsos, PathNames::of([("org", organization)])),
        Becomes::Blob => (Policy::Member, PathNames::of([("org", organization)])),
    };
    authorize(metadata, policy, Some(principal), &names, false)
        .await
        .map(drop)
}

/// What one must be in an organization. Administrators of the platform stand in for a role where that is said, never
/// for a membership.
#[derive(Clone, Copy)]
enum Needs {
    Membership,
    /// This role or one above it.
    Role(OrganizationRole),
    RoleOrPlatform(OrganizationRole),
}

async fn in_organization(
    metadata: &Metadata,
    grant: &mut Grant,
    names: &PathNames,
    needs: Needs,
) -> Result<(), Refusal> {
    let principal = required(grant)?;
    let organization = organization(metadata, names).await?;
    let held = principal.role_in(organization.id);
    let needed = match needs {
        Needs::RoleOrPlatform(_) if principal.is_platform_admin() => None,
        Needs::Membership | Needs::Role(_) if held.is_none() => {
            return Err(not_a_member(&organization));
        }
        Needs::Membership => None,
        Needs::Role(role) | Needs::RoleOrPlatform(role) => Some(role),
    };
    if let Some(needed) = needed
        && held.is_none_or(|held| held < needed)
    {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "This needs the role '{}' in organization '{}'.",
                needed.as_str(),
                organization.name
            ),
        ));
    }
    grant.organization = Some(organization);
    Ok(())
}

async fn administer_upload(
    metadata: &Metadata,
    grant: &mut Grant,
    names: &PathNames,
) -> Result<(), Refusal> {
    let principal = person(grant)?;
    let upload = match names.value("upload").parse() {
        Ok(id) => metadata.named_upload(id).await?,
        Err(_malformed) => None,
    };
    let upload = upload.filter(|upload| principal.administers(upload.row.organization));
    // The one answer for an upload that does not exist or is none of the caller's business.
    let upload = upload.ok_or_else(|| {
        let text = "This upload does not exist, or you may not administer it.";
        Refusal::new(StatusCode::NOT_FOUND, text).code("NOT_FOUND")
    })?;
    grant.upload = Some(Box::new(upload));
    Ok(())
}

async fn read_box(
    metadata: &Metadata,
    grant: &mut Grant,
    names: &PathNames,
) -> Result<(), Refusal> {
    let principal = grant.principal.as_ref();
    let is_member = |organization| principal.is_some_and(|p| p.role_in(organization).is_some());
    let (organization, row) = box_of(metadata, names, is_member).await?;
    let readable = row.as_ref().is_some_and(|row| match &grant.principal {
        Some(principal) => principal.may_read(row),
        None => row.fields.public,
    });
    if !readable {
        return Err(no_box(names));
    }
    (grant.organization, grant.row) = (organization, row);
    Ok(())
}

async fn read_blob(
    metadata: &Metadata,
    grant: &mut Grant,
    names: &PathNames,
) -> Result<(), Refusal> {
    let blake3 = Blake3::from_hex(names.value("b3")).map(BlobDigest::Blake3);
    let digest = blake3.or_else(|| Sha256::from_hex(names.value("sha256")).map(BlobDigest::Sha256));
    let principal = grant.principal.as_ref();
    let reader = principal.map(|p| (p.account.id, p.token.organization));
    let found = match digest {
        Some(digest) => metadata.readable_blob(digest, reader).await?,
        None => None,
    };
    grant.blob = Some(found.ok_or_else(no_blob)?);
    Ok(())
}

async fn read_iso(
    metadata: &Metadata,
    grant: &mut Grant,
    names: &PathNames,
) -> Result<(), Refusal> {
    let found = iso_of(metadata, names).await?;
    let principal = grant.principal.as_ref();
    let may_read =
        |iso: &Iso| iso.public || principal.is_some_and(|p| p.role_in(iso.organization).is_some());
    let iso = found.filter(may_read).ok_or_else(no_iso)?;
    grant.iso = Some(Box::new(iso));
    Ok(())
}

/// The ISO image that a path means, by its name or its id.
///
/// # Errors
/// 400 for what is no name, or when the database does not answer.
pub async fn iso_of(metadata: &Metadata, names: &PathNames) -> Result<Option<Iso>, Refusal> {
    let organization: OrganizationName = names.value("org").parse().map_err(Refusal::name)?;
    match names.value("name") {
        "" => iso_of_id(metadata, &organization, names.value("iso")).await,
        name => {
            let name = name.parse().map_err(Refusal::name)?;
            Ok(metadata.iso_by_name(&organization, &name).await?)
        }
    }
}

/// The ISO image of that id, if it is that organization's.
///
/// # Errors
/// When the database does not answer.
pub async fn iso_of_id(
    metadata: &Metadata,
    organization: &OrganizationName,
    id: &str,
) -> Result<Option<Iso>, Refusal> {
    let Ok(id) = id.parse().map(IsoId) else {
        return Ok(None);
    };
    let found = metadata.iso(id).await?;
    Ok(found.filter(|iso| iso.organization_name.folded() == organization.folded()))
}

/// The one answer for an ISO image that does not exist or is none of the caller's business.
pub fn no_iso() -> Refusal {
    let text = "This ISO image does not exist, or you may not read it.";
    Refusal::new(StatusCode::NOT_FOUND, text).code("NOT_FOUND")
}

async fn change_box(
    metadata: &Metadata,
    grant: &mut Grant,
    names: &PathNames,
    may_make: bool,
) -> Result<(), Refusal> {
    let principal = required(grant)?;
    let is_member = |organization| principal.role_in(organization).is_some();
    let (organization, row) = box_of(metadata, names, is_member).await?;
    let allowed = match (&organization, &row) {
        (_, Some(row)) => principal.may_edit(row),
        (Some(organization), None) => may_make && principal.role_in(organization.id).is_some(),
        (None, None) => false,
    };
    if !allowed {
        let readable = row.as_ref().is_some_and(|row| principal.may_read(row));
        return Err(if readable {
            Refusal::new(
                StatusCode::FORBIDDEN,
                "Only the maker of a box or an administrator of its organization may change it.",
            )
            .code("PERMISSION_DENIED")
        } else if may_make {
            no_organization(names)
        } else {
            no_box(names)
        });
    }
    (grant.organization, grant.row) = (organization, row);
    Ok(())
}

fn required(grant: &Grant) -> Result<&Principal, Refusal> {
    grant.principal.as_ref().ok_or_else(no_token)
}

fn person(grant: &Grant) -> Result<&Principal, Refusal> {
    let principal = required(grant)?;
    if principal.is_service() {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "Service accounts may not do this; sign in as a person.",
        ));
    }
    Ok(principal)
}

async fn organization(metadata: &Metadata, names: &PathNames) -> Result<Organization, Refusal> {
    let name: OrganizationName = names.value("org").parse().map_err(Refusal::name)?;
    metadata
        .organization(&name)
        .await?
        .ok_or_else(|| no_organization(names))
}

/// What a path names, as far as it is to be seen: what is hidden, in organizations alone where that is said.
async fn box_of(
    metadata: &Metadata,
    names: &PathNames,
    sees_hidden: impl FnOnce(OrganizationId) -> bool,
) -> Result<(Option<Organization>, Option<BoxRow>), Refusal> {
    let organization: OrganizationName = names.value("org").parse().map_err(Refusal::name)?;
    let name: BoxName = names.value("box").parse().map_err(Refusal::name)?;
    let Some(organization) = metadata.organization(&organization).await? else {
        return Ok((None, None));
    };
    let row = if sees_hidden(organization.id) {
        metadata.box_row(organization.id, &name).await?
    } else {
        metadata.public_box(organization.id, &name).await?
    };
    Ok((Some(organization), row))
}

fn not_a_member(organization: &Organization) -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        format!(
            "You are not a member of organization '{}'.",
            organization.name
        ),
    )
    .code("PERMISSION_DENIED")
}

/// The one answer for an organization that does not exist or is none of the caller's business.
pub fn no_organization(names: &PathNames) -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        format!(
            "Organization '{}' does not exist, or you may not use it.",
            names.value("org")
        ),
    )
    .code("NOT_FOUND")
}

/// The one answer for a box that does not exist or may not be read.
pub fn no_box(names: &PathNames) -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        format!(
            "Box '{}/{}' does not exist, or you may not read it.",
            names.value("org"),
            names.value("box")
        ),
    )
    .code("NOT_FOUND")
}

/// The one answer for a blob that nobody stored or that may not be read; it repeats nothing of what was
/// asked for.
pub fn no_blob() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "There is no blob with this digest, or you may not read it.",
    )
    .code("NOT_FOUND")
}

/// The account that a download link was made for, with its present memberships; `None` when it is gone
/// or suspended.
///
/// # Errors
/// When the database does not answer.
pub async fn on_behalf_of(
    metadata: &Metadata,
    account: AccountId,
) -> Result<Option<Principal>, Refusal> {
    let Some(account) = metadata.account(account).await?.filter(|a| !a.suspended) else {
        return Ok(None);
    };
    let memberships = metadata.memberships(account.id).await?;
    let token = Token {
        id: TokenId(0),
        kind: TokenKind::Session,
        account: account.id,
        organization: None,
        name: None,
        description: None,
        expires: None,
        created: account.created,
    };
    Ok(Some(Principal {
        account,
        token,
        memberships,
    }))
}
