//! The rows themselves.

use http::Method;

use super::{BodyKind, Class, Door, Policy, Route, Row};

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
