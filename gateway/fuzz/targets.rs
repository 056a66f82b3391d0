//! What strangers' bytes are read by, each as a function of bytes that must not panic, hang, or break what it promises. Called
//! by libFuzzer (`fuzz_targets`), and by `gateway/tests/fuzz` on any compiler: on the kept corpus, and on what becomes of that.

use boxgate::auth::link::{LinkSigner, UploadClaim};
use boxgate::config::settings::DecodeBase64;
use boxgate::http::headers::{self, MediaType};
use boxgate::http::path::NormalPath;
use boxgate::http::range::{ContentRange, RangeSpec, Resolved};
use boxgate::http::{digest, framing, negotiate};
use boxgate::inspect::Inspector;
use boxgate::multipart::base64::{Base64Decoder, Sniff};
use boxgate::multipart::reader::{Event, MultipartReader};
use boxgate::multipart::{Form, FormLimits};
use boxgate::resumable::command::RequestHead;
use boxgate::resumable::metadata::UploadMetadata;
use boxgate::resumable::{Protocol, chunk, fields, native};
use boxgate::server::InboundBody;
use boxgate_storage::catalog::{
    ArchitectureName, BoxName, BoxRef, IsoName, OrganizationName, ProviderName, VersionName,
    version,
};
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::digest::outboard::ProvedTree;
use boxgate_storage::digest::{Blake3, ContentHasher};
use boxgate_storage::metadata::accounts::AccountId;
use boxgate_storage::metadata::catalog::ArchitectureId;
use boxgate_storage::metadata::tokens::TokenId;
use boxgate_storage::sidecar::Sidecar;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};

/// One of them.
pub(crate) type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub(crate) const ALL: [(&str, Target); 11] = [
    ("fields", structured_fields),
    ("framing", framing),
    ("hash_state", hash_state),
    ("inspector", inspector),
    ("link", signed_link),
    ("multipart", multipart),
    ("outboard", outboard),
    ("path", path_and_names),
    ("range", range),
    ("sidecar", sidecar),
    ("uploads", upload_headers),
];

/// A request's head as text, whose lines may end in LF: method and target, then fields.
fn head(data: &[u8]) -> Option<(Method, Uri, HeaderMap)> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut first = lines.next()?.trim_ascii().split(|byte| *byte == b' ');
    let method = Method::from_bytes(first.next()?).ok()?;
    let target = Uri::try_from(first.next().unwrap_or(b"/")).ok()?;
    let mut headers = HeaderMap::new();
    for line in lines.take(100) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    Some((method, target, headers))
}

/// Heads of resumable uploads: tus, the IETF's protocol, parts by number, BoxVault's chunks.
pub(crate) fn upload_headers(data: &[u8]) {
    let Some((method, target, headers)) = head(data) else {
        return;
    };
    let method = boxgate::resumable::method(&method, &headers);
    let head = RequestHead {
        method: &method,
        headers: &headers,
        query: target.query(),
    };
    for protocol in [Protocol::Tus, Protocol::Ietf] {
        let _said = protocol.parse(&head);
    }
    if native::is_creation(&head) {
        let _said = native::create(&head);
    }
    let _said = native::put(&head, target.path().trim_start_matches('/'));
    if chunk::Chunk::is_in(&headers)
        && let Ok(chunk) = chunk::Chunk::parse(&headers, Vec::new())
    {
        let _noted = chunk.note();
    }
    if let Some(text) = headers.get("upload-metadata").and_then(|v| v.to_str().ok())
        && let Ok(metadata) = UploadMetadata::parse(text)
    {
        let _text = metadata.text("filename");
    }
}

/// Structured fields (RFC 9651), media types, lists with weights, dates.
pub(crate) fn structured_fields(data: &[u8]) {
    let name = HeaderName::from_static("x-fuzz");
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(8) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            for name in [
                &name,
                &header::ACCEPT,
                &header::CONTENT_TYPE,
                &header::RETRY_AFTER,
                &header::CONTENT_LENGTH,
            ] {
                headers.append(name, value.clone());
            }
        }
    }
    if let Some(number) = fields::integer(&headers, &name) {
        // RFC 9651 §3.3.1: fifteen digits.
        assert!(number < 1_000_000_000_000_000);
    }
    let _said = fields::boolean(&headers, &name);
    if let Some(found) = fields::byte_sequences(&headers, &name) {
        for (_, bytes) in found {
            assert!(fields::from_bytes(&bytes).len() >= bytes.len());
        }
    }
    let _wanted = digest::Wanted::parse(&headers, &name);
    let _length = headers::content_length(&headers);
    let _pause = headers::retry_after(&headers, std::time::UNIX_EPOCH);
    let _preferred = negotiate::preference(&headers);
    if let Some(media) = MediaType::of(&headers) {
        assert!(media.essence().contains('/'));
        let _boundary = media.parameter("boundary");
    }
}

