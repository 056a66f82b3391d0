//! Many boxes of a gateway of our own, as fast as it makes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at};

use super::page::number;
use crate::error::{Failure, Result};
use crate::gateway::Gateway;
use crate::http::{Ask, Kept};

/// Boxes that are made at once. One commit takes up to 64 changes; as many again wait while it is flushed.
const MAKERS: u32 = 128;
/// How often a person is told how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Makes boxes `b0`, `b1` and so on, which everybody may read.
///
/// # Errors
/// When one is not made.
pub(super) async fn boxes(gateway: &Gateway, boxes: u32, say: fn(&str)) -> Result<()> {
    let path: Arc<str> = format!("/api/organization/{}/box", gateway.organization()).into();
    let (next, made) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut makers = JoinSet::<Result<()>>::new();
    for _ in 0..MAKERS.min(boxes) {
        let (path, next, made) = (Arc::clone(&path), Arc::clone(&next), Arc::clone(&made));
        let (mut kept, token) = (Kept::new(gateway.address()), gateway.admin().to_owned());
        makers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= boxes {
                    return Ok(());
                }
                let ask = Ask {
                    method: "POST",
                    path: &path,
                    token: Some(&token),
                };
                let told =
                    json!({"name": format!("b{number}"), "description": "", "isPublic": true});
                let answer = kept.tell(ask, &told).await?;
                if answer.status != 201 {
                    return Err(Failure::said(format!("a box: {}", answer.in_short())));
                }
                made.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let begun = Instant::now();
    let mut tick = interval_at(begun + TOLD_EVERY, TOLD_EVERY);
    let mut was_told = false;
    loop {
        let ended = tokio::select! {
            ended = makers.join_next() => ended,
            _ = tick.tick() => {
                say(&far(made.load(Ordering::Relaxed), boxes, begun.elapsed()));
                was_told = true;
                continue;
            }
        };
        match ended {
            Some(ended) => ended.expect("a maker does not panic")?,
            None => break,
        }
    }
    if was_told {
        say(&far(boxes, boxes, begun.elapsed()));
    }
    Ok(())
}

/// How far it is, how fast, and how long it will take.
fn far(made: u32, boxes: u32, after: Duration) -> String {
    let [of, all] = [made, boxes].map(|count| number(f64::from(count)));
    let per_s = f64::from(made) / after.as_secs_f64().max(0.001);
    let rate = number(per_s);
    if made == boxes {
        let took = number(after.as_secs_f64());
        return format!("{all} boxes are made, {rate} a second, in {took} s");
    }
    let left = f64::from(boxes - made) / per_s.max(0.001);
    let left = if left < 100.0 {
        format!("{left:.0} s")
    } else {
        format!("{:.0} min", left / 60.0)
    };
    format!("{of} of {all} boxes are made, {rate} a second, {left} left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_tells_how_long_it_will_take() {
        let after = |made, boxes, s| far(made, boxes, Duration::from_secs(s));
        assert_eq!(
            after(20_000, 1_000_000, 10),
            "20,000 of 1,000,000 boxes are made, 2,000 a second, 8 min left"
        );
        assert_eq!(
            after(9000, 10_000, 9),
            "9,000 of 10,000 boxes are made, 1,000 a second, 1 s left"
        );
        assert_eq!(
            after(10_000, 10_000, 20),
            "10,000 boxes are made, 500 a second, in 20.0 s"
        );
        // The first one is not there yet.
        assert!(after(0, 10, 1).starts_with("0.000 of 10.0 boxes are made, 0.000 a second, "));
    }
}
