//! `weft explain service`: what a node does for a Service and why, beside what each mode of kube-proxy would have
//! installed there for the same objects. The rules are `model`'s; here they are asked for and printed.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use weft_model::compile::{self, Choice, Forwarding, Frontend, FrontendKind, Rule, Source, Target, WhenEmpty};
use weft_model::explain::{Here, iptables, ipvs, nftables, verdicts};
use weft_model::{Change, EndpointSlice, Node, ObjectKey, Service, State};

use crate::which_cluster::Cluster;

/// Command line.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// A Service: its addresses, its endpoints with why each is in or out, and kube-proxy's rules for the same.
    Service {
        /// NAMESPACE/NAME; without a namespace it is `default`.
        name: String,
        /// As this node has it; the first by name where none is said.
        #[arg(long)]
        node: Option<String>,
        /// Leave kube-proxy out.
        #[arg(long)]
        brief: bool,
        #[command(flatten)]
        cluster: Cluster,
    },
}

/// Runs the command.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let What::Service {
        name,
        node,
        brief,
        cluster,
    } = args.what;
    let (namespace, name) = name.split_once('/').unwrap_or(("default", &name));
    let key = ObjectKey::new(namespace, name);
    let kubeconfig = cluster.kubeconfig();
    let kubeconfig = kubeconfig.map_err(|problem| anyhow!("{}; {}", problem.message, problem.remedy))?;
    let changes = crate::block_on(async {
        let client = weft_cluster::connect(Some(&kubeconfig)).await?;
        weft_cluster::ask::service(&client, &key).await
    })??;
    say!("{}", Explained::new(key, node, changes)?.text(brief).trim_end());
    Ok(ExitCode::SUCCESS)
}

/// A Service as one node has it.
struct Explained {
    service: Service,
    node: Node,
    slices: Vec<EndpointSlice>,
    forwarding: Forwarding,
}

impl Explained {
    fn new(key: ObjectKey, node: Option<String>, changes: Vec<Change>) -> anyhow::Result<Self> {
        let (mut service, mut slices, mut nodes) = (None, Vec::new(), Vec::new());
        for change in &changes {
            match change {
                Change::Service(found) => service = Some(found.clone()),
                Change::EndpointSlice(slice) => slices.push(slice.clone()),
                Change::Node(node) => nodes.push(node.clone()),
                _ => {}
            }
        }
        let service = service.with_context(|| format!("there is no Service {key}; see: kubectl get services -A"))?;
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let found = match &node {
            Some(name) => nodes.into_iter().find(|node| node.name == *name),
            None => nodes.into_iter().next(),
        };
        let Some(found) = found else {
            bail!("there is no node {}; see: kubectl get nodes", node.unwrap_or_default());
        };
        let mut state = State::new(found.name.clone());
        for change in changes {
            state.apply(change);
        }
        Ok(Self {
            forwarding: compile::service(&state, &key),
            node: found,
            service,
            slices,
        })
    }

    fn text(&self, brief: bool) -> String {
        let mut text = format!("Service {} on {}\n", self.service.key, self.node.name);
        if self.forwarding.frontends.is_empty() {
            text += "  No address leads anywhere: it is headless, a name only, without an address yet, or another proxy's\n  \
                (label service.kubernetes.io/service-proxy-name).\n";
            return text;
        }
        text += "\nWeft: one lookup finds the address, one more an endpoint, however many there are\n";
        for (frontend, rule) in &self.forwarding.frontends {
            self.frontend(&mut text, frontend, rule);
        }
        self.endpoints(&mut text);
        if !brief {
            self.kube_proxy(&mut text);
        }
        text
    }

    fn frontend(&self, text: &mut String, frontend: &Frontend, rule: &Rule) {
        let kind = match rule.kind {
            FrontendKind::ClusterIp => "cluster address",
            FrontendKind::NodePort => "at every address of the node",
            FrontendKind::LoadBalancer => "load balancer's address",
            FrontendKind::ExternalIp => "external address",
        };
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {frontend}, {kind}");
        let _ = writeln!(text, "    from the node and its pods: {}", self.target(&rule.inside));
        let _ = writeln!(text, "    from elsewhere:             {}", self.target(&rule.outside));
        if let Some(timeout) = rule.affinity {
            let _ = writeln!(
                text,
                "    a client keeps its endpoint until it is silent for {} s",
                timeout.as_secs()
            );
        }
        if let Some(ranges) = &rule.source_ranges {
            let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "    only for {}; others get no answer", ranges.join(", "));
        }
    }

    fn target(&self, target: &Target) -> String {
        let count = self.forwarding.sets.get(&target.set).map_or(0, Vec::len);
        let whose = match target.set.choice {
            Choice::Cluster => "",
            Choice::Local => " of this node",
        };
        let source = match target.source {
            Source::Keep => "with the client's source",
            Source::Masquerade => "with the node's source",
        };
        match (count, target.when_empty) {
            (0, WhenEmpty::Refuse) => "no endpoint: refused".into(),
            (0, WhenEmpty::Drop) => format!("no endpoint{whose}: no answer"),
            (1, _) => format!("1 endpoint{whose}, {source}"),
            _ => format!("{count} endpoints{whose}, {source}"),
        }
    }

    fn endpoints(&self, text: &mut String) {
        for port in &self.service.ports {
            let all = verdicts(&self.forwarding, port, &self.slices, &self.node.name);
            let _ = writeln!(
                text,
                "\nEndpoints of port {}/{}: {}",
                port.port,
                port.protocol,
                all.len()
            );
            for verdict in all {
                let place = match verdict.chosen.as_slice() {
                    [] => "out",
                    [Choice::Local] => "in, for policy Local",
                    _ => "in",
                };
                let backend = std::net::SocketAddr::new(verdict.backend.ip, verdict.backend.port).to_string();
                let node = verdict.node.unwrap_or_else(|| "-".into());
                let _ = writeln!(text, "  {backend:<24} {node:<10} {place}: {}", verdict.why);
            }
        }
    }

    fn kube_proxy(&self, text: &mut String) {
        let here = Here {
            addresses: self.node.internal_ips.clone(),
            pods: self.node.pod_cidrs.clone(),
        };
        let mut mode = |title: &str, made: Option<String>| {
            if let Some(made) = made {
                let _ = write!(
                    text,
                    "\n{title}\n{}",
                    made.lines().map(|line| format!("  {line}\n")).collect::<String>()
                );
            }
        };
        let (service, forwarding) = (&self.service, &self.forwarding);
        for (ipv6, family) in [(false, "IPv4"), (true, "IPv6")] {
            mode(
                &format!("kube-proxy, mode iptables, {family}: every rule before the right one is tried"),
                iptables(service, forwarding, ipv6, &here),
            );
            mode(
                &format!("kube-proxy, mode nftables, {family}: one lookup, then a random number"),
                nftables(service, forwarding, ipv6, &here),
            );
            mode(
                &format!("kube-proxy, mode ipvs, {family}: a virtual server for each address"),
                ipvs(service, forwarding, ipv6, &here),
            );
        }
    }
}
