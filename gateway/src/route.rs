//! The one table of routes: what there is, who may call it, and what its body is.
//!
//! A route exists only as a row of [`ROUTES`]; a row cannot be written without a policy, and dispatch
//! is an exhaustive match on [`Route`], so an operation without a decision does not build.

use std::collections::BTreeMap;

use http::Method;

use crate::config::settings::Doors;

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

macro_rules! routes {
    ($($door:ident $method:ident $path:literal => $route:ident, $policy:ident, $body:ident, $class:ident, $doc:literal;)*) => {
        /// Every operation, once per way to spell it.
        pub const ROUTES: &[Row] = &[$(Row {
            door: Door::$door,
            method: Method::$method,
            path: $path,
            route: Route::$route,
            policy: Policy::$policy,
            body: BodyKind::$body,
            class: Class::$class,
            doc: $doc,
        }),*];
    };
}

/// What a row does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each row of ROUTES documents its route")]
pub enum Route {
    SignIn,
    ServiceAccountSignIn,
    SignUp,
    RefreshToken,
    AuthMethods,
    SetupStatus,
    CurrentUser,
    UserOrganizations,
    CreateUser,
    ListUsers,
    ShowUser,
    UpdateUser,
    DeleteUser,
    ListUploads,
    ShowUpload,
    AbortUpload,
    ReleaseUpload,
    AdoptStock,
    CheckStock,
    CollectGarbage,
    ScrubStock,
    CopyStock,
    ImportBoxitory,
    ListLinkKeys,
    RotateLinkKey,
    RevokeLinkKey,
    ListScripts,
    ReloadScripts,
    RollbackScript,
    ListPlugins,
    PushPlugin,
    RemovePlugin,
    ListWebhooks,
    CreateWebhook,
    WebhookEvents,
    ShowWebhook,
    UpdateWebhook,
    DeleteWebhook,
    TestWebhook,
    RotateWebhookSecret,
    FinishWebhookRotation,
    EnableWebhook,
    DisableWebhook,
    ListDeliveries,
    RecoverDeliveries,
    ShowDelivery,
    Redeliver,
    CreateServiceAccount,
    ListServiceAccounts,
    ServiceAccountOrganizations,
    DeleteServiceAccount,
    RotateServiceAccount,
    CreateOrganization,
    ListOrganizations,
    ShowOrganization,
    UpdateOrganization,
    DeleteOrganization,
    SetAccessMode,
    DiscoverOrganizations,
    ListMembers,
    SetMember,
    RemoveMember,
    ListBoxes,
    CreateBox,
    DeleteBoxes,
    ShowBox,
    UpdateBox,
    DeleteBox,
    DiscoverBoxes,
    ListVersions,
    CreateVersion,
    DeleteVersions,
    ShowVersion,
    UpdateVersion,
    DeleteVersion,
    ListProviders,
    CreateProvider,
    DeleteProviders,
    ShowProvider,
    UpdateProvider,
    DeleteProvider,
    ListArchitectures,
    CreateArchitecture,
    DeleteArchitectures,
    ShowArchitecture,
    UpdateArchitecture,
    DeleteArchitecture,
    UploadFile,
    UploadsToFile,
    FileInfo,
    FileLink,
    DownloadFile,
    DeleteFile,
    ListIsos,
    UploadIso,
    UploadsToIso,
    ShowIso,
    UpdateIso,
    DeleteIso,
    DownloadIso,
    IsoLink,
    PublicIsos,
    DiscoverIsos,
    CreateUpload,
    FindUploads,
    UploadOptions,
    UploadOffset,
    UploadStatus,
    AppendUpload,
    PutPart,
    UploadParts,
    DeclareDigest,
    CancelUpload,
    VagrantMetadata,
    VagrantFile,
    VagrantDefaultFile,
    CloudAccount,
    CloudSignIn,
    CloudSignOut,
    CloudSecondFactor,
    CloudOrganization,
    CloudSearch,
    CloudCreateBox,
    CloudShowBox,
    CloudUpdateBox,
    CloudDeleteBox,
    CloudCreateVersion,
    CloudShowVersion,
    CloudUpdateVersion,
    CloudDeleteVersion,
    CloudRelease,
    CloudRevoke,
    CloudCreateProvider,
    CloudShowProvider,
    CloudUpdateProvider,
    CloudDeleteProvider,
    CloudUpload,
    CloudDirectUpload,
    CloudUploaded,
    CloudReceive,
    Blob,
    BlobOutboard,
    InboundWebhook,
    AdapterMeta,
    AdapterCatalog,
    AdapterVerify,
    AdapterOpenApi,
    AdapterSwagger,
    AdapterListKeys,
    AdapterCreateKey,
    AdapterShowKey,
    AdapterDeleteKey,
    AdapterListServers,
    AdapterCreateServer,
    AdapterShowServer,
    AdapterCancel,
    AdapterInstallKey,
    AdapterReboot,
    AdapterRename,
    RuntimeImage,
    RuntimeDeploy,
    RuntimePush,
    RuntimeUpload,
    ListRuntimes,
    BoxitoryList,
    BoxitoryBox,
    BoxitoryLatest,
    BoxitoryFile,
    Health,
    Live,
    Ready,
    Status,
    Metrics,
    OpenApi,
    OpenApiPage,
    PageHome,
    PageOrganization,
    PageBox,
    PageDownload,
    PageOthers,
    PageAsset,
    PageSignInForm,
    PageSignIn,
    PageSignOut,
    PageSession,
    PageNewBox,
    PageCreateBox,
    PageEditBox,
    PageUpdateBox,
    PageDeleteBox,
    PageNewVersion,
    PageCreateVersion,
    PageEditVersion,
    PageUpdateVersion,
    PageDeleteVersion,
    PageReleaseVersion,
    PageRevokeVersion,
    PageKeys,
    PageCreateKey,
    PageRotateKey,
    PageDeleteKey,
    PageUpload,
    PageOperate,
    PageOperateNow,
    PageWebhook,
    PageRedeliver,
}

