//! Where connections run whose requests are answered at once.
//!
//! All threads of the runtime ask the kernel in one place what came. Whoever asks takes all of it, and wakes another for
//! what is behind the first: on cores that have other work to do that one comes when nothing is left, and one thread does
//! what two could. A connection that is answered at once needs no other thread. After some such answers it moves to a lane:
//! a thread that has a place of its own in the kernel, shares nothing, and has as many connections as each other lane.
//!
//! Nothing there waits for a disk, a database or a client's bytes in a place that others need: a request without a body
//! that is not answered at once is worked on at home, in the runtime whose threads help each other out, while its
//! connection stays; one with a body takes its connection home first. So do one too many of the former, and one of
//! which the answer is long: what makes it may compute.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::again::Again;

/// The score at which a connection moves to a lane: an answer at once is one, up to [`MOST`].
const SETTLES_AT: u32 = 16;
const MOST: u32 = 64;
/// What a request that is not answered at once takes of the score; at nothing the connection moves home. What is kept is
/// made anew by such a request now and then, and that moves nobody.
const TAKES: u32 = 8;
/// The longest answer, in bytes, that goes out on a lane without being given at once.
const SHORT: u64 = 64 << 10;

/// The lanes of a server: as many as there are cores, begun when the first connection moves.
#[derive(Debug)]
pub(super) struct Lanes {
    threads: OnceLock<Vec<Lane>>,
    home: Handle,
    over: CancellationToken,
}

#[derive(Debug)]
struct Lane {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Lanes {
    /// Those of a server whose home is the runtime that this is called in. With the guard they end, and what runs there is cut.
    pub(super) fn new() -> (Arc<Self>, DropGuard) {
        let over = CancellationToken::new();
        let lanes = Self {
            threads: OnceLock::new(),
            home: Handle::current(),
            over: over.clone(),
        };
        (Arc::new(lanes), over.drop_guard())
    }

    /// A place on the lane that has the fewest connections, if there are lanes.
    fn place(&self) -> Option<Place> {
        let lanes = self.threads.get_or_init(|| self.start());
        let count = |lane: &&Lane| lane.connections.load(Ordering::Relaxed);
        let lane = lanes.iter().min_by_key(count)?;
        lane.connections.fetch_add(1, Ordering::Relaxed);
        Some(Place {
            runtime: lane.runtime.clone(),
            connections: Arc::clone(&lane.connections),
        })
    }

    fn start(&self) -> Vec<Lane> {
        let cores = cores();
        let mut lanes = Vec::with_capacity(cores.len());
        for (number, core) in cores.into_iter().enumerate() {
            match start(number, core, self.over.clone()) {
                Ok(runtime) => lanes.push(Lane {
                    runtime,
                    connections: Arc::default(),
                }),
                // Connections stay where they are, which is slower.
                Err(error) => tracing::warn!(%error, "a thread for connections cannot be started"),
            }
        }
        lanes
    }
}

/// The core of one lane, among those that this process may use.
#[derive(Clone, Copy)]
struct Core {
    number: usize,
    all: CpuSet,
}

impl Core {
    /// Keeps this thread there: two lanes on one core do the work of one, and the kernel puts them there.
    fn keep(self) {
        let mut only = CpuSet::new();
        only.set(self.number);
        Self::place_on(&only);
    }

    /// Lets this thread run on any, whatever began it.
    fn leave(self) {
        Self::place_on(&self.all);
    }

    fn place_on(cores: &CpuSet) {
        if let Err(error) = sched_setaffinity(None, cores) {
            tracing::debug!(%error, "a thread is not told its core");
        }
    }
}

/// One for each lane. None is told where there are fewer lanes than cores: a share of all cores is no core.
fn cores() -> Vec<Option<Core>> {
    let count = thread::available_parallelism().map_or(1, usize::from);
    let Ok(all) = sched_getaffinity(None) else {
        return vec![None; count];
    };
    let allowed = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
    let allowed: Vec<_> = allowed.map(|number| Some(Core { number, all })).collect();
    if allowed.len() == count {
        allowed
    } else {
        vec![None; count]
    }
}

/// Starts a thread with a runtime of its own, until it is over.
fn start(number: usize, core: Option<Core>, over: CancellationToken) -> io::Result<Handle> {
    let (tell, told) = sync_channel(1);
    let run = move || {
        let mut builder = Builder::new_current_thread();
        builder.enable_all();
        if let Some(core) = core {
            core.keep();
            // Those that read from disks for it.
            builder.on_thread_start(move || core.leave());
        }
        let runtime = match builder.build() {
            Ok(runtime) => runtime,
            Err(error) => {
                let _nobody_waits = tell.send(Err(error));
                return;
            }
        };
        let _nobody_waits = tell.send(Ok(runtime.handle().clone()));
        runtime.block_on(over.cancelled());
        runtime.shutdown_background();
    };
    thread::Builder::new()
        .name(format!("lane-{number}"))
        .spawn(run)?;
    told.recv().map_err(io::Error::other)?
}

/// One connection's place on a lane.
struct Place {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where one connection runs and had better run; asked and told by its own task.
#[derive(Debug)]
pub(super) struct Seat {
    home: Handle,
    score: AtomicU32,
    is_on_lane: AtomicBool,
    /// It moves as soon as it waits.
    leaves: AtomicBool,
    /// It moved, and its socket is not known to the runtime that it moved to.
    moved: AtomicBool,
}

impl Seat {
    /// That of a connection that begins at home.
    pub(super) fn new(lanes: &Lanes) -> Self {
        Self {
            home: lanes.home.clone(),
            score: AtomicU32::new(0),
            is_on_lane: AtomicBool::new(false),
            leaves: AtomicBool::new(false),
            moved: AtomicBool::new(false),
        }
    }

