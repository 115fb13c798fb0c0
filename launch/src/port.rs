//! A port of this machine that nobody else gets before rank 0 listens on it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};

/// A port held by a socket that is bound but does not listen.
///
/// The kernel gives such a port to no other process that asks for any free one, nor to outgoing
/// connections. Rank 0 may still listen on it, because both sockets set SO_REUSEADDR, as every
/// server library does; so the rank needs to know nothing of this.
#[derive(Debug)]
pub(crate) struct ReservedPort {
    port: u16,
    _socket: OwnedFd,
}

impl ReservedPort {
    /// Any free port, on IPv6 and IPv4 where the machine has both.
    pub(crate) fn new() -> std::io::Result<Self> {
        Self::bound(AddressFamily::INET6, (Ipv6Addr::UNSPECIFIED, 0).into())
            .or_else(|_| Self::bound(AddressFamily::INET, (Ipv4Addr::UNSPECIFIED, 0).into()))
    }

    fn bound(family: AddressFamily, address: SocketAddr) -> std::io::Result<Self> {
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_socket_reuseaddr(&socket, true)?;
        if family == AddressFamily::INET6 {
            set_ipv6_v6only(&socket, false)?;
        }
        bind(&socket, &address)?;
        let port = SocketAddr::try_from(getsockname(&socket)?)?.port();
        Ok(Self { port, _socket: socket })
    }

    /// Its number.
    pub(crate) fn number(&self) -> u16 {
        self.port
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_reserved_port_can_be_listened_on_and_is_given_to_nobody_else() {
        let reserved = ReservedPort::new().unwrap();
        let others: Vec<_> = (0..200).map(|_| ReservedPort::new().unwrap()).collect();
        let listeners: Vec<_> =
            (0..200).map(|_| TcpListener::bind(("0.0.0.0", 0)).unwrap()).collect();
        let numbers: BTreeSet<u16> = (others.iter().map(ReservedPort::number))
            .chain(listeners.iter().map(|one| one.local_addr().unwrap().port()))
            .collect();
        assert_eq!(numbers.len(), 400);
        assert!(!numbers.contains(&reserved.number()));
        let listener = TcpListener::bind(("0.0.0.0", reserved.number())).unwrap();
        let address = ("127.0.0.1", reserved.number());
        let _connection = std::net::TcpStream::connect(address).unwrap();
        assert!(listener.accept().is_ok());
    }
}