routes! {
    // Signing in.
    BoxVault POST "/api/auth/signin" => SignIn, Public, Json, Control, "Sign in by name and password, or by service account name and key";
    BoxVault POST "/api/auth/service-account" => ServiceAccountSignIn, Public, Json, Control, "Sign in as the guide does: clientId and clientSecret";
    BoxVault POST "/api/auth/signup" => SignUp, Public, Json, Control, "Closed: accounts are made by an administrator";
    BoxVault POST "/api/auth/refresh-token" => RefreshToken, Person, Empty, Control, "A fresh session for a person";
    BoxVault GET "/api/auth/methods" => AuthMethods, Public, Empty, Control, "Ways to sign in";
    BoxVault GET "/api/setup/status" => SetupStatus, Public, Empty, Control, "Whether an administrator exists";
    // People.
    BoxVault GET "/api/user" => CurrentUser, Credential, Empty, Control, "Who is calling";
    BoxVault GET "/api/user/organizations" => UserOrganizations, Credential, Empty, Control, "Organizations of the caller";
    Admin POST "/api/admin/users" => CreateUser, PlatformAdmin, Json, Control, "Make an account";
    Admin GET "/api/admin/users" => ListUsers, PlatformAdmin, Empty, Control, "List accounts by id: ?after=ID&limit=N";
    Admin GET "/api/admin/users/{user}" => ShowUser, PlatformAdmin, Empty, Control, "Show an account";
    Admin PUT "/api/admin/users/{user}" => UpdateUser, PlatformAdmin, Json, Control, "Change an account";
    Admin DELETE "/api/admin/users/{user}" => DeleteUser, PlatformAdmin, Empty, Control, "Delete an account";
    // Uploads in progress.
    Admin GET "/api/admin/uploads" => ListUploads, AnyAdmin, Empty, Control, "List uploads in progress by id: ?organization=NAME&state=withheld&after=ID&limit=N";
    Admin GET "/api/admin/uploads/{upload}" => ShowUpload, UploadAdmin, Empty, Control, "Show an upload; leaves its writer alone";
    Admin DELETE "/api/admin/uploads/{upload}" => AbortUpload, UploadAdmin, Empty, Control, "Give up an upload in progress; a finished one stays";
    Admin POST "/api/admin/uploads/{upload}/release" => ReleaseUpload, PlatformAdmin, Empty, Control, "Publish a held or quarantined upload, whatever plugins said of it";
    // Upkeep of what is stored.
    Admin POST "/api/admin/adopt" => AdoptStock, PlatformAdmin, Empty, Control, "Make rows of what stands beside stored bytes, then compare as fsck does; one JSON document a line: ?store=NAME";
    Admin GET "/api/admin/fsck" => CheckStock, PlatformAdmin, Empty, Control, "Compare rows with stores; one JSON document a line as it goes: ?store=NAME";
    Admin POST "/api/admin/gc" => CollectGarbage, PlatformAdmin, Empty, Control, "Remove what nobody holds: ?dry_run=true&remove_many_orphans=true&store=NAME";
    Admin POST "/api/admin/scrub" => ScrubStock, PlatformAdmin, Empty, Control, "Read all stored bytes against their digests: ?rate=SIZE&store=NAME";
    Admin POST "/api/admin/copy-store" => CopyStock, PlatformAdmin, Empty, Control, "Take the boxes of one store to another: ?from=NAME&to=NAME&rate=SIZE";
    Admin POST "/api/admin/import/boxitory" => ImportBoxitory, PlatformAdmin, Empty, Control, "Take a tree of boxes into the catalog: ?dir=DIR&organization=NAME&architecture=NAME";
    // Keys of download links.
    Admin GET "/api/admin/link-keys" => ListLinkKeys, PlatformAdmin, Empty, Control, "Keys of download links, the newest first";
    Admin POST "/api/admin/link-keys" => RotateLinkKey, PlatformAdmin, Empty, Control, "Make a key that signs from now on; links of those before it stay good";
    Admin DELETE "/api/admin/link-keys/{key}" => RevokeLinkKey, PlatformAdmin, Empty, Control, "End all links that a key signed";
    // Plugins.
    Admin GET "/api/admin/scripts" => ListScripts, PlatformAdmin, Empty, Control, "Plugins, and how they stand";
    Admin POST "/api/admin/scripts/reload" => ReloadScripts, PlatformAdmin, Empty, Control, "Look at the plugins again: ?dry_run=true";
    Admin POST "/api/admin/scripts/{plugin}/rollback" => RollbackScript, PlatformAdmin, Empty, Control, "Go back to a version of a plugin that worked: ?to=HASH";
    Admin GET "/api/admin/plugins" => ListPlugins, PlatformAdmin, Empty, Control, "Plugins that all nodes run";
    Admin PUT "/api/admin/plugins/{plugin}" => PushPlugin, PlatformAdmin, Json, Control, "Have all nodes run a plugin: its name, manifest, main and files";
    Admin DELETE "/api/admin/plugins/{plugin}" => RemovePlugin, PlatformAdmin, Empty, Control, "Take a plugin off all nodes";
    // Webhooks that go out.
    Admin GET "/api/admin/webhooks" => ListWebhooks, PlatformAdmin, Empty, Control, "Endpoints that are told of events: ?cursor&limit";
    Admin POST "/api/admin/webhooks" => CreateWebhook, PlatformAdmin, Json, Control, "Make an endpoint: url, events, secret; ?ping=true tries it";
    Admin GET "/api/admin/webhooks/events" => WebhookEvents, PlatformAdmin, Empty, Control, "Every event, with a JSON Schema and an example";
    Admin GET "/api/admin/webhooks/{webhook}" => ShowWebhook, PlatformAdmin, Empty, Control, "Show an endpoint";
    Admin PUT "/api/admin/webhooks/{webhook}" => UpdateWebhook, PlatformAdmin, Json, Control, "Replace what was chosen for an endpoint";
    Admin PATCH "/api/admin/webhooks/{webhook}" => UpdateWebhook, PlatformAdmin, Json, Control, "Change some of what was chosen for an endpoint";
    Admin DELETE "/api/admin/webhooks/{webhook}" => DeleteWebhook, PlatformAdmin, Empty, Control, "Delete an endpoint and drop what waits for it; its log stays";
    Admin POST "/api/admin/webhooks/{webhook}/test" => TestWebhook, PlatformAdmin, Json, Control, "Send an example now, once: event";
    Admin POST "/api/admin/webhooks/{webhook}/rotate-secret" => RotateWebhookSecret, PlatformAdmin, Json, Control, "Replace the secret; the one before counts for a while: secret, overlap_s, legacy";
    Admin POST "/api/admin/webhooks/{webhook}/rotate-secret/finish" => FinishWebhookRotation, PlatformAdmin, Empty, Control, "End the overlap of two secrets";
    Admin POST "/api/admin/webhooks/{webhook}/enable" => EnableWebhook, PlatformAdmin, Empty, Control, "Tell an endpoint of events again, whatever it did before";
    Admin POST "/api/admin/webhooks/{webhook}/disable" => DisableWebhook, PlatformAdmin, Empty, Control, "Tell an endpoint nothing any more";
    Admin GET "/api/admin/webhooks/{webhook}/deliveries" => ListDeliveries, PlatformAdmin, Empty, Control, "What was sent, with all attempts, the newest first: ?status&event&since&until&cursor&limit";
    Admin POST "/api/admin/webhooks/{webhook}/recover" => RecoverDeliveries, PlatformAdmin, Json, Control, "Send what failed once more, in order: since, until, status";
    Admin GET "/api/admin/webhooks/deliveries/{delivery}" => ShowDelivery, PlatformAdmin, Empty, Control, "One delivery, with all attempts";
    Admin POST "/api/admin/webhooks/deliveries/{delivery}/redeliver" => Redeliver, PlatformAdmin, Json, Control, "Send a delivery once more, wherever it stands";
    // Service accounts.
    BoxVault POST "/api/service-accounts" => CreateServiceAccount, Person, Json, Control, "Make a service account; its key is shown once";
    BoxVault GET "/api/service-accounts" => ListServiceAccounts, Person, Empty, Control, "Service accounts of the caller";
    BoxVault GET "/api/service-accounts/organizations" => ServiceAccountOrganizations, Person, Empty, Control, "Organizations in which the caller may make one";
    BoxVault DELETE "/api/service-accounts/{id}" => DeleteServiceAccount, Person, Empty, Control, "Delete a service account and end its sessions";
    BoxVault POST "/api/service-accounts/{id}/rotate" => RotateServiceAccount, Person, Json, Control, "Replace the key of a service account";
    // Organizations.
    BoxVault POST "/api/organization" => CreateOrganization, Person, Json, Control, "Make an organization";
    BoxVault GET "/api/organization" => ListOrganizations, Person, Empty, Control, "List organizations: ?organization=PART";
    BoxVault GET "/api/organization/{org}" => ShowOrganization, Person, Empty, Control, "Show an organization";
    BoxVault PUT "/api/organization/{org}" => UpdateOrganization, OrganizationAdmin, Json, Control, "Change an organization";
    BoxVault DELETE "/api/organization/{org}" => DeleteOrganization, OrganizationOwner, Empty, Control, "Delete an organization with all its boxes";
    BoxVault PUT "/api/organization/{org}/access-mode" => SetAccessMode, OrganizationAdmin, Json, Control, "Who may find and join it";
    BoxVault GET "/api/organizations/discover" => DiscoverOrganizations, Optional, Empty, Control, "Organizations that may be found";
    BoxVault GET "/api/organization/{org}/users" => ListMembers, MemberPerson, Empty, Control, "Members";
    BoxVault PUT "/api/organization/{org}/members/{user}" => SetMember, OrganizationAdmin, Json, Control, "Add a member or change its role";
    BoxVault DELETE "/api/organization/{org}/members/{user}" => RemoveMember, OrganizationAdmin, Empty, Control, "End a membership";
    // Boxes.
    BoxVault GET "/api/organization/{org}/box" => ListBoxes, Optional, Empty, Control, "Boxes that the caller may see, down to their files";
    BoxVault POST "/api/organization/{org}/box" => CreateBox, Member, Json, Control, "Make a box";
    BoxVault DELETE "/api/organization/{org}/box" => DeleteBoxes, OrganizationAdmin, Empty, Control, "Delete all boxes of an organization";
    BoxVault GET "/api/organization/{org}/box/{box}" => ShowBox, ReadBox, Empty, Control, "One box, down to its files; metadata for Vagrant";
    BoxVault GET "/api/organization/{org}/box/{box}/metadata" => ShowBox, ReadBox, Empty, Control, "The same";
    BoxVault PUT "/api/organization/{org}/box/{box}" => UpdateBox, EditBox, Json, Control, "Change a box";
    BoxVault DELETE "/api/organization/{org}/box/{box}" => DeleteBox, EditBox, Empty, Control, "Delete a box";
    BoxVault GET "/api/discover" => DiscoverBoxes, Optional, Empty, Control, "Public boxes and the caller's own";
    BoxVault GET "/api/discover/{name}" => DiscoverBoxes, Optional, Empty, Control, "The same; the name is ignored";
    // Versions, providers, architectures.
    BoxVault GET "/api/organization/{org}/box/{box}/version" => ListVersions, ReadBox, Empty, Control, "Versions of a box";
    BoxVault POST "/api/organization/{org}/box/{box}/version" => CreateVersion, EditBox, Json, Control, "Make a version";
    BoxVault DELETE "/api/organization/{org}/box/{box}/version" => DeleteVersions, EditBox, Empty, Control, "Delete all versions of a box";
    BoxVault GET "/api/organization/{org}/box/{box}/version/{version}" => ShowVersion, ReadBox, Empty, Control, "One version";
    BoxVault PUT "/api/organization/{org}/box/{box}/version/{version}" => UpdateVersion, EditBox, Json, Control, "Change a version";
    BoxVault DELETE "/api/organization/{org}/box/{box}/version/{version}" => DeleteVersion, EditBox, Empty, Control, "Delete a version";
    BoxVault GET "/api/organization/{org}/box/{box}/version/{version}/provider" => ListProviders, ReadBox, Empty, Control, "Providers of a version";
    BoxVault POST "/api/organization/{org}/box/{box}/version/{version}/provider" => CreateProvider, EditBox, Json, Control, "Make a provider";
    BoxVault DELETE "/api/organization/{org}/box/{box}/version/{version}/provider" => DeleteProviders, EditBox, Empty, Control, "Delete all providers of a version";
    BoxVault GET "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}" => ShowProvider, ReadBox, Empty, Control, "One provider";
    BoxVault PUT "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}" => UpdateProvider, EditBox, Json, Control, "Change a provider";
    BoxVault DELETE "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}" => DeleteProvider, EditBox, Empty, Control, "Delete a provider";
    BoxVault GET "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture" => ListArchitectures, ReadBox, Empty, Control, "Architectures of a provider";
    BoxVault POST "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture" => CreateArchitecture, EditBox, Json, Control, "Make an architecture";
    BoxVault DELETE "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture" => DeleteArchitectures, EditBox, Empty, Control, "Delete all architectures of a provider";
    BoxVault GET "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture/{arch}" => ShowArchitecture, ReadBox, Empty, Control, "One architecture";
    BoxVault PUT "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture/{arch}" => UpdateArchitecture, EditBox, Json, Control, "Change an architecture";
    BoxVault DELETE "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture/{arch}" => DeleteArchitecture, EditBox, Empty, Control, "Delete an architecture";
    // Files.
    BoxVault POST "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture/{arch}/file" => UploadFile, PublishBox, Upload, Upload, "Upload a box, multipart or raw; missing parents are made";
    BoxVault POST "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture/{arch}/file/upload" => UploadFile, PublishBox, Upload, Upload, "The same";
    BoxVault PUT "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture/{arch}/file/upload" => UploadFile, PublishBox, Upload, Upload, "The same";
    BoxVault GET "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture/{arch}/file/info" => FileInfo, ReadBox, Empty, Control, "Size, checksum and download link";
    BoxVault POST "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture/{arch}/file/get-download-link" => FileLink, ReadBox, Empty, Control, "A download link that needs no credential";
    BoxVault GET "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture/{arch}/file/download" => DownloadFile, ReadBox, Empty, Download, "The box; ?token= of a download link stands for a credential";
    BoxVault DELETE "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture/{arch}/file/delete" => DeleteFile, EditBox, Empty, Control, "Delete the file, keep its architecture";
    BoxVault GET "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture/{arch}/file/upload" => UploadsToFile, PublishBox, Empty, Control, "The caller's unfinished uploads to that name, with the chunks that are held";
    BoxVault OPTIONS "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture/{arch}/file" => UploadOptions, Public, Empty, Control, "What a resumable upload may be";
    BoxVault OPTIONS "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture/{arch}/file/upload" => UploadOptions, Public, Empty, Control, "The same";
    // ISO images.
    BoxVault GET "/api/organization/{org}/iso" => ListIsos, MemberPerson, Empty, Control, "ISO images of an organization";
    BoxVault POST "/api/organization/{org}/iso" => UploadIso, ManageIsos, Upload, Upload, "Upload an ISO image, raw or multipart, or replace one: x-file-name, x-is-public";
    BoxVault GET "/api/organization/{org}/iso/uploads" => UploadsToIso, ManageIsos, Empty, Control, "The caller's unfinished uploads of an ISO image, with the chunks that are held: ?name=NAME";
    BoxVault GET "/api/organization/{org}/iso/{iso}" => ShowIso, MemberPerson, Empty, Control, "Show an ISO image";
    BoxVault PUT "/api/organization/{org}/iso/{iso}" => UpdateIso, ManageIsos, Json, Control, "Change name, description and visibility of an ISO image";
    BoxVault DELETE "/api/organization/{org}/iso/{iso}" => DeleteIso, ManageIsos, Empty, Control, "Delete an ISO image";
    BoxVault GET "/api/organization/{org}/iso/{iso}/download" => DownloadIso, ReadIso, Empty, Download, "The ISO image; ?token= of a download link stands for a credential";
    BoxVault GET "/api/organization/{org}/iso/name/{name}/download" => DownloadIso, ReadIso, Empty, Download, "The same, by its name";
    BoxVault POST "/api/organization/{org}/iso/{iso}/download-link" => IsoLink, MemberPerson, Empty, Control, "A download link that needs no credential";
    BoxVault GET "/api/organization/{org}/public-isos" => PublicIsos, Optional, Empty, Control, "Public ISO images of an organization";
    BoxVault GET "/api/isos/discover" => DiscoverIsos, Optional, Empty, Control, "Public ISO images of all organizations";
    // Resumable uploads.
    Files POST "/files" => CreateUpload, Credential, Upload, Upload, "Begin an upload by tus or the IETF's protocol: ?target=organization/box/version/provider/architecture";
    Files GET "/files" => FindUploads, Credential, Empty, Control, "The caller's unfinished uploads to a name: ?target=organization/box/version/provider/architecture";
    Files OPTIONS "/files" => UploadOptions, Public, Empty, Control, "What an upload may be, for clients and browsers";
    Files HEAD "/files/{id}" => UploadOffset, Credential, Empty, Control, "Where an upload stands; takes it over";
    Files GET "/files/{id}" => UploadStatus, Credential, Empty, Control, "Where an upload stands, as JSON; leaves its writer alone";
    Files PATCH "/files/{id}" => AppendUpload, Credential, Upload, Upload, "More bytes of an upload";
    Files POST "/files/{id}" => AppendUpload, Credential, Upload, Upload, "The method that X-HTTP-Method-Override names";
    Files PUT "/files/{id}/parts/{part}" => PutPart, Credential, Upload, Upload, "One part of an upload, in any order and beside others";
    Files GET "/files/{id}/parts" => UploadParts, Credential, Empty, Control, "The parts that are held, each with its BLAKE3 value, to compare them with a file: ?from=N";
    Files PUT "/files/{id}/digest" => DeclareDigest, Credential, Empty, Control, "Declare what the whole must be (Repr-Digest); ends requests that write to it";
    Files OPTIONS "/files/{id}/parts/{part}" => UploadOptions, Public, Empty, Control, "What an upload may be, for clients and browsers";
    Files DELETE "/files/{id}" => CancelUpload, Credential, Empty, Control, "Give an upload up, or forget a finished one without a target";
    Files OPTIONS "/files/{id}" => UploadOptions, Public, Empty, Control, "What an upload may be, for clients and browsers";
    // Vagrant.
    Vagrant GET "/{org}/{box}" => VagrantMetadata, ReadBox, Empty, Control, "Box metadata for Vagrant; ?by=blake3 lists also what has no SHA-256 yet";
    Vagrant GET "/{org}/boxes/{box}" => VagrantMetadata, ReadBox, Empty, Control, "The same";
    Vagrant GET "/api/v2/vagrant/{org}/{box}" => VagrantMetadata, ReadBox, Empty, Control, "The same";
    Vagrant GET "/{org}/boxes/{box}/versions/{version}/providers/{provider}" => VagrantDefaultFile, ReadBox, Empty, Download, "{provider}.box: the box of the default architecture";
    Vagrant GET "/{org}/boxes/{box}/versions/{version}/providers/{provider}/{arch}/vagrant.box" => VagrantFile, ReadBox, Empty, Download, "The box; ?b3= pins its digest";
    // Publishing as to Vagrant Cloud.
    VagrantCloud GET "/api/v1/authenticate" => CloudAccount, Credential, Empty, Control, "Who is calling";
    VagrantCloud POST "/api/v1/authenticate" => CloudSignIn, Public, Json, Control, "A token for name and password";
    VagrantCloud DELETE "/api/v1/authenticate" => CloudSignOut, Credential, Empty, Control, "End the token that it comes with";
    VagrantCloud POST "/api/v1/two-factor/request-code" => CloudSecondFactor, Public, Json, Control, "Closed: no second factor is asked for";
    VagrantCloud GET "/api/v1/user/{org}" => CloudOrganization, OptionalStrict, Empty, Control, "An organization with the boxes that the caller may see";
    VagrantCloud GET "/api/v1/search" => CloudSearch, OptionalStrict, Empty, Control, "Boxes with a released version: ?q&provider&architecture&sort&order&limit&page";
    VagrantCloud POST "/api/v1/boxes" => CloudCreateBox, Credential, Json, Control, "Make a box";
    VagrantCloud GET "/api/v1/box/{org}/{box}" => CloudShowBox, ReadBox, Empty, Control, "One box with its versions";
    VagrantCloud PUT "/api/v1/box/{org}/{box}" => CloudUpdateBox, EditBox, Json, Control, "Change a box";
    VagrantCloud DELETE "/api/v1/box/{org}/{box}" => CloudDeleteBox, EditBox, Empty, Control, "Delete a box";
    VagrantCloud POST "/api/v1/box/{org}/{box}/versions" => CloudCreateVersion, EditBox, Json, Control, "Make a version, not released yet";
    VagrantCloud GET "/api/v1/box/{org}/{box}/version/{version}" => CloudShowVersion, ReadBox, Empty, Control, "One version with its providers";
    VagrantCloud PUT "/api/v1/box/{org}/{box}/version/{version}" => CloudUpdateVersion, EditBox, Json, Control, "Change a version";
    VagrantCloud DELETE "/api/v1/box/{org}/{box}/version/{version}" => CloudDeleteVersion, EditBox, Empty, Control, "Delete a version";
    VagrantCloud PUT "/api/v1/box/{org}/{box}/version/{version}/release" => CloudRelease, EditBox, Empty, Control, "List a version to Vagrant";
    VagrantCloud PUT "/api/v1/box/{org}/{box}/version/{version}/revoke" => CloudRevoke, EditBox, Empty, Control, "List it no more";
    VagrantCloud POST "/api/v1/box/{org}/{box}/version/{version}/providers" => CloudCreateProvider, EditBox, Json, Control, "Tell of a box: its provider, architecture and checksum";
    VagrantCloud GET "/api/v1/box/{org}/{box}/version/{version}/provider/{provider}" => CloudShowProvider, ReadBox, Empty, Control, "Show the default architecture of a provider";
    VagrantCloud PUT "/api/v1/box/{org}/{box}/version/{version}/provider/{provider}" => CloudUpdateProvider, EditBox, Json, Control, "Change the default architecture of a provider";
    VagrantCloud DELETE "/api/v1/box/{org}/{box}/version/{version}/provider/{provider}" => CloudDeleteProvider, EditBox, Empty, Control, "Delete the default architecture of a provider";
    VagrantCloud GET "/api/v1/box/{org}/{box}/version/{version}/provider/{provider}/upload" => CloudUpload, EditBox, Empty, Control, "A URL to send its box to";
    VagrantCloud GET "/api/v1/box/{org}/{box}/version/{version}/provider/{provider}/upload/direct" => CloudDirectUpload, EditBox, Empty, Control, "The same, with a URL to call behind it";
    VagrantCloud PUT "/api/v1/box/{org}/{box}/version/{version}/provider/{provider}/upload/complete" => CloudUploaded, EditBox, Empty, Control, "Whether its box is there";
    VagrantCloud GET "/api/v1/box/{org}/{box}/version/{version}/provider/{provider}/{arch}" => CloudShowProvider, ReadBox, Empty, Control, "Show a provider for one architecture";
    VagrantCloud PUT "/api/v1/box/{org}/{box}/version/{version}/provider/{provider}/{arch}" => CloudUpdateProvider, EditBox, Json, Control, "Change a provider for one architecture";
    VagrantCloud DELETE "/api/v1/box/{org}/{box}/version/{version}/provider/{provider}/{arch}" => CloudDeleteProvider, EditBox, Empty, Control, "Delete a provider for one architecture";
    VagrantCloud GET "/api/v1/box/{org}/{box}/version/{version}/provider/{provider}/{arch}/upload" => CloudUpload, EditBox, Empty, Control, "A URL to send its box to";
    VagrantCloud GET "/api/v1/box/{org}/{box}/version/{version}/provider/{provider}/{arch}/upload/direct" => CloudDirectUpload, EditBox, Empty, Control, "The same, with a URL to call behind it";
    VagrantCloud PUT "/api/v1/box/{org}/{box}/version/{version}/provider/{provider}/{arch}/upload/complete" => CloudUploaded, EditBox, Empty, Control, "Whether its box is there";
    VagrantCloud GET "/api/v2/authenticate" => CloudAccount, Credential, Empty, Control, "Who is calling";
    VagrantCloud POST "/api/v2/authenticate" => CloudSignIn, Public, Json, Control, "A token for name and password";
    VagrantCloud DELETE "/api/v2/authenticate" => CloudSignOut, Credential, Empty, Control, "End the token that it comes with";
    VagrantCloud POST "/api/v2/two-factor/request-code" => CloudSecondFactor, Public, Json, Control, "Closed: no second factor is asked for";
    VagrantCloud GET "/api/v2/user/{org}" => CloudOrganization, OptionalStrict, Empty, Control, "An organization with the boxes that the caller may see";
    VagrantCloud GET "/api/v2/search" => CloudSearch, OptionalStrict, Empty, Control, "Boxes with a released version: ?q&provider&architecture&sort&order&limit&page";
    VagrantCloud POST "/api/v2/boxes" => CloudCreateBox, Credential, Json, Control, "Make a box";
    VagrantCloud GET "/api/v2/box/{org}/{box}" => CloudShowBox, ReadBox, Empty, Control, "One box with its versions";
    VagrantCloud PUT "/api/v2/box/{org}/{box}" => CloudUpdateBox, EditBox, Json, Control, "Change a box";
    VagrantCloud DELETE "/api/v2/box/{org}/{box}" => CloudDeleteBox, EditBox, Empty, Control, "Delete a box";
    VagrantCloud POST "/api/v2/box/{org}/{box}/versions" => CloudCreateVersion, EditBox, Json, Control, "Make a version, not released yet";
    VagrantCloud GET "/api/v2/box/{org}/{box}/version/{version}" => CloudShowVersion, ReadBox, Empty, Control, "One version with its providers";
    VagrantCloud PUT "/api/v2/box/{org}/{box}/version/{version}" => CloudUpdateVersion, EditBox, Json, Control, "Change a version";
    VagrantCloud DELETE "/api/v2/box/{org}/{box}/version/{version}" => CloudDeleteVersion, EditBox, Empty, Control, "Delete a version";
    VagrantCloud PUT "/api/v2/box/{org}/{box}/version/{version}/release" => CloudRelease, EditBox, Empty, Control, "List a version to Vagrant";
    VagrantCloud PUT "/api/v2/box/{org}/{box}/version/{version}/revoke" => CloudRevoke, EditBox, Empty, Control, "List it no more";
    VagrantCloud POST "/api/v2/box/{org}/{box}/version/{version}/providers" => CloudCreateProvider, EditBox, Json, Control, "Tell of a box: its provider, architecture and checksum";
    VagrantCloud GET "/api/v2/box/{org}/{box}/version/{version}/provider/{provider}" => CloudShowProvider, ReadBox, Empty, Control, "Show the default architecture of a provider";
    VagrantCloud PUT "/api/v2/box/{org}/{box}/version/{version}/provider/{provider}" => CloudUpdateProvider, EditBox, Json, Control, "Change the default architecture of a provider";
    VagrantCloud DELETE "/api/v2/box/{org}/{box}/version/{version}/provider/{provider}" => CloudDeleteProvider, EditBox, Empty, Control, "Delete the default architecture of a provider";
    VagrantCloud GET "/api/v2/box/{org}/{box}/version/{version}/provider/{provider}/upload" => CloudUpload, EditBox, Empty, Control, "A URL to send its box to";
    VagrantCloud GET "/api/v2/box/{org}/{box}/version/{version}/provider/{provider}/upload/direct" => CloudDirectUpload, EditBox, Empty, Control, "The same, with a URL to call behind it";
    VagrantCloud PUT "/api/v2/box/{org}/{box}/version/{version}/provider/{provider}/upload/complete" => CloudUploaded, EditBox, Empty, Control, "Whether its box is there";
    VagrantCloud GET "/api/v2/box/{org}/{box}/version/{version}/provider/{provider}/{arch}" => CloudShowProvider, ReadBox, Empty, Control, "Show a provider for one architecture";
    VagrantCloud PUT "/api/v2/box/{org}/{box}/version/{version}/provider/{provider}/{arch}" => CloudUpdateProvider, EditBox, Json, Control, "Change a provider for one architecture";
    VagrantCloud DELETE "/api/v2/box/{org}/{box}/version/{version}/provider/{provider}/{arch}" => CloudDeleteProvider, EditBox, Empty, Control, "Delete a provider for one architecture";
    VagrantCloud GET "/api/v2/box/{org}/{box}/version/{version}/provider/{provider}/{arch}/upload" => CloudUpload, EditBox, Empty, Control, "A URL to send its box to";
    VagrantCloud GET "/api/v2/box/{org}/{box}/version/{version}/provider/{provider}/{arch}/upload/direct" => CloudDirectUpload, EditBox, Empty, Control, "The same, with a URL to call behind it";
    VagrantCloud PUT "/api/v2/box/{org}/{box}/version/{version}/provider/{provider}/{arch}/upload/complete" => CloudUploaded, EditBox, Empty, Control, "Whether its box is there";
    VagrantCloud PUT "/uploads/{upload_token}" => CloudReceive, Public, Upload, Upload, "The bytes of a box; the URL is the right to send them";
    // Blobs.
    Blobs GET "/blobs/b3/{b3}" => Blob, ReadBlob, Empty, Download, "The bytes with that BLAKE3 digest";
    Blobs GET "/blobs/b3/{b3}/outboard" => BlobOutboard, ReadBlob, Empty, Download, "BLAKE3's tree above its 1 MiB groups, as bao lays it out";
    Blobs GET "/blobs/sha256/{sha256}" => Blob, ReadBlob, Empty, Download, "The bytes with that SHA-256 digest";
    // Webhooks that come in. Their senders are known by the hook's own secret.
    Hooks POST "/hooks/{plugin}/{hook}" => InboundWebhook, Public, Small, Control, "A webhook for a plugin, verified as its plugin.toml says";
    // Adapters to clouds. The credentials that they ask for are the cloud's.
    Providers GET "/providers/{provider}/meta" => AdapterMeta, Public, Empty, Control, "What an adapter to a cloud is";
    Providers GET "/providers/{provider}/catalog" => AdapterCatalog, Public, Empty, Control, "Its regions, plans and sizes";
    Providers POST "/providers/{provider}/verify" => AdapterVerify, Public, Empty, Control, "Whether credentials are good";
    Providers GET "/providers/{provider}/keys" => AdapterListKeys, Public, Empty, Control, "SSH keys of the account";
    Providers POST "/providers/{provider}/keys" => AdapterCreateKey, Public, Json, Control, "Keep an SSH key";
    Providers GET "/providers/{provider}/keys/{key}" => AdapterShowKey, Public, Empty, Control, "An SSH key";
    Providers DELETE "/providers/{provider}/keys/{key}" => AdapterDeleteKey, Public, Empty, Control, "Forget an SSH key";
    Providers GET "/providers/{provider}/servers" => AdapterListServers, Public, Empty, Control, "Servers of the account";
    Providers POST "/providers/{provider}/servers" => AdapterCreateServer, Public, Json, Control, "Order a server";
    Providers GET "/providers/{provider}/servers/{server}" => AdapterShowServer, Public, Empty, Control, "How a server stands";
    Providers DELETE "/providers/{provider}/servers/{server}" => AdapterCancel, Public, Empty, Control, "Give a server up";
    Providers PATCH "/providers/{provider}/servers/{server}/keys" => AdapterInstallKey, Public, Json, Control, "Put an SSH key on a server";
    Providers PATCH "/providers/{provider}/servers/{server}/reboot" => AdapterReboot, Public, Empty, Control, "Start a server anew";
    Providers PATCH "/providers/{provider}/servers/{server}/rename" => AdapterRename, Public, Json, Control, "Give a server another name";
    Providers GET "/providers/{provider}/openapi.json" => AdapterOpenApi, Public, Empty, Control, "The adapter as an OpenAPI 3 document";
    Providers GET "/providers/{provider}/swagger.json" => AdapterSwagger, Public, Empty, Control, "The same in Swagger 2.0";
    // Images of runtimes. Each has a key of its own, which its door asks for.
    Runtime GET "/runtime/image" => RuntimeImage, Public, Empty, Download, "The image of the default runtime";
    Runtime POST "/runtime/image" => RuntimeDeploy, Public, Upload, Upload, "Replace it";
    Runtime PUT "/runtime/image" => RuntimePush, Public, Json, Control, "Push it to another runtime";
    Runtime GET "/runtimes/{runtime}/image" => RuntimeImage, Public, Empty, Download, "The image of a runtime";
    Runtime POST "/runtimes/{runtime}/image" => RuntimeDeploy, Public, Upload, Upload, "Replace it";
    Runtime PUT "/runtimes/{runtime}/image" => RuntimePush, Public, Json, Control, "Push it to another runtime";
    Runtime HEAD "/runtime/image/uploads/{upload}" => RuntimeUpload, Public, Empty, Control, "Where an upload of an image stands; takes it over";
    Runtime PATCH "/runtime/image/uploads/{upload}" => RuntimeUpload, Public, Upload, Upload, "More bytes of it; the last ones deploy it";
    Runtime POST "/runtime/image/uploads/{upload}" => RuntimeUpload, Public, Upload, Upload, "The method that X-HTTP-Method-Override names";
    Runtime DELETE "/runtime/image/uploads/{upload}" => RuntimeUpload, Public, Empty, Control, "Give it up, or forget a finished one";
    Runtime HEAD "/runtimes/{runtime}/image/uploads/{upload}" => RuntimeUpload, Public, Empty, Control, "Where an upload of an image stands; takes it over";
    Runtime PATCH "/runtimes/{runtime}/image/uploads/{upload}" => RuntimeUpload, Public, Upload, Upload, "More bytes of it; the last ones deploy it";
    Runtime POST "/runtimes/{runtime}/image/uploads/{upload}" => RuntimeUpload, Public, Upload, Upload, "The method that X-HTTP-Method-Override names";
    Runtime DELETE "/runtimes/{runtime}/image/uploads/{upload}" => RuntimeUpload, Public, Empty, Control, "Give it up, or forget a finished one";
    Admin GET "/api/admin/runtimes" => ListRuntimes, PlatformAdmin, Empty, Control, "Runtimes, and what was deployed to them last";
    // A tree of boxes that is served where it is.
    Boxitory GET "/" => BoxitoryList, Public, Empty, Control, "The boxes of the tree, as a page";
    Boxitory GET "/{box}" => BoxitoryBox, Public, Empty, Control, "A box's versions, for Vagrant";
    Boxitory GET "/{box}/latestVersion" => BoxitoryLatest, Public, Empty, Control, "Its highest version, as text";
    Boxitory GET "/download/{box}/{provider}/{version}" => BoxitoryFile, Public, Empty, Download, "A box file; the version may be latest";
    // Operations.
    Operations GET "/health" => Health, Public, Empty, Operations, "Health in brief";
    Operations GET "/api/health" => Health, Public, Empty, Operations, "The same";
    Operations GET "/livez" => Live, Public, Empty, Operations, "Whether the process answers";
    Operations GET "/readyz" => Ready, Public, Empty, Operations, "Whether it should get traffic";
    Operations GET "/api/status" => Status, Optional, Empty, Operations, "Status; details for operators only";
    Operations GET "/metrics" => Metrics, Operations, Empty, Operations, "Prometheus text";
    Operations GET "/openapi.json" => OpenApi, Public, Empty, Operations, "All that this listener answers, as an OpenAPI 3.1 document";
    Operations GET "/openapi" => OpenApiPage, Public, Empty, Operations, "The same as a page";
    // What browsers are shown. `/` and `/{org}/{box}` lead here, too, where text/html is preferred. No organization can
    // be named "-".
    Page GET "/-/boxes" => PageHome, Optional, Empty, Control, "Organizations and boxes: ?q=TEXT&page=N";
    Page GET "/-/boxes/{org}" => PageOrganization, Optional, Empty, Control, "Boxes of an organization: ?after=NAME";
    Page GET "/-/boxes/{org}/{box}" => PageBox, ReadBox, Empty, Control, "A box with all its files: ?versions=all";
    Page GET "/-/download/{org}/{box}/{version}/{provider}/{arch}" => PageDownload, ReadBox, Empty, Control, "A link to a box's bytes, for whoever may read it";
    Page GET "/-/others" => PageOthers, Optional, Empty, Control, "A tree of boxes, and images of runtimes";
    Page GET "/-/assets/{asset}" => PageAsset, Public, Empty, Control, "Styles and scripts, by their digests";
    Page GET "/-/sign-in" => PageSignInForm, Optional, Empty, Control, "Where people sign in: ?next=PATH";
    Page POST "/-/sign-in" => PageSignIn, Public, Small, Control, "Sign in by name and password";
    Page POST "/-/sign-out" => PageSignOut, Person, Small, Control, "End the session";
    Page GET "/-/session" => PageSession, Person, Empty, Control, "Who is signed in, and what forms of theirs hold";
    Page GET "/-/new-box/{org}" => PageNewBox, Member, Empty, Control, "A form for a new box";
    Page POST "/-/new-box/{org}" => PageCreateBox, Member, Small, Control, "Make a box";
    Page GET "/-/edit/{org}/{box}" => PageEditBox, EditBox, Empty, Control, "A form for what may be changed of a box";
    Page POST "/-/edit/{org}/{box}" => PageUpdateBox, EditBox, Small, Control, "Change a box";
    Page POST "/-/delete/{org}/{box}" => PageDeleteBox, EditBox, Small, Control, "Delete a box";
    Page GET "/-/new-version/{org}/{box}" => PageNewVersion, EditBox, Empty, Control, "A form for a new version";
    Page POST "/-/new-version/{org}/{box}" => PageCreateVersion, EditBox, Small, Control, "Make a version";
    Page GET "/-/edit/{org}/{box}/{version}" => PageEditVersion, EditBox, Empty, Control, "A form for what may be changed of a version";
    Page POST "/-/edit/{org}/{box}/{version}" => PageUpdateVersion, EditBox, Small, Control, "Change a version";
    Page POST "/-/delete/{org}/{box}/{version}" => PageDeleteVersion, EditBox, Small, Control, "Delete a version";
    Page POST "/-/release/{org}/{box}/{version}" => PageReleaseVersion, EditBox, Small, Control, "List a version to Vagrant";
    Page POST "/-/revoke/{org}/{box}/{version}" => PageRevokeVersion, EditBox, Small, Control, "List it no more";
    Page GET "/-/keys" => PageKeys, Person, Empty, Control, "Service accounts of the caller";
    Page POST "/-/keys" => PageCreateKey, Person, Small, Control, "Make a service account; its key is shown once";
    Page POST "/-/keys/{id}/rotate" => PageRotateKey, Person, Small, Control, "Replace the key of a service account";
    Page POST "/-/keys/{id}/delete" => PageDeleteKey, Person, Small, Control, "Delete a service account";
    Page GET "/-/upload/{org}" => PageUpload, Member, Empty, Control, "Where a box is dropped: ?box&version&provider&architecture";
    Page GET "/-/operate" => PageOperate, PlatformAdmin, Empty, Control, "How the gateway stands";
    Page GET "/-/operate/now" => PageOperateNow, PlatformAdmin, Empty, Control, "The part of it that is looked at again and again";
    Page GET "/-/webhooks/{webhook}" => PageWebhook, PlatformAdmin, Empty, Control, "What was sent to an endpoint: ?cursor";
    Page POST "/-/redeliver/{delivery}" => PageRedeliver, PlatformAdmin, Small, Control, "Send a delivery once more";
}

