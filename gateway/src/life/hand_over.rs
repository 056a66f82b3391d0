//! One process comes in the place of another, and nobody is refused meanwhile.
//!
//! At SIGUSR2 a gateway starts its program once more, as it was started itself, with a channel as its standard input. By that
//! it gives its listening sockets, and goes on serving. The new process looks at its configuration and says that it is
//! prepared; only then the old one takes no more connections, ends what writes, closes the database, frees the locks, and says
//! so. What comes in between waits in the sockets' queues. The new process opens everything and serves; the old one stays for
//! the downloads that it has begun. A new process that ends before it is prepared changes nothing; one that ends later is
//! followed by the old program.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::notify;
use crate::server::{Drain, Ports, Sockets};

/// The flag that tells a process that another one is there in whose place it comes.
pub const FLAG: &str = "--take-over";
/// How both sides speak.
const VERSION: u32 = 1;
/// Sockets at most; the kernel passes no more in one message.
const MOST_SOCKETS: usize = 200;
/// What is told of them.
const MOST_BYTES: usize = 64 << 10;
/// How long a new process may take to be prepared.
const PREPARING: Duration = Duration::from_mins(1);
/// How long an old process may take to be gone once its channel is closed.
const GOING: Duration = Duration::from_secs(10);
/// The new process has read its configuration and can use it.
const PREPARED: u8 = b'p';
/// The old process has let go of everything but the answers it is giving.
const RELEASED: u8 = b'r';
/// The new process serves.
const SERVING: u8 = b's';

#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    version: u32,
    /// Names of the sockets that come with it, in their order.
    sockets: Vec<String>,
}

/// The program of this process, as it was called.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    name: OsString,
    arguments: Vec<OsString>,
}

impl Program {
    /// Of this process.
    ///
    /// # Errors
    /// The working directory is gone.
    pub fn of_this_process() -> io::Result<Self> {
        let mut words = std::env::args_os();
        let name = words.next().unwrap_or_else(|| "boxgate".into());
        let mut path = PathBuf::from(&name);
        // A path is one from here, wherever the process is later; a bare name is looked for in PATH, as it was.
        if path.components().count() > 1 {
            path = std::env::current_dir()?.join(path);
        }
        Ok(Self {
            path,
            name,
            arguments: words.filter(|word| word != FLAG).collect(),
        })
    }

    /// The same, by the very file that this process runs, whatever stands in its place now.
    fn that_runs(&self) -> Self {
        Self {
            path: format!("/proc/{}/exe", std::process::id()).into(),
            ..self.clone()
        }
    }
}

/// Tells when another process is wanted in the place of this one.
#[derive(Debug)]
pub struct Wanted(Signal);

impl Wanted {
    /// From now on SIGUSR2 is heard, and ends nothing.
    ///
    /// # Errors
    /// It cannot be caught.
    pub fn hear() -> io::Result<Self> {
        signal(SignalKind::user_defined2()).map(Self)
    }
}

/// Waits until another process is wanted in the place of this one and is prepared, then has `drain` hand over.
pub async fn succession(
    mut wanted: Wanted,
    program: Program,
    ports: Ports,
    drain: Drain,
) -> Successor {
    loop {
        let sockets = next(&mut wanted.0, &ports).await;
        match prepare(program.clone(), sockets).await {
            Ok(successor) => {
                tracing::info!(process = successor.child.id(), "handing over");
                drain.hand_over();
                return successor;
            }
            Err(error) => {
                tracing::error!(%error, "no other process came in the place of this one, which goes on");
            }
        }
    }
}

async fn next(wanted: &mut Signal, ports: &Ports) -> io::Result<Sockets> {
    if wanted.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
    ports.sockets()
}

async fn prepare(program: Program, sockets: io::Result<Sockets>) -> io::Result<Successor> {
    let sockets = sockets?;
    let starting = tokio::task::spawn_blocking(move || Successor::start(program, sockets));
    starting.await.map_err(io::Error::other)?
}

/// A process that comes in the place of this one.
#[derive(Debug)]
pub struct Successor {
    program: Program,
    child: Child,
    channel: UnixStream,
    /// Kept until it serves: while a socket is open somewhere, its queue is.
    sockets: Sockets,
}

