//! Endpoints that are told of events, as `/api/admin/webhooks` tells of them.

use std::collections::BTreeMap;

use http::Method;
use http::header::CONTENT_TYPE;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Client, ClientError};

const PLACE: &str = "/api/admin/webhooks";

/// One endpoint, as far as people read it; the rest of the answer is kept beside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Webhook {
    /// Its id.
    pub id: String,
    /// Where it is.
    pub url: String,
    /// What it is told of.
    pub events: Vec<String>,
    /// One word for how it stands.
    pub state: String,
    /// Why.
    pub state_reason: Option<String>,
    /// What waits for it.
    pub queued: i64,
    /// When it last took something.
    pub last_success_at: Option<String>,
    /// How the last attempt failed.
    pub last_error: Option<String>,
    /// The secret, where it is shown.
    pub secret: Option<String>,
    /// What is odd about it.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Everything else.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// What came of a test.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tried {
    /// The delivery.
    pub delivery_id: String,
    /// Status of the answer.
    pub status: Option<u16>,
    /// How long it took.
    pub duration_ms: i64,
    /// How it failed.
    pub error: Option<String>,
}

/// One event for one endpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WebhookDelivery {
    /// Its id.
    pub delivery_id: String,
    /// Id of the message, as the receiver sees it.
    pub webhook_id: String,
    /// Name of the event.
    pub event: String,
    /// Its number at the endpoint.
    pub sequence: i64,
    /// Where it stands.
    pub status: String,
    /// Why.
    pub reason: Option<String>,
    /// When it is tried next.
    pub next_attempt_at: Option<String>,
    /// When it was kept.
    pub created_at: String,
    /// What was tried.
    pub attempts: Vec<WebhookAttempt>,
    /// Everything else.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// One attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WebhookAttempt {
    /// Which.
    pub attempt: u32,
    /// When it began.
    pub at: String,
    /// How long it took.
    pub duration_ms: i64,
    /// Status of the answer.
    pub status: Option<u16>,
    /// A word for how it went.
    pub result: String,
    /// How it failed.
    pub error: Option<String>,
    /// How the answer began.
    pub response: Option<String>,
}

#[derive(Deserialize)]
struct Page<T> {
    data: Vec<T>,
    next: Option<String>,
}

/// Which deliveries are wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only those that stand there.
    pub status: Option<String>,
    /// Only of that event.
    pub event: Option<String>,
    /// Only from then on.
    pub since: Option<String>,
    /// Only before.
    pub until: Option<String>,
    /// At most so many.
    pub limit: usize,
}

impl Client {
    /// All of them, in the order in which they were made.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, ClientError> {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let place = format!("{PLACE}?limit=200{cursor}");
            let page: Page<Webhook> = self.send(self.request(Method::GET, &place)).await?.json()?;
            found.extend(page.data);
            let Some(next) = page.next else {
                return Ok(found);
            };
            cursor = format!("&cursor={next}");
        }
    }

    /// One of them.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn webhook(&self, id: &str) -> Result<Webhook, ClientError> {
        self.send(self.request(Method::GET, &place(id, "")))
            .await?
            .json()
    }

    /// Makes one.
    ///
    /// # Errors
    /// As [`Client::send`]: 422 tells what is wrong with it.
    pub async fn create_webhook(&self, wish: &Value) -> Result<Webhook, ClientError> {
        self.ask(Method::POST, PLACE, wish).await
    }

    /// Changes some of it.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn change_webhook(&self, id: &str, wish: &Value) -> Result<Webhook, ClientError> {
        self.ask(Method::PATCH, &place(id, ""), wish).await
    }

    /// Removes it.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn delete_webhook(&self, id: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, &place(id, "")))
            .await
            .map(drop)
    }

    /// Tells it of events, or of none.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn switch_webhook(&self, id: &str, on: bool) -> Result<Webhook, ClientError> {
        let deed = if on { "/enable" } else { "/disable" };
        self.send(self.request(Method::POST, &place(id, deed)))
            .await?
            .json()
    }

    /// Sends it an example.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn test_webhook(&self, id: &str, event: Option<&str>) -> Result<Tried, ClientError> {
        self.ask(
            Method::POST,
            &place(id, "/test"),
            &json!({ "event": event }),
        )
        .await
    }

    /// Replaces its secret.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn rotate_webhook(&self, id: &str, wish: &Value) -> Result<Webhook, ClientError> {
        self.ask(Method::POST, &place(id, "/rotate-secret"), wish)
            .await
    }

    /// Ends the time in which the secret before counts, too.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn finish_webhook_rotation(&self, id: &str) -> Result<Webhook, ClientError> {
        let place = place(id, "/rotate-secret/finish");
        self.send(self.request(Method::POST, &place)).await?.json()
    }

    /// What was sent, the newest first.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn webhook_deliveries(
        &self,
        id: &str,
        wanted: &Wanted,
    ) -> Result<Vec<WebhookDelivery>, ClientError> {
        let mut query = format!("?limit={}", wanted.limit.clamp(1, 200));
        for (name, value) in [
            ("status", &wanted.status),
            ("event", &wanted.event),
            ("since", &wanted.since),
            ("until", &wanted.until),
        ] {
            if let Some(value) = value {
                let value = utf8_percent_encode(value, NON_ALPHANUMERIC).to_string();
                query.extend(["&", name, "=", &value]);
            }
        }
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let place = place(id, &format!("/deliveries{query}{cursor}"));
            let page: Page<WebhookDelivery> =
                self.send(self.request(Method::GET, &place)).await?.json()?;
            found.extend(page.data);
            let Some(next) = page.next.filter(|_| found.len() < wanted.limit) else {
                found.truncate(wanted.limit);
                return Ok(found);
            };
            cursor = format!("&cursor={next}");
        }
    }

    /// Sends a delivery once more.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn redeliver(&self, delivery: &str) -> Result<(), ClientError> {
        let delivery = utf8_percent_encode(delivery, NON_ALPHANUMERIC);
        let place = format!("{PLACE}/deliveries/{delivery}/redeliver");
        self.send(self.request(Method::POST, &place))
            .await
            .map(drop)
    }

    /// Sends what failed, or was skipped, once more; how many.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn recover_webhook(&self, id: &str, wish: &Value) -> Result<u64, ClientError> {
        let told: Value = self.ask(Method::POST, &place(id, "/recover"), wish).await?;
        Ok(told["queued"].as_u64().unwrap_or_default())
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        place: &str,
        wish: &Value,
    ) -> Result<T, ClientError> {
        let request = self
            .request(method, place)
            .header(CONTENT_TYPE, "application/json");
        self.send(request.body(wish.to_string())).await?.json()
    }
}

fn place(id: &str, more: &str) -> String {
    format!(
        "{PLACE}/{}{more}",
        utf8_percent_encode(id, NON_ALPHANUMERIC)
    )
}
