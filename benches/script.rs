//! Question: what do plugins cost a request, and a save?
//!
//! Unit: ns per call, ms per load. Sizes: no plugin at all (one atomic load); a `route` of five lines with a table,
//! that hits and that does not; 50 rows of a table, the last of which fits; a plugin of 500 lines from source to
//! ready. All with every guard on, under the allocator that counts. Worse means: every request pays it, before
//! anything else is known about it. `64 bytes` is what one allocation and its end cost with counting.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use boxgate::sys::alloc::live_bytes;
use boxgate_scripting::bundle::Bundle;
use boxgate_scripting::facts::Request;
use boxgate_scripting::hook::Hook;
use boxgate_scripting::plugin::{Lasting, Surroundings, load};
use boxgate_scripting::{Options, Scripts};
use criterion::{Criterion, criterion_group, criterion_main};

// What the benches share is the allocator, too.
use boxgate_benches as _;

fn scripts(source: &str) -> (tempfile::TempDir, Scripts) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let plugins = dir.path().join("plugins");
    std::fs::create_dir(&plugins).expect("a folder in it");
    if !source.is_empty() {
        std::fs::write(plugins.join("bench.rhai"), source).expect("a file in it");
    }
    let mut options = Options::in_directory(plugins, dir.path().join("last-good"));
    options.live = live_bytes;
    let scripts = Scripts::open(options).expect("the plugins load");
    (dir, scripts)
}

fn request(path: &str) -> Arc<Request> {
    Arc::new(Request {
        method: "GET".into(),
        host: "eu.example.org".into(),
        path: path.into(),
        ..Request::default()
    })
}

fn script(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut group = criterion.benchmark_group("script");

    let (_none, idle) = scripts("");
    group.bench_function("no plugin", |bencher| {
        bencher.iter(|| black_box(&idle).defines(Hook::Route));
    });

    let tenants = r#"
        const T = table([["eu.example.org", "/acme/**", "main"], ["*", "/public/**", "main"]]);
        fn route(req) { let hit = T.find(req); if hit == () { return; } #{ backend: hit, tags: #{ tenant: req.seg(0) } } }
    "#;
    let (_dir, routing) = scripts(tenants);
    for (name, path) in [("route, hit", "/acme/box"), ("route, miss", "/other/box")] {
        let request = request(path);
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(routing.route(black_box(&request))));
        });
    }

    let mut rows = String::new();
    for row in 0..50 {
        // A String takes every write.
        let _ = write!(
            rows,
            "[\"eu.example.org\", \"/tenant{row}/**\", \"s{row}\"],"
        );
    }
    let (_dir, table) = scripts(&format!(
        "const T = table([{rows}]); fn route(req) {{ T.find(req) }}"
    ));
    let last = request("/tenant49/box");
    group.bench_function("table of 50, last", |bencher| {
        bencher.iter(|| runtime.block_on(table.route(black_box(&last))));
    });

    let mut source = String::from("fn route(req) { f0(req) }\n");
    for line in 0..100 {
        let next = line + 1;
        let _ = write!(
            source,
            "fn f{line}(req) {{\n    if req.path == \"/{line}\" {{\n        return #{{ backend: \"main\" }};\n    }}\n    f{next}(req) }}\n"
        );
    }
    source.push_str("fn f100(req) { () }\n");
    let bundle = Bundle::of_source("bench", source);
    group.bench_function("load of 500 lines", |bencher| {
        bencher.iter(|| load(bundle.clone(), Surroundings::default(), Lasting::default()));
    });

    group.bench_function("64 bytes", |bencher| {
        bencher.iter(|| black_box(Box::new([0u8; 64])));
    });
}

criterion_group!(benches, script);
criterion_main!(benches);
