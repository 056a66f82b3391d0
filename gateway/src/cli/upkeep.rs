//! `boxgate fsck`, `boxgate gc` and `boxgate scrub`: what is stored, looked after by the gateway that runs on it, or from
//! here while none does.

use std::path::Path;

use clap::Args;
use http::Method;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use boxgate_storage::check::Brake;

use super::connect::ConnectArgs;
use super::import;
use super::{ConfigArgs, Failure, load, runtime, say, upload};
use crate::app::{Premises, StartError};
use crate::client::ClientError;
use crate::client::upkeep::Lines;
use crate::config::{ByteSize, Settings};
use crate::upkeep::line::{
    Adopted, Adopting, Amount, Checked, Collected, Copied, Finding, Line, Orphans, Scrubbed,
};
use crate::upkeep::{self, Chore, Job};

#[derive(Debug, Args)]
pub(super) struct FsckArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    part: PartArgs,
    /// First make names again of what stands beside stored boxes and the database does not know: after an older backup of
    /// it was restored, or in the place of a lost one. Best while no gateway runs.
    #[arg(long)]
    adopt: bool,
}

#[derive(Debug, Args)]
pub(super) struct GcArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    part: PartArgs,
    /// Tell what would go, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// Let bytes that no row names go however many they are, once they were seen twice with this flag.
    #[arg(long)]
    remove_many_orphans: bool,
}

#[derive(Debug, Args)]
pub(super) struct CopyArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The store that holds the boxes, by its name in the configuration.
    #[arg(long, value_name = "NAME")]
    from: String,
    /// The store that is to hold them.
    #[arg(long, value_name = "NAME")]
    to: String,
    /// Bytes copied in a second, 0 for as many as come.
    #[arg(long, value_name = "SIZE", default_value = "0")]
    rate: ByteSize,
}

#[derive(Debug, Args)]
pub(super) struct ScrubArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    part: PartArgs,
    /// Bytes read in a second, 0 for as many as come [default: what scrub.rate says].
    #[arg(long, value_name = "SIZE")]
    rate: Option<ByteSize>,
}

/// What is looked after, and how it is told.
#[derive(Debug, Args)]
struct PlaceArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Print JSON, one document a line.
    #[arg(long)]
    json: bool,
}

/// Which part of it.
#[derive(Debug, Args)]
struct PartArgs {
    /// Look at one store only, by its name in the configuration.
    #[arg(long, value_name = "NAME")]
    store: Option<String>,
}

pub(super) fn fsck(args: &FsckArgs) -> Result<(), Failure> {
    let only = args.part.store.as_ref();
    let (call, chore) = if args.adopt {
        ((Method::POST, path("adopt", &[], only)), Chore::Adopt)
    } else {
        ((Method::GET, path("fsck", &[], only)), Chore::Check)
    };
    match args.place.tell(call, &args.part.named(), only, |_| chore)? {
        Line::Checked(checked) if checked.findings == 0 => Ok(()),
        _ => Err(Failure::Found),
    }
}

pub(super) fn gc(args: &GcArgs) -> Result<(), Failure> {
    let (dry_run, many) = (args.dry_run, args.remove_many_orphans);
    let query = [
        ("dry_run", dry_run.to_string()),
        ("remove_many_orphans", many.to_string()),
    ];
    let call = (Method::POST, path("gc", &query, args.part.store.as_ref()));
    let chore = |settings: &Settings| {
        let mut limits = settings.gc.orphans;
        if many {
            limits.brake = Brake::RELEASED;
        }
        Chore::Collect { limits, dry_run }
    };
    match args
        .place
        .tell(call, &args.part.named(), args.part.store.as_ref(), chore)?
    {
        Line::Collected(collected) if is_all_gone(&collected) => Ok(()),
        _ => Err(Failure::Found),
    }
}

pub(super) fn copy(args: &CopyArgs) -> Result<(), Failure> {
    let CopyArgs {
        place,
        from,
        to,
        rate,
    } = args;
    let query = [
        ("from", from.clone()),
        ("to", to.clone()),
        ("rate", rate.to_string()),
    ];
    let call = (Method::POST, path("copy-store", &query, None));
    let chore = |_: &Settings| Chore::Copy {
        from: from.clone(),
        to: to.clone(),
        rate_bytes: rate.0,
    };
    match place.tell(call, &[from, to], None, chore)? {
        Line::Copied(copied) if copied.damaged == 0 && copied.left == 0 && copied.uploads == 0 => {
            Ok(())
        }
        _ => Err(Failure::Found),
    }
}

