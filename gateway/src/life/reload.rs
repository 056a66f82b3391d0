//! A changed configuration, taken over at SIGHUP as far as a process can change while it runs; what else is new in it is named.
//!
//! Certificates and plugins are looked at by those who have them, at the same signal.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::notify;
use crate::config::{self, Flags, Settings};
use crate::gateway::Gateway;
use crate::telemetry::log::LogLevel;

/// What is taken over, by the beginnings of keys.
const AT_ONCE: [&str; 8] = [
    "auth.login_failures_per_minute",
    "limits.bytes_in",
    "limits.bytes_out",
    "limits.rate_exempt",
    "log.level",
    "operations.allow",
    "rates",
    "trusted_proxies",
];

/// The text of the configuration that is in force as a whole: the one that the process began with, or that of a file that was read
/// again since and needed no restart. Cloning is cheap.
#[derive(Clone)]
pub struct InForce(Arc<Mutex<String>>);

impl InForce {
    /// The one that the process begins with.
    pub fn new(text: String) -> Self {
        Self(Arc::new(Mutex::new(text)))
    }

    /// What it is now; it may have secrets.
    pub fn text(&self) -> String {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

impl fmt::Debug for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InForce(***)")
    }
}

/// Tells when the configuration is to be read again.
#[derive(Debug)]
pub struct Changed(Signal);

impl Changed {
    /// From now on SIGHUP is heard, and ends nothing.
    ///
    /// # Errors
    /// It cannot be caught.
    pub fn hear() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }
}

/// Reads the configuration again each time that it `changed`, as `flags` say where it is.
pub async fn follow(
    mut changed: Changed,
    gateway: Arc<Gateway>,
    flags: Flags,
    (level, whole): (LogLevel, InForce),
) {
    let mut in_force = gateway.settings.clone();
    while changed.0.recv().await.is_some() {
        notify::reloading();
        let flags = flags.clone();
        let read = tokio::task::spawn_blocking(move || config::load_text(&flags, None)).await;
        match read {
            Ok(Ok((new, warnings, text))) => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                if take_over(&gateway, &level, &mut in_force, new) {
                    whole.set(text);
                }
            }
            Ok(Err(errors)) => {
                let error = errors.to_string();
                tracing::error!(
                    error,
                    "the configuration is not right; the old one stays in force"
                );
            }
            Err(error) => tracing::error!(%error, "the configuration was not read"),
        }
        notify::ready();
    }
}

/// Takes over what can be; whether that is all.
fn take_over(gateway: &Gateway, level: &LogLevel, in_force: &mut Settings, new: Settings) -> bool {
    let is_at_once = |key: &String| AT_ONCE.iter().any(|known| is_below(key, known));
    let changed = in_force.differs_in(&new).into_iter();
    let taken: Vec<String> = changed.filter(is_at_once).collect();
    let differs = gateway.settings.differs_in(&new).into_iter();
    let waiting: Vec<String> = differs.filter(|key| !is_at_once(key)).collect();
    gateway
        .admission
        .replace(&new, |key| taken.iter().any(|taken| is_below(taken, key)));
    let ours = &gateway.settings;
    ours.trusted_proxies.replace(&new.trusted_proxies);
    ours.limits.rate_exempt.replace(&new.limits.rate_exempt);
    ours.operations.allow.replace(&new.operations.allow);
    level.set(new.log.level);
    *in_force = new;
    tracing::info!(keys = taken.join(", "), "the configuration was read again");
    if !waiting.is_empty() {
        tracing::warn!("needs a restart: {}", waiting.join(", "));
    }
    waiting.is_empty()
}

/// Whether a key is `known`, or stands in that table.
fn is_below(key: &str, known: &str) -> bool {
    key.strip_prefix(known)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_table_and_not_by_its_first_letters() {
        assert!(is_below("rates.address.requests", "rates"));
        assert!(is_below("log.level", "log.level"));
        assert!(!is_below("limits.bytes_income", "limits.bytes_in"));
    }
}