    /// A request was answered at once.
    pub(super) fn answered_at_once(&self) {
        let score = (self.score.load(Ordering::Relaxed) + 1).min(MOST);
        self.score.store(score, Ordering::Relaxed);
        if score >= SETTLES_AT && !self.is_on_lane() {
            self.leaves.store(true, Ordering::Relaxed);
        }
    }

    /// A request is worked on now: in the given runtime, or by its connection once that is at [`home`](Self::home).
    pub(super) fn begins_work(&self, has_body: bool) -> Option<Handle> {
        let score = self.score.load(Ordering::Relaxed);
        let score = if has_body {
            0
        } else {
            score.saturating_sub(TAKES)
        };
        self.score.store(score, Ordering::Relaxed);
        let is_on_lane = self.is_on_lane();
        self.leaves
            .store(is_on_lane && score == 0, Ordering::Relaxed);
        (is_on_lane && !has_body).then(|| self.home.clone())
    }

    /// An answer to that has so many bytes, where that is known; whether its connection moves home for it.
    pub(super) fn is_given(&self, bytes: Option<u64>) -> bool {
        let leaves = self.is_on_lane() && bytes.is_none_or(|bytes| bytes > SHORT);
        if leaves {
            self.score.store(0, Ordering::Relaxed);
            self.leaves.store(true, Ordering::Relaxed);
        }
        leaves
    }

