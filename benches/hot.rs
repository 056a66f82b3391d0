//! What every request or every MiB pays, each as one call that can be repeated: measured by criterion in the benches,
//! counted in instructions by `counts`.
//!
//! A path is made once, outside what is measured; a call takes no clock and no input that differs from call to call.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use boxgate::admission::rates::{Key, Rates};
use boxgate::auth::master_key::MasterKey;
use boxgate::config::rates::{Per, Rate};
use boxgate::config::settings::{Door, Doors};
use boxgate::http::framing;
use boxgate::http::path::NormalPath;
use boxgate::http::precondition::{PastEnd, Representation, decide_at};
use boxgate::multipart::reader::{Event, MultipartReader};
use boxgate::route::{Class, Router};
use boxgate::webhook::secret::{Signer, WebhookSecret};
use boxgate::webhook::signature;
use boxgate_scripting::facts;
use boxgate_scripting::inbound::InboundTerms;
use boxgate_scripting::{Options, Scripts};
use boxgate_storage::backend::local;
use boxgate_storage::blob::{BlobKey, BlobMeta};
use boxgate_storage::buffer::BufferPool;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::digest::ContentHasher;
use boxgate_storage::layer::cache::{BlockCache, CacheOptions};
use boxgate_storage::layer::verify::BlobTree;
use boxgate_storage::metadata::uploads::{Advance, Fence};
use boxgate_storage::metadata::webhooks::Secrets;
use boxgate_storage::range::ByteRange;
use boxgate_storage::store::Receipt;
use boxgate_storage::upload::{Keep, UploadIntent};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::request::Parts;
use http::{HeaderMap, Method, Request};
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;

use crate::BLOCK_BYTES;
use crate::rows::Rows;

/// Does one of it.
pub type Call = Box<dyn FnMut()>;

