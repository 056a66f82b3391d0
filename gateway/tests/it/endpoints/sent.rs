//! How what is told gets there, and what becomes of it when it is not taken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use boxgate_storage::clock::{ManualClock, UnixMillis};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::{Got, OPEN, Platform, Receiver, clock_at, now, status};
use crate::harness::Running;

#[tokio::test]
async fn an_endpoint_that_fails_for_ten_minutes_gets_everything_once_it_is_back() {
    let clock = Arc::new(ManualClock::new(UnixMillis(1_700_000_000_000)));
    let platform = Platform::at(&clock, &[]).await;
    let back = clock_at(&clock, 600);
    let failing = Receiver::with({
        let clock = Arc::clone(&clock);
        move |_, _| status(if now(&clock) < back { 500 } else { 200 })
    })
    .await;
    let good = Receiver::ok().await;
    let id = platform
        .endpoint(&failing.url, json!({"rate_per_s": 10_000}))
        .await;
    platform.endpoint(&good.url, json!({})).await;
    for n in 0..12 {
        platform.upload("web", &format!("1.{n}")).await;
    }
    // Whoever answers is not held up by who does not.
    assert!(
        good.has(12)
            .await
            .iter()
            .all(|got| got.header("x-boxgate-attempt") == "1")
    );
    let is_paused = |told: &Value| told["state"] == "paused" && told["queued"] == 12;
    let paused = platform.until(&id, is_paused).await;
    assert_eq!(
        (&paused["last_error"], &paused["queued"]),
        (&json!("it answered 500"), &json!(12))
    );
    let status = platform
        .running
        .get("/api/status", &platform.admin)
        .await
        .json();
    assert_eq!(status["webhooks_not_ok"][0]["id"], id.as_str());
    let mut probes = failing.got().len();
    while now(&clock) < back {
        clock.advance(Duration::from_secs(30));
        platform.until(&id, |told| told["state"] == "paused").await;
        let sent = failing.got().len();
        assert!(
            sent <= probes + 1,
            "a rest ends with one request: {probes} {sent}"
        );
        probes = sent;
    }
    // Two minutes is the longest rest.
    let mut steps = 0;
    while platform.get(&format!("/{id}")).await["queued"] != 0 {
        steps += 1;
        assert!(steps <= 6, "it takes longer than three minutes");
        clock.advance(Duration::from_secs(30));
        for _ in 0..40 {
            platform.running.gateway.outlet.tell();
            tokio::time::sleep(Duration::from_millis(50)).await;
            if platform.get(&format!("/{id}")).await["queued"] == 0 {
                break;
            }
        }
    }
    let log = platform.log(&id).await;
    assert!(
        log.iter().all(|one| one["status"] == "delivered"),
        "{log:?}"
    );
    let mut ids: Vec<_> = log
        .iter()
        .map(|one| one["webhook_id"].to_string())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 12);
}

