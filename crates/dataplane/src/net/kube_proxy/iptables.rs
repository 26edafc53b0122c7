//! kube-proxy's rules among those of iptables: of either variant, legacy and nf_tables, by the tools that come with it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::Found;
use crate::net::NetError;

/// Each variant and family keeps rules of its own.
const VARIANTS: [&str; 4] = ["iptables-legacy", "iptables-nft", "ip6tables-legacy", "ip6tables-nft"];
/// The kubelet's own (KEP-3178): it would put them back.
const OF_KUBELET: [&str; 4] = [
    "KUBE-FIREWALL",
    "KUBE-IPTABLES-HINT",
    "KUBE-KUBELET-CANARY",
    "KUBE-MARK-DROP",
];

/// Looks where the tools are.
pub(super) fn find() -> Result<Vec<Found>, NetError> {
    let mut found = vec![];
    for variant in VARIANTS {
        let Some(saved) = save(variant)? else { continue };
        let cleanup = cleanup(&saved);
        if cleanup.is_empty() {
            continue;
        }
        found.push(Found {
            what: format!("{variant}: {} chains and {} rules", cleanup.chains, cleanup.rules),
            how: super::How::Iptables(variant, cleanup.script),
        });
    }
    Ok(found)
}

/// Takes the chains away, table by table, each whole or not at all.
pub(super) fn remove(variant: &str, script: &str) -> Result<(), NetError> {
    let tool = format!("{variant}-restore");
    let failed = |source| failed(format!("run {tool}"), source);
    let mut child = Command::new(&tool)
        .arg("--noflush")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes()).map_err(failed)?;
    }
    let done = child.wait_with_output().map_err(failed)?;
    match done.status.success() {
        true => Ok(()),
        false => Err(failed(std::io::Error::other(
            String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        ))),
    }
}

/// All rules; `None` where the tool is not installed, or the kernel has no such tables.
fn save(variant: &str) -> Result<Option<String>, NetError> {
    let tool = format!("{variant}-save");
    match Command::new(&tool).output() {
        Ok(done) if done.status.success() => Ok(Some(String::from_utf8_lossy(&done.stdout).into_owned())),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(format!("run {tool}"), error)),
    }
}

fn failed(what: String, source: std::io::Error) -> NetError {
    NetError::Kernel { what, source }
}

/// What takes kube-proxy's rules away, in the language of iptables-restore.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cleanup {
    chains: usize,
    /// Rules of others' chains that lead to them.
    rules: usize,
    script: String,
}

impl Cleanup {
    fn is_empty(&self) -> bool {
        self.script.is_empty()
    }
}

/// Reads what iptables-save says. Chains are emptied before they are deleted, because they lead to each other.
fn cleanup(saved: &str) -> Cleanup {
    let mut all = Cleanup::default();
    for (table, lines) in tables(saved) {
        let chains: BTreeSet<&str> = lines
            .iter()
            .filter_map(|line| line.strip_prefix(':')?.split_whitespace().next())
            .filter(|chain| is_of_kube_proxy(chain))
            .collect();
        let leads_there = |rule: &&&str| {
            let mut words = rule.split_whitespace();
            let own = words.nth(1).is_some_and(|chain| chains.contains(chain));
            let target = words.skip_while(|word| !matches!(*word, "-j" | "-g")).nth(1);
            !own && target.is_some_and(|target| chains.contains(target))
        };
        let rules: Vec<_> = lines
            .iter()
            .filter(|line| line.starts_with("-A "))
            .filter(leads_there)
            .collect();
        if chains.is_empty() && rules.is_empty() {
            continue;
        }
        all.chains += chains.len();
        all.rules += rules.len();
        let mut script = format!("*{table}\n");
        chains.iter().for_each(|chain| script += &format!(":{chain} - [0:0]\n"));
        for rule in &rules {
            script += &rule.replacen("-A ", "-D ", 1);
            script.push('\n');
        }
        chains.iter().for_each(|chain| script += &format!("-X {chain}\n"));
        all.script += &script;
        all.script += "COMMIT\n";
    }
    all
}

/// Each table with its lines.
fn tables(saved: &str) -> Vec<(&str, Vec<&str>)> {
    let mut tables: Vec<(&str, Vec<&str>)> = vec![];
    for line in saved.lines() {
        match (line.strip_prefix('*'), tables.last_mut()) {
            (Some(table), _) => tables.push((table, vec![])),
            (None, Some((_, lines))) => lines.push(line),
            (None, None) => {}
        }
    }
    tables
}

fn is_of_kube_proxy(chain: &str) -> bool {
    chain.starts_with("KUBE-") && !OF_KUBELET.contains(&chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
# Generated by iptables-save
*nat
:PREROUTING ACCEPT [0:0]
:MINE - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-ERIFXISQEP7F7OF4 - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A PREROUTING -j MINE
-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m udp --dport 53 -j KUBE-SVC-ERIFXISQEP7F7OF4
COMMIT
*filter
:FORWARD ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
-A FORWARD -j KUBE-FIREWALL
COMMIT
";

    #[test]
    fn only_the_chains_of_kube_proxy_go_and_what_leads_to_them() {
        let cleanup = cleanup(SAVED);
        assert_eq!((cleanup.chains, cleanup.rules), (2, 1));
        assert_eq!(
            cleanup.script,
            "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-ERIFXISQEP7F7OF4 - [0:0]\n\
             -D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -X KUBE-SERVICES\n-X KUBE-SVC-ERIFXISQEP7F7OF4\nCOMMIT\n"
        );
        assert!(super::cleanup("").is_empty() && super::cleanup("*nat\n:INPUT ACCEPT [0:0]\nCOMMIT\n").is_empty());
    }
}
