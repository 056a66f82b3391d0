//! A connection that wakes itself while it is polled is polled again at once, instead of being put in line.
//!
//! hyper hands a frame to the reader of its body within one task, and wakes that task for it. The runtime takes such a
//! task as one that yields: it wakes another worker, by a system call, to look for work that is not there, or to carry
//! the connection off to another core's cache. One frame in three did so.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// How often in a row; then others have their turn.
const AT_MOST: u32 = 2;

/// A future that is polled so.
pub(super) struct Again<F> {
    inner: Pin<Box<F>>,
    bell: Arc<Bell>,
    /// The bell, as `inner` is given it.
    waker: Waker,
}

impl<F> Again<F> {
    pub(super) fn new(inner: F) -> Self {
        let bell = Arc::new(Bell::default());
        Self {
            inner: Box::pin(inner),
            waker: Waker::from(Arc::clone(&bell)),
            bell,
        }
    }
}

impl<F> fmt::Debug for Again<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Again").finish_non_exhaustive()
    }
}

impl<F: Future> Future for Again<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { inner, bell, waker } = &mut *self;
        bell.task.register(cx.waker());
        for _ in 0..=AT_MOST {
            bell.running.store(true, Ordering::SeqCst);
            // What rang before is seen by this poll.
            bell.rung.swap(false, Ordering::SeqCst);
            let polled = inner.as_mut().poll(&mut Context::from_waker(waker));
            bell.running.store(false, Ordering::SeqCst);
            if polled.is_ready() || !bell.rung.swap(false, Ordering::SeqCst) {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Hears who wakes: while the future is polled it is only noted, and looked at afterwards.
#[derive(Debug, Default)]
struct Bell {
    running: AtomicBool,
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Either this sees that nobody polls, or who polls sees afterwards that it rang.
        if !self.rung.swap(true, Ordering::SeqCst) && !self.running.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicU32;
    use std::task::ready;

    use tokio::sync::mpsc;

    use super::*;

    #[derive(Debug, Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn woken() -> (Arc<Woken>, Waker) {
        let woken = Arc::new(Woken::default());
        (Arc::clone(&woken), Waker::from(woken))
    }

    fn times(woken: &Woken) -> u32 {
        woken.0.load(Ordering::SeqCst)
    }

    /// Wakes itself so many times, then is ready.
    fn restless(mut left: u32) -> impl Future<Output = ()> {
        poll_fn(move |cx| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    #[test]
    fn what_wakes_itself_goes_on_at_once_and_lets_others_have_their_turn() {
        let (woken, waker) = woken();
        let mut cx = Context::from_waker(&waker);
        assert!(
            Pin::new(&mut Again::new(restless(AT_MOST)))
                .poll(&mut cx)
                .is_ready()
        );
        assert_eq!(times(&woken), 0);
        let mut longer = Again::new(restless(AT_MOST + 1));
        assert!(Pin::new(&mut longer).poll(&mut cx).is_pending());
        assert_eq!(times(&woken), 1);
        assert!(Pin::new(&mut longer).poll(&mut cx).is_ready());
    }

    #[test]
    fn what_waits_is_woken_once_until_it_is_polled_again() {
        let (woken, waker) = woken();
        let mut cx = Context::from_waker(&waker);
        let inside = Arc::new(AtomicWaker::new());
        let kept = Arc::clone(&inside);
        let mut waiting = Again::new(poll_fn(move |cx| {
            kept.register(cx.waker());
            Poll::<()>::Pending
        }));
        for polls in 1..=3 {
            assert!(Pin::new(&mut waiting).poll(&mut cx).is_pending());
            let within = inside.take().expect("it waits");
            within.wake_by_ref();
            within.wake_by_ref();
            assert_eq!(times(&woken), polls);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_that_another_thread_sends_is_slept_through() {
        const SENT: u32 = 100_000;
        let (to, mut from) = mpsc::channel(1);
        let sending = tokio::spawn(async move {
            for number in 0..SENT {
                to.send(number).await.expect("it is received");
            }
        });
        let mut next = 0;
        let received = tokio::spawn(Again::new(poll_fn(move |cx| {
            while let Some(number) = ready!(from.poll_recv(cx)) {
                assert_eq!(number, next);
                next += 1;
            }
            Poll::Ready(next)
        })));
        assert_eq!(received.await.unwrap(), SENT);
        sending.await.unwrap();
    }
}
