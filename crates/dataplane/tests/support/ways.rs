//! The ways that packets can take between two nodes with this machine's kernel: encapsulations, over IPv4 and over IPv6.

use std::net::IpAddr;
use std::process::Command;
use std::sync::LazyLock;

use ipnet::IpNet;
use weft_dataplane::net::tunnel::{Config, Encapsulation};
use weft_model::compile::{NextHop, Routes};

use super::Netns;
use super::segments::ips;

/// Set where scripts/with-debian-kernel runs these tests, on a kernel that lacks nothing.
const COMPLETE: &str = "WEFT_COMPLETE_KERNEL";

/// An encapsulation, over IPv4 or over IPv6.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) config: Config,
    pub(crate) over_ipv6: bool,
}

impl Way {
    pub(crate) fn new(encapsulation: Encapsulation, over_ipv6: bool) -> Self {
        let config = Config::new(encapsulation);
        Self { config, over_ipv6 }
    }

    /// The addresses of the node on this segment; its tunnel ends at the first.
    pub(crate) fn ips(self, number: u8) -> [IpAddr; 2] {
        let mut ips = ips(number);
        if self.over_ipv6 {
            ips.reverse();
        }
        ips
    }

    /// IPIP over IPv4 carries nothing else.
    pub(crate) fn carries(self, to: &str) -> bool {
        self.config.encapsulation != Encapsulation::Ipip || self.over_ipv6 || !to.contains(':')
    }

    /// The routes to the pods and to the node of a segment.
    pub(crate) fn to(self, number: u8) -> Routes {
        let end = self.ips(number)[0];
        let [v4, v6] = ips(number);
        let pods = [format!("10.244.{number}.0/24"), format!("fd00:{number}::/64")];
        let mut routes: Routes = [v4, v6].map(|ip| (ip.into(), NextHop::PodsTunnel(end))).into();
        routes.extend(pods.map(|range| (range.parse::<IpNet>().unwrap(), NextHop::Tunnel(end))));
        routes.retain(|to, _| self.carries(&to.to_string()));
        routes
    }
}

/// True where this kernel has all that an encapsulation needs. Loads its modules.
pub(crate) fn has(encapsulation: Encapsulation) -> bool {
    let kinds: &[&str] = match encapsulation {
        Encapsulation::Vxlan => &["vxlan"],
        Encapsulation::Geneve => &["geneve"],
        Encapsulation::Ipip => &["ipip", "ip6tnl"],
    };
    let makes = |kind: &&'static str| {
        let args = ["link", "add", "probe", "type", kind, "external"];
        Netns::new().run(move || Command::new("ip").args(args).output().unwrap().status.success())
    };
    let has = kinds.iter().all(makes);
    assert!(
        has || std::env::var_os(COMPLETE).is_none(),
        "this kernel has no {encapsulation}"
    );
    has
}

/// All that there are. Tests that count links ask before: with the module of IPIP, every namespace gets one.
pub(crate) static WAYS: LazyLock<Vec<Way>> = LazyLock::new(|| {
    let all = [Encapsulation::Vxlan, Encapsulation::Geneve, Encapsulation::Ipip];
    let there = all.into_iter().filter(|encapsulation| has(*encapsulation));
    there
        .flat_map(|encapsulation| [false, true].map(|over_ipv6| Way::new(encapsulation, over_ipv6)))
        .collect()
});
