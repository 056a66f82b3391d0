//! A panic within a call: counted, answered by the hook's rule, and silent about what it said.

use std::process::Command;
use std::sync::Arc;

use boxgate_scripting::error::Fault;
use boxgate_scripting::http::{HttpClient, HttpFault, HttpReply, HttpRequest};
use boxgate_scripting::{Scripts, panics};

use crate::support::{Folder, request};

/// A client that has a fault.
#[derive(Debug)]
struct Faulty;

impl HttpClient for Faulty {
    fn send(&self, request: HttpRequest) -> Result<HttpReply, HttpFault> {
        panic!("no answer for {:?}", request.headers);
    }

    fn baggage(&self) -> Option<Arc<str>> {
        None
    }
}

fn scripts(on_failure: &str) -> (Folder, Scripts) {
    let folder = Folder::new();
    let manifest = format!(
        "[hooks.route]\nlane = \"work\"\ndeadline_ms = 5000\non_failure = \"{on_failure}\"\n\
         [http]\nallow = [\"https://a.example/\"]\n[secrets]\nnames = [\"KEY\"]"
    );
    folder.write("acme/plugin.toml", &manifest);
    let main = "fn route(req) {\n    if req.path == \"/\" { return; }\n    \
                let r = http::get(\"https://a.example/\", #{ headers: #{ k: secret::get(\"KEY\") } });\n    r.status\n}";
    folder.write("acme/main.rhai", main);
    let mut options = folder.options();
    options.trust_local = true;
    options.secrets = [("KEY".to_owned(), "hunter2".to_owned())].into();
    options.http = Some(Arc::new(Faulty));
    options.workers = 2;
    let scripts = Scripts::open(options).unwrap();
    assert_eq!(scripts.status()[0].error, None);
    (folder, scripts)
}

#[tokio::test]
async fn a_panic_is_that_calls_failure_and_no_more() {
    panics::keep_quiet();
    let (_folder, scripts) = scripts("closed");
    for _ in 0..5 {
        let failure = scripts.route(&request("GET", "h", "/x")).await;
        let failure = failure.unwrap_err().failure;
        assert_eq!(failure.fault, Fault::Panic);
        let told = failure.to_string();
        assert!(
            told.starts_with("main.rhai:3:19: route panicked at scripting/tests/it/panics.rs:")
                || told.starts_with("main.rhai:3:19: route panicked at panics.rs:"),
            "{told}"
        );
        assert!(!told.contains("hunter2"), "{told}");
        // Its worker is there for the next.
        assert!(scripts.route(&request("GET", "h", "/")).await.is_ok());
    }
    assert_eq!(scripts.counted()[0].outcomes["panic"], 5);
    let (_folder, open) = self::scripts("open");
    assert!(open.route(&request("PUT", "h", "/x")).await.is_ok());
    assert_eq!(open.counted()[0].outcomes["panic"], 1);
}

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn panics_here() {
    panics::keep_quiet();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (_folder, scripts) = scripts("closed");
    let asked = runtime.block_on(scripts.route(&request("GET", "h", "/x")));
    assert_eq!(asked.unwrap_err().failure.fault, Fault::Panic);
    // What is no script's is told as ever.
    assert!(std::thread::spawn(|| panic!("loud")).join().is_err());
}

#[test]
fn nothing_of_it_is_written() {
    let own = std::env::current_exe().unwrap();
    let told = Command::new(own)
        .args(["--ignored", "--exact", "--nocapture", "panics::panics_here"])
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    let written = String::from_utf8_lossy(&told.stderr).into_owned();
    let printed = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.status.success(), "{written}{printed}");
    assert!(printed.contains("1 passed"), "{printed}");
    assert!(written.contains("loud"), "{written}");
    for secret in ["hunter2", "no answer", "http::get"] {
        assert!(
            !written.contains(secret) && !printed.contains(secret),
            "{written}"
        );
    }
}
