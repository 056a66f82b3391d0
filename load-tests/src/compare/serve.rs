//! What boxgate is compared with and is nobody's product: the least that could do the same work, each in a process of
//! its own, so that its CPU can be told from the client's.

pub(super) mod keeper;

use std::convert::Infallible;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use clap::ValueEnum;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

use self::keeper::Keeper;
use crate::content::{Block, Content};
use crate::error::{Failure, Result};

/// Bytes of a buffer, which is what one write takes.
const BUFFER_BYTES: usize = 1 << 20;
/// Writes in flight.
const WRITERS: usize = 4;
/// What direct I/O wants of an address and a length.
const ALIGNMENT: usize = 4096;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Plain {
    /// Receives, hashes by BLAKE3, writes past the page cache, flushes.
    LoopBlake3,
    /// The same with SHA-256 beside it.
    LoopBoth,
    /// The same; the file and a row of it stay whatever happens.
    LoopDurable,
    /// Writes, flushes, then reads and hashes.
    WriteThenHash,
    /// Drops what it receives.
    Sink,
    /// Sends from memory.
    Source,
}

impl Plain {
    /// As the command line has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::LoopBlake3 => "loop-blake3",
            Self::LoopBoth => "loop-both",
            Self::LoopDurable => "loop-durable",
            Self::WriteThenHash => "write-then-hash",
            Self::Sink => "sink",
            Self::Source => "source",
        }
    }
}

/// What a source sends: the same bytes from every one.
pub(super) fn sent(length: u64) -> Content {
    Content::new(&Block::seeded(1), 1, length)
}

/// Serves until it is killed; prints its address first.
pub(crate) async fn serve(plain: Plain, directory: PathBuf, length: u64) -> Result<()> {
    let keeper = match plain {
        Plain::LoopDurable => Some(Arc::new(Keeper::open(&directory).await?)),
        _ => None,
    };
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", listener.local_addr()?)?;
    out.flush()?;
    if matches!(plain, Plain::Sink | Plain::Source) {
        listener.set_nonblocking(true)?;
        return by_hyper(tokio::net::TcpListener::from_std(listener)?, length).await;
    }
    for (number, stream) in listener.incoming().enumerate() {
        let stream = stream?;
        let path = directory.join(format!("received-{number}"));
        let keeper = keeper.clone();
        std::thread::spawn(move || {
            let served = match &keeper {
                Some(keeper) => hash_and_keep(stream, keeper),
                None => in_passing(plain, stream, &path),
            };
            if let Err(failure) = served {
                let _closed = writeln!(std::io::stderr(), "{}: {failure}", plain.name());
            }
        });
    }
    Ok(())
}

/// Takes a file that nobody wants back.
fn in_passing(plain: Plain, stream: TcpStream, path: &Path) -> Result<()> {
    let served = match plain {
        Plain::WriteThenHash => write_then_hash(stream, path),
        _ => hash_and_write(stream, path, plain == Plain::LoopBoth),
    };
    let removed = std::fs::remove_file(path).map_err(Failure::from);
    served.and(removed)
}

async fn by_hyper(listener: tokio::net::TcpListener, length: u64) -> Result<()> {
    let bytes = if length > 0 {
        pieces(&sent(length))
    } else {
        Vec::new()
    };
    let bytes = Arc::new(bytes);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let bytes = Arc::clone(&bytes);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, Arc::clone(&bytes), length));
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(failure) = served {
                let _closed = writeln!(std::io::stderr(), "hyper: {failure}");
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    bytes: Arc<Vec<Bytes>>,
    length: u64,
) -> std::result::Result<Response<BoxBody<Bytes, Infallible>>, hyper::Error> {
    let is_upload = request.method() != "GET";
    let mut body = request.into_body();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        received += frame?.into_data().map_or(0, |data| data.len() as u64);
    }
    if is_upload {
        let told = format!("{{\"received\":{received}}}");
        return Ok(Response::new(Full::new(Bytes::from(told)).boxed()));
    }
    let mut next = 0;
    let frames = futures_util::stream::iter(std::iter::from_fn(move || {
        let piece = bytes.get(next)?.clone();
        next += 1;
        Some(Ok(Frame::data(piece)))
    }));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    response
        .headers_mut()
        .insert("content-length", length.into());
    Ok(response)
}

