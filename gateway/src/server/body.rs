//! Bodies on their way in and out, with the clocks that slow clients are measured by.
//!
//! [`InboundBody`] is what a handler reads from: one chunk at a time, so that the client's window
//! closes while nobody asks. Its clocks run only while it has been asked and has nothing to give.
//! The way out has its clock below hyper, where writes block (`linger.rs`); what is here counts
//! bytes and notices a body that is dropped before its end.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::file::{FileRun, Piece};
use super::h2;
use super::linger::ConnState;
use super::pace::{Pace, Patience, Stalled};
use super::quic;
use crate::admission::shaper::Meter;
use crate::request::RequestFacts;

/// Any error of a response body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a handler answers with.
pub type OutboundBody = http_body_util::combinators::UnsyncBoxBody<Piece, BoxError>;

/// Why a request body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The client went away.
    #[error("the connection was cut before the body's end")]
    Cut,
    /// The gateway stops, and has no more time for it.
    #[error("the gateway stops")]
    Draining,
    /// No byte came for too long.
    #[error("no byte of the body came for too long")]
    Idle,
    /// Bytes came, too few of them.
    #[error("the body came too slowly")]
    TooSlow,
    /// The bytes break the rules of the transfer coding.
    #[error("the body breaks the rules of HTTP framing")]
    Protocol,
    /// More stands behind the body than is read.
    #[error("the body's trailer section is too large")]
    Trailers,
}

/// What may stand behind a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct TrailerLimits {
    /// Names and values together, each field with the four bytes around them.
    pub(super) bytes: usize,
    /// Fields.
    pub(super) fields: usize,
}

impl TrailerLimits {
    fn allow(self, trailers: &HeaderMap) -> bool {
        let bytes: usize = trailers
            .iter()
            .map(|(n, v)| n.as_str().len() + v.len() + 4)
            .sum();
        trailers.len() <= self.fields && bytes <= self.bytes
    }
}

/// A request's body: yields chunks of any size, each only when asked.
pub struct InboundBody {
    source: Source,
    state: Option<Arc<ConnState>>,
    pace: Pace,
    facts: Option<Arc<RequestFacts>>,
    failed: Option<BodyError>,
    leaving: Arc<CancellationToken>,
    ending: Arc<CancellationToken>,
    /// Made once there is something to wait for.
    ended: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    most_trailers: TrailerLimits,
    trailers: Option<HeaderMap>,
    meter: Option<Meter>,
}

type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// Where a body comes from.
pub(super) enum Source {
    /// HTTP/1.1.
    Wire(Incoming),
    /// HTTP/2.
    Stream(h2::Stream),
    /// HTTP/3.
    Quic(Box<quic::Inbound>),
    /// All of it.
    Given(Full<Bytes>),
}

impl InboundBody {
    pub(super) fn new(
        source: Source,
        state: Arc<ConnState>,
        patience: Patience,
        most_trailers: TrailerLimits,
        (leaving, ending): (Arc<CancellationToken>, Arc<CancellationToken>),
        facts: Arc<RequestFacts>,
    ) -> Self {
        Self {
            source,
            state: Some(state),
            pace: Pace::new(patience),
            facts: Some(facts),
            failed: None,
            leaving,
            ending,
            ended: None,
            most_trailers,
            trailers: None,
            meter: None,
        }
    }

    /// The same body, read only as its sender's rates allow: while it waits, its sender's window closes.
    #[must_use]
    pub fn measured(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// No body.
    pub fn empty() -> Self {
        Bytes::new().into()
    }

    /// The next chunk, or `None` at the end.
    ///
    /// # Errors
    /// [`BodyError`]; after one every further call returns the same.
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let frame = poll_fn(|cx| Pin::new(&mut *self).poll_frame(cx)).await;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(error),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => return Ok(Some(chunk)),
                    Err(other) => {
                        self.trailers = other.into_trailers().ok().or(self.trailers.take());
                    }
                },
            }
        }
    }

    /// The fields behind the body, once it was read to its end; within `limits.trailer_bytes` and
    /// `limits.trailer_fields`.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    /// The length that the client declared, in bytes, where it did.
    pub fn declared_length(&self) -> Option<u64> {
        self.size_hint().exact()
    }

    /// Cancelled when it should come to another node if its sender can have it do so.
    pub fn leaving(&self) -> Arc<CancellationToken> {
        Arc::clone(&self.leaving)
    }

    /// Ready once bodies are no longer read.
    fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let token = &self.ending;
        let ended = self
            .ended
            .get_or_insert_with(|| Box::pin(CancellationToken::clone(token).cancelled_owned()));
        ended.as_mut().poll(cx)
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.failed = Some(error);
        Poll::Ready(Some(Err(error)))
    }
}

impl From<Bytes> for InboundBody {
    /// A body that is all there.
    fn from(bytes: Bytes) -> Self {
        Self {
            source: Source::Given(Full::new(bytes)),
            state: None,
            pace: Pace::new(Patience {
                idle: Duration::MAX,
                slowest_bytes: 0,
                window: Duration::MAX,
            }),
            facts: None,
            failed: None,
            leaving: Arc::default(),
            ending: Arc::default(),
            ended: None,
            most_trailers: TrailerLimits {
                bytes: 0,
                fields: 0,
            },
            trailers: None,
            meter: None,
        }
    }
}

