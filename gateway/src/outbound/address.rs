//! Which addresses may be reached: public ones, and what an operator opened.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::config::Cidr;

/// Blocks that no request goes to unless an operator opens them: special-purpose addresses of IANA's registries, and
/// those at which clouds tell their machines secrets.
const REFUSED: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32", // Azure's wire server
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/96", // unspecified, loopback, and IPv4 in its oldest clothes
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/23", // Teredo, benchmarking, ORCHID
    "2001:db8::/32",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

/// Networks of an organization's own (RFC 1918, RFC 4193).
const PRIVATE: &[&str] = &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];
/// Addresses within them at which clouds tell their machines secrets.
const SECRET: &[&str] = &["fd00:ec2::/32", "fd20:ce::254/128", "fd00:42::42/128"];

/// Where requests may go.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    refused: Vec<Cidr>,
    opened: Vec<Cidr>,
    /// Reached as if they were public.
    private: Vec<Cidr>,
    /// Never among those.
    secret: Vec<Cidr>,
}

/// How an address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// On the internet.
    Public,
    /// An operator opened it; plain http goes there too.
    Opened,
    /// Not to be reached.
    Refused,
}

impl Addresses {
    pub(super) fn new(opened: &[Cidr]) -> Self {
        let block = |text: &&str| {
            text.parse()
                .expect("each row is a block, which a test reads")
        };
        Self {
            refused: REFUSED.iter().map(block).collect(),
            opened: opened.to_vec(),
            private: Vec::new(),
            secret: SECRET.iter().map(block).collect(),
        }
    }

    /// Private networks, too.
    pub(super) fn and_private(mut self) -> Self {
        let block = |text: &&str| {
            text.parse()
                .expect("each row is a block, which a test reads")
        };
        self.private = PRIVATE.iter().map(block).collect();
        self
    }

    /// How `address` stands, `own` being where the gateway itself listens.
    pub(super) fn standing(&self, address: SocketAddr, own: &[SocketAddr]) -> Standing {
        let ip = unwrapped(address.ip());
        let within = |blocks: &[Cidr]| blocks.iter().any(|block| block.contains(ip));
        let private = within(&self.private) && !within(&self.secret);
        if within(&self.opened) {
            Standing::Opened
        } else if within(&self.refused) && !private
            || is_own(SocketAddr::new(ip, address.port()), own)
        {
            Standing::Refused
        } else {
            Standing::Public
        }
    }
}

/// The IPv4 address that an IPv6 one stands for: mapped, translated (RFC 2765), by 6to4 (RFC 3056) or by NAT64 (RFC 6052).
/// Others that hold one are refused as they are: compatible, Teredo, and NAT64 of a network's own (RFC 8215), where nobody
/// knows which bits are it.
fn unwrapped(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else {
        return ip;
    };
    let last = |v6: Ipv6Addr| {
        let [.., a, b, c, d] = v6.octets();
        Ipv4Addr::new(a, b, c, d)
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..] => last(v6).into(),
        [0x2002, a, b, ..] => Ipv4Addr::from_bits(u32::from(a) << 16 | u32::from(b)).into(),
        _ => ip,
    }
}

/// Whether one of our listeners is there: by its address, or by that of any interface where it listens at all.
fn is_own(address: SocketAddr, own: &[SocketAddr]) -> bool {
    own.iter().any(|listener| {
        listener.port() == address.port()
            && (listener.ip().to_canonical() == address.ip()
                || listener.ip().is_unspecified() && is_of_this_machine(address))
    })
}

/// Whether an address is one of this machine's: then it is also where the kernel would send from. Nothing is sent.
fn is_of_this_machine(address: SocketAddr) -> bool {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(address)?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(ip: &str, opened: &[&str]) -> Standing {
        let opened: Vec<Cidr> = opened.iter().map(|text| text.parse().unwrap()).collect();
        Addresses::new(&opened).standing(SocketAddr::new(ip.parse().unwrap(), 443), &[])
    }

    #[test]
    fn private_networks_are_reached_where_that_is_wanted_but_for_secrets_and_ourselves() {
        let own = ["10.1.2.3:80".parse().unwrap()];
        let addresses = Addresses::new(&[]).and_private();
        for (ip, expected) in [
            ("10.1.2.4", Standing::Public),
            ("172.20.0.1", Standing::Public),
            ("192.168.5.5", Standing::Public),
            ("fd12:3456::1", Standing::Public),
            ("::ffff:10.1.2.4", Standing::Public),
            ("10.1.2.3", Standing::Refused),
            ("fd00:ec2::254", Standing::Refused),
            ("fd20:ce::254", Standing::Refused),
            ("fd00:42::42", Standing::Refused),
            ("127.0.0.1", Standing::Refused),
            ("169.254.169.254", Standing::Refused),
            ("fe80::1", Standing::Refused),
        ] {
            let address = SocketAddr::new(ip.parse().unwrap(), 80);
            assert_eq!(addresses.standing(address, &own), expected, "{ip}");
        }
    }

    #[test]
    fn every_special_address_is_refused_in_all_its_clothes() {
        let special = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.9.9.9",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:10.0.0.1",
            "::ffff:0:127.0.0.1",
            "::ffff:0:169.254.169.254",
            "64:ff9b::a00:1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "64:ff9b:1:a00:0:100::",
            "2001:0:a00:1:0:0:f5ff:fffe",
            "::10.0.0.1",
            "2002:a00:1::",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:db8::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ];
        for ip in special {
            assert_eq!(standing(ip, &[]), Standing::Refused, "{ip}");
            // What another network is opened for changes nothing.
            assert_eq!(
                standing(ip, &["192.168.77.0/24"]),
                Standing::Refused,
                "{ip}"
            );
        }
        let public = [
            "1.1.1.1",
            "9.255.255.255",
            "172.32.0.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "::ffff:0:1.1.1.1",
            "64:ff9b::101:101",
        ];
        for ip in public {
            assert_eq!(standing(ip, &[]), Standing::Public, "{ip}");
        }
    }

    #[test]
    fn what_an_operator_opened_is_open_in_all_its_clothes() {
        for ip in [
            "10.1.2.3",
            "::ffff:10.1.2.3",
            "::ffff:0:10.1.2.3",
            "64:ff9b::a01:203",
            "2002:a01:203::",
        ] {
            assert_eq!(standing(ip, &["10.1.0.0/16"]), Standing::Opened, "{ip}");
            assert_eq!(standing(ip, &["10.2.0.0/16"]), Standing::Refused, "{ip}");
        }
        assert_eq!(standing("::1", &["::1/128"]), Standing::Opened);
    }

    #[test]
    fn our_own_listeners_are_refused_wherever_they_listen() {
        let addresses = Addresses::new(&[]);
        let public: SocketAddr = "198.41.0.4:443".parse().unwrap();
        assert_eq!(addresses.standing(public, &[public]), Standing::Refused);
        let other_port = SocketAddr::new(public.ip(), 8443);
        assert_eq!(addresses.standing(public, &[other_port]), Standing::Public);
        // This machine has no such address, so a listener at all of its addresses is not there.
        let everywhere: SocketAddr = "0.0.0.0:443".parse().unwrap();
        assert_eq!(addresses.standing(public, &[everywhere]), Standing::Public);
        assert!(is_own("127.0.0.1:443".parse().unwrap(), &[everywhere]));
    }
}