/// A content as frames that share one block in memory.
fn pieces(content: &Content) -> Vec<Bytes> {
    let mut whole = Vec::new();
    let written = content.write_to(&mut whole);
    written.expect("memory takes every write");
    let whole = Bytes::from(whole);
    (0..whole.len())
        .step_by(BUFFER_BYTES)
        .map(|from| whole.slice(from..whole.len().min(from + BUFFER_BYTES)))
        .collect()
}

/// A request's head as far as a loop needs it.
struct Asked {
    /// The last part of its path.
    name: String,
    /// Of its body.
    length: u64,
    /// What of the body came with the head.
    begun: Vec<u8>,
}

fn head(stream: &mut TcpStream) -> Result<Asked> {
    let mut seen = Vec::new();
    let mut byte = [0; 4096];
    loop {
        if let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
            let begun = seen.split_off(end + 4);
            let text = String::from_utf8_lossy(&seen);
            let path = text.split(' ').nth(1).unwrap_or_default();
            let name = path.rsplit('/').next().unwrap_or_default().to_owned();
            let text = text.to_ascii_lowercase();
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .and_then(|length| length.trim().parse().ok());
            let length = length.ok_or_else(|| Failure::said("a request without a length"))?;
            return Ok(Asked {
                name,
                length,
                begun,
            });
        }
        let n = stream.read(&mut byte)?;
        if n == 0 {
            return Err(Failure::said("a request was cut"));
        }
        seen.extend_from_slice(&byte[..n]);
    }
}

fn told(stream: &mut TcpStream, blake3: &str, sha256: Option<&str>) -> Result<()> {
    let sha256 = sha256.map(|sha256| format!(",\"sha256\":\"{sha256}\""));
    let body = format!("{{\"blake3\":\"{blake3}\"{}}}", sha256.unwrap_or_default());
    let length = body.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes())?;
    Ok(())
}

/// Memory whose address direct I/O takes.
struct Buffer {
    memory: Vec<u8>,
    begin: usize,
}

impl Buffer {
    fn new() -> Self {
        // Touched once: what comes fresh from the kernel costs page faults.
        let memory = vec![1; BUFFER_BYTES + ALIGNMENT];
        let begin = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, begin }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin..self.begin + BUFFER_BYTES]
    }
}

/// A full buffer and its place.
struct Filled {
    buffer: Buffer,
    length: usize,
    offset: u64,
}

fn hash_and_write(mut stream: TcpStream, path: &Path, both: bool) -> Result<()> {
    let Asked { length, begun, .. } = head(&mut stream)?;
    let file = direct(path)?;
    let buffers = (0..2 * WRITERS).map(|_| Buffer::new()).collect();
    let body = begun.as_slice().chain(&mut stream);
    let received = receive(body, (&file, length), both, (WRITERS, buffers))?;
    file.set_len(length)?;
    file.sync_data()?;
    told(&mut stream, &received.blake3, received.sha256.as_deref())
}

/// The same, with as many writers and as much memory as a short file has a use for, and the file stays.
fn hash_and_keep(mut stream: TcpStream, keeper: &Keeper) -> Result<()> {
    let Asked {
        name,
        length,
        begun,
    } = head(&mut stream)?;
    let file = direct(&keeper.path(&name)?)?;
    let pieces = usize::try_from(length.div_ceil(BUFFER_BYTES as u64)).unwrap_or(usize::MAX);
    let pieces = pieces.max(1);
    let buffers = keeper.take(pieces.min(2 * WRITERS));
    let body = begun.as_slice().chain(&mut stream);
    let received = receive(body, (&file, length), true, (pieces.min(WRITERS), buffers))?;
    file.set_len(length)?;
    file.sync_data()?;
    let sha256 = received.sha256.unwrap_or_default();
    keeper.keep(&name, length, (&received.blake3, &sha256))?;
    told(&mut stream, &received.blake3, Some(&sha256))?;
    keeper.give(received.buffers);
    Ok(())
}

