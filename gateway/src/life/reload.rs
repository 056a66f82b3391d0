//! A changed configuration, taken over at SIGHUP as far as a process can change while it runs; what else is new in it is named.
//!
//! Certificates and plugins are looked at by those who have them, at the same signal.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use super::notify;
use crate::config::{self, ConfigErrors, Flags, Settings};
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

/// Reads the configuration again at each SIGHUP, as `flags` say where it is.
pub async fn follow(gateway: Arc<Gateway>, flags: Flags, level: LogLevel) {
    let mut hang_up = match signal(SignalKind::hangup()) {
        Ok(hang_up) => hang_up,
        Err(error) => return tracing::warn!(%error, "SIGHUP cannot be caught"),
    };
    let mut in_force = gateway.settings.clone();
    while hang_up.recv().await.is_some() {
        notify::reloading();
        let flags = flags.clone();
        let read = tokio::task::spawn_blocking(move || config::load(&flags)).await;
        match read {
            Ok(read) => take_over(&gateway, &level, &mut in_force, read),
            Err(error) => tracing::error!(%error, "the configuration was not read"),
        }
        notify::ready();
    }
}

fn take_over(
    gateway: &Gateway,
    level: &LogLevel,
    in_force: &mut Settings,
    read: Result<(Settings, Vec<config::Warning>), ConfigErrors>,
) {
    let (new, warnings) = match read {
        Ok(read) => read,
        Err(errors) => {
            let error = errors.to_string();
            return tracing::error!(
                error,
                "the configuration is not right; the old one stays in force"
            );
        }
    };
    for warning in warnings {
        tracing::warn!("{warning}");
    }
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