    /// Ready once the connection is at home. Only for what its own task polls: that is polled again when it moved.
    pub(super) async fn home(&self) {
        poll_fn(|_polled_again| {
            if self.is_on_lane() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    /// Whether it moved; said once.
    pub(super) fn has_moved(&self) -> bool {
        self.moved.load(Ordering::Relaxed) && self.moved.swap(false, Ordering::Relaxed)
    }

    fn is_on_lane(&self) -> bool {
        self.is_on_lane.load(Ordering::Relaxed)
    }

    fn moves(&self, to_lane: bool) {
        self.is_on_lane.store(to_lane, Ordering::Relaxed);
        self.moved.store(true, Ordering::Relaxed);
    }
}

/// A connection's life, which goes on elsewhere when its seat says so.
pub(super) struct Seated<F> {
    /// Until it moved.
    life: Option<Again<F>>,
    seat: Arc<Seat>,
    lanes: Arc<Lanes>,
    running: TaskTracker,
    /// While it is on a lane.
    place: Option<Place>,
}

impl<F> Seated<F> {
    /// One that begins at home; `running` goes on to count it where it moves.
    pub(super) fn new(life: F, seat: Arc<Seat>, lanes: Arc<Lanes>, running: TaskTracker) -> Self {
        Self {
            life: Some(Again::new(life)),
            seat,
            lanes,
            running,
            place: None,
        }
    }
}

impl<F> Future for Seated<F>
where
    F: Future<Output = ()> + Send + 'static,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(life) = &mut this.life else {
            return Poll::Ready(());
        };
        if Pin::new(life).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !this.seat.leaves.swap(false, Ordering::Relaxed) {
            return Poll::Pending;
        }
        let place = if this.place.is_none() {
            let Some(place) = this.lanes.place() else {
                return Poll::Pending;
            };
            Some(place)
        } else {
            None
        };
        let runtime = match &place {
            Some(place) => place.runtime.clone(),
            None => this.lanes.home.clone(),
        };
        this.seat.moves(place.is_some());
        let moved = Self {
            life: this.life.take(),
            seat: Arc::clone(&this.seat),
            lanes: Arc::clone(&this.lanes),
            running: this.running.clone(),
            place,
        };
        this.running.spawn_on(moved, &runtime);
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::task::yield_now;

    use super::*;

    fn here() -> tokio::runtime::Id {
        Handle::current().id()
    }

    /// Runs a connection that does what `life` says, and gives what it came to.
    async fn run<T, L>(life: impl FnOnce(Arc<Seat>) -> L) -> T
    where
        T: Send + 'static,
        L: Future<Output = T> + Send + 'static,
    {
        let (lanes, _until_the_end) = Lanes::new();
        let running = TaskTracker::new();
        let seat = Arc::new(Seat::new(&lanes));
        let life = life(Arc::clone(&seat));
        let (tell, told) = oneshot::channel();
        let life = async move {
            let _nobody_waits = tell.send(life.await);
        };
        running.spawn(Seated::new(life, seat, Arc::clone(&lanes), running.clone()));
        let told = told.await.expect("it comes to its end");
        running.close();
        running.wait().await;
        let left = lanes.threads.get().into_iter().flatten();
        let left: usize = left
            .map(|lane| lane.connections.load(Ordering::Relaxed))
            .sum();
        assert_eq!(left, 0, "no place is held by who is gone");
        told
    }

    async fn settle(seat: &Seat) {
        for _ in 0..SETTLES_AT {
            seat.answered_at_once();
        }
        yield_now().await;
    }

    #[tokio::test]
    async fn who_is_answered_at_once_moves_and_comes_home_for_a_body() {
        let home = here();
        let seen = run(|seat: Arc<Seat>| async move {
            for _ in 1..SETTLES_AT {
                seat.answered_at_once();
            }
            yield_now().await;
            let before = (here(), seat.has_moved());
            seat.answered_at_once();
            yield_now().await;
            let settled = (here(), seat.has_moved(), seat.has_moved());
            assert!(seat.begins_work(true).is_none());
            seat.home().await;
            (before, settled, (here(), seat.has_moved()))
        })
        .await;
        let (before, settled, after) = seen;
        assert_eq!(before, (home, false));
        assert_ne!(settled.0, home);
        assert_eq!((settled.1, settled.2), (true, false), "said once");
        assert_eq!(after, (home, true));
    }

    #[tokio::test]
    async fn work_without_a_body_is_done_at_home_and_moves_nobody_until_it_is_too_much() {
        let home = here();
        run(|seat: Arc<Seat>| async move {
            assert!(seat.begins_work(false).is_none(), "it is at home");
            settle(&seat).await;
            let lane = here();
            assert_ne!(lane, home);
            for _ in SETTLES_AT..MOST * 2 {
                seat.answered_at_once();
            }
            for _ in 1..MOST / TAKES {
                let apart = seat.begins_work(false).expect("it is on a lane");
                assert_eq!(apart.id(), home);
                yield_now().await;
                assert_eq!(here(), lane);
            }
            assert!(seat.begins_work(false).is_some());
            yield_now().await;
            assert_eq!(here(), home);
        })
        .await;
    }

    #[tokio::test]
    async fn a_long_answer_that_is_not_given_at_once_goes_out_at_home() {
        let home = here();
        for (bytes, stays) in [(Some(SHORT), true), (Some(SHORT + 1), false), (None, false)] {
            run(|seat: Arc<Seat>| async move {
                settle(&seat).await;
                for _ in 0..MOST {
                    seat.answered_at_once();
                }
                assert!(seat.begins_work(false).is_some());
                assert_eq!(seat.is_given(bytes), !stays, "{bytes:?}");
                yield_now().await;
                assert_eq!(here() != home, stays, "{bytes:?}");
            })
            .await;
        }
    }

    #[tokio::test]
    async fn who_was_about_to_move_stays_for_work() {
        let home = here();
        run(|seat: Arc<Seat>| async move {
            for _ in 0..SETTLES_AT {
                seat.answered_at_once();
            }
            assert!(seat.begins_work(true).is_none());
            seat.home().await;
            yield_now().await;
            assert_eq!(here(), home);
        })
        .await;
    }

    #[tokio::test]
    async fn lanes_have_as_many_connections_as_each_other() {
        let (lanes, _until_the_end) = Lanes::new();
        let places: Vec<_> = (0..64).map_while(|_| lanes.place()).collect();
        let each = || {
            let lanes = lanes.threads.get().expect("they were started");
            let counts = lanes
                .iter()
                .map(|lane| lane.connections.load(Ordering::Relaxed));
            counts.collect::<Vec<_>>()
        };
        let counts = each();
        let (most, least) = (counts.iter().max(), counts.iter().min());
        assert!(most.unwrap() - least.unwrap() <= 1, "{counts:?}");
        drop(places);
        assert!(each().iter().all(|count| *count == 0));
    }

    #[tokio::test]
    async fn a_lane_stays_on_a_core_and_who_works_for_it_does_not() {
        let all = sched_getaffinity(None).unwrap().count();
        let (on_lane, beside) = run(|seat: Arc<Seat>| async move {
            settle(&seat).await;
            let count = || sched_getaffinity(None).unwrap().count();
            let beside = tokio::task::spawn_blocking(count).await;
            (count(), beside.expect("it does not panic"))
        })
        .await;
        let shared = usize::try_from(all).unwrap() != cores().len();
        assert_eq!(on_lane, if shared { all } else { 1 });
        assert_eq!(beside, all);
    }

    #[tokio::test]
    async fn with_the_guard_lanes_end_and_what_runs_there_is_cut() {
        let (lanes, guard) = Lanes::new();
        let running = TaskTracker::new();
        let seat = Arc::new(Seat::new(&lanes));
        let (settled, on_lane) = oneshot::channel();
        let inside = Arc::clone(&seat);
        let life = async move {
            settle(&inside).await;
            let _nobody_waits = settled.send(());
            std::future::pending::<()>().await;
        };
        running.spawn(Seated::new(life, seat, lanes, running.clone()));
        on_lane.await.expect("it moves");
        running.close();
        drop(guard);
        running.wait().await;
    }
}
