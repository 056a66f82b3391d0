//! `boxgate admin webhook`: endpoints that are told of events, and what was sent to them.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::connect::AskArgs;
use super::sure::SureArgs;
use super::{Failure, runtime, say, say_error};
use crate::client::webhooks::{Wanted, Webhook, WebhookDelivery};

#[derive(Debug, Subcommand)]
pub(super) enum WebhookCommand {
    /// Make an endpoint; its secret is shown once.
    #[command(after_help = "Examples:
  boxgate admin webhook create https://hooks.example.com/boxes --event box.uploaded --event box.deleted
  boxgate admin webhook create http://127.0.0.1:4000/in --event '*' --secret webhook-secret --set ordering=key

Names of events: GET /api/admin/webhooks/events, or docs/WEBHOOKS.md. --set takes any member of the API: format,
ordering, max_in_flight, rate_per_s, timeout_ms, headers, filter, transform, delays_s.")]
    Create(CreateArgs),
    /// List the endpoints, and how they stand.
    List(AskArgs),
    /// Show an endpoint.
    Show(OneArgs),
    /// Change some of what was chosen for an endpoint.
    #[command(after_help = "Examples:
  boxgate admin webhook update ep_5e1f --event 'box.*' --set rate_per_s=200
  boxgate admin webhook update ep_5e1f --endpoint https://hooks.example.com/new")]
    Update(UpdateArgs),
    /// Delete an endpoint and drop what waits for it; its log stays.
    Delete(DeleteArgs),
    /// Send an example now, once; it counts for nothing.
    Test(TestArgs),
    /// What was sent, with all attempts, the newest first.
    #[command(after_help = "Examples:
  boxgate admin webhook deliveries ep_5e1f
  boxgate admin webhook deliveries ep_5e1f --status failed --since 2026-01-02T00:00:00Z")]
    Deliveries(DeliveriesArgs),
    /// Send a delivery once more, wherever it stands.
    Redeliver(RedeliverArgs),
    /// Send all that failed since then once more, in order.
    #[command(after_help = "Examples:
  boxgate admin webhook recover ep_5e1f --since 2026-01-02T00:00:00Z
  boxgate admin webhook recover ep_5e1f --since 2026-01-02T00:00:00Z --status skipped")]
    Recover(RecoverArgs),
    /// Replace the secret; the one before counts beside it for a while.
    #[command(after_help = "Examples:
  boxgate admin webhook rotate ep_5e1f
  boxgate admin webhook rotate ep_5e1f --overlap-s 3600 --legacy current
  boxgate admin webhook rotate ep_5e1f --finish        end the overlap now")]
    Rotate(RotateArgs),
    /// Tell an endpoint of events again, whatever it did before.
    Enable(OneArgs),
    /// Tell an endpoint nothing any more.
    Disable(OneArgs),
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    #[command(flatten)]
    all: AskArgs,
    /// Id of the endpoint.
    id: String,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    one: OneArgs,
    #[command(flatten)]
    sure: SureArgs,
}

