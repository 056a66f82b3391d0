//! What all commands share that talk to a gateway: where it is, who is calling, how a no ends.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::client::{Client, ClientError};
use crate::config::{ConnectionFlags, connection};

/// Flags of everything that talks to a gateway.
#[derive(Debug, Args)]
pub(super) struct ConnectArgs {
    #[arg(
        long,
        value_name = "URL",
        help = "Address of the gateway [variables: BOXGATE_URL, BOXVAULT_URL]"
    )]
    url: Option<String>,
    #[arg(
        long,
        value_name = "TOKEN",
        help = "Token of the caller [variable: BOXGATE_TOKEN]"
    )]
    token: Option<String>,
    #[arg(
        long,
        value_name = "ID",
        help = "Name of a service account [variables: BOXGATE_CLIENT_ID, and BOXVAULT_CLIENT_ID where BOXVAULT_URL is the address]"
    )]
    client_id: Option<String>,
    #[arg(
        long,
        value_name = "KEY",
        help = "Its key [variables: BOXGATE_CLIENT_SECRET, and BOXVAULT_CLIENT_SECRET where BOXVAULT_URL is the address]"
    )]
    client_secret: Option<String>,
    #[arg(
        long,
        value_name = "FILE",
        help = "Certificates (PEM) of whom to trust, in place of this machine's [variable: BOXGATE_CACERT]"
    )]
    cacert: Option<PathBuf>,
}

/// Flags of what asks a gateway for something and prints it.
#[derive(Debug, Args)]
pub(super) struct AskArgs {
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

impl ConnectArgs {
    /// Whether a flag says where the gateway is.
    pub(super) fn names_gateway(&self) -> bool {
        self.url.is_some()
    }

    /// For what needs a caller.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        self.connected(false)
    }

    /// For what nobody in particular may do, too.
    pub(super) fn client_of_anyone(&self) -> Result<Client, Failure> {
        self.connected(true)
    }

    fn connected(&self, anyone: bool) -> Result<Client, Failure> {
        let flags = ConnectionFlags {
            anyone,
            url: self.url.clone(),
            token: self.token.clone(),
            client_id: self.client_id.clone(),
            client_secret: self.client_secret.clone(),
            cacert: self.cacert.clone(),
        };
        let connection = connection::connection(&flags).map_err(Failure::Usage)?;
        Ok(Client::try_new(&connection)?)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Setup(text) => Self::Usage(text.clone()),
            _ if error.is_temporary() => Self::Again(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}
