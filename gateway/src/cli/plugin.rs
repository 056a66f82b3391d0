//! `boxgate admin plugin`: plugins that all nodes run, pushed to one of them.

use std::future::ready;
use std::path::PathBuf;

use boxgate_scripting::bundle::{Bundle, meant};
use clap::{Args, Subcommand};
use serde_json::json;

use super::connect::{AskArgs, ConnectArgs};
use super::sure::SureArgs;
use super::{Failure, runtime, say};
use crate::client::plugins::{Behind, PushedPlugin};
use crate::client::scripts::Script;

#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Have all nodes run a plugin, within two seconds.
    #[command(after_help = "Examples:
  boxgate admin plugin push plugins/acme --url https://boxes.example.com --token TOKEN
  boxgate script rollback acme             go back, on all nodes

It is checked and its tests run before any node sees it. A pushed plugin counts before one of the same name in
a node's scripts.dirs. What it asks for is granted in each node's boxgate.toml.
Exit codes: 0 pushed, 1 refused, with what is wrong, 2 called wrongly.")]
    Push(PushArgs),
    /// List the plugins that were pushed, and those that this node has beside them.
    List(AskArgs),
    /// Take a plugin off all nodes.
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    #[command(flatten)]
    all: AskArgs,
    /// The plugin's folder, or its one file.
    dir: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    sure: SureArgs,
    /// The plugin.
    name: String,
}

pub(super) fn plugin(command: &PluginCommand) -> Result<(), Failure> {
    runtime()?.block_on(async {
        match command {
            PluginCommand::Push(args) => push(args).await?,
            PluginCommand::List(args) => {
                let client = args.connect.client()?;
                let plugins = client.pushed_plugins().await?;
                if args.json {
                    say(&json!(plugins).to_string());
                } else {
                    list(&plugins, &client.scripts().await?);
                }
            }
            PluginCommand::Remove(args) => {
                let client = args.connect.client()?;
                let deed = format!("take {} off all nodes", args.name);
                args.sure.ask(&deed, ready(Ok(String::new()))).await?;
                client.remove_plugin(&args.name).await?;
                say(&format!("{} is taken off all nodes.", args.name));
            }
        }
        Ok(())
    })
}

async fn push(args: &PushArgs) -> Result<(), Failure> {
    let bundle =
        Bundle::read(&meant(&args.dir)).map_err(|finding| Failure::Usage(finding.to_string()))?;
    let pushed = args.all.connect.client()?.push_plugin(&bundle).await?;
    if args.all.json {
        say(&json!(pushed).to_string());
        return Ok(());
    }
    for warning in &pushed.warnings {
        say(warning);
    }
    say(&format!("{} is pushed at {}.", pushed.plugin, pushed.hash));
    Ok(())
}

fn list(pushed: &[PushedPlugin], here: &[Script]) {
    for plugin in pushed {
        say(&line(plugin));
        if let Some(behind) = &plugin.behind {
            say(&lag(behind));
        }
    }
    for script in here {
        let Script { plugin, hash, .. } = script;
        if pushed.iter().all(|p| p.plugin != *plugin) {
            let hash = hash.as_deref().unwrap_or("does not work");
            say(&format!("{plugin}  {hash}  not pushed, of this node alone"));
        }
    }
    if pushed.is_empty() && here.is_empty() {
        say("There are no plugins: `boxgate admin plugin push DIR` has all nodes run one.");
    }
}

fn line(plugin: &PushedPlugin) -> String {
    let PushedPlugin {
        plugin,
        hash,
        pushed_by,
        pushed_at,
        versions,
        behind: _,
    } = plugin;
    let others = versions.len().saturating_sub(1);
    format!("{plugin}  {hash}  by {pushed_by} {pushed_at}  {others} to go back to")
}

fn lag(behind: &Behind) -> String {
    let Behind {
        events,
        since,
        tries,
        next_try_at,
        error,
    } = behind;
    let error = error
        .as_ref()
        .map_or(String::new(), |why| format!(": {why}"));
    format!(
        "  behind by {events} events since {since}, told again at {next_try_at} after {tries} failures{error}"
    )
}