/// Where a gateway is asked for a chore.
pub(super) fn path(chore: &str, query: &[(&str, String)], only: Option<&String>) -> String {
    let only = only.map(|store| ("store", store));
    let pairs = query.iter().map(|(key, value)| (*key, value)).chain(only);
    let mut path = format!("/api/admin/{chore}");
    for (n, (key, value)) in pairs.enumerate() {
        path.push(if n == 0 { '?' } else { '&' });
        path.push_str(key);
        path.push('=');
        path.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
    }
    path
}

pub(super) fn scrub(args: &ScrubArgs) -> Result<(), Failure> {
    let query = args.rate.map(|rate| ("rate", rate.to_string()));
    let path = path("scrub", query.as_slice(), args.part.store.as_ref());
    let chore = |settings: &Settings| Chore::Scrub {
        rate_bytes: args.rate.map_or(settings.scrub.rate_bytes, |rate| rate.0),
    };
    match args.place.tell(
        (Method::POST, path),
        &args.part.named(),
        args.part.store.as_ref(),
        chore,
    )? {
        Line::Scrubbed(scrubbed) if scrubbed.damaged == 0 => Ok(()),
        _ => Err(Failure::Found),
    }
}

fn is_all_gone(collected: &Collected) -> bool {
    collected.kept.count == 0 && !collected.stores.values().any(|store| store.stopped)
}

impl PartArgs {
    fn named(&self) -> Vec<&String> {
        self.store.iter().collect()
    }
}

/// Where the lines come from.
enum Source {
    Gateway(Lines),
    Here(Premises, mpsc::Receiver<Line>),
}

impl PlaceArgs {
    /// Has it done, prints what is told, and returns the outcome.
    fn tell(
        &self,
        call: (Method, String),
        named: &[&String],
        only: Option<&String>,
        chore: impl FnOnce(&Settings) -> Chore,
    ) -> Result<Line, Failure> {
        runtime()?.block_on(async {
            let mut source = self.source(call, named, only, chore).await?;
            let mut printer = Printer::new(self.json);
            let last = loop {
                let line = source.next().await?;
                printer.print(&line);
                if line.is_last() {
                    break line;
                }
            };
            if let Source::Here(premises, _) = source {
                premises.close().await;
            }
            match last {
                Line::Failed(why) => Err(Failure::CannotLook(why)),
                outcome => Ok(outcome),
            }
        })
    }

    async fn source(
        &self,
        call: (Method, String),
        named: &[&String],
        only: Option<&String>,
        chore: impl FnOnce(&Settings) -> Chore,
    ) -> Result<Source, Failure> {
        if self.connect.names_gateway() {
            return self.gateway(call).await;
        }
        let settings = load(&self.config)?;
        if let Some(strange) = named
            .iter()
            .find(|name| !settings.stores.contains_key(**name))
        {
            let there: Vec<_> = settings.stores.keys().map(String::as_str).collect();
            let there = there.join(", ");
            let text = format!("no store is named {strange:?}; there is {there}");
            return Err(Failure::Usage(text));
        }
        let chore = chore(&settings);
        match Premises::open(&settings, chore == Chore::Adopt).await {
            Ok(premises) => {
                let (nobody_ends_it, tasks) = (CancellationToken::new(), TaskTracker::new());
                let job = Job {
                    stock: premises.stock().only(only.cloned()),
                    chore,
                    turn: None,
                    ending: nobody_ends_it,
                    telemetry: None,
                };
                let told = upkeep::tell(job, &tasks);
                Ok(Source::Here(premises, told))
            }
            Err(StartError::InUse { path }) => {
                let asked = self.gateway(call).await;
                asked.map_err(|failure| to_be_asked(&path, failure))
            }
            Err(error) => Err(Failure::CannotLook(boxgate_storage::error::chain(&error))),
        }
    }

    async fn gateway(&self, (method, place): (Method, String)) -> Result<Source, Failure> {
        let lines = self.connect.client()?.lines(method, &place).await;
        Ok(Source::Gateway(lines.map_err(cannot_look)?))
    }
}

/// What is missing to ask the gateway that runs on a data directory.
pub(super) fn to_be_asked(path: &Path, failure: Failure) -> Failure {
    let Failure::Usage(missing) = failure else {
        return failure;
    };
    let path = path.display();
    Failure::Usage(format!(
        "a gateway runs on {path} and is to be asked: {missing}"
    ))
}

/// All that goes wrong with a call leaves the question open.
pub(super) fn cannot_look(error: ClientError) -> Failure {
    match Failure::from(error) {
        Failure::Failed(text) | Failure::Again(text) => Failure::CannotLook(text),
        failure => failure,
    }
}

