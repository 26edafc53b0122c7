//! Which resolvers know the names of the rest of the world.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::Error;

/// The port of DNS.
const PORT: u16 = 53;

/// As many as resolv.conf(5) uses.
const MAX_SERVERS: usize = 3;

/// The name servers of a resolv.conf. Lines that are not understood are none of ours.
pub fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        match words.next().map(str::parse::<IpAddr>) {
            Some(Ok(ip)) if !servers.contains(&SocketAddr::new(ip, PORT)) => servers.push(SocketAddr::new(ip, PORT)),
            Some(Ok(_)) => {}
            _ => tracing::warn!(line, "a nameserver line without an address is ignored"),
        }
    }
    servers.truncate(MAX_SERVERS);
    servers
}

/// Reads a resolv.conf. A file that is not there names no servers.
pub fn read_resolv_conf(path: &Path) -> Result<Vec<SocketAddr>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(parse_resolv_conf(&text)),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::ResolvConf {
            path: path.into(),
            source,
        }),
    }
}

/// The upstreams that are not this very process: asking one's own address would go round for ever.
pub(crate) fn without_self(upstreams: &[SocketAddr], listen: &[SocketAddr]) -> Vec<SocketAddr> {
    let own = |up: &SocketAddr| {
        listen
            .iter()
            .any(|l| l.port() == up.port() && (l.ip() == up.ip() || (l.ip().is_unspecified() && is_local(up))))
    };
    let (own, others): (Vec<_>, Vec<_>) = upstreams.iter().copied().partition(own);
    for upstream in own {
        tracing::warn!(%upstream, "not forwarding to this upstream: it is this process's own address, a loop; \
             point --resolv-conf or --upstream at the resolver behind it");
    }
    others
}

fn is_local(address: &SocketAddr) -> bool {
    address.ip().is_loopback() || address.ip().is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_gives_its_first_three_servers() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 10.0.0.1\nnameserver\tfd00::1 # x\nnameserver nonsense\n\
                    nameserver\nnameserver 10.0.0.1\nnameserver 1.1.1.1\nnameserver 8.8.8.8\noptions ndots:5\n";
        let found: Vec<String> = parse_resolv_conf(text).iter().map(SocketAddr::to_string).collect();
        assert_eq!(found, ["10.0.0.1:53", "[fd00::1]:53", "1.1.1.1:53"]);
    }

    #[test]
    fn a_missing_file_is_no_servers_and_an_unreadable_one_an_error() {
        assert!(
            read_resolv_conf(Path::new("/nonexistent/resolv.conf"))
                .unwrap()
                .is_empty()
        );
        let error = read_resolv_conf(Path::new("/proc")).unwrap_err().to_string();
        assert!(error.contains("/proc") && error.contains("--upstream"), "{error}");
    }

    #[test]
    fn never_itself() {
        let address = |s: &str| s.parse::<SocketAddr>().unwrap();
        let ups = [address("10.0.0.1:53"), address("127.0.0.1:53"), address("9.9.9.9:53")];
        assert_eq!(without_self(&ups, &[address("10.0.0.1:53")]), ups[1..]);
        assert_eq!(without_self(&ups, &[address("0.0.0.0:53")]), [ups[0], ups[2]]);
        assert_eq!(without_self(&ups, &[address("10.0.0.1:54")]), ups);
    }
}