/// A new file that is written past the page cache.
fn direct(path: &Path) -> Result<File> {
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::DIRECT;
    let opened = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    Ok(File::from(
        opened.map_err(|e| Failure::file(path, e.into()))?,
    ))
}

/// What came, by its digests, and the memory that it came through.
struct Received {
    blake3: String,
    sha256: Option<String>,
    buffers: Vec<Buffer>,
}

/// Hashes what comes while so many writers write it.
fn receive(
    mut body: impl std::io::Read,
    (file, length): (&File, u64),
    both: bool,
    (writers, buffers): (usize, Vec<Buffer>),
) -> Result<Received> {
    let (full, filled) = sync_channel::<Filled>(WRITERS);
    let (empty, emptied) = sync_channel(2 * WRITERS);
    for buffer in buffers {
        let given = empty.send(buffer);
        given.expect("the other end is held here");
    }
    let filled = Mutex::new(filled);
    let mut blake3 = blake3::Hasher::new();
    let mut sha256 = both.then(Sha256::new);
    let (blake3_of, sha256_of) = (&mut blake3, &mut sha256);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..writers)
            .map(|_| {
                let empty = empty.clone();
                let filled = &filled;
                scope.spawn(move || write(file, filled, &empty))
            })
            .collect();
        let mut offset = 0;
        while offset < length {
            let Ok(mut buffer) = emptied.recv() else {
                break;
            };
            let wanted =
                usize::try_from(length - offset).map_or(BUFFER_BYTES, |n| n.min(BUFFER_BYTES));
            let mut have = 0;
            while have < wanted {
                let n = body.read(&mut buffer.bytes()[have..wanted])?;
                if n == 0 {
                    return Err(Failure::said("a body was cut"));
                }
                let fresh = &buffer.bytes()[have..have + n];
                blake3_of.update(fresh);
                if let Some(sha256) = sha256_of {
                    sha256.update(fresh);
                }
                have += n;
            }
            let sent = full.send(Filled {
                buffer,
                length: wanted,
                offset,
            });
            sent.map_err(|_gone| Failure::said("no writer is left"))?;
            offset += wanted as u64;
        }
        drop(full);
        for writer in writers {
            writer.join().expect("a writer does not panic")?;
        }
        Ok(())
    })?;
    Ok(Received {
        blake3: blake3.finalize().to_hex().to_string(),
        sha256: sha256.map(|hasher| hex::encode(hasher.finalize())),
        buffers: emptied.try_iter().collect(),
    })
}

fn write(file: &File, waiting: &Mutex<Receiver<Filled>>, empty: &SyncSender<Buffer>) -> Result<()> {
    loop {
        let next = waiting.lock().ok().and_then(|waiting| waiting.recv().ok());
        let Some(Filled {
            mut buffer,
            length,
            offset,
        }) = next
        else {
            return Ok(());
        };
        // Past the end up to the next whole block; the length is set when all is there.
        let padded = length.next_multiple_of(ALIGNMENT);
        let mut written = 0;
        while written < padded {
            let rest = &buffer.bytes()[written..padded];
            let n = rustix::io::pwrite(file, rest, offset + written as u64);
            written += n.map_err(std::io::Error::from)?;
        }
        // Nobody wants it back once all was received.
        let _unwanted = empty.try_send(buffer);
    }
}

fn write_then_hash(mut stream: TcpStream, path: &Path) -> Result<()> {
    let Asked { length, begun, .. } = head(&mut stream)?;
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut body = begun.as_slice().chain(&mut stream).take(length);
    loop {
        let n = body.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        file.write_all(&buffer[..n])?;
    }
    file.sync_data()?;
    file.rewind()?;
    let (mut blake3, mut sha256) = (blake3::Hasher::new(), Sha256::new());
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        blake3.update(&buffer[..n]);
        sha256.update(&buffer[..n]);
    }
    let (blake3, sha256) = (blake3.finalize().to_hex(), hex::encode(sha256.finalize()));
    told(&mut stream, &blake3, Some(&sha256))
}
