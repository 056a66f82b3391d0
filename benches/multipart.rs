//! Question: what does reading a form cost beyond looking for its boundary?
//!
//! Unit: GiB per CPU second of one thread. Size: a form with one file of 64 MiB, in frames of 256 KiB as they come
//! from the socket; random bytes, and bytes that are all carriage returns and line feeds, the worst
//! that a search for `CRLF--` can meet. Worse means: form uploads cost that much more than raw ones;
//! the reader hands frames on uncopied, so it should stay near the scan alone.

use std::hint::black_box;

use boxgate::multipart::reader::{Event, MultipartReader};
use boxgate_benches::{block, on_this_thread};
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use memchr::memmem::Finder;

const LENGTH: usize = 64 << 20;
const FRAME_BYTES: usize = 256 << 10;
const BOUNDARY: &str = "------------------------d74496d66958873e";

fn multipart(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("multipart");
    group
        .throughput(Throughput::Bytes(LENGTH as u64))
        .sample_size(20);
    let contents = [
        ("random", block().repeat(LENGTH >> 20)),
        ("line ends", b"\r\n".repeat(LENGTH / 2)),
    ];
    for (name, content) in contents {
        let form = form(&content);
        let frames: Vec<Bytes> = (0..form.len())
            .step_by(FRAME_BYTES)
            .map(|from| form.slice(from..form.len().min(from + FRAME_BYTES)))
            .collect();
        let delimiter = format!("\r\n--{BOUNDARY}");
        group.bench_function(BenchmarkId::new("scan alone", name), |bencher| {
            let finder = Finder::new(&delimiter);
            bencher.iter_custom(|times| {
                on_this_thread(times, || {
                    frames
                        .iter()
                        .filter_map(|frame| finder.find(frame))
                        .sum::<usize>()
                })
            });
        });
        group.bench_function(BenchmarkId::new("reader", name), |bencher| {
            bencher.iter_custom(|times| {
                on_this_thread(times, || {
                    let read = read(&frames);
                    assert_eq!(read, LENGTH);
                })
            });
        });
    }
}

fn form(content: &[u8]) -> Bytes {
    let head = format!(
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"b.box\"\r\n\r\n"
    );
    let tail = format!("\r\n--{BOUNDARY}--\r\n");
    [head.as_bytes(), content, tail.as_bytes()].concat().into()
}

/// Bytes of the file.
fn read(frames: &[Bytes]) -> usize {
    let mut reader = MultipartReader::new(BOUNDARY, 16, 16 << 10).expect("it is a boundary");
    let mut frames = frames.iter();
    let mut bytes = 0;
    loop {
        match reader.next().expect("the form is well formed") {
            Event::NeedMore => match frames.next() {
                Some(frame) => reader.push(frame.clone()),
                None => reader.finish(),
            },
            Event::Data(data) => bytes += black_box(data).len(),
            Event::PartHead(_) | Event::PartEnd => {}
            Event::End => return bytes,
        }
    }
}

criterion_group!(benches, multipart);
criterion_main!(benches);