/// `Range` and `Content-Range`: what they name lies within.
pub(crate) fn range(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let headers = HeaderMap::from_iter([
        (header::RANGE, value.clone()),
        (header::CONTENT_RANGE, value),
    ]);
    if let Some(spec) = RangeSpec::parse(&headers) {
        for length in [0, 1, 1000, u64::MAX] {
            if let Resolved::Bytes(range) = spec.resolve(length) {
                assert!(range.start() < range.end() && range.end() <= length);
            }
        }
    }
    if let Ok(Some(piece)) = ContentRange::parse(&headers) {
        assert!(piece.range.start() < piece.range.end());
        assert!(
            piece
                .length
                .is_none_or(|length| piece.range.end() <= length)
        );
    }
}

/// Forms, however they are cut into frames; and what may be base64 text in them.
pub(crate) fn multipart(data: &[u8]) {
    const BOUNDARY: &str = "b";
    let mut headers = HeaderMap::new();
    let form = HeaderValue::from_static("multipart/form-data; boundary=b");
    headers.insert(header::CONTENT_TYPE, form);
    let limits = FormLimits {
        parts: 16,
        part_head_bytes: 1024,
        decode_base64: DecodeBase64::Auto,
    };
    let body = InboundBody::from(Bytes::copy_from_slice(data));
    if let Ok(mut form) = Form::open(&headers, body, limits) {
        let read = async {
            form.file().await.ok()?;
            let mut bytes = 0;
            while let Ok(Some(chunk)) = form.chunk().await {
                bytes += chunk.len();
            }
            form.finish().await.ok()?;
            Some(bytes)
        };
        // All of it is there: nothing is waited for.
        let bytes = read.now_or_never().expect("it does not wait");
        assert!(bytes.is_none_or(|bytes| bytes <= data.len()));
    }
    let whole = data_of(data, usize::MAX, BOUNDARY);
    for piece in [1, 7, 64] {
        assert_eq!(
            whole,
            data_of(data, piece, BOUNDARY),
            "in pieces of {piece}"
        );
    }
    let (mut decoder, mut sniff) = (Base64Decoder::default(), Sniff::default());
    for chunk in data.chunks(5) {
        sniff.look(chunk);
        if decoder.decode(chunk).is_err() {
            break;
        }
    }
    let _is = sniff.is_base64_of_archive(true);
}

/// The bytes of all parts, of a form that comes in such pieces, and whether it is one.
fn data_of(form: &[u8], piece: usize, boundary: &str) -> (Vec<u8>, usize, bool) {
    let mut reader = MultipartReader::new(boundary, 16, 1024).expect("a good boundary");
    let mut pieces = form.chunks(piece.min(form.len().max(1)));
    let (mut bytes, mut parts) = (Vec::new(), 0);
    loop {
        match reader.next() {
            Ok(Event::NeedMore) => match pieces.next() {
                Some(piece) => reader.push(Bytes::copy_from_slice(piece)),
                None => reader.finish(),
            },
            Ok(Event::PartHead(_)) => parts += 1,
            Ok(Event::Data(data)) => bytes.extend_from_slice(&data),
            Ok(Event::PartEnd) => {}
            Ok(Event::End) => return (bytes, parts, true),
            // How far it was read by then depends on the pieces.
            Err(_) => return (Vec::new(), 0, false),
        }
    }
}

/// Tokens of links: none but those that were signed is good.
pub(crate) fn signed_link(data: &[u8]) {
    let Ok(token) = std::str::from_utf8(data) else {
        return;
    };
    let signer = LinkSigner::new([(1, vec![7; 32]), (2, vec![9; 32])]);
    let file = BoxRef {
        organization: "acme".parse().expect("a name"),
        name: "demo".parse().expect("a name"),
        version: "1.0.0".parse().expect("a name"),
        provider: "virtualbox".parse().expect("a name"),
        architecture: "amd64".parse().expect("a name"),
    };
    let (now, expires) = (UnixMillis(1_000), UnixMillis(2_000_000_000_000));
    let claim = UploadClaim {
        into: ArchitectureId(3),
        by: TokenId(5),
    };
    let signed = [
        signer.sign(&file, None, expires),
        signer.sign(&file, Some(AccountId(4)), expires),
        signer.sign_upload(claim, expires),
    ];
    let is_signed = signed.iter().flatten().any(|good| good == token);
    let is_good = signer.verify(token, &file, now).is_some()
        || signer.verify_upload(token, now).is_some()
        || signer.verify_blob(token, &Blake3([1; 32]), now).is_some();
    assert_eq!(is_good, is_signed, "{token}");
}

