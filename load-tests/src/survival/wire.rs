//! One request on its way to a gateway that may end at any moment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use crate::content::{Checker, Content};
use crate::gateway::Gateway;
use crate::http::{self, Answer, Ask, Cut, Headers, Piece};

/// Nothing that is asked takes so long; an answer that does is no answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// The way to one process of the gateway.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    address: SocketAddr,
    key: Arc<str>,
    organization: Arc<str>,
    doomed: Arc<AtomicBool>,
    crowded: bool,
}

/// What came back.
#[derive(Debug)]
pub(crate) enum Heard {
    /// An answer, whole.
    Answer(Answer),
    /// Nothing: this side hung up.
    Cut,
    /// Nothing: the gateway is being ended.
    Doomed,
    /// Nothing, and there was no reason for that.
    Broken(String),
}

/// A body to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body<'a> {
    /// Whose bytes.
    pub(crate) content: &'a Content,
    /// The first one.
    pub(crate) from: u64,
    /// The one behind the last.
    pub(crate) to: u64,
    /// Where to hang up.
    pub(crate) cut: Option<Cut>,
}

impl Wire {
    /// To that gateway, for as long as it is left alone.
    pub(crate) fn to(gateway: &Gateway) -> Self {
        Self {
            address: gateway.address(),
            key: gateway.key().into(),
            organization: gateway.organization().into(),
            doomed: Arc::default(),
            crowded: false,
        }
    }

    /// To one that found no room at times since its start, or at its start: what is whole may still wait to
    /// be published, until it is asked for or the next start.
    pub(crate) fn to_crowded(gateway: &Gateway) -> Self {
        Self {
            crowded: true,
            ..Self::to(gateway)
        }
    }

    /// Whether what is whole may still wait to be published.
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// From here on no answer is owed. Said before the gateway is touched, so that a broken connection
    /// always has its reason.
    pub(crate) fn doom(&self) {
        self.doomed.store(true, Ordering::SeqCst);
    }

    /// Whether it was.
    pub(crate) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::SeqCst)
    }

    /// The gateway's organization.
    pub(crate) fn organization(&self) -> &str {
        &self.organization
    }

    /// Asks without a body.
    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[(&str, String)]) -> Heard {
        // Any content does: none of it is sent.
        let nothing = Content::empty();
        let body = Body {
            content: &nothing,
            from: 0,
            to: 0,
            cut: None,
        };
        self.send(method, path, headers, body, |_, _| {}).await
    }

    /// Sends a body; `interim` is told of answers that come before the last one.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, String)],
        body: Body<'_>,
        interim: impl FnMut(u16, &Headers),
    ) -> Heard {
        let ask = Ask {
            method,
            path,
            token: Some(&self.key),
        };
        let Body {
            content,
            from,
            to,
            cut,
        } = body;
        let piece = Piece {
            headers,
            content,
            from,
            to,
            cut,
        };
        let heard = timeout(PATIENCE, http::send(self.address, ask, &piece, interim)).await;
        match heard {
            Ok(Ok(Some(answer))) => Heard::Answer(answer),
            Ok(Ok(None)) => Heard::Cut,
            _ if self.is_doomed() => Heard::Doomed,
            Ok(Err(failure)) => Heard::Broken(format!("{method} {path}: {failure}")),
            Err(_late) => Heard::Broken(format!("{method} {path}: no answer within a minute")),
        }
    }

    /// Downloads, and compares what comes. The status and headers, or why there are none; `None` when
    /// the gateway is being ended.
    pub(crate) async fn fetch(
        &self,
        path: &str,
        checker: &mut Checker<'_>,
    ) -> Option<Result<(u16, Headers), String>> {
        let ask = Ask {
            method: "GET",
            path,
            token: Some(&self.key),
        };
        let fetched = timeout(PATIENCE, http::download(self.address, ask, checker, None)).await;
        match fetched {
            Ok(Ok(fetched)) => Some(Ok(fetched)),
            _ if self.is_doomed() => None,
            Ok(Err(failure)) => Some(Err(format!("GET {path}: {failure}"))),
            Err(_late) => Some(Err(format!("GET {path}: did not end within a minute"))),
        }
    }
}
