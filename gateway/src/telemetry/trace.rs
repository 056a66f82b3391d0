//! W3C Trace Context: which trace a request belongs to, and how that is told on. Nothing here is believed further than
//! that: a trace is a name.
//!
//! <https://www.w3.org/TR/trace-context/>, cited by section.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

/// `traceparent`.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate`.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// §3.2.2.4.
const SAMPLED: u8 = 1;
/// §3.3.1.1.
const MOST_MEMBERS: usize = 32;
/// §3.3.1.5: at least so much is to be told on; a longer list is told on by nobody here.
const MOST_STATE_BYTES: usize = 512;
/// §3.2.2: `00-` and its three fields.
const VERSION_00_BYTES: usize = 55;

/// One piece of work within a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    id: [u8; 16],
    span: [u8; 8],
    parent: Option<[u8; 8]>,
    is_sampled: bool,
    state: Option<Arc<str>>,
    is_told: bool,
}

impl Trace {
    /// The trace that a request says it belongs to, with a span of our own in it.
    ///
    /// `None` for a request that says none, or what is no trace: then it is as if it had said nothing (§4.3).
    pub fn told(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(TRACEPARENT).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return None;
        };
        let (id, parent, flags) = parent_of(line.to_str().ok()?)?;
        Some(Self {
            id,
            span: fresh(),
            parent: Some(parent),
            is_sampled: flags & SAMPLED != 0,
            state: state_of(headers),
            is_told: true,
        })
    }

    /// What a request that is kept tells of the work that it belongs to, taken from its fields: whoever sends it tells of
    /// a piece of that work. Fields that tell of no trace stay.
    pub fn taken(headers: &mut HeaderMap) -> Option<Arc<str>> {
        let ours = Self::told(headers)?;
        let theirs = Self {
            span: ours.parent?,
            parent: None,
            ..ours
        };
        headers.remove(TRACEPARENT);
        headers.remove(TRACESTATE);
        Some(theirs.to_text())
    }

    /// The beginning of a trace, of this id in hexadecimal digits.
    pub fn begun(id: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(id, &mut bytes).ok()?;
        (bytes != [0; 16]).then(|| Self {
            id: bytes,
            span: fresh(),
            parent: None,
            is_sampled: true,
            state: None,
            is_told: false,
        })
    }

    /// A piece of this work.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            span: fresh(),
            parent: Some(self.span),
            ..self.clone()
        }
    }

    /// Whether whoever began it wants it recorded.
    pub fn is_sampled(&self) -> bool {
        self.is_sampled
    }

    /// Whether a request told of it.
    pub fn is_told(&self) -> bool {
        self.is_told
    }

    /// 32 hexadecimal digits that name the trace.
    pub fn id(&self) -> String {
        hex::encode(self.id)
    }

    /// 16 hexadecimal digits that name this piece of it.
    pub fn span(&self) -> String {
        hex::encode(self.span)
    }

    /// The same of the work that this is a piece of.
    pub fn parent(&self) -> Option<String> {
        self.parent.map(hex::encode)
    }

    /// `tracestate`, as it came.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    fn traceparent(&self) -> String {
        let flags = u8::from(self.is_sampled);
        format!("00-{}-{}-{flags:02x}", self.id(), self.span())
    }

    /// As it is kept and carried: `traceparent`, and `tracestate` on a second line.
    pub fn to_text(&self) -> Arc<str> {
        match &self.state {
            Some(state) => format!("{}\n{state}", self.traceparent()).into(),
            None => self.traceparent().into(),
        }
    }

    /// From that text.
    pub fn parse(text: &str) -> Option<Self> {
        let (parent, state) = match text.split_once('\n') {
            Some((parent, state)) => (parent, Some(state.into())),
            None => (text, None),
        };
        let (id, span, flags) = parent_of(parent)?;
        Some(Self {
            id,
            span,
            parent: None,
            is_sampled: flags & SAMPLED != 0,
            state,
            is_told: true,
        })
    }

    /// The trace of the work that runs.
    pub fn current() -> Option<Self> {
        Self::parse(&boxgate_storage::trace::current()?)
    }

    /// The fields by which a request tells of it.
    pub fn fields(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let parent = HeaderValue::try_from(self.traceparent()).ok();
        let state = self
            .state()
            .and_then(|state| HeaderValue::try_from(state).ok());
        let both = [(TRACEPARENT, parent), (TRACESTATE, state)];
        both.into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
    }
}