/// A path's name, how often its call is repeated where it is counted, and what makes the call.
pub type Counted = (&'static str, u32, fn() -> Call);

/// All paths that are counted.
pub const ALL: [Counted; 13] = [
    ("header fields of a download", 2000, headers),
    ("range and conditions decided", 2000, decide),
    ("path made normal", 2000, path),
    ("route of a file", 2000, route),
    ("request counted by the limiter", 2000, limiter),
    ("webhook signed, 1 KiB", 500, sign),
    ("webhook verified, 1 KiB", 500, verify),
    ("MiB hashed by both digests", 4, hash),
    ("MiB of frames into a buffer", 20, assemble),
    ("MiB of a form read", 20, form),
    ("64 KiB of a cached block", 200, cached),
    ("part committed to SQLite", 100, || commit().call),
    ("route hook that hits a table", 200, script),
];

const BODY: &str = r#"{"event":"box.published","data":{"box":"acme/demo","version":"1.0.0"}}"#;

/// Fields as curl and Vagrant send them, looked at before a request is routed.
pub fn headers() -> Call {
    let head = head(&[
        ("host", "boxes.example.org"),
        (
            "user-agent",
            "Vagrant/2.4.1 (+https://www.vagrantup.com; ruby3.1.4)",
        ),
        ("accept", "*/*"),
        ("authorization", "Bearer 0123456789abcdef0123456789abcdef"),
        ("range", "bytes=1048576-2097151"),
    ]);
    Box::new(move || {
        black_box(framing::check(black_box(&head), 8192, 100).is_ok());
    })
}

/// 200, 206, 304, 412 or 416, with every condition there is.
pub fn decide() -> Call {
    const ETAG: &str = "\"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"";
    let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
    let head = head(&[
        ("if-match", ETAG),
        ("if-none-match", "\"other\""),
        ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("if-range", ETAG),
        ("range", "bytes=-1024"),
    ]);
    Box::new(move || {
        let meta = Representation {
            etag: ETAG,
            last_modified: Some(now - Duration::from_hours(1)),
            length: 12 << 30,
        };
        black_box(decide_at(
            now,
            &meta,
            &Method::GET,
            black_box(&head.headers),
            PastEnd::WholeBody,
        ));
    })
}

/// A file's path, as it came.
pub fn path() -> Call {
    Box::new(|| {
        black_box(NormalPath::parse(black_box(FILE)).is_ok());
    })
}

const FILE: &str =
    "/api/organization/acme/box/demo/version/1.0.0/provider/virtualbox/architecture/amd64/file";

/// The row of a file's path, which is the deepest.
pub fn route() -> Call {
    let router = Router::try_new(&doors()).expect("no row shadows another");
    Box::new(move || {
        black_box(router.find(&Method::GET, black_box(FILE)));
    })
}

/// One request of an address that is known.
pub fn limiter() -> Call {
    limiter_of(1)
}

/// The same with so many other addresses in the table.
pub fn limiter_of(others: u32) -> Call {
    // More than can be asked for, and no more than governor counts well.
    let many = NonZeroU32::new(100_000_000).expect("it is not zero");
    let rates = Rates::new(
        &[Rate {
            by_scripts: false,
            name: "address".into(),
            per: Per::Address,
            classes: vec![Class::Control, Class::Upload, Class::Download],
            requests: many,
            burst: many,
            bytes_in: 0,
            bytes_out: 0,
        }],
        u64::from(others) + 10,
        false,
    );
    let key = |number: u32| Key::Address(IpAddr::V4(Ipv4Addr::from_bits(number)));
    for other in 0..others {
        black_box(rates.count(&key(other), Class::Control, None).is_ok());
    }
    let ours = key(0);
    Box::new(move || {
        black_box(rates.count(black_box(&ours), Class::Control, None).is_ok());
    })
}

/// Both signatures of one delivery.
pub fn sign() -> Call {
    let (key, _directory) = master_key();
    let secrets = Secrets {
        current: WebhookSecret::random().seal(&key),
        previous: None,
        legacy_previous: false,
    };
    let signer = Signer::open(&key, &secrets).expect("the key sealed it");
    let body = body();
    Box::new(move || {
        let mut headers = HeaderMap::new();
        signer.sign(
            &mut headers,
            "msg_2b1c",
            UnixMillis(1_800_000_000_000),
            black_box(&body),
        );
        black_box(&headers);
    })
}

/// A delivery to us, by the same scheme.
pub fn verify() -> Call {
    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    let (key, _directory) = master_key();
    let secret = WebhookSecret::random();
    let secrets = Secrets {
        current: secret.seal(&key),
        previous: None,
        legacy_previous: false,
    };
    let signer = Signer::open(&key, &secrets).expect("the key sealed it");
    let body = body();
    let mut headers = HeaderMap::new();
    signer.sign(&mut headers, "msg_2b1c", NOW, &body);
    let terms = InboundTerms {
        verify: boxgate_scripting::inbound::Verify::Standard,
        secret: None,
        mode: boxgate_scripting::inbound::Mode::default(),
        header: None,
        id_header: None,
    };
    Box::new(move || {
        let within = (NOW, Duration::from_mins(5));
        let sender = signature::Sender::of_head(&terms, secret.expose(), &headers, within);
        let sender = sender.expect("the head is as it was signed");
        let id = sender.with_body(black_box(body.as_bytes()));
        black_box(id.expect("the body is as it was signed"));
    })
}

/// What every uploaded MiB pays first.
pub fn hash() -> Call {
    let content = fixed();
    Box::new(move || {
        let mut hasher = ContentHasher::new([]);
        black_box(&content)
            .chunks(64 << 10)
            .for_each(|bytes| hasher.update(bytes));
        black_box(hasher.finish());
    })
}

/// Frames as they come from the socket become a run that is written at once.
pub fn assemble() -> Call {
    let content = fixed();
    let pool = BufferPool::new(8 << 20);
    let runtime = runtime();
    Box::new(move || {
        let mut buffer = runtime.block_on(pool.take());
        // As they come on a real wire: no divisor of the buffer.
        for frame in content.chunks(40_000) {
            buffer.fill(black_box(frame));
        }
        assert!(buffer.is_full());
        black_box(&buffer);
    })
}

/// A form with one file, in frames of 256 KiB.
pub fn form() -> Call {
    const BOUNDARY: &str = "------------------------d74496d66958873e";
    let head = format!(
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"b.box\"\r\n\r\n"
    );
    let tail = format!("\r\n--{BOUNDARY}--\r\n");
    let form = Bytes::from([head.as_bytes(), &fixed(), tail.as_bytes()].concat());
    Box::new(move || {
        let mut reader = MultipartReader::new(BOUNDARY, 16, 16 << 10).expect("it is a boundary");
        let (mut at, mut read) = (0, 0);
        loop {
            match reader.next().expect("the form is well formed") {
                Event::NeedMore if at < form.len() => {
                    let to = form.len().min(at + (256 << 10));
                    reader.push(form.slice(at..to));
                    at = to;
                }
                Event::NeedMore => reader.finish(),
                Event::Data(data) => read += black_box(data).len(),
                Event::PartHead(_) | Event::PartEnd => {}
                Event::End => break,
            }
        }
        assert_eq!(read, BLOCK_BYTES);
    })
}

/// A range within a block that is in memory.
pub fn cached() -> Call {
    let runtime = runtime();
    let directory = tempfile::tempdir().expect("a temporary folder");
    let store = runtime.block_on(local::open(directory.path()));
    let store = store.expect("an empty directory is a store");
    let key = BlobKey::random();
    let (name, bytes) = (key.to_string(), fixed());
    let shard = directory.path().join(&name[..2]);
    std::fs::create_dir_all(&shard).expect("the directory is ours");
    std::fs::write(shard.join(&name), &bytes).expect("the disk has room");
    let mut hasher = ContentHasher::new([]);
    hasher.update(&bytes);
    let digests = hasher.finish();
    let meta = BlobMeta {
        key,
        length: bytes.len() as u64,
        blake3: digests.blake3,
        sha256: digests.sha256,
    };
    let tree = BlobTree {
        values: hasher.take_values().into(),
    };
    let options = CacheOptions {
        size_bytes: 64 << 20,
        block_bytes: 1 << 20,
    };
    let cache = BlockCache::new(options, TaskTracker::new());
    Box::new(move || {
        let _kept = &directory;
        let range = ByteRange::try_new(64 << 10, 128 << 10).expect("it has a beginning and an end");
        let read = runtime.block_on(async {
            let opened = cache.open(&store.read, &meta, &tree, range).await;
            let (_, mut stream) = opened.expect("the file is there");
            let mut read = 0;
            while let Some(bytes) = stream.next().await {
                read += bytes.expect("the file is whole").len();
            }
            read
        });
        assert_eq!(read, 64 << 10);
    })
}

/// Commits of one upload after the other.
#[expect(missing_debug_implementations, reason = "a call has none")]
pub struct Commits {
    /// The next part's commit.
    pub call: Call,
}

/// The one row update that makes a part count, with its subtree values and hash states.
pub fn commit() -> Commits {
    // No more than there is room for on any disk that this is built on.
    const LENGTH: u64 = 8 << 30;
    let runtime = crate::runtime();
    let directory = tempfile::tempdir_in(Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"))
        .or_else(|_| tempfile::tempdir())
        .expect("a folder on the disk");
    let store = runtime.block_on(local::open(&directory.path().join("blobs")));
    let store = store.expect("an empty directory is a store");
    let pool = BufferPool::new(8 << 20);
    let rows = runtime.block_on(Rows::in_sqlite(&store, &pool, directory.path()));
    let mut row = None;
    let mut part = 0;
    let call = move || {
        let _kept = &directory;
        row = row.filter(|(_, _, part_bytes)| (part + 1) * part_bytes <= LENGTH);
        let (id, epoch, part_bytes) = *row.get_or_insert_with(|| {
            part = 0;
            let intent = UploadIntent {
                keep: Keep::UntilIdle,
                ..rows.intent(LENGTH)
            };
            let row = runtime.block_on(rows.uploads.create(intent));
            let row = row.expect("there is room");
            (row.id, row.epoch, row.part_bytes)
        });
        let mib = usize::try_from(part_bytes >> 20).expect("a part is small");
        let step = Advance {
            from: part * part_bytes,
            to: (part + 1) * part_bytes,
            part: u32::try_from(part).expect("a few parts"),
            values: vec![[7; 32]; mib],
            hash_states: vec![7; 300],
            receipt: Receipt::default(),
        };
        let advanced = runtime.block_on(rows.ledger.advance(Fence { id, epoch }, step));
        advanced.expect("nobody else writes it");
        part += 1;
    };
    Commits {
        call: Box::new(call),
    }
}

/// A plugin's table, which says where a request goes.
pub fn script() -> Call {
    let directory = tempfile::tempdir().expect("a temporary folder");
    let plugins = directory.path().join("plugins");
    std::fs::create_dir(&plugins).expect("a folder in it");
    let source = r#"
        const T = table([["eu.example.org", "/acme/**", "main"], ["*", "/public/**", "main"]]);
        fn route(req) { let hit = T.find(req); if hit == () { return; } #{ backend: hit, tags: #{ tenant: req.seg(0) } } }
    "#;
    std::fs::write(plugins.join("bench.rhai"), source).expect("a file in it");
    let mut options = Options::in_directory(plugins, directory.path().join("last-good"));
    options.live = boxgate::sys::alloc::live_bytes;
    let scripts = Scripts::open(options).expect("the plugin loads");
    let request = Arc::new(facts::Request {
        method: "GET".into(),
        host: "eu.example.org".into(),
        path: "/acme/box".into(),
        ..facts::Request::default()
    });
    let runtime = runtime();
    Box::new(move || {
        let _kept = &directory;
        black_box(runtime.block_on(scripts.route(black_box(&request))).is_ok());
    })
}

/// All doors, open.
pub fn doors() -> Doors {
    let open = || Door {
        enabled: true,
        prefix: String::new(),
    };
    Doors {
        boxvault: open(),
        vagrant: open(),
        vagrant_cloud: open(),
        files: open(),
        blobs: open(),
        hooks: open(),
        providers: open(),
        runtime: open(),
        boxitory: open(),
        operations: open(),
        page: open(),
    }
}

fn head(fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::get(FILE);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(()).expect("the fields are well formed");
    request.into_parts().0
}

/// A MiB that is the same in every run.
fn fixed() -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn body() -> String {
    BODY.repeat(1024 / BODY.len())
}

fn master_key() -> (MasterKey, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a temporary folder");
    let key = MasterKey::load(Some(&"ab".repeat(32)), directory.path(), false);
    (key.expect("it is a key"), directory)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}
