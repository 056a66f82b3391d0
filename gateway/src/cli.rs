//! What a person types. Exit codes: 0 done, 1 failed, 2 usage or configuration, 75 try again.

mod bootstrap;
mod columns;
mod connect;
mod import;
mod link_key;
mod manual;
mod migrate;
mod nouns;
mod plugin;
mod pull;
mod push;
mod quickstart;
mod sample_box;
mod screen;
mod script;
mod self_signed;
mod serve;
mod sure;
mod transfer;
mod upkeep;
mod upload;
mod webhook;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Flags, Settings, Warning};

/// A streaming gateway for multi-gigabyte Vagrant boxes and images.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Examples:
  boxgate quickstart                       try it: prints credentials and lines to paste
  boxgate sample-box demo.box              make a valid box to try with
  boxgate push demo.box myorg/demo 1.0.0 virtualbox amd64
  boxgate pull myorg/demo                  fetch it, each MiB proved
  boxgate serve --config boxgate.toml      run it for real"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    #[command(after_help = "Examples:
  boxgate serve
  boxgate serve --config /etc/boxgate/boxgate.toml
  boxgate serve --data-dir /srv/boxgate --listen 0.0.0.0:3000
  boxgate serve --boxitory /srv/boxes      in the place of a Boxitory: the tree as it is, on port 8083