/// Does some work on behalf of the trace that was kept with what leads to it, if any.
pub async fn within<F: Future>(kept: Option<&str>, work: F) -> F::Output {
    match kept {
        Some(trace) => boxgate_storage::trace::within(trace.into(), work).await,
        None => work.await,
    }
}

/// §3.2.2.3: random, and not zero.
fn fresh() -> [u8; 8] {
    fastrand::u64(1..).to_be_bytes()
}

/// Trace, parent and flags of a `traceparent` (§3.2.2).
fn parent_of(text: &str) -> Option<([u8; 16], [u8; 8], u8)> {
    let bytes = text.as_bytes();
    let version = lower_hex::<1>(bytes.get(..2)?)?[0];
    // §3.2.2.1, and §3.3.1 on versions to come: they may go on behind what is known, after a dash.
    let fits = match version {
        0xff => false,
        0 => bytes.len() == VERSION_00_BYTES,
        _ => bytes.len() == VERSION_00_BYTES || bytes.get(VERSION_00_BYTES) == Some(&b'-'),
    };
    let dashes = [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
    if !fits || !dashes {
        return None;
    }
    let id = lower_hex::<16>(bytes.get(3..35)?)?;
    let parent = lower_hex::<8>(bytes.get(36..52)?)?;
    let flags = lower_hex::<1>(bytes.get(53..55)?)?[0];
    (id != [0; 16] && parent != [0; 8]).then_some((id, parent, flags))
}

/// §3.2.2: hexadecimal digits, in lower case alone.
fn lower_hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(bytes)
}

/// All lines of `tracestate` as one; `None` where any member is none (§3.3.1).
fn state_of(headers: &HeaderMap) -> Option<Arc<str>> {
    let mut members: Vec<&str> = Vec::new();
    for line in headers.get_all(TRACESTATE) {
        let line = line.to_str().ok()?;
        let told = line
            .split(',')
            .map(|member| member.trim_matches([' ', '\t']));
        // §3.3.1.1: empty members are allowed, and say nothing.
        members.extend(told.filter(|member| !member.is_empty()));
    }
    let mut keys: Vec<&str> = Vec::with_capacity(members.len());
    for member in &members {
        let (key, value) = member.split_once('=')?;
        if !is_key(key) || !is_value(value) || keys.contains(&key) {
            return None;
        }
        keys.push(key);
    }
    let text = members.join(",");
    let fits =
        !members.is_empty() && members.len() <= MOST_MEMBERS && text.len() <= MOST_STATE_BYTES;
    fits.then(|| text.into())
}

/// §3.3.1.3.1: up to 256 characters, or a tenant's of up to 241 and a system's of up to 14.
fn is_key(key: &str) -> bool {
    let is_name = |name: &str, most: usize, digit_first: bool| {
        let mut bytes = name.bytes();
        let first = bytes.next();
        let begins =
            first.is_some_and(|b| b.is_ascii_lowercase() || (digit_first && b.is_ascii_digit()));
        let goes_on = |b: u8| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'*' | b'/')
        };
        begins && name.len() <= most && bytes.all(goes_on)
    };
    match key.split_once('@') {
        Some((tenant, system)) => is_name(tenant, 241, true) && is_name(system, 14, false),
        None => is_name(key, 256, false),
    }
}