/// Paths and names: none of them leads elsewhere.
pub(crate) fn path_and_names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for path in [
        NormalPath::parse(text),
        NormalPath::parse_with_slashes(text),
    ]
    .into_iter()
    .flatten()
    {
        assert!(path.as_str().starts_with('/') && !path.as_str().contains('\0'));
        assert!(path.segments().all(|segment| segment != ".."));
    }
    let names = [
        text.parse::<OrganizationName>().is_ok(),
        text.parse::<BoxName>().is_ok(),
        text.parse::<ProviderName>().is_ok(),
        text.parse::<ArchitectureName>().is_ok(),
        text.parse::<VersionName>().is_ok(),
    ];
    let foreign = ['/', '\\', '\0', '%'];
    if names.contains(&true) {
        assert!(!text.contains("..") && !text.contains(foreign));
        assert!(!text.starts_with('.') && text.len() <= 128);
    }
    if text.parse::<IsoName>().is_ok() {
        assert!(!matches!(text, "." | "..") && !text.contains(foreign) && text.len() <= 255);
    }
    if let Some((one, other)) = text.split_once(' ') {
        let order = version::compare(one, other);
        assert_eq!(order, version::compare(other, one).reverse());
    }
}

/// Archives that are looked into: however they come, the same is found, within the bounds.
pub(crate) fn inspector(data: &[u8]) {
    let found = |piece: usize| {
        let mut inspector = Inspector::new(1 << 20);
        for piece in data.chunks(piece) {
            let mut rest = piece;
            while !rest.is_empty() && !inspector.is_done() {
                let looked_at = inspector.step(rest);
                assert!(looked_at <= rest.len());
                rest = &rest[looked_at..];
            }
        }
        inspector.finish()
    };
    let _found = (found(1 << 16), found(13));
}

/// States of hashes, as rows keep them: what is taken again goes on where it was.
pub(crate) fn hash_state(data: &[u8]) {
    if let Ok(hasher) = ContentHasher::restore(data) {
        let again = ContentHasher::restore(&hasher.states()).expect("a state of its own");
        assert_eq!(again.bytes(), hasher.bytes());
    }
    let mut hasher = ContentHasher::new([]);
    hasher.update(data);
    let mut again = ContentHasher::restore(&hasher.states()).expect("a state of its own");
    let open = usize::try_from(again.bytes()).expect("less than came");
    again.update_tree(&data[open..]);
    for hasher in [&mut hasher, &mut again] {
        hasher.update(b"the rest");
    }
    let (one, other) = (hasher.finish(), again.finish());
    assert_eq!((one.blake3, one.sha256), (other.blake3, other.sha256));
}

/// Trees that a client gets from anybody: only those of the digest are taken.
pub(crate) fn outboard(data: &[u8]) {
    let Some((length, tree)) = data.split_first_chunk::<8>() else {
        return;
    };
    let length = u64::from_le_bytes(*length);
    // Up to a block there is no tree: its value is the digest.
    let is_taken = ProvedTree::try_new(Blake3([3; 32]), length, tree).is_some();
    assert!(!is_taken || length <= 1 << 20);
}

/// What stands beside the bytes of a box.
pub(crate) fn sidecar(data: &[u8]) {
    if let Some(sidecar) = Sidecar::parse(data) {
        let again = Sidecar::parse(sidecar.to_text().as_bytes()).expect("its own text");
        assert_eq!(again.to_text(), sidecar.to_text());
        let _path = sidecar.path();
    }
}

/// Heads that hyper lets through: what is let through here names one host.
pub(crate) fn framing(data: &[u8]) {
    let Some((method, target, headers)) = head(data) else {
        return;
    };
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = target;
    *request.headers_mut() = headers;
    let (head, ()) = request.into_parts();
    if let Ok(authority) = framing::check(&head, 8 << 10, 64) {
        assert_eq!(head.headers.get_all(header::HOST).iter().count(), 1);
        assert!(!authority.as_str().contains('@'));
    }
}
