//! What rows do, and the words by which metrics and logs know it.

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