impl Route {
    /// A fixed word for metrics and logs.
    #[expect(clippy::too_many_lines, reason = "one arm for each word")]
    pub fn name(self) -> &'static str {
        match self {
            Self::SignIn | Self::ServiceAccountSignIn => "sign_in",
            Self::SignUp | Self::AuthMethods | Self::SetupStatus | Self::RefreshToken => "auth",
            Self::CurrentUser | Self::UserOrganizations => "user",
            Self::CreateUser
            | Self::ListUsers
            | Self::ShowUser
            | Self::UpdateUser
            | Self::DeleteUser => "admin_users",
            Self::ListUploads | Self::ShowUpload | Self::AbortUpload | Self::ReleaseUpload => {
                "admin_uploads"
            }
            Self::AdoptStock
            | Self::CheckStock
            | Self::CollectGarbage
            | Self::ScrubStock
            | Self::CopyStock
            | Self::ImportBoxitory => "admin_upkeep",
            Self::ListLinkKeys | Self::RotateLinkKey | Self::RevokeLinkKey => "admin_link_keys",
            Self::ListScripts | Self::ReloadScripts | Self::RollbackScript => "admin_scripts",
            Self::ListPlugins | Self::PushPlugin | Self::RemovePlugin => "admin_plugins",
            Self::ListWebhooks
            | Self::CreateWebhook
            | Self::WebhookEvents
            | Self::ShowWebhook
            | Self::UpdateWebhook
            | Self::DeleteWebhook
            | Self::TestWebhook
            | Self::RotateWebhookSecret
            | Self::FinishWebhookRotation
            | Self::EnableWebhook
            | Self::DisableWebhook
            | Self::ListDeliveries
            | Self::RecoverDeliveries
            | Self::ShowDelivery
            | Self::Redeliver => "admin_webhooks",
            Self::CreateServiceAccount
            | Self::ListServiceAccounts
            | Self::ServiceAccountOrganizations
            | Self::DeleteServiceAccount
            | Self::RotateServiceAccount => "service_accounts",
            Self::CreateOrganization
            | Self::ListOrganizations
            | Self::ShowOrganization
            | Self::UpdateOrganization
            | Self::DeleteOrganization
            | Self::SetAccessMode
            | Self::DiscoverOrganizations
            | Self::ListMembers
            | Self::SetMember
            | Self::RemoveMember => "organizations",
            Self::ListBoxes
            | Self::CreateBox
            | Self::DeleteBoxes
            | Self::ShowBox
            | Self::UpdateBox
            | Self::DeleteBox
            | Self::DiscoverBoxes => "boxes",
            Self::ListVersions
            | Self::CreateVersion
            | Self::DeleteVersions
            | Self::ShowVersion
            | Self::UpdateVersion
            | Self::DeleteVersion => "versions",
            Self::ListProviders
            | Self::CreateProvider
            | Self::DeleteProviders
            | Self::ShowProvider
            | Self::UpdateProvider
            | Self::DeleteProvider => "providers",
            Self::ListArchitectures
            | Self::CreateArchitecture
            | Self::DeleteArchitectures
            | Self::ShowArchitecture
            | Self::UpdateArchitecture
            | Self::DeleteArchitecture => "architectures",
            Self::UploadFile | Self::UploadIso | Self::CloudReceive => "upload",
            Self::CreateUpload
            | Self::FindUploads
            | Self::UploadOptions
            | Self::UploadOffset
            | Self::UploadStatus
            | Self::AppendUpload
            | Self::PutPart
            | Self::UploadParts
            | Self::DeclareDigest
            | Self::CancelUpload => "files",
            Self::FileInfo | Self::FileLink | Self::DeleteFile | Self::UploadsToFile => "file",
            Self::ListIsos
            | Self::UploadsToIso
            | Self::ShowIso
            | Self::UpdateIso
            | Self::DeleteIso
            | Self::IsoLink
            | Self::PublicIsos
            | Self::DiscoverIsos => "iso",
            Self::DownloadFile
            | Self::DownloadIso
            | Self::VagrantFile
            | Self::VagrantDefaultFile
            | Self::Blob => "download",
            Self::BlobOutboard => "outboard",
            Self::CloudAccount
            | Self::CloudSignIn
            | Self::CloudSignOut
            | Self::CloudSecondFactor
            | Self::CloudOrganization
            | Self::CloudSearch
            | Self::CloudCreateBox
            | Self::CloudShowBox
            | Self::CloudUpdateBox
            | Self::CloudDeleteBox
            | Self::CloudCreateVersion
            | Self::CloudShowVersion
            | Self::CloudUpdateVersion
            | Self::CloudDeleteVersion
            | Self::CloudRelease
            | Self::CloudRevoke
            | Self::CloudCreateProvider
            | Self::CloudShowProvider
            | Self::CloudUpdateProvider
            | Self::CloudDeleteProvider
            | Self::CloudUpload
            | Self::CloudDirectUpload
            | Self::CloudUploaded => "vagrant_cloud",
            Self::InboundWebhook => "webhook_in",
            Self::AdapterMeta
            | Self::AdapterCatalog
            | Self::AdapterVerify
            | Self::AdapterOpenApi
            | Self::AdapterSwagger
            | Self::AdapterListKeys
            | Self::AdapterCreateKey
            | Self::AdapterShowKey
            | Self::AdapterDeleteKey
            | Self::AdapterListServers
            | Self::AdapterCreateServer
            | Self::AdapterShowServer
            | Self::AdapterCancel
            | Self::AdapterInstallKey
            | Self::AdapterReboot
            | Self::AdapterRename => "adapters",
            Self::RuntimeImage | Self::RuntimeDeploy | Self::RuntimePush => "runtime_image",
            Self::RuntimeUpload => "runtime_upload",
            Self::ListRuntimes => "admin_runtimes",
            Self::BoxitoryList | Self::BoxitoryBox | Self::BoxitoryLatest => "boxitory",
            Self::BoxitoryFile => "boxitory_download",
            Self::VagrantMetadata => "vagrant_metadata",
            Self::Health | Self::Live | Self::Ready => "health",
            Self::Status => "status",
            Self::PageHome
            | Self::PageOrganization
            | Self::PageBox
            | Self::PageOthers
            | Self::PageDownload => "page",
            Self::PageNewBox
            | Self::PageCreateBox
            | Self::PageEditBox
            | Self::PageUpdateBox
            | Self::PageDeleteBox
            | Self::PageNewVersion
            | Self::PageCreateVersion
            | Self::PageEditVersion
            | Self::PageUpdateVersion
            | Self::PageDeleteVersion
            | Self::PageReleaseVersion
            | Self::PageRevokeVersion
            | Self::PageKeys
            | Self::PageCreateKey
            | Self::PageRotateKey
            | Self::PageDeleteKey
            | Self::PageUpload => "page_manage",
            Self::PageOperate | Self::PageOperateNow | Self::PageWebhook | Self::PageRedeliver => {
                "page_operate"
            }
            Self::PageAsset => "page_asset",
            Self::PageSignInForm | Self::PageSignIn | Self::PageSignOut | Self::PageSession => {
                "page_session"
            }
            Self::Metrics => "metrics",
            Self::OpenApi | Self::OpenApiPage => "openapi",
        }
    }
}

