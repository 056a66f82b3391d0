//! `boxgate admin bootstrap`: the first administrator, straight in the database, since nobody can
//! sign in yet to make one.

use std::sync::Arc;

use boxgate_storage::catalog::OrganizationName;
use boxgate_storage::clock::SystemClock;
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::accounts::{
    Account, AccountChange, NewAccount, Organization, PlatformRole,
};
use serde_json::json;

use super::{BootstrapArgs, Failure, load, runtime, say};
use crate::app::{StartError, open_metadata};
use crate::auth::{credential, end_sessions, password};
use crate::route::Router;

pub(super) fn bootstrap(args: &BootstrapArgs) -> Result<(), Failure> {
    let settings = load(&args.config)?;
    let given = match &args.password_file {
        Some(path) => Some(
            std::fs::read_to_string(path)
                .map_err(|e| Failure::Usage(format!("--password-file {}: {e}", path.display())))?,
        ),
        None => settings
            .bootstrap_password
            .as_ref()
            .map(|s| s.expose().to_owned()),
    };
    let given = given.map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
    if given.as_ref().is_some_and(String::is_empty) {
        return Err(Failure::Usage("the password is empty".into()));
    }
    let organization: Option<OrganizationName> = args
        .organization
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|e| Failure::Usage(format!("--organization: {e}")))?;
    let router = Router::try_new(&settings.doors).map_err(Failure::Usage)?;
    if let Some(name) = organization
        .as_ref()
        .filter(|name| router.is_reserved(name.as_str()))
    {
        return Err(Failure::Usage(format!(
            "--organization: {:?} is reserved: it is the first word of a route",
            name.as_str()
        )));
    }
    args.username
        .parse::<OrganizationName>()
        .map_err(|e| Failure::Usage(format!("--username: {:?} {}", args.username, e.rule)))?;
    let made = given.is_none().then(credential::fresh);
    let secret = given.or_else(|| made.clone()).unwrap_or_default();
    runtime()?.block_on(async {
        std::fs::create_dir_all(&settings.data_dir)
            .map_err(|e| Failure::Failed(format!("{}: {e}", settings.data_dir.display())))?;
        let (metadata, _key) = open_metadata(&settings, Arc::new(SystemClock))
            .await
            .map_err(|e: StartError| Failure::failed(&e))?;
        let exists = metadata.account_by_username(&args.username).await;
        if !args.reset && exists.map_err(|e| Failure::failed(&e))?.is_some() {
            return Err(Failure::Failed(format!(
                "the account {:?} exists already; --reset gives it the role and a new password",
                args.username
            )));
        }
        let account = administrator(&metadata, &args.username, args.email.clone(), secret)
            .await
            .map_err(|e| Failure::failed(&e))?;
        end_sessions(&metadata, account.id, None)
            .await
            .map_err(|refusal| Failure::Failed(refusal.message))?;
        if let Some(name) = &organization {
            owned(&metadata, name, &account).await.map_err(|e| Failure::failed(&e))?;
        }
        metadata.close().await;
        if args.json {
            say(&json!({ "username": account.username, "password": made, "organization": args.organization }).to_string());
        } else {
            say(&format!("{} is an administrator.", account.username));
            if let Some(password) = made {
                say(&format!("Password (shown this once): {password}"));
            }
        }
        Ok(())
    })
}

/// Makes the account, or gives an existing one the role and the password.
pub(super) async fn administrator(
    metadata: &Metadata,
    username: &str,
    email: Option<String>,
    secret: String,
) -> boxgate_storage::Result<Account> {
    let password_hash = Some(password::hash(secret).await);
    if let Some(account) = metadata.account_by_username(username).await? {
        let change = AccountChange {
            email,
            password_hash,
            role: Some(PlatformRole::Admin),
            ..AccountChange::default()
        };
        metadata.update_account(account.id, change).await
    } else {
        let new = NewAccount {
            username: username.to_owned(),
            email,
            password_hash,
            role: PlatformRole::Admin,
            membership: None,
            by: String::new(),
        };
        metadata.create_account(new).await
    }
}

/// The organization of that name, made for `owner` if it is missing.
pub(super) async fn owned(
    metadata: &Metadata,
    name: &OrganizationName,
    owner: &Account,
) -> boxgate_storage::Result<Organization> {
    match metadata.organization(name).await? {
        Some(organization) => Ok(organization),
        None => metadata.create_organization(name, None, owner.id).await,
    }
}