impl Successor {
    /// Starts it; returns once it is prepared.
    fn start(program: Program, sockets: Sockets) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(&program.path)
            .arg0(&program.name)
            .args(&program.arguments)
            .arg(FLAG)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            // These name this process.
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("WATCHDOG_PID")
            .spawn()?;
        let mut successor = Self {
            program,
            child,
            channel: ours,
            sockets,
        };
        if let Err(error) = successor.introduce() {
            // It may be at anything.
            let _gone = successor.child.kill();
            let ended = successor.child.wait();
            let ended = ended.map_or_else(|e| e.to_string(), |status| status.to_string());
            let text = format!("the new process was not prepared: {error} ({ended})");
            return Err(io::Error::new(error.kind(), text));
        }
        Ok(successor)
    }

    fn introduce(&mut self) -> io::Result<()> {
        send(&self.channel, &self.sockets)?;
        self.channel.set_read_timeout(Some(PREPARING))?;
        self.expect(PREPARED)?;
        self.channel.set_read_timeout(None)
    }

    fn expect(&mut self, word: u8) -> io::Result<()> {
        let mut told = [0];
        self.channel.read_exact(&mut told)?;
        if told[0] == word {
            return Ok(());
        }
        Err(io::Error::other("it says something else"))
    }

    /// Tells it that all is free, and waits until it serves. Where it does not, and nobody wants all of it to stop, the program
    /// that this process runs is started again and takes over in its place.
    ///
    /// # Errors
    /// Neither serves.
    pub async fn succeed(self, drain: Drain) -> io::Result<()> {
        let succeeding = tokio::task::spawn_blocking(move || self.succeed_here(&drain));
        succeeding.await.map_err(io::Error::other)?
    }

    fn succeed_here(mut self, drain: &Drain) -> io::Result<()> {
        let Err(error) = self.release() else {
            return Ok(());
        };
        let _gone = self.child.kill();
        let ended = self.child.wait();
        let ended = ended.map_or_else(|e| e.to_string(), |status| status.to_string());
        if drain.is_hurried() {
            tracing::info!(%error, ended, "the new process was stopped along with this one");
            return Ok(());
        }
        tracing::error!(%error, ended, "the new process does not serve; the old program is started again");
        let mut again = Self::start(self.program.that_runs(), self.sockets)?;
        again.release()
    }

    fn release(&mut self) -> io::Result<()> {
        self.channel.write_all(&[RELEASED])?;
        self.expect(SERVING)?;
        let process = self.child.id();
        notify::succeeded_by(process);
        tracing::info!(process, "another process serves");
        Ok(())
    }
}

/// The process in whose place this one comes.
#[derive(Debug)]
pub struct Predecessor {
    channel: UnixStream,
    process: Option<rustix::process::Pid>,
}

impl Predecessor {
    /// Takes its sockets, which came by standard input.
    ///
    /// # Errors
    /// Nobody is there, or somebody who speaks otherwise.
    pub fn meet() -> io::Result<(Self, Sockets)> {
        let process = rustix::process::getppid();
        let channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let sockets = receive(&channel)?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        Ok((Self { channel, process }, sockets))
    }

    /// Says that this process can take over, and waits until it may.
    ///
    /// # Errors
    /// The channel breaks.
    pub fn relieve(&mut self) -> io::Result<()> {
        // Who is gone needs no word.
        let _gone = self.channel.write_all(&[PREPARED]);
        let mut told = [0];
        if self.channel.read(&mut told)? == 0 {
            self.see_off();
        }
        Ok(())
    }

    /// Waits until a process that ended has let go of its locks.
    fn see_off(&self) {
        let begun = tokio::time::Instant::now();
        while rustix::process::getppid() == self.process && begun.elapsed() < GOING {
            #[expect(clippy::disallowed_methods, reason = "nothing else runs yet")]
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Says that this process serves.
    pub fn serving(mut self) {
        // Who is gone needs no word.
        let _gone = self.channel.write_all(&[SERVING]);
    }
}

fn send(channel: &UnixStream, sockets: &Sockets) -> io::Result<()> {
    let hello = Hello {
        version: VERSION,
        sockets: sockets.names().map(str::to_owned).collect(),
    };
    let text = serde_json::to_vec(&hello)?;
    if hello.sockets.len() > MOST_SOCKETS || text.len() > MOST_BYTES {
        return Err(io::Error::other("there are too many listeners"));
    }
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    let message = [&length.to_be_bytes()[..], &text].concat();
    let descriptors: Vec<BorrowedFd<'_>> = sockets.descriptors().map(OwnedFd::as_fd).collect();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("there are too many listeners"));
    }
    let sent = rustix::net::sendmsg(
        channel,
        &[IoSlice::new(&message)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    let mut channel = channel;
    channel.write_all(&message[sent..])
}

fn receive(channel: &UnixStream) -> io::Result<Sockets> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut length = [0; 4];
    let received = rustix::net::recvmsg(
        channel,
        &mut [IoSliceMut::new(&mut length)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    let mut channel = channel;
    channel.read_exact(&mut length[received.bytes..])?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MOST_BYTES {
        return Err(io::Error::other("whoever is there speaks otherwise"));
    }
    let mut text = vec![0; length];
    channel.read_exact(&mut text)?;
    let hello: Hello = serde_json::from_slice(&text)?;
    if hello.version != VERSION || hello.sockets.len() != descriptors.len() {
        return Err(io::Error::other("whoever is there speaks otherwise"));
    }
    Ok(Sockets::new(
        hello.sockets.into_iter().zip(descriptors).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn sockets_come_by_a_channel_with_their_names() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let given = Sockets::new(vec![("public".to_owned(), socket.into())]);
        send(&ours, &given).unwrap();
        let taken = receive(&theirs).unwrap();
        assert_eq!(taken.names().collect::<Vec<_>>(), ["public"]);
        drop(given);
        let socket = taken.descriptors().next().unwrap().try_clone().unwrap();
        assert_eq!(TcpListener::from(socket).local_addr().unwrap(), address);
    }

    #[test]
    fn no_sockets_are_no_mistake_and_another_tongue_is() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&ours, &Sockets::default()).unwrap();
        assert!(receive(&theirs).unwrap().is_empty());
        (&ours).write_all(b"\0\0\0\x02{}").unwrap();
        assert!(receive(&theirs).is_err());
        (&ours).write_all(b"GET / HTTP/1.1\r\n").unwrap();
        assert!(receive(&theirs).is_err());
        drop(ours);
    }

    #[test]
    fn the_flag_is_not_handed_on_and_the_running_file_is_found() {
        let program = Program::of_this_process().unwrap();
        assert!(!program.arguments.iter().any(|word| word == FLAG));
        assert!(program.that_runs().path.exists());
    }
}
