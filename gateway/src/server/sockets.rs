//! Sockets that listen already when a server begins: systemd opened them, or the process in whose place this one comes. And
//! those of a running server, for the one that comes in its place.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::net::{SocketType, getsockname};

use crate::config::settings::{Listener, Speaks};

/// Connections that may wait in the kernel until they are accepted; the kernel takes less where `net.core.somaxconn` says so.
const BACKLOG: i32 = 4096;

/// Sockets that wait for their listeners.
#[derive(Debug, Default)]
pub struct Sockets(Vec<(String, OwnedFd)>);

impl Sockets {
    /// Each with the name of its listener, or that its unit gives it.
    pub fn new(named: Vec<(String, OwnedFd)>) -> Self {
        Self(named)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The sockets, in the order of their names.
    pub fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        self.0.iter().map(|(_, socket)| socket)
    }

    /// The same, each under the name of the listener that it belongs to, with new ones for the listeners that have none yet. What
    /// is no listener's stands at the end.
    ///
    /// # Errors
    /// An address cannot be bound; the error names it.
    pub(super) fn completed(mut self, listeners: &[Listener]) -> io::Result<Self> {
        let mut all = Vec::with_capacity(self.0.len());
        for listener in listeners {
            let address = listener.address;
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("cannot listen at {address}: {error}"))
            };
            let tcp = match self.tcp(listener).map_err(named)? {
                Some(waiting) => waiting,
                None => TcpListener::bind(address).map_err(named)?,
            };
            let bound = tcp.local_addr().map_err(named)?;
            all.push((name_of(listener), tcp.into()));
            if listener.speaks == Speaks::TlsAndQuic {
                let udp = match self.udp(listener, bound).map_err(named)? {
                    Some(waiting) => waiting,
                    None => UdpSocket::bind(bound).map_err(named)?,
                };
                all.push((name_of(listener), udp.into()));
            }
        }
        all.append(&mut self.0);
        Ok(Self(all))
    }

    /// The one that takes the connections of `listener`.
    pub(super) fn tcp(&mut self, listener: &Listener) -> io::Result<Option<TcpListener>> {
        let wanted = |socket: &OwnedFd| {
            socket_type(socket) == Ok(SocketType::STREAM) && socket_acceptconn(socket) == Ok(true)
        };
        let found = self.take(listener, listener.address, wanted);
        found
            .map(|socket| {
                let socket = TcpListener::from(socket);
                socket.set_nonblocking(true)?;
                Ok(socket)
            })
            .transpose()
    }

    /// The one for its HTTP/3, whose port is that of `bound`.
    pub(super) fn udp(
        &mut self,
        listener: &Listener,
        bound: SocketAddr,
    ) -> io::Result<Option<UdpSocket>> {
        let wanted = |socket: &OwnedFd| socket_type(socket) == Ok(SocketType::DGRAM);
        let found = self.take(listener, bound, wanted);
        found
            .map(|socket| {
                let socket = UdpSocket::from(socket);
                socket.set_nonblocking(true)?;
                Ok(socket)
            })
            .transpose()
    }

    fn take(
        &mut self,
        listener: &Listener,
        address: SocketAddr,
        wanted: impl Fn(&OwnedFd) -> bool,
    ) -> Option<OwnedFd> {
        let name = name_of(listener);
        let named = self.0.iter().position(|(n, s)| *n == name && wanted(s));
        let at = named.or_else(|| {
            let there = |socket: &OwnedFd| local_address(socket) == Some(address);
            self.0.iter().position(|(_, s)| there(s) && wanted(s))
        })?;
        Some(self.0.remove(at).1)
    }
}

/// What a listener's sockets are known by.
pub(super) fn name_of(listener: &Listener) -> String {
    if listener.name.is_empty() {
        listener.address.to_string()
    } else {
        listener.name.clone()
    }
}

fn local_address(socket: &OwnedFd) -> Option<SocketAddr> {
    SocketAddr::try_from(getsockname(socket).ok()?).ok()
}

/// Has many connections wait rather than be refused while nobody accepts.
pub(super) fn deepen(listener: &impl AsFd) {
    if let Err(error) = rustix::net::listen(listener, BACKLOG) {
        tracing::debug!(%error, "the queue of a listener stays as it is");
    }
}

/// The sockets of a server for as long as it listens.
#[derive(Debug, Default)]
pub struct Ports(Vec<(String, Port)>);

#[derive(Debug)]
enum Port {
    Tcp(Weak<tokio::net::TcpListener>),
    Udp(Weak<UdpSocket>),
}

