//! CNI plugins as a runtime calls them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::bench::netns::Netns;

/// Where Weft's plugin is on a node, and its configuration.
const OURS: &str = "/opt/cni/bin";
pub(in crate::bench) const CONFLIST: &str = "/etc/cni/net.d/10-weft.conflist";
/// How long the agent of a node that has just started may take until it can take pods.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where Debian puts the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";

/// What a runtime asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Verb {
    Add,
    Del,
    Version,
    Status,
}

/// A plugin with its configuration.
pub(in crate::bench) struct Plugin {
    pub(in crate::bench) name: &'static str,
    pub(in crate::bench) ours: bool,
    binary: PathBuf,
    path: &'static str,
    config: String,
}

impl Plugin {
    /// The one of this node, with the configuration that its agent has installed.
    pub(in crate::bench) fn weft() -> Result<Self> {
        let start = Instant::now();
        while !Path::new(CONFLIST).exists() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
        let text = std::fs::read(CONFLIST).with_context(|| format!("the agent has not installed {CONFLIST}"))?;
        let list: Value = serde_json::from_slice(&text).with_context(|| format!("cannot decode {CONFLIST}"))?;
        let mut config = list["plugins"][0].clone();
        ensure!(config.is_object(), "{CONFLIST} has no plugin");
        config["name"] = list["name"].clone();
        config["cniVersion"] = "1.1.0".into();
        Ok(Self {
            name: "Weft",
            ours: true,
            binary: Path::new(OURS).join("weft-cni"),
            path: OURS,
            config: config.to_string(),
        })
    }

    /// A routed pair for each container, as Weft's.
    pub(in crate::bench) fn ptp() -> Result<Self> {
        Self::reference("ptp + host-local", "ptp", &json!({}))
    }

    /// A bridge for all.
    pub(in crate::bench) fn bridge() -> Result<Self> {
        let bridge = json!({"bridge": "bench0", "isGateway": true});
        Self::reference("bridge + host-local", "bridge", &bridge)
    }

    /// IPv4 alone: with IPv6 their ADD waits for two seconds, until the kernel has looked for duplicates.
    fn reference(name: &'static str, kind: &str, extra: &Value) -> Result<Self> {
        let binary = Path::new(REFERENCE).join(kind);
        if !binary.exists() {
            bail!(
                "{} is missing; on Debian: apt-get install containernetworking-plugins",
                binary.display()
            );
        }
        let mut config = json!({
            "cniVersion": "1.0.0", "name": format!("bench-{kind}"), "type": kind,
            "ipam": {
                "type": "host-local", "dataDir": "/run/bench-cni",
                "ranges": [[{"subnet": "10.245.0.0/23"}]],
                "routes": [{"dst": "0.0.0.0/0"}]
            }
        });
        if let (Some(config), Some(extra)) = (config.as_object_mut(), extra.as_object()) {
            config.extend(extra.clone());
        }
        Ok(Self {
            name,
            ours: false,
            binary,
            path: REFERENCE,
            config: config.to_string(),
        })
    }

    /// Calls it, and gives the milliseconds from starting it until it has ended.
    pub(in crate::bench) fn call(&self, verb: Verb, container: &str, netns: Option<&Netns>) -> Result<f64> {
        let mut command = Command::new(&self.binary);
        command
            .env_clear()
            .env("CNI_PATH", self.path)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        match verb {
            Verb::Version => command.env("CNI_COMMAND", "VERSION"),
            Verb::Status => command.env("CNI_COMMAND", "STATUS"),
            Verb::Add => command.env("CNI_COMMAND", "ADD"),
            Verb::Del => command.env("CNI_COMMAND", "DEL"),
        };
        if matches!(verb, Verb::Add | Verb::Del) {
            command.env("CNI_CONTAINERID", container).env("CNI_IFNAME", "eth0");
            command.envs(netns.map(|netns| ("CNI_NETNS", netns.path())));
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let start = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        let mut stdin = child.stdin.take().context("the plugin has no input")?;
        // For VERSION some plugins read nothing; what is wrong with the others, they say.
        let _ = stdin.write_all(self.config.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().context("cannot wait for the plugin")?;
        let took = start.elapsed();
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            bail!(
                "{verb:?} of {container} by {} failed: {}",
                self.name,
                String::from_utf8_lossy(&said)
            );
        }
        Ok(took.as_secs_f64() * 1e3)
    }
}