/// §3.3.1.3.2: printable ASCII but comma and equals, not ending with a space.
fn is_value(value: &str) -> bool {
    let is_one = |b: u8| (0x20..=0x7e).contains(&b) && b != b',' && b != b'=';
    !value.is_empty() && value.len() <= 256 && value.bytes().all(is_one) && !value.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn told(parent: &str, states: &[&str]) -> Option<Trace> {
        let states = states.iter().map(|&state| ("tracestate", state));
        let lines: Vec<_> = [("traceparent", parent)]
            .into_iter()
            .chain(states)
            .collect();
        Trace::told(&headers(&lines))
    }

    #[test]
    fn a_trace_is_taken_as_it_is_written_and_told_on_with_a_span_of_our_own() {
        let trace = told(&format!("00-{ID}-{PARENT}-01"), &["congo=t61rcWkgMzE"]).unwrap();
        assert_eq!(
            (trace.id(), trace.parent()),
            (ID.into(), Some(PARENT.into()))
        );
        assert!(trace.is_sampled() && trace.is_told());
        let child = trace.child();
        assert_eq!(child.parent(), Some(trace.span()));
        let fields: Vec<_> = child.fields().collect();
        assert_eq!(fields[0].1, format!("00-{ID}-{}-01", child.span()));
        assert_eq!(fields[1].1, "congo=t61rcWkgMzE");
        let kept = Trace::parse(&trace.to_text()).unwrap();
        assert_eq!((kept.id(), kept.span()), (trace.id(), trace.span()));
        assert_eq!(kept.state(), trace.state());
        assert!(
            !told(&format!("00-{ID}-{PARENT}-00"), &[])
                .unwrap()
                .is_sampled()
        );
        // Flags and fields of versions to come say nothing here, and do not hide what is known.
        let later = told(&format!("cc-{ID}-{PARENT}-03-what-comes"), &[]).unwrap();
        assert_eq!(
            later.child().fields().next().unwrap().1.to_str().unwrap()[..2],
            *"00"
        );
    }

    #[test]
    fn what_is_no_trace_is_as_good_as_none() {
        let zeros = (
            format!("00-{}-{PARENT}-01", "0".repeat(32)),
            format!("00-{ID}-{}-01", "0".repeat(16)),
        );
        for bad in [
            "",
            "00",
            &zeros.0,
            &zeros.1,
            &format!("ff-{ID}-{PARENT}-01"),
            &format!("00-{}-{PARENT}-01", ID.to_uppercase()),
            &format!("00-{ID}-{PARENT}-01-more"),
            &format!("00-{ID}-{PARENT}-1"),
            &format!("00-{ID}-{PARENT}-0x"),
            &format!("01-{ID}-{PARENT}-01more"),
            &format!("00_{ID}-{PARENT}-01"),
            &format!("00-{ID}{PARENT}-01"),
            &format!(" 00-{ID}-{PARENT}-0"),
        ] {
            assert_eq!(told(bad, &["a=1"]), None, "{bad}");
        }
        let one = format!("00-{ID}-{PARENT}-01");
        let twice = headers(&[("traceparent", &one), ("traceparent", &one)]);
        assert_eq!(Trace::told(&twice), None);
        assert_eq!(Trace::told(&headers(&[("tracestate", "a=1")])), None);
    }

    #[test]
    fn a_message_that_is_kept_gives_up_its_trace_to_whoever_sends_it() {
        let parent = format!("00-{ID}-{PARENT}-00");
        let mut kept = headers(&[
            ("traceparent", &parent),
            ("tracestate", "a=1"),
            ("x-b", "c"),
        ]);
        let text = Trace::taken(&mut kept).unwrap();
        assert_eq!(&*text, format!("{parent}\na=1"));
        assert_eq!(kept, headers(&[("x-b", "c")]));
        assert_eq!(Trace::taken(&mut kept), None);
        let mut odd = headers(&[("traceparent", "00-x")]);
        assert_eq!(Trace::taken(&mut odd), None);
        assert!(odd.contains_key(TRACEPARENT));
    }

    #[test]
    fn a_list_of_states_is_told_on_whole_or_not_at_all() {
        let one = format!("00-{ID}-{PARENT}-01");
        let state = |lines: &[&str]| told(&one, lines).unwrap().state().map(str::to_owned);
        assert_eq!(
            state(&["a=1, b=2", "c@sys=3,,"]).as_deref(),
            Some("a=1,b=2,c@sys=3")
        );
        assert_eq!(state(&[]), None);
        let many = (0..33)
            .map(|n| format!("k{n}=v"))
            .collect::<Vec<_>>()
            .join(",");
        let long = format!("a={}", "v".repeat(257));
        for bad in [
            "A=1", "a", "a=", "a=1=2", "=1", "a=1,a=2", "1a=1", "a@1s=1", "a=1\tx", &many, &long,
        ] {
            assert_eq!(state(&[bad]), None, "{bad}");
        }
        assert_eq!(state(&["1a@sys=1"]).as_deref(), Some("1a@sys=1"));
    }

    #[test]
    fn a_trace_that_begins_here_has_the_id_of_its_request() {
        let trace = Trace::begun(ID).unwrap();
        assert_eq!(
            (trace.id(), trace.parent(), trace.is_told()),
            (ID.into(), None, false)
        );
        assert_eq!(Trace::begun("no"), None);
    }
}
