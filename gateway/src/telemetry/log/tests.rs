use futures_util::FutureExt as _;

use super::*;

/// The lines of the events of `work`.
fn lines_of(work: impl FnOnce()) -> Vec<String> {
    let sink = LogSink::memory();
    let subscriber = tracing_subscriber::registry().with(JsonLayer { sink: sink.clone() });
    tracing::subscriber::with_default(subscriber, work);
    sink.lines()
}

const KEYS: [&str; 7] = [
    "time",
    "level",
    "target",
    "message",
    "span",
    "request_id",
    "fields",
];

#[test]
fn an_event_has_the_fixed_keys_and_its_request() {
    let lines = lines_of(|| {
        let request = tracing::info_span!("request", request_id = "77aa");
        request.in_scope(|| {
            tracing::info_span!("commit").in_scope(|| {
                tracing::warn!(bytes = 5_u64, path = %"/a", ok = true, "it is late");
            });
        });
        tracing::info!("alone");
    });
    let parsed: Vec<serde_json::Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for line in &parsed {
        let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert_eq!(keys, KEYS);
    }
    assert_eq!(parsed[0]["level"], "WARN");
    assert_eq!(parsed[0]["message"], "it is late");
    assert_eq!(parsed[0]["span"], "commit");
    assert_eq!(parsed[0]["request_id"], "77aa");
    let fields = serde_json::json!({"bytes": 5, "path": "/a", "ok": true});
    assert_eq!(parsed[0]["fields"], fields);
    assert_eq!(parsed[1]["request_id"], serde_json::Value::Null);
}

#[test]
fn an_event_within_a_request_names_it_where_no_span_does() {
    let lines = lines_of(|| {
        let facts = Arc::new(RequestFacts::new([127, 0, 0, 1].into(), "host"));
        let asked = facts.id().to_owned();
        let work = within(facts, async {
            tracing::info!("in it");
            let span = tracing::info_span!("commit", request_id = "77aa");
            span.in_scope(|| tracing::info!("in a span of it"));
        });
        work.now_or_never().unwrap();
        tracing::info!("{asked}");
    });
    let parsed: Vec<serde_json::Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(parsed[0]["request_id"], parsed[2]["message"]);
    assert_eq!(parsed[0]["span"], "request");
    assert_eq!(parsed[1]["request_id"], "77aa");
    assert_eq!(parsed[1]["span"], "commit");
    assert_eq!(parsed[2]["request_id"], serde_json::Value::Null);
}

#[test]
fn control_characters_are_escaped_and_long_values_cut() {
    let lines = lines_of(|| {
        tracing::info!(
            evil = "\u{1b}[31m\u{7f}\u{9b}\u{2028}\"\\",
            long = "ä".repeat(2000),
            "x"
        );
    });
    let escaped = r#""evil":"\u001b[31m\u007f\u009b\u2028\"\\""#;
    assert!(lines[0].contains(escaped), "{}", lines[0]);
    assert!(lines[0].chars().all(|c| !c.is_control()));
    let parsed: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert!(parsed["fields"]["long"].as_str().unwrap().len() <= FIELD_BYTES + 3);
}

#[test]
fn a_log_file_that_was_moved_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/boxvault.log");
    let mut file = LogFile::open(&path).unwrap();
    file.write("one\n");
    let moved = dir.path().join("moved");
    std::fs::rename(&path, &moved).unwrap();
    file.reopen_if_moved();
    file.write("two\n");
    file.reopen_if_moved();
    file.write("three\n");
    assert_eq!(std::fs::read_to_string(&moved).unwrap(), "one\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\nthree\n");
}

#[test]
fn lines_are_written_before_the_guard_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (sink, guard) = LogSink::start(Some(&path)).unwrap();
    for number in 0..100 {
        sink.write(format!("{{\"number\":{number}}}"));
    }
    drop(guard);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 100);
    assert_eq!(text.lines().last(), Some("{\"number\":99}"));
    assert_eq!(sink.dropped(), 0);
}

#[test]
fn lines_of_requests_obey_the_level_too() {
    let sink = LogSink::memory();
    assert!(!sink.is_quiet());
    for (level, is_quiet) in [
        (tracing::Level::ERROR, true),
        (tracing::Level::DEBUG, false),
        (tracing::Level::WARN, true),
        (tracing::Level::INFO, false),
    ] {
        sink.set_level(level);
        assert_eq!(sink.clone().is_quiet(), is_quiet, "{level}");
    }
}

#[test]
fn a_time_is_written_as_it_would_be_in_one_piece() {
    for milliseconds in [0, 1, 999, 1000, 1_764_000_000_007, 1_764_000_000_120, 7] {
        let time = Timestamp::from_millisecond(milliseconds).unwrap();
        let mut line = String::new();
        push_time(&mut line, time);
        assert_eq!(line, format!("{time:.3}"));
    }
}