#[tokio::test]
async fn who_is_gone_or_silent_for_days_is_disabled_once_and_others_are_told() {
    let clock = Arc::new(ManualClock::new(UnixMillis(1_700_000_000_000)));
    let platform = Platform::at(&clock, &[]).await;
    let gone = Receiver::with(|_, _| status(410)).await;
    let silent = Receiver::with(|_, _| status(503)).await;
    let others = Receiver::ok().await;
    let told = platform
        .endpoint(&others.url, json!({"events": ["webhook.*"]}))
        .await;
    let gone_id = platform.endpoint(&gone.url, json!({})).await;
    let silent_id = platform
        .endpoint(&silent.url, json!({"events": ["box.*"]}))
        .await;
    // A test that fails counts for nothing.
    for _ in 0..3 {
        let tried = platform
            .call("POST", &format!("/{gone_id}/test"), json!({}))
            .await
            .json();
        assert_eq!(
            (&tried["status"], &tried["error"]),
            (&json!(410), &json!("it answered 410"))
        );
    }
    assert_eq!(platform.get(&format!("/{gone_id}")).await["state"], "ok");
    platform.upload("web", "1.0").await;
    let off = platform
        .until(&gone_id, |told| told["state"] == "disabled")
        .await;
    assert!(off["disabled_reason"].as_str().unwrap().contains("410"));
    let event = others.has(1).await.remove(0).json();
    assert_eq!(
        (&event["event"], &event["data"]["endpoint_id"]),
        (&json!("webhook.disabled"), &json!(gone_id))
    );
    assert_eq!(event["data"]["actor"], Value::Null);
    for n in 0..4 {
        platform.upload("web", &format!("2.{n}")).await;
    }
    let mut days = 0;
    while platform.get(&format!("/{silent_id}")).await["state"] != "disabled" {
        assert!(days < 60, "it is told for ever");
        days += 1;
        clock.advance(Duration::from_hours(6));
        // What comes of it is written down before the clock moves on.
        let before = platform.attempts(&silent_id).await;
        while platform.attempts(&silent_id).await == before {
            platform.running.gateway.outlet.tell();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let off = platform.get(&format!("/{silent_id}")).await;
    assert_eq!(off["disabled_reason"], "no success for 5 days");
    others.has(2).await;
    // What happens meanwhile can be had later.
    platform.upload("late", "1.0").await;
    platform.until(&told, |told| told["queued"] == 0).await;
    let skipped = async || {
        let listed = platform
            .get(&format!("/{silent_id}/deliveries?status=skipped"))
            .await;
        listed["data"].as_array().unwrap().len()
    };
    while skipped().await == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let enabled = platform
        .call("POST", &format!("/{silent_id}/enable"), json!({}))
        .await
        .json();
    assert_eq!(
        (&enabled["state"], &enabled["failing_since"]),
        (&json!("ok"), &Value::Null)
    );
    let since = json!({"since": "2020-01-01T00:00:00Z", "status": "skipped"});
    let recovered = platform
        .call("POST", &format!("/{silent_id}/recover"), since)
        .await;
    assert_eq!(recovered.status, 202);
    assert!(recovered.json()["queued"].as_u64().unwrap() >= 1);
    assert_eq!(others.got().len(), 2, "each is told once");
}

#[tokio::test]
async fn what_is_ordered_by_box_does_not_overlap_and_other_boxes_go_on() {
    let platform = Platform::start(&[]).await;
    let under_way: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let receiver = {
        let under_way = Arc::clone(&under_way);
        Receiver::with(move |_, got| {
            let name = got.json()["data"]["box"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let version = got.json()["data"]["version"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let mut seen = under_way.lock().unwrap();
            let tries = seen.entry(format!("{name} {version}")).or_default();
            *tries += 1;
            // The first of one box fails once, and holds the others of that box back.
            status(if name == "slow" && version == "1.0" && *tries == 1 {
                500
            } else {
                200
            })
        })
        .await
    };
    let id = platform
        .endpoint(
            &receiver.url,
            json!({"ordering": "key", "events": ["box.uploaded"], "delays_s": [0, 2, 2]}),
        )
        .await;
    for n in 0..4 {
        platform.upload("slow", &format!("1.{n}")).await;
        platform.upload("quick", &format!("1.{n}")).await;
    }
    receiver.has(9).await;
    platform.until(&id, |told| told["queued"] == 0).await;
    let of = |name: &str| -> Vec<String> {
        let all = receiver.got();
        let these = all
            .iter()
            .map(Got::json)
            .filter(|body| body["data"]["box"] == name);
        these
            .map(|body| body["data"]["version"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(of("slow"), ["1.0", "1.0", "1.1", "1.2", "1.3"]);
    assert_eq!(of("quick"), ["1.0", "1.1", "1.2", "1.3"]);
    // The quick ones did not wait for the slow one to be tried again.
    let all: Vec<Value> = receiver.got().iter().map(Got::json).collect();
    let again = all
        .iter()
        .rposition(|b| b["data"]["box"] == "slow" && b["data"]["version"] == "1.0");
    let last_quick = all.iter().rposition(|b| b["data"]["box"] == "quick");
    assert!(last_quick < again, "{last_quick:?} {again:?}");
}

#[tokio::test]
async fn an_answer_without_end_and_a_redirect_are_failures_within_bounds() {
    let platform = Platform::start(&[]).await;
    let drip = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let drip_url = format!("http://{}/", drip.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = drip.accept().await {
            tokio::spawn(async move {
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                drop(stream.write_all(head.as_bytes()).await);
                while stream.write_all(b"1\r\nx\r\n").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            });
        }
    });
    let flood = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let flood_url = format!("http://{}/", flood.local_addr().unwrap());
    let (flooded, mut sent) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = flood.accept().await {
            let flooded = flooded.clone();
            tokio::spawn(async move {
                let head = "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n";
                drop(stream.write_all(head.as_bytes()).await);
                let mut count = 0_usize;
                while count < 1 << 30 && stream.write_all(&[b'x'; 8_192]).await.is_ok() {
                    count += 8_192;
                }
                let _ = flooded.send(count).await;
            });
        }
    });
    let trap = Receiver::ok().await;
    let trap_url = trap.url.clone();
    let redirect = Receiver::with(move |_, _| {
        format!("HTTP/1.1 302 x\r\nlocation: {trap_url}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    })
    .await;
    let wide = Receiver::with(|_, _| {
        format!(
            "HTTP/1.1 200 OK\r\nx-a: {}\r\ncontent-length: 0\r\n\r\n",
            "a".repeat(20_000)
        )
    })
    .await;
    let garbage = Receiver::with(|_, _| "\u{1}\u{2}\u{3} no HTTP at all\r\n\r\n".to_owned()).await;
    let test = async |url: &str| {
        let id = platform.endpoint(url, json!({"timeout_ms": 1_500})).await;
        platform
            .call("POST", &format!("/{id}/test"), json!({}))
            .await
            .json()
    };
    let dripped = test(&drip_url).await;
    assert!(
        dripped["error"]
            .as_str()
            .unwrap()
            .contains("no whole answer"),
        "{dripped}"
    );
    let redirected = test(&redirect.url).await;
    assert!(
        redirected["error"]
            .as_str()
            .unwrap()
            .contains("redirects are not followed"),
        "{redirected}"
    );
    assert!(trap.got().is_empty());
    let flooded = test(&flood_url).await;
    assert_eq!(
        (&flooded["status"], &flooded["error"]),
        (&json!(200), &Value::Null)
    );
    assert!(
        sent.recv().await.unwrap() < 64 << 20,
        "the rest is not read"
    );
    assert!(test(&wide.url).await["error"].is_string());
    assert!(test(&garbage.url).await["error"].is_string());
}

#[tokio::test]
async fn what_was_sent_can_be_sent_once_more_under_the_same_id() {
    let platform = Platform::start(&[]).await;
    let receiver = Receiver::with(|number, _| status(if number == 1 { 400 } else { 200 })).await;
    let id = platform
        .endpoint(
            &receiver.url,
            json!({"delays_s": [0], "format": "standard"}),
        )
        .await;
    platform.upload("web", "1.0").await;
    platform
        .until(&id, |told| {
            told["queued"] == 0 && told["last_error"].is_string()
        })
        .await;
    let stands = platform.get(&format!("/{id}")).await;
    assert_eq!(stands["state"], "failing", "nothing waits: {stands}");
    let failed = platform.log(&id).await.remove(0);
    assert_eq!(
        (&failed["status"], &failed["reason"]),
        (&json!("failed"), &json!("it answered 400"))
    );
    let delivery = failed["delivery_id"].as_str().unwrap();
    let again = platform
        .call(
            "POST",
            &format!("/deliveries/{delivery}/redeliver"),
            json!({}),
        )
        .await;
    assert_eq!(again.status, 202);
    let got = receiver.has(2).await;
    assert_eq!(got[0].header("webhook-id"), got[1].header("webhook-id"));
    assert_eq!(
        (got[0].body.as_str(), got[1].header("x-boxgate-attempt")),
        (got[1].body.as_str(), "2")
    );
    let members: Vec<String> = got[0].json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(members, ["type", "timestamp", "data", "event"]);
    platform.until(&id, |told| told["queued"] == 0).await;
    let told = platform.get(&format!("/deliveries/{delivery}")).await;
    assert_eq!(
        (&told["status"], told["attempts"].as_array().unwrap().len()),
        (&json!("delivered"), 2)
    );
    let missing = platform
        .call("POST", "/deliveries/dl_nothing/redeliver", json!({}))
        .await;
    assert_eq!(missing.status, 404);
}

#[tokio::test]
async fn what_another_node_sends_is_taken_over_once_its_claim_runs_out() {
    let clock = Arc::new(ManualClock::new(UnixMillis(1_700_000_000_000)));
    let platform = Platform::at(&clock, &[]).await;
    let receiver = Receiver::with(|number, _| status(if number == 1 { 503 } else { 200 })).await;
    let id = platform
        .endpoint(&receiver.url, json!({"delays_s": [0, 3_600]}))
        .await;
    platform.upload("web", "1.0").await;
    platform
        .until(&id, |told| told["last_error"].is_string())
        .await;
    let (hour, metadata) = (Duration::from_hours(1), &platform.running.gateway.metadata);
    // Another one that will never be heard of again is quicker once the claim has run out.
    while metadata
        .claim_webhooks("another", (hour * 3, hour))
        .await
        .unwrap()
        .is_empty()
    {
        clock.advance(Duration::from_mins(2));
    }
    clock.advance(hour * 2);
    for _ in 0..20 {
        platform.running.gateway.outlet.tell();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(receiver.got().len(), 1, "it is not ours to send");
    clock.advance(hour * 2);
    platform.running.gateway.outlet.tell();
    let got = receiver.has(2).await;
    assert_eq!(got[0].header("webhook-id"), got[1].header("webhook-id"));
}

#[tokio::test]
async fn what_waits_at_a_stop_is_sent_after_it() {
    let receiver = Receiver::with(|number, _| status(if number == 1 { 503 } else { 200 })).await;
    let platform = Platform::start(&[]).await;
    platform
        .endpoint(
            &receiver.url,
            json!({"events": ["box.*"], "delays_s": [0, 1, 1]}),
        )
        .await;
    platform.upload("web", "1.0").await;
    let first = receiver.has(1).await.remove(0);
    let directory = platform.running.stop().await;
    let running = Running::start_in(directory, &[OPEN]).await;
    let second = receiver.has(2).await.remove(1);
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    drop(running);
}