impl Source {
    async fn next(&mut self) -> Result<Line, Failure> {
        match self {
            Self::Gateway(lines) => lines.next().await.map_err(cannot_look),
            Self::Here(_, told) => {
                let ended = || Failure::CannotLook("a defect ended it".into());
                told.recv().await.ok_or_else(ended)
            }
        }
    }
}

/// Lines for people, or for programs as they are.
pub(super) struct Printer {
    json: bool,
    bar: ProgressBar,
    findings: u64,
    adopting: Option<Adopting>,
}

impl Printer {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            // It shows itself on a terminal only.
            bar: ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
            findings: 0,
            adopting: None,
        }
    }

    pub(super) fn print(&mut self, line: &Line) {
        match line {
            Line::Adopting(adopting) => {
                self.adopting = Some(*adopting);
                self.bar.set_message(taken(adopting));
                self.bar.tick();
            }
            Line::Checking(checked) => {
                self.bar.set_message(looked_at(checked));
                self.bar.tick();
            }
            Line::Scrubbing(scrubbed) => {
                if self.bar.length().is_none() {
                    self.bar.set_style(reading());
                }
                self.bar.set_length(scrubbed.total_bytes);
                self.bar.set_position(scrubbed.bytes);
            }
            Line::Copying(copied) => {
                if self.bar.length().is_none() {
                    self.bar.set_style(reading());
                }
                self.bar.set_length(copied.total_bytes);
                self.bar.set_position(copied.bytes);
            }
            Line::Importing(imported) => {
                if self.bar.length().is_none() {
                    self.bar.set_style(reading());
                }
                self.bar.set_length(imported.total_bytes);
                self.bar.set_position(imported.bytes);
            }
            Line::Failed(_) => self.bar.finish_and_clear(),
            _ if self.json => {
                let text = serde_json::to_string(line);
                self.bar.suspend(|| say(&text.unwrap_or_default()));
            }
            Line::Adopted(adopted) => {
                let Adopted { name, key, store } = adopted;
                let text = format!("adopted        {name}: blob {key} in store {store}");
                self.bar.suspend(|| say(&text));
            }
            Line::Finding(found) => {
                let text = finding(found, self.findings == 0);
                self.findings += 1;
                self.bar.suspend(|| say(&text));
            }
            Line::Checked(checked) => {
                let taken = self.adopting.as_ref().map(taken);
                let taken = taken.map_or_else(String::new, |taken| format!("{taken}\n"));
                self.last(&format!("{taken}{}", outcome(checked)));
            }
            Line::Collected(collected) => self.last(&swept(collected)),
            Line::Scrubbed(scrubbed) => self.last(&read(scrubbed)),
            Line::Copied(copied) => self.last(&moved(copied)),
            Line::Left(left) => {
                let text = format!("not brought    {}: {}", left.path, left.why);
                self.bar.suspend(|| say(&text));
            }
            Line::Imported(imported) => self.last(&import::brought(imported)),
        }
    }

    fn last(&self, text: &str) {
        self.bar.finish_and_clear();
        say(text);
    }
}

fn reading() -> ProgressStyle {
    let template = "{bar:24} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
    ProgressStyle::with_template(template).unwrap_or_else(|_odd| ProgressStyle::default_bar())
}

fn read(scrubbed: &Scrubbed) -> String {
    let Scrubbed {
        blobs,
        bytes,
        damaged,
        healed,
        ..
    } = *scrubbed;
    let damage = match damaged {
        0 => "all are whole".to_owned(),
        _ => format!("{damaged} damaged or missing"),
    };
    let healed = match healed {
        0 => String::new(),
        _ => format!(", {healed} whole again and served"),
    };
    format!("{blobs} blobs, {}: {damage}{healed}.", HumanBytes(bytes))
}

fn moved(copied: &Copied) -> String {
    let Copied {
        blobs,
        bytes,
        damaged,
        left,
        waiting,
        uploads,
        ..
    } = *copied;
    let mut lines = vec![format!(
        "{blobs} blobs, {}, are in the other store.",
        HumanBytes(bytes)
    )];
    if damaged > 0 {
        lines.push(format!("{damaged} are damaged or missing and stay."));
    }
    if waiting > 0 {
        lines.push(format!(
            "{waiting} blobs stay for now: they were moved a short while ago, and what they left behind goes within a \
             day. Do it again then."
        ));
    }
    let left = left.saturating_sub(waiting);
    if left > 0 {
        lines.push(format!(
            "{left} blobs are in the first one still: damaged ones, those that nothing holds, which go within a day, \
             and what came since."
        ));
    }
    if uploads > 0 {
        lines.push(format!(
            "{uploads} uploads in progress are there: do it again when they are over."
        ));
    }
    lines.join("\n")
}