/// The table, compiled for matching with each door's prefix.
#[derive(Debug)]
pub struct Router {
    paths: matchit::Router<Vec<&'static Row>>,
    rows: Vec<(String, &'static Row)>,
    reserved: Vec<String>,
}

/// What a method and a path lead to.
#[derive(Debug)]
pub enum Found {
    /// This row, with the values of its path's names.
    Row(&'static Row, PathNames),
    /// The path exists at this door, but not with this method; these do.
    OtherMethods(Door, Vec<Method>),
    /// Nothing.
    Nothing,
}

/// Values of the `{names}` in a row's path, already percent-decoded.
#[derive(Debug, Clone, Default)]
pub struct PathNames(Vec<(String, String)>);

impl PathNames {
    /// Names that stand elsewhere than in the path, for the policies that want them.
    pub fn of<const N: usize>(names: [(&str, String); N]) -> Self {
        Self(names.map(|(n, v)| (n.to_owned(), v)).to_vec())
    }

    /// All names with their values.
    pub fn all(&self) -> std::collections::BTreeMap<String, String> {
        self.0.iter().cloned().collect()
    }

    /// The value of one name; empty when the row's path has no such name.
    pub fn value(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map_or("", |(_, v)| v)
    }
}

/// Words that stay free for routes to come, beside those that the table itself takes.
const ALSO_RESERVED: &[&str] = &[
    "-",
    "admin",
    "api",
    "assets",
    "badge",
    "blobs",
    "boxes",
    "download",
    "favicon.ico",
    "files",
    "health",
    "hooks",
    "keys",
    "livez",
    "metrics",
    "openapi",
    "openapi.json",
    "plugins",
    "providers",
    "readyz",
    "robots.txt",
    "runtime",
    "runtimes",
    "servers",
    "swagger.json",
    "uploads",
];

/// Whether a box may be named so: the second word of a route is no box of any organization.
///
/// # Errors
/// Why not, for whoever chose the name.
pub fn free_box_name(name: &str) -> Result<(), String> {
    let is_taken = ROUTES.iter().any(|row| {
        let mut words = row.path.split('/').skip(1);
        let (first, second, more) = (words.next(), words.next(), words.next());
        first.is_some_and(|first| first.starts_with('{'))
            && second.is_some_and(|second| second.eq_ignore_ascii_case(name))
            && more.is_none()
    });
    if is_taken {
        return Err(format!(
            "box {name:?} is reserved: it is the second word of a route. Choose another name."
        ));
    }
    Ok(())
}

impl Router {
    /// Compiles the rows of the enabled doors.
    ///
    /// # Errors
    /// When two rows would shadow each other; the text names both paths.
    pub fn try_new(doors: &Doors) -> Result<Self, String> {
        Self::of(doors, DoorSet::ALL)
    }

