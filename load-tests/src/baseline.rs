//! What the machine gives without a gateway, measured in the same run: the disk by `dd`, the socket
//! and the generator by a peer that does nothing else.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::content::Content;
use crate::error::{Failure, Result};

/// Writes a copy of `source` to the same directory by `dd conv=fdatasync`, removes it, and returns how
/// long `dd` took. `direct` writes past the page cache.
pub(crate) async fn dd(source: &Path, direct: bool) -> Result<Duration> {
    let copy = source.with_extension("copy");
    let mut arguments = vec![
        format!("if={}", source.display()),
        format!("of={}", copy.display()),
        "bs=1M".into(),
        "conv=fdatasync".into(),
    ];
    if direct {
        arguments.push("oflag=direct".into());
    }
    let started = Instant::now();
    let ended = tokio::task::spawn_blocking(move || {
        Command::new("dd")
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
    });
    let status = ended.await.expect("running dd does not panic");
    let took = started.elapsed();
    let status = status.map_err(|e| Failure::Local {
        what: "dd".into(),
        source: e,
    })?;
    std::fs::remove_file(&copy).map_err(|e| Failure::file(&copy, e))?;
    if status.success() {
        Ok(took)
    } else {
        Err(Failure::said("dd failed"))
    }
}

/// A file with that content, left in the page cache and on the disk.
pub(crate) fn source(directory: &Path, content: &Content) -> Result<PathBuf> {
    let path = directory.join("dd-source");
    let written = std::fs::File::create(&path).and_then(|mut file| {
        content.write_to(&mut file)?;
        file.sync_all()
    });
    written.map_err(|e| Failure::file(&path, e))?;
    Ok(path)
}

/// Sends the content to a peer that only reads it.
pub(crate) async fn loopback_up(content: &Content) -> Result<Duration> {
    let (address, peer) = peer(|mut stream| {
        let mut buffer = vec![0; 1 << 20];
        while stream.read(&mut buffer)? > 0 {}
        Ok(())
    })?;
    let started = Instant::now();
    let mut stream = TcpStream::connect(address).await?;
    content.send(0..content.length(), &mut stream).await?;
    drop(stream);
    join(peer)?;
    Ok(started.elapsed())
}

/// Reads and compares the content from a peer that only writes it.
pub(crate) async fn loopback_down(content: &Content) -> Result<Duration> {
    let sent = content.clone();
    let (address, peer) = peer(move |mut stream| {
        sent.write_to(&mut stream)?;
        stream.flush()
    })?;
    let started = Instant::now();
    let mut stream = TcpStream::connect(address).await?;
    let mut checker = content.checker();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            break;
        }
        checker.take(&buffer[..n]);
    }
    let took = started.elapsed();
    join(peer)?;
    if checker.is_whole() {
        Ok(took)
    } else {
        Err(Failure::said("loopback changed the bytes"))
    }
}

type Peer = std::thread::JoinHandle<std::io::Result<()>>;

/// A thread that serves one connection.
fn peer(
    serve: impl FnOnce(std::net::TcpStream) -> std::io::Result<()> + Send + 'static,
) -> Result<(SocketAddr, Peer)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let peer = std::thread::spawn(move || listener.accept().and_then(|(stream, _)| serve(stream)));
    Ok((address, peer))
}

fn join(peer: Peer) -> Result<()> {
    peer.join().expect("reading and writing do not panic")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Block;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn loopback_carries_the_content_both_ways() {
        let content = Content::new(&Block::random(), 3, (5 << 20) + 17);
        loopback_up(&content).await.unwrap();
        loopback_down(&content).await.unwrap();
    }
}
