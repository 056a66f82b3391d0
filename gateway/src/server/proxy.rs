//! The PROXY protocol, versions 1 and 2: for whom a balancer speaks that passes bytes on and reads none of them.
//!
//! Its header is asked of trusted proxies alone, and of those it is asked always: the protocol must not be guessed, or a
//! client behind the balancer could write one of its own. Not a byte that stands behind it is read here.

use std::io;
use std::net::IpAddr;

use memchr::memchr;
use ppp::{v1, v2};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// The longest header of version 1, as its specification has it.
const TEXT_BYTES: usize = 107;
/// What of it is there whatever it says; the signature of version 2 is as long.
const FIRST_BYTES: usize = v2::PROTOCOL_PREFIX.len();
/// What of version 2 stands before the part whose length it tells.
const FIXED_BYTES: usize = 16;
/// The longest such part: addresses, and what balancers tell besides, of a client's certificate above all.
const BINARY_BYTES: usize = 4 << 10;

/// Reads the header that opens a connection: the client's address, or `None` where the balancer speaks for itself (it
/// looks whether we are there) or does not know.
///
/// # Errors
/// What reading comes to, and `InvalidData` for anything that is no such header.
pub(super) async fn client(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let mut first = [0; FIRST_BYTES];
    stream.read_exact(&mut first).await?;
    if first == *v2::PROTOCOL_PREFIX {
        binary(stream, &first).await
    } else if first.starts_with(b"PROXY ") {
        text(stream, &first).await
    } else {
        Err(invalid("no header of the PROXY protocol"))
    }
}

async fn text(stream: &mut TcpStream, first: &[u8]) -> io::Result<Option<IpAddr>> {
    let mut line = first.to_vec();
    while !line.ends_with(b"\n") {
        let mut seen = [0; TEXT_BYTES];
        let room = TEXT_BYTES - line.len();
        if room == 0 {
            return Err(invalid("a header of the PROXY protocol without an end"));
        }
        let there = stream.peek(&mut seen[..room]).await?;
        if there == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = memchr(b'\n', &seen[..there]).map_or(there, |at| at + 1);
        stream.read_exact(&mut seen[..taken]).await?;
        line.extend_from_slice(&seen[..taken]);
    }
    let header = v1::Header::try_from(line.as_slice()).map_err(invalid)?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(addresses) => Some(addresses.source_address.into()),
        v1::Addresses::Tcp6(addresses) => Some(addresses.source_address.into()),
        v1::Addresses::Unknown => None,
    })
}

async fn binary(stream: &mut TcpStream, first: &[u8]) -> io::Result<Option<IpAddr>> {
    let mut head = first.to_vec();
    head.resize(FIXED_BYTES, 0);
    stream.read_exact(&mut head[FIRST_BYTES..]).await?;
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > BINARY_BYTES {
        return Err(invalid("a header of the PROXY protocol that is too long"));
    }
    head.resize(FIXED_BYTES + length, 0);
    stream.read_exact(&mut head[FIXED_BYTES..]).await?;
    let header = v2::Header::try_from(head.as_slice()).map_err(invalid)?;
    Ok(match (header.command, header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(addresses)) => {
            Some(addresses.source_address.into())
        }
        (v2::Command::Proxy, v2::Addresses::IPv6(addresses)) => {
            Some(addresses.source_address.into())
        }
        _ => None,
    })
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