    /// The same for those of them that a listener has.
    ///
    /// # Errors
    /// As [`Self::try_new`].
    pub fn of(doors: &Doors, there: DoorSet) -> Result<Self, String> {
        let mut by_path: BTreeMap<String, Vec<&'static Row>> = BTreeMap::new();
        let mut listed = Vec::new();
        for row in ROUTES.iter().filter(|row| there.contains(row.door)) {
            if let Some(prefix) = prefix(doors, row.door) {
                let path = path_of(prefix, row);
                listed.push((path.clone(), row));
                by_path.entry(path).or_default().push(row);
            }
        }
        let mut reserved: Vec<String> = ALSO_RESERVED.iter().map(|&w| w.to_owned()).collect();
        let mut paths = matchit::Router::new();
        for (path, rows) in by_path {
            let first = path
                .trim_start_matches('/')
                .split('/')
                .next()
                .unwrap_or_default();
            if !first.starts_with('{') {
                reserved.push(first.to_ascii_lowercase());
            }
            paths
                .insert(path.clone(), rows)
                .map_err(|e| format!("route {path}: {e}"))?;
        }
        reserved.sort();
        reserved.dedup();
        Ok(Self {
            paths,
            rows: listed,
            reserved,
        })
    }

    /// What a method and a normalized, percent-decoded path lead to.
    pub fn find(&self, method: &Method, path: &str) -> Found {
        let Ok(found) = self.paths.at(path) else {
            return Found::Nothing;
        };
        // `/{org}/{box}` takes any two words; the first words of routes are nobody's organization.
        let named = found.value.iter().all(|row| row.path.starts_with("/{org}"));
        if named
            && found
                .params
                .get("org")
                .is_some_and(|org| self.is_reserved(org))
        {
            return Found::Nothing;
        }
        let row_of = |method: &Method| found.value.iter().find(|row| row.method == method);
        // A row of its own comes first: HEAD of an upload does what GET must not.
        let row = row_of(method).or_else(|| {
            (method == Method::HEAD)
                .then(|| row_of(&Method::GET))
                .flatten()
        });
        match row {
            Some(row) => Found::Row(
                row,
                PathNames(
                    found
                        .params
                        .iter()
                        .map(|(n, v)| (n.to_owned(), v.to_owned()))
                        .collect(),
                ),
            ),
            None => match found.value.first() {
                Some(first) => {
                    let methods = found.value.iter().map(|row| row.method.clone());
                    Found::OtherMethods(first.door, methods.collect())
                }
                None => Found::Nothing,
            },
        }
    }

