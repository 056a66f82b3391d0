//! Blocks of addresses, as `trusted_proxies` and `operations.allow` name them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

/// Addresses that share their first bits, written `10.0.0.0/8`; a bare address is a block of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: IpAddr,
    bits: u8,
}

/// The text is no block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// No address before the slash.
    #[error("expected an address or a block such as \"10.0.0.0/8\"")]
    Address,
    /// The number after the slash is no length of a prefix.
    #[error("the number after the slash is 0 to 32 for IPv4, 0 to 128 for IPv6")]
    Length,
    /// Bits after the prefix are set: most likely a typing mistake, so it is not guessed at.
    #[error("bits after the prefix are set")]
    HostBits,
}

impl Cidr {
    /// Whether `address` lies in this block; an IPv4 address in IPv6 clothes counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ours, ours_wide) = bits_of(self.network);
        let (theirs, theirs_wide) = bits_of(address.to_canonical());
        ours_wide == theirs_wide && masked(theirs, self.bits) == ours
    }
}

/// Blocks of addresses that may be others later; what is cloned of them changes along.
#[derive(Debug, Clone, Default)]
pub struct Blocks(Arc<ArcSwap<Vec<Cidr>>>);

impl Blocks {
    /// Whether `address` lies in one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.now().iter().any(|block| block.contains(address))
    }

    /// As they are now.
    pub fn now(&self) -> Guard<Arc<Vec<Cidr>>> {
        self.0.load()
    }

    /// From here on they are those of `others`.
    pub fn replace(&self, others: &Self) {
        self.0.store(others.0.load_full());
    }
}

impl From<Vec<Cidr>> for Blocks {
    fn from(blocks: Vec<Cidr>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(blocks)))
    }
}

/// The address as its leading bits, and whether it is IPv6.
fn bits_of(address: IpAddr) -> (u128, bool) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, false),
        IpAddr::V6(v6) => (v6.to_bits(), true),
    }
}

fn masked(address: u128, bits: u8) -> u128 {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    address & mask
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address
            .trim()
            .parse()
            .map_err(|_malformed| CidrError::Address)?;
        let network = address.to_canonical();
        let widest = if network.is_ipv4() { 32 } else { 128 };
        let bits = match length {
            None => widest,
            Some(length) => length
                .trim()
                .parse()
                .ok()
                .filter(|bits| *bits <= widest)
                .ok_or(CidrError::Length)?,
        };
        let (number, _) = bits_of(network);
        if masked(number, bits) != number {
            return Err(CidrError::HostBits);
        }
        Ok(Self { network, bits })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_block_holds_its_addresses_and_no_others() {
        let table = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "203.0.113.9", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::1", "::1", true),
        ];
        for (cidr, address, inside) in table {
            assert_eq!(
                block(cidr).contains(address.parse().unwrap()),
                inside,
                "{address} in {cidr}"
            );
        }
    }

    #[test]
    fn malformed_blocks_are_refused_by_rule() {
        assert_eq!("ten".parse::<Cidr>(), Err(CidrError::Address));
        assert_eq!("10.0.0.0/33".parse::<Cidr>(), Err(CidrError::Length));
        assert_eq!("10.0.0.0/".parse::<Cidr>(), Err(CidrError::Length));
        assert_eq!("10.0.0.1/8".parse::<Cidr>(), Err(CidrError::HostBits));
    }

    #[test]
    fn a_block_prints_as_it_is_read() {
        for text in ["10.0.0.0/8", "2001:db8::/32", "127.0.0.1/32"] {
            assert_eq!(block(text).to_string(), text);
        }
    }
}