impl Ports {
    pub(super) fn add_tcp(&mut self, listener: &Listener, socket: &Arc<tokio::net::TcpListener>) {
        let port = Port::Tcp(Arc::downgrade(socket));
        self.0.push((name_of(listener), port));
    }

    pub(super) fn add_udp(&mut self, listener: &Listener, socket: &Arc<UdpSocket>) {
        let port = Port::Udp(Arc::downgrade(socket));
        self.0.push((name_of(listener), port));
    }

    /// The same sockets once more; those that are closed already are left out.
    ///
    /// # Errors
    /// Too many files are open.
    pub fn sockets(&self) -> io::Result<Sockets> {
        let mut sockets = Vec::with_capacity(self.0.len());
        for (name, port) in &self.0 {
            let socket = match port {
                Port::Tcp(socket) => socket.upgrade().map(|s| s.as_fd().try_clone_to_owned()),
                Port::Udp(socket) => socket.upgrade().map(|s| s.as_fd().try_clone_to_owned()),
            };
            if let Some(socket) = socket {
                sockets.push((name.clone(), socket?));
            }
        }
        Ok(Sockets(sockets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::DoorSet;

    fn listener(name: &str, address: SocketAddr) -> Listener {
        Listener {
            name: name.to_owned(),
            address,
            speaks: Speaks::Plain,
            doors: DoorSet::ALL,
        }
    }

    fn free() -> (TcpListener, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[test]
    fn a_listener_finds_its_socket_by_name_then_by_address() {
        let ((one, at_one), (other, at_other)) = (free(), free());
        let named = vec![
            ("unknown".to_owned(), one.into()),
            ("public".to_owned(), other.into()),
        ];
        let mut sockets = Sockets::new(named);
        let elsewhere = "127.0.0.1:1".parse().unwrap();
        assert!(sockets.tcp(&listener("", elsewhere)).unwrap().is_none());
        let public = sockets.tcp(&listener("public", elsewhere)).unwrap();
        assert_eq!(public.unwrap().local_addr().unwrap(), at_other);
        let plain = sockets.tcp(&listener("", at_one)).unwrap();
        assert_eq!(plain.unwrap().local_addr().unwrap(), at_one);
        assert!(sockets.is_empty());
    }

    #[test]
    fn a_listener_that_has_no_socket_gets_one_and_a_port_that_is_taken_is_named() {
        let ((old, at_old), (taken, at_taken)) = (free(), free());
        let given = || {
            let socket = old.try_clone().unwrap();
            Sockets::new(vec![(at_old.to_string(), socket.into())])
        };
        let new = listener("new", "127.0.0.1:0".parse().unwrap());
        let all = [new, listener("", at_old)];
        let mut completed = given().completed(&all).unwrap();
        assert_eq!(
            completed.names().collect::<Vec<_>>(),
            ["new", at_old.to_string().as_str()]
        );
        let kept = completed.tcp(&all[1]).unwrap().unwrap();
        assert_eq!(kept.local_addr().unwrap(), at_old);
        assert!(completed.tcp(&all[0]).unwrap().is_some());

        let error = given().completed(&[listener("", at_taken)]).unwrap_err();
        assert!(error.to_string().contains(&at_taken.to_string()), "{error}");
        drop(taken);
    }

    #[test]
    fn what_takes_no_connections_is_no_listener() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        let mut sockets = Sockets::new(vec![("a".to_owned(), udp.into())]);
        let listener = listener("a", address);
        assert!(sockets.tcp(&listener).unwrap().is_none());
        assert!(sockets.udp(&listener, address).unwrap().is_some());
    }

    #[tokio::test]
    async fn a_server_gives_its_sockets_out_while_it_has_them() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.set_nonblocking(true).unwrap();
        let socket = Arc::new(tokio::net::TcpListener::from_std(free).unwrap());
        let address = socket.local_addr().unwrap();
        let mut ports = Ports::default();
        ports.add_tcp(&listener("", "127.0.0.1:0".parse().unwrap()), &socket);
        let mut given = ports.sockets().unwrap();
        assert_eq!(given.names().collect::<Vec<_>>(), ["127.0.0.1:0"]);
        drop(socket);
        assert!(ports.sockets().unwrap().is_empty());
        // A port that was free stays the one it became.
        let again = given.tcp(&listener("", "127.0.0.1:0".parse().unwrap()));
        assert_eq!(again.unwrap().unwrap().local_addr().unwrap(), address);
    }
}
