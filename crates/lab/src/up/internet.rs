//! What is beyond the lab's network: a server in a namespace of its own, on addresses that are for documentation and lead
//! nowhere, behind a router that translates as those at the edge of a site do. No packet leaves the machine.
//!
//! ```text
//! pod -- node, which masquerades -- segment's bridge | router, which does so again | 198.51.100.1 -- server
//! ```

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use ipnet::IpNet;

use super::daemon::{Daemon, Place};
use super::{Error, Lab, Spec, cgroup, netns, segment};
use crate::families::Families;

/// The last part of the router's and of the server's addresses.
const ROUTER: u8 = 1;
const SERVER: u8 = 10;
/// The router's interface.
pub(super) const OUTSIDE: &str = "outside";

/// The addresses of the router, as the server sees whoever comes through it; the primary family's first.
pub fn router(families: Families) -> Vec<IpNet> {
    addresses(families, ROUTER)
}

/// The addresses of the server. It speaks HTTP at port 80.
pub fn server(families: Families) -> Vec<IpNet> {
    addresses(families, SERVER)
}

/// Of TEST-NET-2 (RFC 5737) and of the range of RFC 3849.
fn addresses(families: Families, last: u8) -> Vec<IpNet> {
    let v4 = Ipv4Addr::new(198, 51, 100, last);
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into());
    families.pick(IpNet::new_assert(v4.into(), 24), IpNet::new_assert(v6.into(), 64))
}

/// Connects the segments' namespace to it and starts the server.
pub(super) fn start(lab: &Lab, spec: &Spec, segments: &File) -> Result<(), Error> {
    let internet = netns::create(&lab.internet_netns())?;
    segment::connect(segments, &internet, spec)?;
    netns::inside(segments, || load(RULES))?;
    let server = Daemon {
        program: spec.weft.clone(),
        args: ["lab", "serve", "--http", "80"].map(str::to_owned).to_vec(),
        cgroup: cgroup::of_control(lab, "internet")?,
        log: lab.log("internet", None),
        place: Place::Network(internet),
    };
    server.keep().map(drop)
}

/// What goes there takes the router's address; what comes from there, to a node or to a balanced address, keeps its own.
const RULES: &str = "table inet weft-lab {
    chain postrouting {
        type nat hook postrouting priority srcnat;
        oifname outside masquerade
    }
}
";

/// Has the kernel take nftables rules, in the network namespace of this thread.
pub(super) fn load(rules: &str) -> Result<(), Error> {
    let run = || -> std::io::Result<std::process::Output> {
        let mut nft = Command::new("nft");
        nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = nft.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(rules.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = run().map_err(Error::io("run (it is in the package nftables)", "nft"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Nft(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn router_and_server_share_a_subnet() {
        for families in [Families::Dual, Families::Ipv4, Families::Ipv6] {
            for (router, server) in router(families).iter().zip(server(families)) {
                assert!(router.contains(&server.addr()) && router.addr() != server.addr());
                assert!(families.has(server.addr()));
            }
        }
    }
}
