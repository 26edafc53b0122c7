//! Which of the two dataplanes translates Services on this node, and why: eBPF, or the kernel's nftables.
//!
//! Pods' isolation is eBPF in either case. Where another dataplane is chosen than an earlier agent's, the new one is in
//! force before the old one ends: established connections stay where the kernel can carry them on (ARCHITECTURE.md).

use std::sync::{Mutex, MutexGuard};

use ipnet::IpNet;
use tracing::warn;
use weft_dataplane::net::services::{self, Services};
use weft_model::compile::Step;

use super::node::{Node, lock};

/// What the operator says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Choice {
    /// The fastest that this kernel can do.
    #[default]
    Auto,
    /// At sockets and at links, by eBPF.
    Ebpf,
    /// By rules of nftables and the kernel's connection tracking.
    Nftables,
}

/// What translates Services here; eBPF, if nobody says otherwise.
#[derive(Default)]
pub(super) struct Dataplane {
    /// The rules; `None` with eBPF.
    nftables: Option<Mutex<Services>>,
    why: &'static str,
}

impl Dataplane {
    /// eBPF programs are loaded in any case, so that what they need is there.
    pub(super) fn open(choice: Choice) -> anyhow::Result<Self> {
        let (nftables, why) = match choice {
            Choice::Auto => (None, "this kernel has what it needs"),
            Choice::Ebpf => (None, "--dataplane ebpf"),
            Choice::Nftables => (Some(Mutex::new(Services::open()?)), "--dataplane nftables"),
        };
        Ok(Self { nftables, why })
    }

    fn nftables(&self) -> Option<MutexGuard<'_, Services>> {
        self.nftables.as_ref().map(lock)
    }

    /// True where the kernel's connection tracking has to see every packet of a pod, also between pods of this node.
    pub(super) fn needs_stack(&self) -> bool {
        self.nftables.is_some()
    }

    /// Which, and why; and what it refused.
    pub(super) fn describe(&self) -> String {
        let Some(_) = &self.nftables else {
            return format!("by eBPF ({})", self.why);
        };
        let refused = match services::refusals() {
            Ok(counts) => counts
                .iter()
                .map(|(reason, count)| format!("; {count} packets {reason}"))
                .collect(),
            Err(error) => format!("; {error}"),
        };
        format!("by nftables ({}){refused}", self.why)
    }
}

impl Node {
    /// Takes the steps of one Service, all or none.
    pub(super) fn apply_service(&self, steps: &[Step]) -> anyhow::Result<()> {
        match self.dataplane.nftables() {
            Some(mut services) => Ok(services.apply(steps)?),
            None => Ok(self.datapath().apply_service(steps)?),
        }
    }

    /// Takes the steps of every Service that there is, and removes what none of them wants; an answer for each. Only
    /// then does what the other dataplane may have done until now end.
    pub(super) fn replace_services(&self, all: &[Vec<Step>]) -> anyhow::Result<Vec<anyhow::Result<()>>> {
        if let Some(mut services) = self.dataplane.nftables() {
            let answers = services.replace(all);
            let mut datapath = self.datapath();
            datapath.replace_services(&[])?;
            datapath.set_ranges(&[], &[])?;
            return Ok(answers.into_iter().map(|answer| Ok(answer?)).collect());
        }
        let answers = self.datapath().replace_services(all)?;
        if services::is_there()? {
            services::remove()?;
        }
        Ok(answers.into_iter().map(|answer| Ok(answer?)).collect())
    }

    /// Where Services' addresses are taken from, and where the cluster's pods are.
    pub(super) fn set_service_ranges(&self, services: &[IpNet], pods: &[IpNet]) -> anyhow::Result<()> {
        match self.dataplane.nftables() {
            Some(mut rules) => Ok(rules.set_ranges(services, pods)?),
            None => Ok(self.datapath().set_ranges(services, pods)?),
        }
    }

    /// Puts back rules that somebody has flushed.
    pub(super) fn look_at_service_rules(&self) {
        if let Some(mut services) = self.dataplane.nftables()
            && let Err(error) = services.look()
        {
            warn!("{error}; trying again");
        }
    }
}