    /// All rows in the order of the table, each with its path below its door's prefix.
    pub fn rows(&self) -> &[(String, &'static Row)] {
        &self.rows
    }

    /// Names that no organization may have, folded.
    pub fn reserved(&self) -> &[String] {
        &self.reserved
    }

    /// Whether an organization of that name would be shadowed by a route.
    pub fn is_reserved(&self, organization: &str) -> bool {
        self.reserved
            .binary_search(&organization.to_ascii_lowercase())
            .is_ok()
    }
}

/// Below a prefix, the root of a door is the prefix: no normal path ends with a slash.
fn path_of(prefix: &str, row: &Row) -> String {
    match (prefix, row.path) {
        ("", path) => path.to_owned(),
        (prefix, "/") => prefix.to_owned(),
        (prefix, path) => format!("{prefix}{path}"),
    }
}

/// What stands before a door's paths; `None` when it is switched off.
fn prefix(doors: &Doors, door: Door) -> Option<&str> {
    match door {
        Door::BoxVault => doors
            .boxvault
            .enabled
            .then_some(doors.boxvault.prefix.as_str()),
        Door::Vagrant => doors
            .vagrant
            .enabled
            .then_some(doors.vagrant.prefix.as_str()),
        Door::VagrantCloud => doors
            .vagrant_cloud
            .enabled
            .then_some(doors.vagrant_cloud.prefix.as_str()),
        Door::Files => doors.files.enabled.then_some(doors.files.prefix.as_str()),
        Door::Blobs => doors.blobs.enabled.then_some(doors.blobs.prefix.as_str()),
        Door::Hooks => doors.hooks.enabled.then_some(doors.hooks.prefix.as_str()),
        Door::Providers => doors
            .providers
            .enabled
            .then_some(doors.providers.prefix.as_str()),
        Door::Runtime => doors
            .runtime
            .enabled
            .then_some(doors.runtime.prefix.as_str()),
        Door::Boxitory => doors
            .boxitory
            .enabled
            .then_some(doors.boxitory.prefix.as_str()),
        Door::Operations => doors
            .operations
            .enabled
            .then_some(doors.operations.prefix.as_str()),
        Door::Admin => Some(""),
        Door::Page => doors.page.enabled.then_some(doors.page.prefix.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doors() -> Doors {
        let open = || crate::config::settings::Door {
            enabled: true,
            prefix: String::new(),
        };
        Doors {
            boxvault: open(),
            vagrant: open(),
            vagrant_cloud: open(),
            files: open(),
            blobs: open(),
            hooks: open(),
            providers: open(),
            runtime: open(),
            boxitory: open(),
            operations: open(),
            page: open(),
        }
    }

    #[test]
    fn no_row_shadows_another_and_every_row_finds_itself() {
        let router = Router::try_new(&doors()).unwrap();
        for row in ROUTES {
            let path = example(row);
            match router.find(&row.method, &path) {
                Found::Row(found, _) => {
                    assert_eq!((found.route, found.path), (row.route, row.path), "{path}");
                }
                other => panic!("{path}: {other:?}"),
            }
        }
    }

    /// How a door is reached in the settings; each but that of administration, which is always there.
    type Of = fn(&mut Doors) -> &mut crate::config::settings::Door;
    const DOORS: [(Door, Of); 11] = [
        (Door::BoxVault, |doors| &mut doors.boxvault),
        (Door::Vagrant, |doors| &mut doors.vagrant),
        (Door::VagrantCloud, |doors| &mut doors.vagrant_cloud),
        (Door::Files, |doors| &mut doors.files),
        (Door::Blobs, |doors| &mut doors.blobs),
        (Door::Hooks, |doors| &mut doors.hooks),
        (Door::Providers, |doors| &mut doors.providers),
        (Door::Runtime, |doors| &mut doors.runtime),
        (Door::Boxitory, |doors| &mut doors.boxitory),
        (Door::Operations, |doors| &mut doors.operations),
        (Door::Page, |doors| &mut doors.page),
    ];

    /// A path that a row takes, with the names of its values for values.
    fn example(row: &Row) -> String {
        row.path.replace(['{', '}'], "")
    }

    fn leads_to(router: &Router, row: &Row, path: &str) -> bool {
        matches!(router.find(&row.method, path), Found::Row(found, _) if found.route == row.route)
    }

    #[test]
    fn each_door_is_switched_off_and_moved_by_itself() {
        for (door, of) in DOORS {
            let mut without = doors();
            of(&mut without).enabled = false;
            let without = Router::try_new(&without).unwrap();
            let mut moved = doors();
            of(&mut moved).prefix = "/moved/away".to_owned();
            let moved = Router::try_new(&moved).unwrap();
            assert!(moved.is_reserved("moved"), "{door:?}");
            for row in ROUTES {
                let path = example(row);
                if row.door != door {
                    assert!(leads_to(&without, row, &path), "{path} without {door:?}");
                    assert!(leads_to(&moved, row, &path), "{path}, {door:?} moved");
                    continue;
                }
                let away = path_of("/moved/away", row).replace(['{', '}'], "");
                assert!(leads_to(&moved, row, &away), "{away}");
                for router in [&without, &moved] {
                    let found = router.find(&row.method, &path);
                    let is_there = matches!(found, Found::Row(found, _) if found.door == door);
                    assert!(!is_there, "{path} of {door:?}");
                }
            }
        }
    }

    /// A path that both take, and the values that names of the first have in it.
    fn in_common(row: &Row, other: &Row) -> Option<(String, Vec<(&'static str, &'static str)>)> {
        let (mut path, mut values) = (String::new(), Vec::new());
        let (mut a, mut b) = (row.path.split('/').skip(1), other.path.split('/').skip(1));
        loop {
            let (ours, theirs) = match (a.next(), b.next()) {
                (None, None) => return Some((path, values)),
                (Some(ours), Some(theirs)) => (ours, theirs),
                _ => return None,
            };
            let word = match (ours.starts_with('{'), theirs.starts_with('{')) {
                (true, true) => "x",
                (true, false) => {
                    values.push((ours.trim_matches(['{', '}']), theirs));
                    theirs
                }
                (false, true) => ours,
                (false, false) if ours == theirs => ours,
                (false, false) => return None,
            };
            path = format!("{path}/{word}");
        }
    }

    #[test]
    fn what_another_row_takes_away_from_a_row_are_names_that_nothing_can_have() {
        let router = Router::try_new(&doors()).unwrap();
        let mut looked_at = 0;
        for row in ROUTES {
            // The names of a tree are somebody else's: docs say how to keep it apart.
            for other in ROUTES.iter().filter(|_| row.door != Door::Boxitory) {
                let Some((path, values)) = in_common(row, other) else {
                    continue;
                };
                if values.is_empty() || leads_to(&router, row, &path) {
                    continue;
                }
                looked_at += 1;
                let is_refused = |&(name, value): &(&str, &str)| match name {
                    "org" => router.is_reserved(value),
                    "box" => free_box_name(value).is_err(),
                    // Refused where providers are told of.
                    "arch" => value == "upload",
                    // Numbers, and random digits.
                    "id" | "user" | "upload" | "webhook" | "key" | "iso" => {
                        value.chars().any(|c| !c.is_ascii_hexdigit())
                    }
                    _ => false,
                };
                assert!(
                    values.iter().any(is_refused),
                    "{path}: {} is taken away from {} by names that may be: {values:?}",
                    other.path,
                    row.path
                );
            }
        }
        assert!(looked_at > 10, "{looked_at}");
    }

    #[test]
    fn a_box_is_not_named_like_the_second_word_of_a_route() {
        for word in ["latestVersion", "latestversion"] {
            assert!(free_box_name(word).is_err(), "{word}");
        }
        for word in ["demo", "boxes", "versions", "download"] {
            assert!(free_box_name(word).is_ok(), "{word}");
        }
    }

    #[test]
    fn a_listener_has_the_doors_that_it_names_and_each_where_it_names_none() {
        let named = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
            DoorSet::named(&names).map_err(str::to_owned)
        };
        assert_eq!(named(&[]), Ok(DoorSet::ALL));
        assert_eq!(named(&["vagrant", "attic"]), Err("attic".to_owned()));
        let alone = named(&["boxitory"]).unwrap();
        assert_eq!(alone, DoorSet::only(Door::Boxitory));
        let router = Router::of(&doors(), alone).unwrap();
        assert!(matches!(
            router.find(&Method::GET, "/health"),
            Found::Row(row, _) if row.route == Route::BoxitoryBox
        ));
        assert!(matches!(
            router.find(&Method::GET, "/api/status"),
            Found::Nothing
        ));
        let all = named(&Door::EACH.map(Door::name)).unwrap();
        assert!(ROUTES.iter().all(|row| all.contains(row.door)));
    }

    #[test]
    fn first_words_of_routes_are_reserved() {
        let router = Router::try_new(&doors()).unwrap();
        for word in ["api", "API", "health", "files", "uploads", "runtimes"] {
            assert!(router.is_reserved(word), "{word}");
        }
        assert!(!router.is_reserved("myorg"));
    }

    #[test]
    fn a_known_path_with_another_method_names_those_that_work() {
        let router = Router::try_new(&doors()).unwrap();
        assert!(matches!(
            router.find(&Method::PATCH, "/api/auth/signin"),
            Found::OtherMethods(_, methods) if methods == [Method::POST]
        ));
        for path in ["/nothing/here/either", "/api/nothing", "/API/boxes/x"] {
            assert!(
                matches!(router.find(&Method::POST, path), Found::Nothing),
                "{path}"
            );
        }
    }
}