impl Body for InboundBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(error) = this.failed {
            return Poll::Ready(Some(Err(error)));
        }
        if this.ending.is_cancelled() && !this.is_end_stream() {
            return this.fail(BodyError::Draining);
        }
        // What it waits for here is ours: its sender's clocks stand still.
        if let Some(meter) = &mut this.meter
            && meter.poll_room(cx).is_pending()
        {
            ready!(this.poll_ending(cx));
            return this.fail(BodyError::Draining);
        }
        let (polled, whole) = match &mut this.source {
            Source::Wire(body) => poll_wire(body, cx),
            Source::Stream(body) => poll_wire(body, cx),
            Source::Quic(body) => {
                let polled = body.poll_frame(cx);
                (polled, body.is_over())
            }
            Source::Given(body) => {
                return Pin::new(body)
                    .poll_frame(cx)
                    .map_err(|never| match never {});
            }
        };
        if let Some(state) = this.state.as_ref().filter(|_| whole) {
            state.body_read();
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.pace.moved(data.len());
                    if let Some(facts) = &this.facts {
                        facts.add_bytes_in(data.len() as u64);
                    }
                    if let Some(meter) = &mut this.meter {
                        meter.take(data.len());
                    }
                }
                if let Some(trailers) = frame.trailers_ref()
                    && !this.most_trailers.allow(trailers)
                {
                    return this.fail(BodyError::Trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => this.fail(error),
            Poll::Pending => {
                if this.poll_ending(cx).is_ready() {
                    return this.fail(BodyError::Draining);
                }
                match ready!(this.pace.poll_stalled(cx)) {
                    Stalled::Idle => this.fail(BodyError::Idle),
                    Stalled::TooSlow => this.fail(BodyError::TooSlow),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Wire(body) => body.is_end_stream(),
            Source::Stream(body) => body.is_end_stream(),
            Source::Quic(body) => body.is_over(),
            Source::Given(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Wire(body) => body.size_hint(),
            Source::Stream(body) => body.size_hint(),
            Source::Quic(body) => body.left().map_or_else(SizeHint::new, SizeHint::with_exact),
            Source::Given(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for InboundBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboundBody")
            .field("declared_length", &self.declared_length())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// What comes next of hyper's body, and whether that is all.
fn poll_wire(body: &mut Incoming, cx: &mut Context<'_>) -> (Polled, bool) {
    let polled = Pin::new(&mut *body).poll_frame(cx);
    // A handler that knows the length need not ask once more for the end.
    let whole = matches!(polled, Poll::Ready(None)) || body.is_end_stream();
    (polled.map_err(|error| classify(&error)), whole)
}

/// A cut connection and a broken coding are told apart by the error's cause.
fn classify(error: &hyper::Error) -> BodyError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return match io.kind() {
                std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => {
                    BodyError::Protocol
                }
                _ => BodyError::Cut,
            };
        }
        cause = error.source();
    }
    BodyError::Cut
}

/// How a response body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All of it was handed to the connection.
    Complete,
    /// What it came from failed.
    Failed,
    /// The connection was gone before its last byte.
    Dropped,
}

/// Hears of the end of a response body.
pub(super) trait Ending: Send + Unpin + 'static {
    /// It is over, `bytes` were handed to the connection. Called exactly once.
    fn ended(&mut self, bytes: u64, end: End);

    /// It ended early, and nothing but the end of the connection would tell the client.
    fn unframed_end(&mut self);
}

/// A response body that counts, and tells how it ended.
pub(super) struct Counted<E: Ending> {
    inner: OutboundBody,
    /// What it gives at once, at most: where many answers share a connection, a slow client is measured
    /// between two of those.
    most: usize,
    /// What is left of what `inner` gave.
    rest: Bytes,
    /// What was given last, if it was of a file: how much of it was sent is known only to itself.
    run: Option<Arc<FileRun>>,
    expected: Option<u64>,
    bytes: u64,
    end: End,
    ending: E,
}

impl<E: Ending> Counted<E> {
    /// `no_body` when the answer has none whatever `inner` holds (RFC 9110 §6.4.1: HEAD, 204, 304).
    pub(super) fn new(inner: OutboundBody, no_body: bool, most: usize, ending: E) -> Self {
        let complete = no_body || inner.is_end_stream();
        Self {
            expected: inner.size_hint().exact(),
            end: if complete {
                End::Complete
            } else {
                End::Dropped
            },
            inner,
            most,
            rest: Bytes::new(),
            run: None,
            bytes: 0,
            ending,
        }
    }
}

impl<E: Ending> Body for Counted<E> {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, BoxError>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
                h2::body_polled(None);
                return Poll::Pending;
            };
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(Piece::Bytes(data)))) => this.rest = data,
                Some(Ok(Ok(Piece::File(file)))) => {
                    this.bytes += file.remaining() as u64;
                    this.run = Some(file.on_its_way());
                    return Poll::Ready(Some(Ok(Frame::data(Piece::File(file)))));
                }
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                None => {
                    this.end = End::Complete;
                    return Poll::Ready(None);
                }
                Some(Err(error)) => {
                    this.end = End::Failed;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        let given = this.rest.split_to(this.rest.len().min(this.most));
        h2::body_polled(Some(given.len()));
        this.bytes += given.len() as u64;
        // hyper asks no further once a body says it is over or its length is reached.
        if this.is_end_stream() || this.expected == Some(this.bytes) {
            this.end = End::Complete;
        }
        Poll::Ready(Some(Ok(Frame::data(Piece::Bytes(given)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

impl<E: Ending> Drop for Counted<E> {
    fn drop(&mut self) {
        if self.end != End::Complete && self.expected.is_none() {
            self.ending.unframed_end();
        }
        if let Some(run) = &self.run {
            self.bytes -= run.unsent();
            if run.has_failed() {
                self.end = End::Failed;
            }
        }
        self.ending.ended(self.bytes, self.end);
    }
}
