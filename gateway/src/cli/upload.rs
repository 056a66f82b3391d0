//! `boxgate admin upload`: what is coming in, and how to end it.

use clap::{Args, Subcommand};
use indicatif::{DecimalBytes, HumanBytes};
use serde_json::json;

use super::columns::aligned;
use super::connect::ConnectArgs;
use super::sure::SureArgs;
use super::{Failure, runtime, say};
use crate::client::uploads::{Told, Upload};

#[derive(Debug, Subcommand)]
pub(super) enum UploadCommand {
    /// List uploads in progress.
    #[command(after_help = "Examples:
  boxgate admin upload list
  boxgate admin upload list --organization acme --json | jq '.[] | select(.idleSeconds > 3600) | .id'

IDLE is the time since bytes were last committed, RATE the mean since the upload began.")]
    List(ListArgs),
    /// Show one upload, in whatever state; whoever sends it goes on undisturbed.
    Show(ShowArgs),
    /// Publish an upload that plugins hold or have quarantined, whatever they said of it.
    #[command(after_help = "Example:
  boxgate admin upload list --withheld
  boxgate admin upload release 0f3a...")]
    Release(ShowArgs),
    /// Give up an upload in progress, also one that is held or quarantined: its sender is refused, its bytes are
    /// removed.
    Abort(AbortArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Only those of this organization.
    #[arg(long, value_name = "NAME")]
    organization: Option<String>,
    /// Only those that plugins hold or have quarantined, each with the reason.
    #[arg(long)]
    withheld: bool,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Id of the upload.
    id: String,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct AbortArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Id of the upload.
    id: String,
    #[command(flatten)]
    sure: SureArgs,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn upload(command: &UploadCommand) -> Result<(), Failure> {
    runtime()?.block_on(async {
        match command {
            UploadCommand::List(args) => list(args).await,
            UploadCommand::Show(args) => show(args).await,
            UploadCommand::Release(args) => release(args).await,
            UploadCommand::Abort(args) => abort(args).await,
        }
    })
}

/// Page by page, so that no number of uploads is too many.
async fn list(args: &ListArgs) -> Result<(), Failure> {
    let client = args.connect.client()?;
    let mut after: Option<String> = None;
    let mut first = true;
    loop {
        let page = client
            .uploads(
                args.organization.as_deref(),
                after.as_deref(),
                args.withheld,
            )
            .await?;
        let Some(last) = page.last() else { break };
        after = Some(last.told.id.clone());
        if args.json {
            for upload in &page {
                say(&format!(
                    "{} {}",
                    if first { "[" } else { "," },
                    upload.document
                ));
                first = false;
            }
        } else if args.withheld {
            for upload in &page {
                say(&withheld(&upload.told));
            }
            first = false;
        } else {
            say(table(&page, first).trim_end());
            first = false;
        }
    }
    match (args.json, first) {
        (true, true) => say("[]"),
        (true, false) => say("]"),
        (false, true) if args.withheld => say("No upload is held or quarantined."),
        (false, true) => say("No upload is in progress."),
        (false, false) => {}
    }
    Ok(())
}

async fn show(args: &ShowArgs) -> Result<(), Failure> {
    let found = args.connect.client()?.upload(&args.id).await?;
    if args.json {
        say(&found.document.to_string());
    } else {
        say(sheet(&found.told).trim_end());
    }
    Ok(())
}

/// One line: reasons are longer than a column.
fn withheld(told: &Told) -> String {
    let target = target(told).unwrap_or_else(|| "-".to_owned());
    let organization = told.organization.name.as_deref().unwrap_or("-");
    let reason = told.reason.as_deref().unwrap_or_default();
    let state = &told.state;
    format!("{}  {state}  {organization}/{target}  {reason}", told.id)
}

async fn release(args: &ShowArgs) -> Result<(), Failure> {
    let found = args.connect.client()?.release_upload(&args.id).await?;
    if args.json {
        say(&found.document.to_string());
    } else if found.told.state == "done" {
        say(&format!("Upload {} is published.", args.id));
    } else {
        say(&format!(
            "Upload {} is let through, and published within a minute.",
            args.id
        ));
    }
    Ok(())
}

async fn abort(args: &AbortArgs) -> Result<(), Failure> {
    let client = args.connect.client()?;
    let deed = format!("give upload {} up", args.id);
    let shown = async { Ok(sheet(&client.upload(&args.id).await?.told)) };
    args.sure.ask(&deed, shown).await?;
    client.abort_upload(&args.id).await?;
    if args.json {
        say(&json!({ "id": args.id, "state": "aborted" }).to_string());
    } else {
        say(&format!("Upload {} is given up.", args.id));
    }
    Ok(())
}

const HEADER: [&str; 10] = [
    "ID",
    "ORGANIZATION",
    "TARGET",
    "OWNER",
    "OFFSET",
    "LENGTH",
    "DONE",
    "AGE",
    "IDLE",
    "RATE",
];

fn table(uploads: &[Upload], with_header: bool) -> String {
    let header = with_header.then(|| HEADER.map(str::to_owned));
    let rows: Vec<[String; 10]> = header
        .into_iter()
        .chain(uploads.iter().map(|upload| cells(&upload.told)))
        .collect();
    aligned(&rows)
}

fn cells(told: &Told) -> [String; 10] {
    let unknown = || "-".to_owned();
    [
        told.id.clone(),
        told.organization.name.clone().unwrap_or_else(unknown),
        target(told).unwrap_or_else(unknown),
        owner(told).unwrap_or_else(unknown),
        HumanBytes(told.offset).to_string(),
        told.length
            .map_or_else(unknown, |l| HumanBytes(l).to_string()),
        percent(told).unwrap_or_else(unknown),
        span(told.age_seconds),
        if told.busy {
            "busy".to_owned()
        } else {
            span(told.idle_seconds)
        },
        told.mean_bytes_per_second.map_or_else(unknown, rate),
    ]
}

fn sheet(told: &Told) -> String {
    let [id, organization, target, owner, _, _, done, age, _, rate] = cells(told);
    let length = told
        .length
        .map_or_else(|| "unknown".to_owned(), |l| l.to_string());
    let expires = told.expires_at.as_deref().unwrap_or("never");
    let lines = [
        ("id", id),
        (
            "state",
            told.state.clone()
                + if told.busy {
                    ", a request is busy with it"
                } else {
                    ""
                },
        ),
        ("organization", organization),
        ("target", target),
        ("owner", owner),
        (
            "offset",
            format!("{} of {length} bytes ({done})", told.offset),
        ),
        ("made", format!("{}, {age} ago", told.created_at)),
        ("idle for", span(told.idle_seconds)),
        ("mean rate", rate),
        ("expires", expires.to_owned()),
    ];
    let said = [
        ("reason", &told.reason),
        ("asked again", &told.asked_again_at),
    ];
    let said = said.into_iter();
    let said = said.filter_map(|(name, value)| Some((name, value.clone()?)));
    let lines = lines.into_iter().chain(said);
    let lines: Vec<_> = lines
        .map(|(name, value)| format!("{name:<12}  {value}\n"))
        .collect();
    lines.concat()
}

fn target(told: &Told) -> Option<String> {
    let t = told.target.as_ref()?;
    if let Some(iso) = &t.iso {
        return Some(format!("iso/{iso}"));
    }
    Some([t.r#box.as_str(), &t.version, &t.provider, &t.architecture].join("/"))
}

fn owner(told: &Told) -> Option<String> {
    let owner = &told.owner;
    owner.actor.clone().or_else(|| owner.username.clone())
}

/// Whole percents, rounded down: 100 means all of it.
fn percent(told: &Told) -> Option<String> {
    let length = told.length.filter(|length| *length > 0)?;
    let percent = u128::from(told.offset) * 100 / u128::from(length);
    Some(format!("{percent}%"))
}

fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", DecimalBytes(bytes_per_second))
}

/// `45s`, `12m`, `3h 10m`, `2d 4h`.
pub(super) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (minutes, hours, days) {
        (0, ..) => format!("{seconds}s"),
        (_, 0, _) => format!("{minutes}m"),
        (_, _, 0) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(offset: u64, length: Option<u64>) -> Told {
        serde_json::from_value(json!({
            "id": "ab", "state": "open", "owner": { "username": "ann", "actor": null },
            "organization": { "name": null }, "target": null, "offset": offset, "length": length,
            "busy": false, "ageSeconds": 7260, "idleSeconds": 59, "meanBytesPerSecond": null,
            "createdAt": "2026-01-01T00:00:00.000Z", "expiresAt": null,
        }))
        .unwrap()
    }

    #[test]
    fn spans_and_percents_are_rounded_down() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3599, "59m"),
            (3660, "1h 1m"),
            (86_400, "1d 0h"),
            (187_200, "2d 4h"),
        ] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(percent(&told(999, Some(1000))).unwrap(), "99%");
        assert_eq!(percent(&told(u64::MAX, Some(u64::MAX))).unwrap(), "100%");
        assert_eq!(percent(&told(5, None)), None);
    }

    #[test]
    fn columns_stand_below_their_names_and_what_is_unknown_is_a_dash() {
        let upload = Upload {
            told: told(1 << 20, None),
            document: json!({}),
        };
        let text = table(&[upload.clone(), upload], true);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1], lines[2]);
        for (name, cell) in [
            ("ORGANIZATION", "-"),
            ("OWNER", "ann"),
            ("OFFSET", "1.00 MiB"),
            ("AGE", "2h 1m"),
        ] {
            let at = lines[0].find(name).unwrap();
            assert!(lines[1][at..].starts_with(cell), "{name}: {text}");
        }
    }
}
