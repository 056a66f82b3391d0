//! Question: is the one copy into a pooled buffer as cheap as it is meant to be, and what would keeping
//! the frames instead cost?
//!
//! Unit: GiB per CPU second of the receiving side, frames hashed by both digests in all arms but
//! `receive` ones. Size: 256 MiB over one loopback connection. `copy, 1 buffer` fills the same MiB over
//! and over, so it stays in the second-level cache; `copy, 8 buffers` takes them in turn, as while
//! writes are in flight; `copy by 32 KiB` copies and hashes a piece at a time instead of a frame;
//! `keep 4 MiB` keeps the frames themselves that long. Worse means: if 8 buffers cost much more than
//! one, the copy has left the cache, and fewer buffers in flight would be cheaper than more.

use std::collections::VecDeque;

use boxgate_benches::{BLOCK_BYTES, Cost, over_http, runtime};
use boxgate_storage::digest::ContentHasher;
use bytes::Bytes;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

const LENGTH: u64 = 256 << 20;
const PIECE_BYTES: usize = 32 << 10;
const KEPT_BYTES: usize = 4 << 20;

fn copy(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("copy");
    group
        .throughput(Throughput::Bytes(LENGTH))
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat);
    type Make = fn() -> Arm;
    let arms: [(&str, Make); 8] = [
        ("receive", || Arm::new(0, false, false)),
        ("receive, copy, 1 buffer", || Arm::new(1, false, false)),
        ("receive, copy, 8 buffers", || Arm::new(8, false, false)),
        ("hash", || Arm::new(0, true, false)),
        ("hash, copy, 1 buffer", || Arm::new(1, true, false)),
        ("hash, copy, 8 buffers", || Arm::new(8, true, false)),
        ("hash, copy by 32 KiB, 8 buffers", || {
            Arm::new(8, true, true)
        }),
        ("hash, keep 4 MiB", || Arm {
            keep: true,
            ..Arm::new(0, true, false)
        }),
    ];
    for (name, arm) in arms {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let mut sum = Cost::default();
                for _ in 0..times {
                    sum += over_http(&runtime, LENGTH, move |body| arm().run(body));
                }
                sum.cpu
            });
        });
    }
}

struct Arm {
    buffers: Vec<Vec<u8>>,
    /// Which buffer, and how much of it is filled.
    at: (usize, usize),
    hasher: Option<ContentHasher>,
    by_piece: bool,
    keep: bool,
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
}

impl Arm {
    fn new(buffers: usize, hash: bool, by_piece: bool) -> Self {
        Self {
            // Touched before, as buffers of a pool are.
            buffers: vec![vec![1; BLOCK_BYTES]; buffers],
            at: (0, 0),
            hasher: hash.then(|| ContentHasher::new([])),
            by_piece,
            keep: false,
            kept: VecDeque::new(),
            kept_bytes: 0,
        }
    }

    async fn run(mut self, mut body: Incoming) {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame.expect("loopback holds").into_data() else {
                continue;
            };
            let piece = if self.by_piece {
                PIECE_BYTES
            } else {
                BLOCK_BYTES
            };
            frame.chunks(piece).for_each(|bytes| self.take(bytes));
            if self.keep {
                self.kept_bytes += frame.len();
                self.kept.push_back(frame);
                while self.kept_bytes > KEPT_BYTES {
                    self.kept_bytes -= self.kept.pop_front().map_or(0, |oldest| oldest.len());
                }
            }
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.finish();
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        if self.buffers.is_empty() {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(bytes);
            }
            return;
        }
        while !bytes.is_empty() {
            let (buffer, filled) = self.at;
            let room = &mut self.buffers[buffer][filled..];
            let n = room.len().min(bytes.len());
            room[..n].copy_from_slice(&bytes[..n]);
            // From the copy, as the engine does.
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&room[..n]);
            }
            bytes = &bytes[n..];
            self.at = match filled + n {
                BLOCK_BYTES => ((buffer + 1) % self.buffers.len(), 0),
                filled => (buffer, filled),
            };
        }
    }
}

criterion_group!(benches, copy);
criterion_main!(benches);
