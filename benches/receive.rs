//! Question: what does hyper cost beyond the socket when a large body is only received?
//!
//! Unit: GiB per CPU second of the receiving side (`receive_cpu`) and GiB per second (`receive_wall`).
//! Size: 256 MiB on one loopback connection. Worse means: if `hyper` falls well below `raw recv`, its
//! buffers are sized wrongly or frames are copied; everything else on the upload path comes on top.

use std::time::Duration;

use boxgate_benches::{Cost, over_http, over_tcp, runtime};
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

const LENGTH: u64 = 256 << 20;

fn receive(criterion: &mut Criterion) {
    arms(criterion.benchmark_group("receive_cpu"), |cost| cost.cpu);
    arms(criterion.benchmark_group("receive_wall"), |cost| cost.wall);
}

fn arms(mut group: BenchmarkGroup<'_, WallTime>, of: fn(&Cost) -> Duration) {
    let runtime = runtime();
    group
        .throughput(Throughput::Bytes(LENGTH))
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat);
    for buffer_bytes in [64 << 10, 1 << 20] {
        let name = format!("raw recv, {} KiB", buffer_bytes >> 10);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let mut sum = Cost::default();
                for _ in 0..times {
                    sum += over_tcp(&runtime, LENGTH, move |listener| {
                        swallow(listener, buffer_bytes)
                    });
                }
                of(&sum)
            });
        });
    }
    group.bench_function("hyper", |bencher| {
        bencher.iter_custom(|times| {
            let mut sum = Cost::default();
            for _ in 0..times {
                sum += over_http(&runtime, LENGTH, frames);
            }
            of(&sum)
        });
    });
}

/// Reads head and body alike into one buffer, until all came.
async fn swallow(listener: TcpListener, buffer_bytes: usize) {
    let (mut stream, _) = listener.accept().await.expect("the client connects");
    let mut buffer = vec![0; buffer_bytes];
    let mut received = 0;
    while received < LENGTH {
        let n = stream.read(&mut buffer).await.expect("loopback holds");
        received += n as u64;
    }
}

async fn frames(mut body: Incoming) {
    while let Some(frame) = body.frame().await {
        frame.expect("loopback holds");
    }
}

criterion_group!(benches, receive);
criterion_main!(benches);
