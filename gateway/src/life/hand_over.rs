//! One process comes in the place of another, and nobody is refused meanwhile.
//!
//! At SIGUSR2 a gateway starts its program once more, as it was started itself, with a channel as its standard input. By that
//! it gives its listening sockets, and goes on serving. The new process looks at its configuration and says that it is
//! prepared; only then the old one takes no more connections, ends what writes, closes the database, frees the locks, and says
//! so. What comes in between waits in the sockets' queues. The new process opens everything and serves; the old one stays for
//! the downloads that it has begun. A new process that ends before it is prepared changes nothing, and says why; one that ends
//! later, or does not serve in time, is followed by the old program with the configuration that was in force. Who stops the
//! old process meanwhile stops both.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::notify;
use super::reload::InForce;
use crate::server::{Drain, Ports, Sockets};

/// The flag that tells a process that another one is there in whose place it comes.
pub const FLAG: &str = "--take-over";
/// How both sides speak.
const VERSION: u32 = 1;
/// Sockets at most; the kernel passes no more in one message.
const MOST_SOCKETS: usize = 200;
/// What is told of them, with a configuration.
const MOST_BYTES: usize = 16 << 20;
/// Why a new process does not take over.
const MOST_REASON: usize = 1024;
/// How long a new process may take to be prepared.
const PREPARING: Duration = Duration::from_mins(1);
/// How long an old process may take to be gone once its channel is closed.
const GOING: Duration = Duration::from_secs(10);
/// How long a new process may take to serve once all is free. The watchdog of a unit must let it.
const SERVING_WITHIN: Duration = Duration::from_secs(90);
/// How long a new process that gave up may take to be gone.
const LEAVING: Duration = Duration::from_secs(2);
/// How often is looked whether a new process is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The new process cannot take over; why follows.
const REFUSED: u8 = b'n';
/// The new process has read its configuration and can use it.
const PREPARED: u8 = b'p';
/// The old process has let go of everything but the answers it is giving.
const RELEASED: u8 = b'r';
/// The new process serves.
const SERVING: u8 = b's';

// Shown to nobody: a configuration may have secrets.
#[derive(Serialize, Deserialize)]
struct Hello {
    version: u32,
    /// Names of the sockets that come with it, in their order.
    sockets: Vec<String>,
    /// The configuration, where the file is not to be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    configuration: Option<String>,
}

/// The program of this process, as it was called.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    name: OsString,
    arguments: Vec<OsString>,
    /// The very file that this process runs. Its name below /proc would be nobody else's to follow (`server.core_dumps`).
    file: Arc<OwnedFd>,
}

impl Program {
    /// Of this process.
    ///
    /// # Errors
    /// The working directory is gone, or there is no /proc.
    pub fn of_this_process() -> io::Result<Self> {
        let mut words = std::env::args_os();
        let name = words.next().unwrap_or_else(|| "boxgate".into());
        let mut path = PathBuf::from(&name);
        // A path is one from here, wherever the process is later; a bare name is looked for in PATH, as it was.
        if path.components().count() > 1 {
            path = std::env::current_dir()?.join(path);
        }
        let file = rustix::fs::open(
            "/proc/self/exe",
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self {
            path,
            name,
            arguments: words.filter(|word| word != FLAG).collect(),
            file: Arc::new(file),
        })
    }

