//! The files a kubelet writes for a pod: `/etc/resolv.conf`, `/etc/hosts`, `/etc/hostname`.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use super::config::Config;

/// A host name has at most this many characters on Linux.
const LONGEST_HOSTNAME: usize = 63;

/// What a pod's own name is: `spec.hostname`, or its name, cut to what the kernel takes.
pub(super) fn hostname(pod: &Pod) -> String {
    let set = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.hostname.as_deref())
        .filter(|name| !name.is_empty());
    let name = set.or(pod.metadata.name.as_deref()).unwrap_or("pod");
    let end = name.len().min(LONGEST_HOSTNAME);
    name[..end].trim_end_matches(['-', '.']).to_owned()
}

/// The fully qualified name of a pod that has a subdomain.
pub(super) fn fqdn(pod: &Pod, config: &Config) -> Option<String> {
    let subdomain = pod
        .spec
        .as_ref()?
        .subdomain
        .as_deref()
        .filter(|name| !name.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref()?;
    Some(format!(
        "{}.{subdomain}.{namespace}.svc.{}",
        hostname(pod),
        config.cluster_domain
    ))
}

/// `/etc/hosts` of a pod; `node_hosts` is the node's own file.
pub(super) fn hosts(pod: &Pod, config: &Config, ips: &[IpAddr], node_hosts: &str) -> String {
    let spec = pod.spec.as_ref();
    let mut text = if spec.and_then(|spec| spec.host_network) == Some(true) {
        format!("# Kubernetes-managed hosts file (host network).\n{node_hosts}")
    } else {
        let mut text = "# Kubernetes-managed hosts file.\n\
            127.0.0.1\tlocalhost\n\
            ::1\tlocalhost ip6-localhost ip6-loopback\n\
            fe00::0\tip6-localnet\n\
            fe00::0\tip6-mcastprefix\n\
            fe00::1\tip6-allnodes\n\
            fe00::2\tip6-allrouters\n"
            .to_owned();
        for ip in ips {
            match fqdn(pod, config) {
                Some(fqdn) => text.push_str(&format!("{ip}\t{fqdn}\t{}\n", hostname(pod))),
                None => text.push_str(&format!("{ip}\t{}\n", hostname(pod))),
            }
        }
        text
    };
    let mut aliases = spec
        .and_then(|spec| spec.host_aliases.as_ref())
        .into_iter()
        .flatten()
        .peekable();
    if aliases.peek().is_some() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>();
        text.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
    }
    text
}

/// The parts of a resolver configuration.
#[derive(Debug, Default)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// `/etc/resolv.conf` of a pod; `node` is the node's own file.
pub(super) fn resolv_conf(pod: &Pod, config: &Config, node: &str) -> String {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let policy = spec
        .and_then(|spec| spec.dns_policy.as_deref())
        .unwrap_or("ClusterFirst");
    let node = read_resolver(node);
    let mut resolver = match policy {
        "None" => Resolver::default(),
        "ClusterFirstWithHostNet" => cluster_resolver(pod, config, node),
        "ClusterFirst" if !host_network => cluster_resolver(pod, config, node),
        _ => node,
    };
    if let Some(own) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        let add = |to: &mut Vec<String>, from: &Option<Vec<String>>| {
            for item in from.iter().flatten() {
                if !to.contains(item) {
                    to.push(item.clone());
                }
            }
        };
        add(&mut resolver.nameservers, &own.nameservers);
        add(&mut resolver.searches, &own.searches);
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            resolver.options.retain(|had| had.split(':').next() != Some(name));
            resolver.options.push(match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            });
        }
    }
    let mut text = String::new();
    if !resolver.searches.is_empty() {
        text.push_str(&format!("search {}\n", resolver.searches.join(" ")));
    }
    for server in &resolver.nameservers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !resolver.options.is_empty() {
        text.push_str(&format!("options {}\n", resolver.options.join(" ")));
    }
    text
}

fn cluster_resolver(pod: &Pod, config: &Config, node: Resolver) -> Resolver {
    let domain = &config.cluster_domain;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut searches = vec![
        format!("{namespace}.svc.{domain}"),
        format!("svc.{domain}"),
        domain.clone(),
    ];
    searches.extend(node.searches);
    Resolver {
        nameservers: config.cluster_dns.iter().map(IpAddr::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

fn read_resolver(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => resolver.nameservers.extend(words.next()),
            Some("search" | "domain") => resolver.searches = words.filter(|word| word != ".").collect(),
            Some("options") => resolver.options = words.collect(),
            _ => {}
        }
    }
    resolver
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec})).unwrap()
    }

    const NODE: &str = "# host\nnameserver 192.0.2.1\nsearch example.org\noptions timeout:1\n";

    #[test]
    fn resolv_conf_follows_the_policy() {
        let config = Config::new("/x", "node-1");
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local example.org\n\
                       nameserver 10.96.0.10\noptions ndots:5\n";
        let node = "search example.org\nnameserver 192.0.2.1\noptions timeout:1\n";
        for (spec, expected) in [
            (json!({}), cluster),
            (json!({"dnsPolicy": "Default"}), node),
            (json!({"hostNetwork": true, "dnsPolicy": "ClusterFirst"}), node),
            (
                json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                cluster,
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a.b"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "search a.b\nnameserver 1.1.1.1\noptions ndots:2 edns0\n",
            ),
        ] {
            assert_eq!(resolv_conf(&pod(spec.clone()), &config, NODE), expected, "{spec}");
        }
        let merged = resolv_conf(
            &pod(json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}})),
            &config,
            "",
        );
        assert!(merged.ends_with("options ndots:1\n"), "{merged}");
    }

    #[test]
    fn hosts_names_every_address() {
        let config = Config::new("/x", "node-1");
        let ips = ["10.244.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        let text = hosts(&pod(json!({"subdomain": "db"})), &config, &ips, "");
        assert!(
            text.contains("10.244.0.5\tweb-0.db.shop.svc.cluster.local\tweb-0\n"),
            "{text}"
        );
        assert!(text.contains("fd00::5\tweb-0.db"), "{text}");
        let aliases = json!({"hostNetwork": true, "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]});
        let text = hosts(&pod(aliases), &config, &ips, "127.0.0.1\tlocalhost\n");
        assert!(
            text.starts_with("# Kubernetes-managed hosts file (host network).\n127.0.0.1"),
            "{text}"
        );
        assert!(text.ends_with("1.2.3.4\ta\tb\n") && !text.contains("10.244"), "{text}");
    }

    #[test]
    fn hostname_is_cut() {
        let mut long = pod(json!({}));
        long.metadata.name = Some(format!("{}-x", "a".repeat(62)));
        assert_eq!(hostname(&long), "a".repeat(62));
        assert_eq!(hostname(&pod(json!({"hostname": "h"}))), "h");
    }
}
