//! What an operator may say about the way between nodes. Everything has a default that is probed or registered.

use ipnet::IpNet;
use weft_dataplane::net::tunnel::{self, Encapsulation};
use weft_model::compile::Routing;

use super::routes::Settings;

/// Flags of the routes.
#[derive(clap::Args)]
pub(super) struct Routes {
    /// How other nodes are reached: by a tunnel if they are not on a segment of this node, never, or always.
    #[arg(long, value_enum, default_value = "auto")]
    routing: Way,
    /// How packets are wrapped in a tunnel. The same on all nodes.
    #[arg(long, value_enum, default_value = "vxlan")]
    tunnel: Wrapping,
    /// The tunnel's UDP port, the same on all nodes: 4789 for VXLAN and 6081 for Geneve, if not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    tunnel_port: Option<u16>,
    /// Number of the tunnel's virtual network, the same on all nodes.
    #[arg(long, default_value_t = tunnel::DEFAULT_VNI, value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    tunnel_vni: u32,
    /// Where pods keep their own address although it is outside of the cluster; may be repeated. The pods and nodes of
    /// the cluster and what is link-local are so in any case.
    #[arg(long, value_name = "CIDR")]
    non_masquerade_cidr: Vec<IpNet>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Way {
    Auto,
    Direct,
    #[value(alias = "vxlan")]
    Tunnel,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Wrapping {
    Vxlan,
    Geneve,
    Ipip,
}

impl Routes {
    /// What they say.
    pub(super) fn settings(&self) -> Settings {
        let tunnel = tunnel::Config::new(match self.tunnel {
            Wrapping::Vxlan => Encapsulation::Vxlan,
            Wrapping::Geneve => Encapsulation::Geneve,
            Wrapping::Ipip => Encapsulation::Ipip,
        });
        Settings {
            routing: match self.routing {
                Way::Auto => Routing::Auto,
                Way::Direct => Routing::Direct,
                Way::Tunnel => Routing::Tunnel,
            },
            tunnel: tunnel::Config {
                port: self.tunnel_port.unwrap_or(tunnel.port),
                vni: self.tunnel_vni,
                ..tunnel
            },
            excluded: self.non_masquerade_cidr.clone(),
        }
    }
}