#[derive(Debug, Args)]
struct ChosenArgs {
    /// An event, a family (box.*) or all (*); may be given several times.
    #[arg(long = "event", value_name = "NAME")]
    events: Vec<String>,
    /// A text for people.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Any member of the API, as JSON or as text; may be given several times.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    all: AskArgs,
    #[command(flatten)]
    chosen: ChosenArgs,
    /// Where it is.
    endpoint: String,
    /// The secret; without it one is made.
    #[arg(long, value_name = "TEXT")]
    secret: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct UpdateArgs {
    #[command(flatten)]
    one: OneArgs,
    #[command(flatten)]
    chosen: ChosenArgs,
    /// Where it is from now on.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    #[command(flatten)]
    one: OneArgs,
    /// The event of which an example is sent [default: webhook.test].
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct DeliveriesArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Only those: queued, blocked, delivered, failed, skipped or dropped.
    #[arg(long, value_name = "WORD")]
    status: Option<String>,
    /// Only of this event.
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// Only from then on.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only before.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
}

#[derive(Debug, Args)]
pub(super) struct RedeliverArgs {
    #[command(flatten)]
    all: AskArgs,
    /// Id of the delivery.
    delivery: String,
}

#[derive(Debug, Args)]
pub(super) struct RecoverArgs {
    #[command(flatten)]
    one: OneArgs,
    /// From when on.
    #[arg(long, value_name = "TIME")]
    since: String,
    /// Before when.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Those that ended so: failed, skipped or delivered [default: failed].
    #[arg(long, value_name = "WORD")]
    status: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct RotateArgs {
    #[command(flatten)]
    one: OneArgs,
    /// The new secret; without it one is made.
    #[arg(long, value_name = "TEXT")]
    secret: Option<String>,
    /// For how many seconds the one before counts, too [default: a day].
    #[arg(long, value_name = "SECONDS")]
    overlap_s: Option<u64>,
    /// Which one signs x-boxvault-signature meanwhile: previous or current [default: previous].
    #[arg(long, value_name = "WHICH")]
    legacy: Option<String>,
    /// End the overlap that there is.
    #[arg(long)]
    finish: bool,
}

pub(super) fn webhook(command: &WebhookCommand) -> Result<(), Failure> {
    runtime()?.block_on(async {
        match command {
            WebhookCommand::Create(args) => {
                let mut wish = args.chosen.wish()?;
                wish.insert("url".to_owned(), json!(args.endpoint));
                if args.chosen.events.is_empty() && !wish.contains_key("events") {
                    return Err(Failure::Usage(
                        "--event is missing: of what it is to be told".into(),
                    ));
                }
                if let Some(secret) = &args.secret {
                    wish.insert("secret".to_owned(), json!(secret));
                }
                let made = args
                    .all
                    .connect
                    .client()?
                    .create_webhook(&Value::Object(wish))
                    .await?;
                tell_secret(&made, args.all.json, "is made");
            }
            WebhookCommand::List(args) => {
                let found = args.connect.client()?.webhooks().await?;
                tell(&found, args.json, || {
                    lines_or(
                        found.iter().map(line).collect(),
                        "There are no endpoints: `boxgate admin webhook create URL --event NAME` makes one.",
                    )
                });
            }
            WebhookCommand::Show(args) => {
                let found = args.all.connect.client()?.webhook(&args.id).await?;
                say(&serde_json::to_string_pretty(&found).unwrap_or_default());
            }
            WebhookCommand::Update(args) => {
                let mut wish = args.chosen.wish()?;
                if let Some(url) = &args.endpoint {
                    wish.insert("url".to_owned(), json!(url));
                }
                let client = args.one.all.connect.client()?;
                let changed = client
                    .change_webhook(&args.one.id, &Value::Object(wish))
                    .await?;
                warn(&changed);
                tell(&changed, args.one.all.json, || vec![line(&changed)]);
            }
            WebhookCommand::Delete(args) => delete(args).await?,
            WebhookCommand::Test(args) => test(args).await?,
            WebhookCommand::Deliveries(args) => deliveries(args).await?,
            WebhookCommand::Redeliver(args) => {
                args.all.connect.client()?.redeliver(&args.delivery).await?;
                let told = json!({ "delivery_id": args.delivery, "queued": 1 });
                tell(&told, args.all.json, || {
                    vec![format!("{} is sent once more.", args.delivery)]
                });
            }
            WebhookCommand::Recover(args) => {
                let wish =
                    json!({ "since": args.since, "until": args.until, "status": args.status });
                let client = args.one.all.connect.client()?;
                let queued = client.recover_webhook(&args.one.id, &wish).await?;
                let told = json!({ "queued": queued });
                tell(&told, args.one.all.json, || {
                    vec![format!("{queued} are sent once more.")]
                });
            }
            WebhookCommand::Rotate(args) => rotate(args).await?,
            WebhookCommand::Enable(args) => switch(args, true).await?,
            WebhookCommand::Disable(args) => switch(args, false).await?,
        }
        Ok(())
    })
}

impl ChosenArgs {
    fn wish(&self) -> Result<Map<String, Value>, Failure> {
        let mut wish = Map::new();
        if !self.events.is_empty() {
            wish.insert("events".to_owned(), json!(self.events));
        }
        if let Some(description) = &self.description {
            wish.insert("description".to_owned(), json!(description));
        }
        for set in &self.set {
            let (name, value) = set
                .split_once('=')
                .ok_or_else(|| Failure::Usage(format!("--set {set}: expected NAME=VALUE")))?;
            // What is no JSON is a text as it stands.
            let value = serde_json::from_str(value).unwrap_or_else(|_text| json!(value));
            wish.insert(name.to_owned(), value);
        }
        Ok(wish)
    }
}

async fn delete(args: &DeleteArgs) -> Result<(), Failure> {
    let OneArgs { all, id } = &args.one;
    let client = all.connect.client()?;
    let shown = async { Ok(line(&client.webhook(id).await?) + "\n") };
    args.sure.ask(&format!("delete {id}"), shown).await?;
    client.delete_webhook(id).await?;
    let told = json!({ "id": id, "state": "deleted" });
    tell(&told, all.json, || {
        vec![format!("{id} is deleted; its log stays.")]
    });
    Ok(())
}

async fn test(args: &TestArgs) -> Result<(), Failure> {
    let client = args.one.all.connect.client()?;
    let tried = client
        .test_webhook(&args.one.id, args.event.as_deref())
        .await?;
    tell(&tried, args.one.all.json, || {
        let how = match (&tried.error, tried.status) {
            (None, Some(status)) => format!("taken ({status})"),
            (Some(error), _) => format!("not taken: {error}"),
            (None, None) => "taken".to_owned(),
        };
        vec![format!(
            "{}  {how}, {} ms",
            tried.delivery_id, tried.duration_ms
        )]
    });
    if tried.error.is_some() {
        Err(Failure::Found)
    } else {
        Ok(())
    }
}

async fn deliveries(args: &DeliveriesArgs) -> Result<(), Failure> {
    let wanted = Wanted {
        status: args.status.clone(),
        event: args.event.clone(),
        since: args.since.clone(),
        until: args.until.clone(),
        limit: args.limit,
    };
    let client = args.one.all.connect.client()?;
    let found = client.webhook_deliveries(&args.one.id, &wanted).await?;
    tell(&found, args.one.all.json, || {
        lines_or(
            found.iter().flat_map(lines).collect(),
            "There are no such deliveries: `boxgate admin webhook test ID` sends an example.",
        )
    });
    Ok(())
}

async fn rotate(args: &RotateArgs) -> Result<(), Failure> {
    let client = args.one.all.connect.client()?;
    if args.finish {
        let now = client.finish_webhook_rotation(&args.one.id).await?;
        let text = format!("Only the new secret of {} counts from now on.", now.id);
        tell(&now, args.one.all.json, || vec![text]);
        return Ok(());
    }
    let wish = json!({ "secret": args.secret, "overlap_s": args.overlap_s, "legacy": args.legacy });
    let now = client.rotate_webhook(&args.one.id, &wish).await?;
    tell_secret(
        &now,
        args.one.all.json,
        "has a new secret, and the one before counts for a while",
    );
    Ok(())
}

async fn switch(args: &OneArgs, on: bool) -> Result<(), Failure> {
    let now = args
        .all
        .connect
        .client()?
        .switch_webhook(&args.id, on)
        .await?;
    tell(&now, args.all.json, || vec![line(&now)]);
    Ok(())
}

/// JSON for programs, lines for people.
fn tell(told: &impl Serialize, as_json: bool, lines: impl FnOnce() -> Vec<String>) {
    if as_json {
        say(&json!(told).to_string());
    } else {
        for line in lines() {
            say(&line);
        }
    }
}

/// The lines, or what to do where there are none.
fn lines_or(lines: Vec<String>, none: &str) -> Vec<String> {
    if lines.is_empty() {
        vec![none.to_owned()]
    } else {
        lines
    }
}

fn tell_secret(webhook: &Webhook, as_json: bool, what: &str) {
    warn(webhook);
    tell(webhook, as_json, || {
        let secret = webhook.secret.as_deref().unwrap_or_default();
        vec![
            format!("{} {what}.", webhook.id),
            format!("Its secret, shown once: {secret}"),
        ]
    });
}

fn warn(webhook: &Webhook) {
    for warning in &webhook.warnings {
        let text = match warning.as_str() {
            "weak_secret" => "the secret is short enough to be guessed; 24 bytes and more are not",
            "unresolved_host" => "the host's name leads nowhere now; each attempt looks again",
            other => other,
        };
        say_error(&format!("boxgate: warning: {text}"));
    }
}

fn line(webhook: &Webhook) -> String {
    let why = webhook
        .state_reason
        .as_ref()
        .map_or_else(String::new, |why| format!(" ({why})"));
    let events = webhook.events.join(",");
    let last = webhook.last_success_at.as_deref().unwrap_or("never");
    let (id, state, queued, url) = (&webhook.id, &webhook.state, webhook.queued, &webhook.url);
    format!("{id}  {state}{why}  {queued} queued  last taken {last}  {events}  {url}")
}

/// A delivery, and each attempt below it.
fn lines(delivery: &WebhookDelivery) -> Vec<String> {
    let next = match (&delivery.next_attempt_at, &delivery.reason) {
        (Some(next), _) => format!("  next {next}"),
        (None, Some(reason)) if delivery.status != "delivered" => format!("  ({reason})"),
        _ => String::new(),
    };
    let (id, event, at) = (&delivery.delivery_id, &delivery.event, &delivery.created_at);
    let mut lines = vec![format!(
        "{at}  {}  #{}  {event}  {id}{next}",
        delivery.status, delivery.sequence
    )];
    for tried in &delivery.attempts {
        let how = match (&tried.error, tried.status) {
            (Some(error), _) => error.clone(),
            (None, Some(status)) => status.to_string(),
            (None, None) => tried.result.clone(),
        };
        lines.push(format!(
            "    attempt {}  {}  {} ms  {how}",
            tried.attempt, tried.at, tried.duration_ms
        ));
        if let Some(response) = &tried.response {
            let first = response.lines().next().unwrap_or_default();
            lines.push(format!("      {first}"));
        }
    }
    lines
}