Make the first administrator with `boxgate admin bootstrap`. Every flag has a key in the file and a
BOXGATE_ variable; `boxgate config print` shows what is in force.")]
    Serve(ServeArgs),
    /// Run the gateway with an organization, an administrator and a service account made and printed.
    #[command(after_help = "Examples:
  boxgate quickstart
  boxgate quickstart --listen 127.0.0.1:0 --json    a free port; one JSON line for scripts
  boxgate quickstart --tls self-signed     HTTP/1.1, 2 and 3 with a certificate made for it")]
    Quickstart(QuickstartArgs),
    /// Write a valid Vagrant box to try with.
    #[command(after_help = "Examples:
  boxgate sample-box demo.box
  boxgate sample-box big.box --size 4GiB")]
    SampleBox(SampleBoxArgs),
    /// Publish a box: in parallel, and gone on with after a cut or a kill of either side.
    #[command(after_help = "Examples:
  boxgate push demo.box myorg/demo 1.0.0 virtualbox amd64 --url http://127.0.0.1:3000 --token KEY
  BOXGATE_URL=... BOXGATE_TOKEN=... boxgate push demo.box myorg/demo 1.0.0 virtualbox amd64
  boxgate push --to 'myorg/{stem}/1.0.0' out/*.box    provider and architecture as each box says itself
  boxgate push --box-metadata web.json --release --json web.box | jq -c 'select(.event == \"failed\")'

--json prints started, progress (once a second), part, retried, finished, failed and what else happens, each with file
and target. HTTPS_PROXY, HTTP_PROXY and NO_PROXY count. What a push needs to go on is kept beside the file, in FILE.boxgate-push, until the file is published.
Exit codes: 0 published, 1 failed, 2 called wrongly, 75 not now: the same command goes on. Of several files the worst
counts: 2, then 1, then 75.")]
    Push(push::PushArgs),
    /// Compare rows with stored bytes; changes nothing.
    #[command(after_help = "Examples:
  boxgate fsck --data-dir /srv/boxgate
  boxgate fsck --url http://127.0.0.1:3000 --token TOKEN --json | jq -r '.finding.key // empty'

While a gateway runs on the data directory it is asked to look, as an administrator of the platform (--url
and --token, or their variables); else the directory is opened here. --json prints one document a line.
Exit codes: 0 nothing found, 1 findings, 2 could not look.")]
    Fsck(upkeep::FsckArgs),
    /// Remove what nobody holds any more, now.
    #[command(after_help = "Examples:
  boxgate gc --data-dir /srv/boxgate --dry-run
  boxgate gc --url http://127.0.0.1:3000 --token TOKEN

Goes: bytes of uploads that were given up, boxes that were deleted or replaced a day ago, and bytes that no
row names, once they were seen gc.orphan_age apart. Where a store has too many of those (gc.few_orphans,
gc.most_orphans, gc.most_orphans_percent), all of them are left: an old backup of the database may have been
restored. Works beside a running gateway as `boxgate fsck` does.
Exit codes: 0 done, 1 something that is due was left, 2 could not look.")]
    Gc(upkeep::GcArgs),
    /// Read all stored bytes against what was hashed when they came in.
    #[command(after_help = "Examples:
  boxgate scrub --data-dir /srv/boxgate --rate 100MiB
  boxgate scrub --url http://127.0.0.1:3000 --token TOKEN --json

A blob that is damaged or missing is named, damage to the MiB, and taken out of service; sending the same
file again heals every name that had it. A blob that was out of service and is whole is served again. Works
beside a running gateway as `boxgate fsck` does.
Exit codes: 0 all is whole, 1 something is damaged, 2 could not look.")]
    Scrub(upkeep::ScrubArgs),
    /// Fetch a box: in parallel, each MiB proved by itself, and gone on with after a cut.
    #[command(after_help = "Examples:
  boxgate pull myorg/demo --url http://127.0.0.1:3000
  BOXGATE_URL=... BOXGATE_TOKEN=... boxgate pull myorg/demo@1.0.0 virtualbox amd64 -o demo.box
  boxgate pull --json myorg/demo myorg/web@2.1.0 virtualbox

Public boxes need no token. What has come gathers in FILE.boxgate-pull, which becomes FILE when all of it
is here and right; of a FILE that is damaged, or of another version, only what differs is fetched.
Exit codes: 0 here, 1 failed, 2 called wrongly, 75 not now: the same command goes on. Of several boxes the worst counts.")]
    Pull(pull::PullArgs),
    /// Administer an installation.
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Write, check and test plugins.
    #[command(subcommand)]
    Script(script::ScriptCommand),
    /// Check or show the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print what makes a shell complete commands and flags.
    #[command(after_help = "Examples:
  boxgate completions bash >/usr/share/bash-completion/completions/boxgate
  boxgate completions zsh >/usr/share/zsh/vendor-completions/_boxgate
  boxgate completions fish >/usr/share/fish/vendor_completions.d/boxgate.fish
  source <(boxgate completions bash)       for this shell alone")]
    Completions(manual::CompletionsArgs),
    /// Write a manual page for each command.
    #[command(after_help = "Examples:
  boxgate man /usr/local/share/man/man1 && man boxgate-push")]
    Man(manual::ManArgs),
}

/// Flags of everything that reads the configuration.
#[derive(Debug, Clone, Args)]
struct ConfigArgs {
    /// Configuration file; without it ./boxgate.toml is read if it is there.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where rows, keys and (unless configured elsewhere) boxes are kept [default: ./boxgate-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address of the first listener; port 0 takes a free one [default: 127.0.0.1:3000].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Serve a tree of boxes where it is, as Boxitory does; where no address is said, at 0.0.0.0:8083 and nothing else.
    #[arg(long, value_name = "DIR")]
    boxitory: Option<PathBuf>,
    /// The properties file of the Boxitory in whose place this stands.
    #[arg(long, value_name = "FILE")]
    boxitory_properties: Option<PathBuf>,
    /// Where plugins are read from, in place of scripts.dirs; may be given more than once.
    #[arg(long, value_name = "DIR")]
    plugins: Vec<PathBuf>,
    /// Come in the place of the process that started this one; that gives the flag itself.
    #[arg(long, hide = true)]
    take_over: bool,
}

#[derive(Debug, Args)]
struct QuickstartArgs {
    #[command(flatten)]
    serve: ServeArgs,
    /// The organization to make.
    #[arg(long, default_value = "myorg", value_name = "NAME")]
    organization: String,
    /// Speak TLS (HTTP/1.1 and 2) and HTTP/3, with a certificate made for it.
    #[arg(long, value_name = "HOW")]
    tls: Option<TryTls>,
    /// Print one JSON line instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum TryTls {
    /// Made at the first start and kept in the data directory.
    SelfSigned,
}

#[derive(Debug, Args)]
struct SampleBoxArgs {
    /// The file to write; it must not exist.
    file: PathBuf,
    /// About how large: 10MB, 300MB, 4GiB.
    #[arg(long, default_value = "1MB", value_name = "SIZE")]
    size: String,
    /// Provider that the box says it is for.
    #[arg(long, default_value = "virtualbox", value_name = "NAME")]
    provider: String,
    /// Architecture that the box says it is for.
    #[arg(long, default_value = "amd64", value_name = "NAME")]
    architecture: String,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Make the first administrator, straight in the database.
    #[command(after_help = "Examples:
  boxgate admin bootstrap --username admin --password-file /run/secrets/admin
  boxgate admin bootstrap --organization acme      a random password is made and printed once

Works beside a running gateway too. BOXGATE_BOOTSTRAP_PASSWORD_FILE stands for --password-file.")]
    Bootstrap(BootstrapArgs),
    /// Take the boxes of one store to another, each proved on the way.
    #[command(after_help = "Examples:
  boxgate admin copy-store --from main --to bucket --data-dir /srv/boxgate
  boxgate admin copy-store --from main --to bucket --url http://127.0.0.1:3000 --token TOKEN

Works beside a running gateway as `boxgate fsck` does, and may be cut: the same command goes on with the blob that was on
its way. Each blob is read from the new store once it is there, proved again, and served from there from then on; what
the old store has of it goes a day later. Set uploads.store first, so that nothing new comes into the old one.
Exit codes: 0 nothing is left in the old store, 1 something is, 2 could not be done.")]
    CopyStore(upkeep::CopyArgs),
    /// Bring what another kind of server serves.
    #[command(subcommand)]
    Import(import::ImportCommand),
    /// Take the rows of an installation from its data directory into PostgreSQL.
    #[command(after_help = "Examples:
  BOXGATE_MASTER_KEY_FILE=/srv/boxgate/master.key boxgate admin migrate --from sqlite --to postgres \\
      --config boxgate.toml

Stop the gateway first. The configuration is that of the nodes to come: metadata.url, public_url, the master key that the
data directory has, and the stores as they are. All rows go in one transaction, are read back and compared; or none do.
Boxes stay where they are: `boxgate admin copy-store` takes them into a bucket.")]
    Migrate(migrate::MigrateArgs),
    /// Look after uploads in progress, over the gateway's API.
    #[command(subcommand)]
    Upload(upload::UploadCommand),
    /// Look after the keys that sign download links, over the gateway's API.
    #[command(subcommand)]
    LinkKey(link_key::LinkKeyCommand),
    /// Plugins that all nodes run.
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Endpoints that are told of events, and what was sent to them.
    #[command(subcommand)]
    Webhook(webhook::WebhookCommand),
    #[command(flatten)]
    Noun(nouns::NounCommand),
}

#[derive(Debug, Args)]
struct BootstrapArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Name of the administrator.
    #[arg(long, default_value = "admin", value_name = "NAME")]
    username: String,
    /// File with the password; without it a random one is made and printed.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Give an account that exists already the role and the password.
    #[arg(long)]
    reset: bool,
    /// E-mail address.
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// An organization to make, owned by the administrator.
    #[arg(long, value_name = "NAME")]
    organization: Option<String>,
    /// Print one JSON line instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read the configuration and report every mistake.
    Check(ServeArgs),
    /// Show what is in force, secrets hidden.
    Print(ServeArgs),
}

/// Why a command ended without doing what was asked.
#[derive(Debug)]
enum Failure {
    /// Something is wrong with how it was called or configured.
    Usage(String),
    /// It did not work.
    Failed(String),
    /// It did not work now, and may later, called the same way.
    Again(String),
    /// It could not be found out.
    CannotLook(String),
    /// It was found out and told, and it is not good.
    Found,
    /// Each part of it was told already; this is how it ends.
    Told(u8),
}

impl Failure {
    fn failed(error: &dyn std::error::Error) -> Self {
        Self::Failed(boxgate_storage::error::chain(error))
    }

    /// Its text, if it was not told yet.
    fn text(&self) -> &str {
        match self {
            Self::Usage(text) | Self::CannotLook(text) | Self::Failed(text) | Self::Again(text) => {
                text
            }
            Self::Found | Self::Told(_) => "",
        }
    }

    /// Its text, if it was not told yet, and the code that it ends with.
    fn told(self) -> (String, u8) {
        match self {
            Self::Usage(text) | Self::CannotLook(text) => (text, 2),
            Self::Failed(text) => (text, 1),
            Self::Again(text) => (text, 75),
            Self::Found => (String::new(), 1),
            Self::Told(code) => (String::new(), code),
        }
    }
}

/// Runs what was typed.
pub fn run(cli: Cli) -> ExitCode {
    crate::sys::alloc::keep_freed();
    boxgate_scripting::panics::keep_quiet();
    let outcome = match cli.command {
        Command::Serve(args) => serve::serve(&args),
        Command::Quickstart(args) => quickstart::quickstart(&args),
        Command::SampleBox(args) => sample_box::sample_box(&args),
        Command::Push(args) => push::push(&args),
        Command::Fsck(args) => upkeep::fsck(&args),
        Command::Gc(args) => upkeep::gc(&args),
        Command::Scrub(args) => upkeep::scrub(&args),
        Command::Pull(args) => pull::pull(&args),
        Command::Admin(AdminCommand::Bootstrap(args)) => bootstrap::bootstrap(&args),
        Command::Admin(AdminCommand::CopyStore(args)) => upkeep::copy(&args),
        Command::Admin(AdminCommand::Import(command)) => import::import(&command),
        Command::Admin(AdminCommand::Migrate(args)) => migrate::migrate(&args),
        Command::Admin(AdminCommand::Upload(command)) => upload::upload(&command),
        Command::Admin(AdminCommand::LinkKey(command)) => link_key::link_key(&command),
        Command::Admin(AdminCommand::Plugin(command)) => plugin::plugin(&command),
        Command::Admin(AdminCommand::Webhook(command)) => webhook::webhook(&command),
        Command::Admin(AdminCommand::Noun(command)) => nouns::noun(&command),
        Command::Script(command) => script::script(&command),
        Command::Config(ConfigCommand::Check(args)) => check(&args),
        Command::Config(ConfigCommand::Print(args)) => print(&args),
        Command::Completions(args) => {
            manual::completions(&args);
            Ok(())
        }
        Command::Man(args) => manual::man(&args),
    };
    let Err(failure) = outcome else {
        return ExitCode::SUCCESS;
    };
    let (text, code) = failure.told();
    if !text.is_empty() {
        say_error(&format!("boxgate: {text}"));
    }
    ExitCode::from(code)
}

/// Settings for a command that a person waits for; what is odd is told on standard error.
fn load(config: &ConfigArgs) -> Result<Settings, Failure> {
    read_config(&config.flags()).map(warned)
}

/// The same for what serves.
fn load_to_serve(args: &ServeArgs) -> Result<Settings, Failure> {
    read_config(&args.flags()).map(warned)
}

fn warned((settings, warnings): (Settings, Vec<Warning>)) -> Settings {
    for warning in warnings {
        say_error(&format!("boxgate: warning: {warning}"));
    }
    settings
}

impl ConfigArgs {
    fn flags(&self) -> Flags {
        Flags {
            config: self.config.clone(),
            data_dir: self.data_dir.clone(),
            ..Flags::default()
        }
    }
}

impl ServeArgs {
    fn flags(&self) -> Flags {
        Flags {
            listen: self.listen.clone(),
            boxitory: self.boxitory.clone(),
            boxitory_properties: self.boxitory_properties.clone(),
            plugins: self.plugins.clone(),
            ..self.config.flags()
        }
    }
}

fn read_config(flags: &Flags) -> Result<(Settings, Vec<Warning>), Failure> {
    config::load(flags).map_err(|errors| Failure::Usage(format!("configuration:\n{errors}")))
}

fn check(args: &ServeArgs) -> Result<(), Failure> {
    load_to_serve(args)?;
    say("The configuration is right.");
    Ok(())
}

fn print(args: &ServeArgs) -> Result<(), Failure> {
    let settings = load_to_serve(args)?;
    say(config::print(&settings).trim_end());
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(&e))
}

/// One line for people or programs on standard output; a closed pipe is no error of ours.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _closed_pipe = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn say_error(text: &str) {
    let _closed_pipe = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