fn taken(adopting: &Adopting) -> String {
    let Adopting {
        blobs,
        names,
        bytes,
        damaged,
    } = *adopting;
    let damage = match damaged {
        0 => String::new(),
        _ => format!(", {damaged} are not what stands beside them says"),
    };
    let bytes = HumanBytes(bytes);
    format!("{names} names and {blobs} blobs adopted, {bytes} read{damage}.")
}

fn looked_at(checked: &Checked) -> String {
    let Checked {
        blobs,
        uploads,
        stored,
        ..
    } = checked;
    format!("{blobs} blobs, {uploads} uploads in progress, {stored} keys in stores")
}

/// One row of a table whose first column is the problem, and the next step below it.
fn finding(finding: &Finding, first: bool) -> String {
    const WIDTH: usize = 13;
    let header = format!("{:WIDTH$}  WHAT\n", "PROBLEM");
    format!(
        "{}{:WIDTH$}  {}\n{:WIDTH$}  next: {}",
        if first { &*header } else { "" },
        finding.problem,
        finding.text,
        "",
        finding.next
    )
}

fn outcome(checked: &Checked) -> String {
    let findings = match checked.findings {
        0 => "nothing is wrong".to_owned(),
        1 => "1 finding".to_owned(),
        many => format!("{many} findings"),
    };
    format!("{}: {findings}.", looked_at(checked))
}

/// What went, what did not and why, a line each.
fn swept(collected: &Collected) -> String {
    let of = |amount: &Amount| format!("{} ({})", amount.count, HumanBytes(amount.bytes));
    let went = if collected.dry_run {
        "Would remove"
    } else {
        "Removed"
    };
    let mut lines = vec![format!(
        "{went} {} that nobody holds.",
        of(&collected.removed)
    )];
    if collected.waiting.count > 0 {
        let waiting = of(&collected.waiting);
        lines.push(format!(
            "Left {waiting} that nobody holds: not due yet, downloads may still read it."
        ));
    }
    if collected.kept.count > 0 {
        let kept = of(&collected.kept);
        lines.push(format!(
            "Left {kept} that is due: its store did not remove it, and the log tells why."
        ));
    }
    for (name, store) in &collected.stores {
        lines.extend(orphans(name, store, collected));
    }
    lines.join("\n")
}

fn orphans(name: &str, store: &Orphans, collected: &Collected) -> Option<String> {
    let Orphans {
        stored,
        orphans,
        bytes,
        removed,
        stopped,
    } = *store;
    if orphans == 0 {
        return None;
    }
    let found = format!(
        "Store {name}: no row names {orphans} of its {stored} keys ({}).",
        HumanBytes(bytes)
    );
    let age = upload::span(collected.orphan_age_seconds);
    Some(if stopped {
        format!(
            "{found} They are too many (gc.few_orphans, gc.most_orphans, gc.most_orphans_percent), so all \
             are left.\n  If an old backup of the database was restored, they are the boxes published \
             since: restore a newer one.\n  If they are to go: boxgate gc --remove-many-orphans, now and \
             again in {age} (gc.orphan_age)."
        )
    } else {
        let left = orphans - removed;
        let went = if collected.dry_run {
            "would go"
        } else {
            "went"
        };
        format!(
            "{found} {removed} {went}, {left} are left until they were seen {age} apart (gc.orphan_age)."
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_with_its_reason() {
        let mut collected = Collected {
            orphan_age_seconds: 7 * 86_400,
            removed: Amount {
                count: 2,
                bytes: 2048,
            },
            ..Collected::default()
        };
        assert_eq!(swept(&collected), "Removed 2 (2.00 KiB) that nobody holds.");
        assert!(is_all_gone(&collected));
        let store = Orphans {
            stored: 10,
            orphans: 3,
            bytes: 15,
            removed: 1,
            stopped: false,
        };
        collected.stores.insert("main".to_owned(), store);
        assert!(is_all_gone(&collected));
        let text = swept(&collected);
        let line = text.lines().nth(1).unwrap();
        assert_eq!(
            line,
            "Store main: no row names 3 of its 10 keys (15 B). 1 went, 2 are left until they were seen \
             7d 0h apart (gc.orphan_age)."
        );
        let stopped = Orphans {
            stopped: true,
            ..store
        };
        collected.stores.insert("main".to_owned(), stopped);
        collected.dry_run = true;
        collected.kept.count = 1;
        collected.waiting.count = 1;
        let text = swept(&collected);
        for part in [
            "Would remove 2",
            "not due yet",
            "the log tells why",
            "too many",
            "--remove-many-orphans",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!is_all_gone(&collected));
    }
}
