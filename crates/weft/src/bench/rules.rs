//! Rule sets of the shape that kube-proxy installs, for a number of services with one endpoint each. The measured
//! service is the last; the others lead nowhere.

use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};

/// The port of every service.
pub(super) const PORT: u16 = 80;
const POD_CIDR: &str = "10.244.0.0/16";

/// The address of the n-th service (from 0): 10.96.1.0 and on.
pub(super) fn service_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + number)
}

/// The endpoint of the n-th of `count` services.
pub(super) fn endpoint(number: u32, count: u32, measured: SocketAddrV4) -> SocketAddrV4 {
    if number + 1 == count {
        return measured;
    }
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 128, 0)) + number);
    SocketAddrV4::new(ip, 8080)
}

/// A service as the rules name it: chains have the 16 characters of a hash.
struct Service {
    number: u32,
    ip: Ipv4Addr,
    endpoint: SocketAddrV4,
}

impl Service {
    fn all(count: u32, measured: SocketAddrV4) -> impl Iterator<Item = Self> {
        (0..count).map(move |number| Self {
            number,
            ip: service_ip(number),
            endpoint: endpoint(number, count, measured),
        })
    }
}

/// What `iptables-restore` loads, as kube-proxy in iptables mode writes it.
pub(super) fn iptables(count: u32, measured: SocketAddrV4) -> Result<String, fmt::Error> {
    let mut text = String::from(
        "*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
",
    );
    for Service { number, .. } in Service::all(count, measured) {
        writeln!(text, ":KUBE-SVC-{number:016X} - [0:0]\n:KUBE-SEP-{number:016X} - [0:0]")?;
    }
    text.push_str(
        "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
",
    );
    for Service { number, ip, endpoint } in Service::all(count, measured) {
        let (service, pod) = (format!("KUBE-SVC-{number:016X}"), format!("KUBE-SEP-{number:016X}"));
        let name = format!("default/service-{number}:http");
        let to = endpoint.ip();
        writeln!(
            text,
            "-A KUBE-SERVICES -d {ip}/32 -p tcp -m comment --comment \"{name} cluster IP\" -m tcp --dport {PORT} -j {service}
-A {service} ! -s {POD_CIDR} -d {ip}/32 -p tcp -m comment --comment \"{name} cluster IP\" -m tcp --dport {PORT} -j KUBE-MARK-MASQ
-A {service} -m comment --comment \"{name} -> {endpoint}\" -j {pod}
-A {pod} -s {to}/32 -m comment --comment \"{name}\" -j KUBE-MARK-MASQ
-A {pod} -p tcp -m comment --comment \"{name}\" -m tcp -j DNAT --to-destination {endpoint}"
        )?;
    }
    text.push_str(
        "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
",
    );
    Ok(text)
}

/// What `nft -f` loads, as kube-proxy in nftables mode writes it.
pub(super) fn nftables(count: u32, measured: SocketAddrV4) -> Result<String, fmt::Error> {
    let mut text = String::from(
        "add table ip kube-proxy
table ip kube-proxy {
  set cluster-ips { type ipv4_addr; }
  set nodeport-ips { type ipv4_addr; }
  map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
  map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
  map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  map service-nodeports { type inet_proto . inet_service : verdict; }
  chain mark-for-masquerade { mark set mark or 0x4000; }
  chain masquerading {
    mark and 0x4000 == 0 return
    mark set mark xor 0x4000
    masquerade fully-random
  }
",
    );
    for Service { number, ip, endpoint } in Service::all(count, measured) {
        let to = endpoint.ip();
        writeln!(
            text,
            "  chain endpoint-{number:08X}-default/service-{number}/tcp/http__{to}/{port} {{
    ip saddr {to} jump mark-for-masquerade
    meta l4proto tcp dnat to {endpoint}
  }}
  chain service-{number:08X}-default/service-{number}/tcp/http {{
    ip daddr {ip} tcp dport {PORT} ip saddr != {POD_CIDR} jump mark-for-masquerade
    numgen random mod 1 vmap {{ 0 : goto endpoint-{number:08X}-default/service-{number}/tcp/http__{to}/{port} }}
  }}",
            port = endpoint.port()
        )?;
    }
    text.push_str(
        "  map service-ips {
    type ipv4_addr . inet_proto . inet_service : verdict
    elements = {
",
    );
    for Service { number, ip, .. } in Service::all(count, measured) {
        writeln!(
            text,
            "      {ip} . tcp . {PORT} : goto service-{number:08X}-default/service-{number}/tcp/http,"
        )?;
    }
    text.push_str(
        "    }
  }
  chain services {
    ip daddr . meta l4proto . th dport vmap @service-ips
    ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }
  chain service-endpoints-check {
    ip daddr . meta l4proto . th dport vmap @no-endpoint-services
  }
  chain nodeport-endpoints-check {
    ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
  }
  chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
  chain cluster-ips-check {
    ip daddr @cluster-ips reject
    ip daddr 10.96.0.0/16 drop
  }
  chain filter-prerouting {
    type filter hook prerouting priority -110;
    ct state new jump firewall-check
  }
  chain filter-input {
    type filter hook input priority -110;
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
  }
  chain filter-forward {
    type filter hook forward priority -110;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }
  chain filter-output {
    type filter hook output priority -110;
    ct state new jump service-endpoints-check
    ct state new jump firewall-check
  }
  chain filter-output-post-dnat {
    type filter hook output priority -90;
    ct state new jump cluster-ips-check
  }
  chain nat-prerouting {
    type nat hook prerouting priority -100;
    jump services
  }
  chain nat-output {
    type nat hook output priority -100;
    jump services
  }
  chain nat-postrouting {
    type nat hook postrouting priority 100;
    jump masquerading
  }
}
add element ip kube-proxy cluster-ips {
",
    );
    for Service { ip, .. } in Service::all(count, measured) {
        writeln!(text, "  {ip},")?;
    }
    text.push_str("}\n");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{iptables, nftables, service_ip};

    #[test]
    fn the_last_service_leads_to_the_measured_endpoint() {
        let measured = "10.244.1.2:9000".parse().unwrap();
        let rules = iptables(1000, measured).unwrap();
        let last = rules.lines().rfind(|line| line.contains("DNAT")).unwrap();
        assert!(last.ends_with("--to-destination 10.244.1.2:9000"), "{last}");
        assert_eq!(rules.matches("10.244.1.2:9000").count(), 2);
        assert_eq!(rules.matches("-A KUBE-SERVICES -d ").count(), 1000);
        assert!(rules.contains(&format!("-d {}/32", service_ip(999))));
        let rules = nftables(1000, measured).unwrap();
        assert_eq!(rules.matches("dnat to 10.244.1.2:9000").count(), 1);
        assert_eq!(rules.matches(" . tcp . 80 : goto service-").count(), 1000);
    }
}