    /// The same, by the very file that this process runs, whatever stands in its place now. A process that is started has
    /// that file open until it runs it.
    fn that_runs(&self) -> Self {
        Self {
            path: format!("/proc/self/fd/{}", self.file.as_raw_fd()).into(),
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
        if drain.is_draining() {
            continue;
        }
        match prepare(program.clone(), sockets, drain.clone()).await {
            Ok(successor) => {
                let process = successor.child.id();
                if drain.hand_over() {
                    tracing::info!(process, "handing over");
                    return successor;
                }
                tracing::info!(process, "nothing is handed over: this process stops");
                let _ended = tokio::task::spawn_blocking(move || drop(successor)).await;
            }
            Err(error) if drain.is_draining() => {
                tracing::info!(%error, "nothing is handed over: this process stops");
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

async fn prepare(
    program: Program,
    sockets: io::Result<Sockets>,
    drain: Drain,
) -> io::Result<Successor> {
    let sockets = sockets?;
    let starting = tokio::task::spawn_blocking(move || {
        Successor::start(program, sockets, None, &|| drain.is_draining())
    });
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
    serves: bool,
}

impl Successor {
    /// Starts it, with `configuration` in place of what the file says, if there is one; returns once it is prepared, or is no
    /// longer wanted.
    fn start(
        program: Program,
        sockets: Sockets,
        configuration: Option<String>,
        is_over: &dyn Fn() -> bool,
    ) -> io::Result<Self> {
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
            serves: false,
        };
        if let Err(error) = successor.introduce(configuration, is_over) {
            let ended = shown(&successor.end(is_over()));
            let text = format!("the new process was not prepared: {error} ({ended})");
            return Err(io::Error::new(error.kind(), text));
        }
        Ok(successor)
    }

    fn introduce(
        &mut self,
        configuration: Option<String>,
        is_over: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        self.channel.set_write_timeout(Some(PREPARING))?;
        send(&self.channel, &self.sockets, configuration)?;
        self.wait(PREPARED, PREPARING, is_over)
    }

    /// Waits so long for a word, or until it is no longer wanted.
    fn wait(&mut self, word: u8, limit: Duration, is_over: &dyn Fn() -> bool) -> io::Result<()> {
        self.channel.set_read_timeout(Some(LOOK_EVERY))?;
        let begun = tokio::time::Instant::now();
        loop {
            match self.expect(word) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                told => return told,
            }
            if is_over() {
                return Err(io::Error::other("it is no longer wanted"));
            }
            if begun.elapsed() > limit {
                let text = "it took too long";
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
        }
    }

    fn expect(&mut self, word: u8) -> io::Result<()> {
        let mut told = [0];
        self.channel.read_exact(&mut told)?;
        if told[0] == word {
            return Ok(());
        }
        if told[0] != REFUSED {
            return Err(io::Error::other("it says something else"));
        }
        let mut why = Vec::new();
        self.channel.set_read_timeout(Some(LEAVING))?;
        let mut rest = (&self.channel).take(MOST_REASON as u64);
        // What came of it is better than nothing.
        let _cut = rest.read_to_end(&mut why);
        Err(io::Error::other(String::from_utf8_lossy(&why).into_owned()))
    }

    /// Lets it end by itself for a moment, unless `at_once`; then ends it, whatever it is at. How it ended.
    fn end(&mut self, at_once: bool) -> io::Result<ExitStatus> {
        let begun = tokio::time::Instant::now();
        while !at_once && begun.elapsed() < LEAVING {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            nap();
        }
        self.child.kill()?;
        self.child.wait()
    }

    /// Tells it that all is free, and waits until it serves. Where it does not, and nobody wants all of it to stop, the program
    /// that this process runs is started again, with the configuration that was in force, and takes over in its place.
    ///
    /// # Errors
    /// Neither serves.
    pub async fn succeed(self, drain: Drain, in_force: InForce) -> io::Result<()> {
        let succeeding = tokio::task::spawn_blocking(move || self.succeed_here(&drain, &in_force));
        succeeding.await.map_err(io::Error::other)?
    }

    fn succeed_here(mut self, drain: &Drain, in_force: &InForce) -> io::Result<()> {
        let is_over = || drain.is_hurried();
        let Err(error) = self.release(&is_over) else {
            return Ok(());
        };
        let ended = self.end(is_over());
        if is_over() || (was_stopped(&ended) && is_soon(&is_over)) {
            let ended = shown(&ended);
            tracing::info!(%error, ended, "the new process was stopped along with this one");
            return Ok(());
        }
        let ended = shown(&ended);
        tracing::error!(%error, ended, "the new process does not serve; the old program is started again");
        notify::working();
        let sockets = std::mem::take(&mut self.sockets);
        let configuration = Some(in_force.text());
        let again = Self::start(self.program.that_runs(), sockets, configuration, &is_over)
            .and_then(|mut again| again.release(&is_over));
        if again.is_err() && is_over() {
            return Ok(());
        }
        again
    }

    fn release(&mut self, is_over: &dyn Fn() -> bool) -> io::Result<()> {
        if is_over() {
            return Err(io::Error::other("it is no longer wanted"));
        }
        self.channel.write_all(&[RELEASED])?;
        self.wait(SERVING, SERVING_WITHIN, is_over)?;
        self.serves = true;
        let process = self.child.id();
        notify::succeeded_by(process);
        tracing::info!(process, "another process serves");
        Ok(())
    }
}

impl Drop for Successor {
    /// Who does not serve must not find the channel closed: it would take that for leave to begin.
    fn drop(&mut self) {
        if !self.serves {
            let _ended = self.end(true);
        }
    }
}

fn shown(ended: &io::Result<ExitStatus>) -> String {
    match ended {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

/// Whether somebody stopped it.
fn was_stopped(ended: &io::Result<ExitStatus>) -> bool {
    let by = ended.as_ref().ok().and_then(ExitStatus::signal);
    let stops = [SignalKind::terminate(), SignalKind::interrupt()];
    by.is_some_and(|by| stops.iter().any(|stop| stop.as_raw_value() == by))
}

/// Whether it is so within a moment: who stops several processes signals one after the other.
fn is_soon(so: &dyn Fn() -> bool) -> bool {
    let begun = tokio::time::Instant::now();
    while !so() && begun.elapsed() < LEAVING {
        nap();
    }
    so()
}

/// Where a thread waits for nothing that could wake it.
fn nap() {
    #[expect(clippy::disallowed_methods, reason = "on a thread that may wait")]
    std::thread::sleep(Duration::from_millis(10));
}

/// The process in whose place this one comes.
#[derive(Debug)]
pub struct Predecessor {
    channel: UnixStream,
    process: Option<rustix::process::Pid>,
}

impl Predecessor {
    /// Takes its sockets, which came by standard input, and the configuration that is to be used in place of what the file says,
    /// if there is one.
    ///
    /// # Errors
    /// Nobody is there, or somebody who speaks otherwise.
    pub fn meet() -> io::Result<(Self, Sockets, Option<String>)> {
        let process = rustix::process::getppid();
        let channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let (sockets, configuration) = receive(&channel)?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        Ok((Self { channel, process }, sockets, configuration))
    }

    /// Says, in one line, why this process does not take over.
    pub fn refuse(mut self, reason: &str) {
        let words: Vec<&str> = reason.split_whitespace().collect();
        let line = words.join(" ");
        let line = &line[..line.floor_char_boundary(MOST_REASON)];
        // Who is gone needs no word.
        let _gone = self
            .channel
            .write_all(&[&[REFUSED][..], line.as_bytes()].concat());
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
            nap();
        }
    }

    /// Says that this process serves.
    pub fn serving(mut self) {
        // Who is gone needs no word.
        let _gone = self.channel.write_all(&[SERVING]);
    }
}

fn send(channel: &UnixStream, sockets: &Sockets, configuration: Option<String>) -> io::Result<()> {
    let hello = Hello {
        version: VERSION,
        sockets: sockets.names().map(str::to_owned).collect(),
        configuration,
    };
    let text = serde_json::to_vec(&hello)?;
    if hello.sockets.len() > MOST_SOCKETS || text.len() > MOST_BYTES {
        return Err(io::Error::other(
            "there are too many listeners, or too much configuration",
        ));
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

fn receive(channel: &UnixStream) -> io::Result<(Sockets, Option<String>)> {
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
    let sockets = hello.sockets.into_iter().zip(descriptors).collect();
    Ok((Sockets::new(sockets), hello.configuration))
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
        send(&ours, &given, Some("a = 1".to_owned())).unwrap();
        let (taken, configuration) = receive(&theirs).unwrap();
        assert_eq!(configuration.as_deref(), Some("a = 1"));
        assert_eq!(taken.names().collect::<Vec<_>>(), ["public"]);
        drop(given);
        let socket = taken.descriptors().next().unwrap().try_clone().unwrap();
        assert_eq!(TcpListener::from(socket).local_addr().unwrap(), address);
    }

    #[test]
    fn no_sockets_are_no_mistake_and_another_tongue_is() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&ours, &Sockets::default(), None).unwrap();
        let (taken, configuration) = receive(&theirs).unwrap();
        assert!(taken.is_empty() && configuration.is_none());
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
