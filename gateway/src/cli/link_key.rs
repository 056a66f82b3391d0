//! `boxgate admin link-key`: which keys sign download links, and how to end the links of one.

use std::future::ready;

use clap::{Args, Subcommand};
use serde_json::json;

use super::connect::AskArgs;
use super::sure::SureArgs;
use super::{Failure, runtime, say};
use crate::client::link_keys::LinkKey;

#[derive(Debug, Subcommand)]
pub(super) enum LinkKeyCommand {
    /// List the keys, the newest first.
    List(AskArgs),
    /// Make a key that signs from now on; links of those before it stay good until they expire.
    Rotate(AskArgs),
    /// End all links that a key signed, on every node within two seconds.
    #[command(after_help = "Examples:
  boxgate admin link-key rotate && boxgate admin link-key revoke 1 --yes

The id of a link's key stands at the front of its token: ?token=ID. ...")]
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    all: AskArgs,
    #[command(flatten)]
    sure: SureArgs,
    /// Id of the key.
    id: String,
}

pub(super) fn link_key(command: &LinkKeyCommand) -> Result<(), Failure> {
    runtime()?.block_on(async {
        match command {
            LinkKeyCommand::List(args) => {
                let keys = args.connect.client()?.link_keys().await?;
                if args.json {
                    say(&json!(keys).to_string());
                } else {
                    for key in &keys {
                        say(&line(key));
                    }
                }
            }
            LinkKeyCommand::Rotate(args) => {
                let key = args.connect.client()?.rotate_link_key().await?;
                if args.json {
                    say(&json!(key).to_string());
                } else {
                    say(&format!("Key {} signs download links from now on.", key.id));
                }
            }
            LinkKeyCommand::Revoke(args) => {
                let client = args.all.connect.client()?;
                let deed = format!("end all links of key {}", args.id);
                args.sure.ask(&deed, ready(Ok(String::new()))).await?;
                client.revoke_link_key(&args.id).await?;
                if args.all.json {
                    say(&json!({ "id": args.id, "state": "revoked" }).to_string());
                } else {
                    say(&format!("The links of key {} are ended.", args.id));
                }
            }
        }
        Ok(())
    })
}

fn line(key: &LinkKey) -> String {
    let state = match &key.revoked_at {
        None => "in use".to_owned(),
        Some(when) => format!("revoked {when}"),
    };
    format!("{}  made {}  {state}", key.id, key.created_at)
}
