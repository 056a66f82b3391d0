//! The one table of routes: what there is, who may call it, and what its body is.
//!
//! A route exists only as a row of [`ROUTES`]; a row cannot be written without a policy, and dispatch
//! is an exhaustive match on [`Route`], so an operation without a decision does not build.

mod operation;
mod router;
mod table;

use http::Method;

pub use operation::Route;
pub use router::{Found, PathNames, Router, free_box_name};
pub use table::ROUTES;

/// One public API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Door {
    /// BoxVault's API, as its guide and its code have it.
    BoxVault,
    /// What Vagrant reads: metadata and box files.
    Vagrant,
    /// Vagrant Cloud's API, by which boxes are published.
    VagrantCloud,
    /// Resumable uploads: tus and the IETF's protocol.
    Files,
    /// Blobs under the URLs of their digests.
    Blobs,
    /// Webhooks that come in for plugins.
    Hooks,
    /// Adapters to clouds, which plugins serve.
    Providers,
    /// Images of runtimes.
    Runtime,
    /// A tree of boxes that is served where it is.
    Boxitory,
    /// Health, status, metrics.
    Operations,
    /// Our own administrative API; never prefixed.
    Admin,
    /// What browsers are shown.
    Page,
}

impl Door {
    /// All of them.
    pub const EACH: [Self; 12] = [
        Self::BoxVault,
        Self::Vagrant,
        Self::VagrantCloud,
        Self::Files,
        Self::Blobs,
        Self::Hooks,
        Self::Providers,
        Self::Runtime,
        Self::Boxitory,
        Self::Operations,
        Self::Admin,
        Self::Page,
    ];

    /// Its name, as the configuration has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BoxVault => "boxvault",
            Self::Vagrant => "vagrant",
            Self::VagrantCloud => "vagrant_cloud",
            Self::Files => "files",
            Self::Blobs => "blobs",
            Self::Hooks => "hooks",
            Self::Providers => "providers",
            Self::Runtime => "runtime",
            Self::Boxitory => "boxitory",
            Self::Operations => "operations",
            Self::Admin => "admin",
            Self::Page => "page",
        }
    }
}

/// Some of the doors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoorSet(u16);

impl DoorSet {
    /// Each door.
    pub const ALL: Self = Self(u16::MAX);
    /// Those of these names; each where none is named.
    ///
    /// # Errors
    /// The name that no door has.
    pub fn named(names: &[String]) -> Result<Self, &str> {
        if names.is_empty() {
            return Ok(Self::ALL);
        }
        let mut doors = 0;
        for name in names {
            let door = Door::EACH.into_iter().find(|door| door.name() == name);
            let Some(door) = door else { return Err(name) };
            doors |= Self::only(door).0;
        }
        Ok(Self(doors))
    }

    /// One door and no other.
    pub const fn only(door: Door) -> Self {
        Self(1 << door as u16)
    }

    /// Whether it is one of them.
    pub const fn contains(self, door: Door) -> bool {
        self.0 & Self::only(door).0 != 0
    }
}

/// Who may call a row. Anything finer (may this caller read that box?) is decided with the row's
/// names at hand in `auth::authorize`, from this value alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Anyone; a credential is not even looked at.
    Public,
    /// Anyone; a credential widens what is seen.
    Optional,
    /// As `Optional`, but a bad credential is refused instead of ignored.
    OptionalStrict,
    /// Who may read the box named in the path: anyone if it is public, else members.
    ReadBox,
    /// Who may read the blob whose digest stands in the path: anyone if a public box holds it, else
    /// members of an organization of which a box or a finished upload holds it.
    ReadBlob,
    /// Who may read the ISO image named in the path: anyone if it is public, else members.
    ReadIso,
    /// Any valid credential.
    Credential,
    /// A person: service accounts are refused.
    Person,
    /// A member of the organization in the path.
    Member,
    /// As `Member`, and a person: a leaked key of a script must not list or change people.
    MemberPerson,
    /// Who may change the box in the path: its maker, or an administrator of the organization.
    EditBox,
    /// As `EditBox`, and any member where the box does not exist yet.
    PublishBox,
    /// An administrator of the organization in the path, or of the platform; a person.
    OrganizationAdmin,
    /// The owner of the organization in the path, or an administrator of the platform; a person.
    OrganizationOwner,
    /// An administrator of the organization in the path who is a member of it; a person. Who may not read for an
    /// organization does not publish for it.
    ManageIsos,
    /// An administrator of the platform.
    PlatformAdmin,
    /// An administrator of the platform or of any organization; a person. The door shows no more than
    /// what they administer.
    AnyAdmin,
    /// An administrator of the organization of the upload in the path, or of the platform; a person.
    UploadAdmin,
    /// Loopback, the networks of `operations.allow`, or an administrator of the platform.
    Operations,
}

/// What a request's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// None; one that comes is not read.
    Empty,
    /// A small JSON document.
    Json,
    /// A small document of any kind.
    Small,
    /// A box.
    Upload,
}

/// Which requests compete with which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Small reads and writes.
    Control,
    /// Bodies in.
    Upload,
    /// Bodies out.
    Download,
    /// Probes and scrapes.
    Operations,
}

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    /// Which API it belongs to.
    pub door: Door,
    /// The method; GET rows answer HEAD too, unless that has a row of its own.
    pub method: Method,
    /// Path below the door's prefix, with `{names}`.
    pub path: &'static str,
    /// What it does.
    pub route: Route,
    /// Who may call it.
    pub policy: Policy,
    /// What its body is.
    pub body: BodyKind,
    /// Which requests it competes with.
    pub class: Class,
    /// One line for people.
    pub doc: &'static str,
}
