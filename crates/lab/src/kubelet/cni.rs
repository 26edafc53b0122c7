//! Runs the chain of network plugins that `/etc/cni/net.d` asks for, as a container runtime does.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

/// Why the network of a sandbox could not be set up or taken down.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No configuration yet: the network is being installed.
    #[error("cni plugin not initialized")]
    NotInitialized,
    /// The configuration cannot be read.
    #[error("cni config load failed: {path}: {message}; correct or remove the file")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The pod's annotations ask for a limit that is none.
    #[error("get cni namespace options: {0}")]
    Bandwidth(#[from] super::bandwidth::Invalid),
    /// The plugin's binary is not there.
    #[error("failed to find plugin \"{plugin}\" in path [{path}]")]
    Missing {
        /// Its type in the configuration.
        plugin: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The plugin could not be run, or did not speak CNI.
    #[error("plugin type=\"{plugin}\" failed ({command}): {message}")]
    Broken {
        /// Its type.
        plugin: String,
        /// The CNI command.
        command: &'static str,
        /// What happened.
        message: String,
    },
    /// The plugin answered with an error.
    #[error("plugin type=\"{plugin}\" failed ({command}): {message} (code {code})")]
    Refused {
        /// Its type.
        plugin: String,
        /// The CNI command.
        command: &'static str,
        /// CNI error code.
        code: u64,
        /// Its own words.
        message: String,
    },
}

impl Error {
    /// The plugin asked to be called again (code 11).
    pub(super) fn is_temporary(&self) -> bool {
        matches!(self, Self::Refused { code: 11, .. })
    }
}

/// Where configurations and plugins are.
#[derive(Clone, Debug)]
pub(super) struct Cni {
    /// Configurations; the first file in order counts.
    pub(super) conf_dir: PathBuf,
    /// Plugins.
    pub(super) bin_dir: PathBuf,
}

/// A network configuration list, kept as it was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Network {
    name: String,
    version: String,
    plugins: Vec<Value>,
    /// Several runtimes share the network, none of which knows the others' sandboxes.
    #[serde(default)]
    no_gc: bool,
}

impl Network {
    /// Whether its plugins know STATUS and GC, which 1.1.0 brought.
    fn knows_status(&self) -> bool {
        numbers(&self.version) >= vec![1, 1]
    }
}

/// `1.1.0` in a form that can be compared.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

/// Which sandbox is meant, in the words of the CNI environment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Target {
    /// CNI_CONTAINERID.
    pub(super) id: String,
    /// CNI_NETNS.
    pub(super) netns: PathBuf,
    /// CNI_ARGS.
    pub(super) args: String,
    /// What plugins may ask for through `capabilities`.
    pub(super) capabilities: Value,
}

/// A network that a sandbox was added to: all that a later DEL needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Attachment {
    network: Network,
    target: Target,
    result: Value,
}

impl Attachment {
    /// An attachment that is still to be made.
    pub(super) fn new(network: Network, target: Target) -> Self {
        Self {
            network,
            target,
            result: Value::Null,
        }
    }

    /// The attachment as GC is told of it.
    fn reference(&self) -> Value {
        json!({"containerID": self.target.id, "ifname": INTERFACE})
    }

    /// Whether the sandbox has been added.
    pub(super) fn is_complete(&self) -> bool {
        !self.result.is_null()
    }

    /// The addresses the sandbox was given, in the plugin's order.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let new_style = self.result["ips"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|ip| &ip["address"]);
        let old_style = ["ip4", "ip6"].map(|family| &self.result[family]["ip"]);
        new_style
            .chain(old_style)
            .filter_map(|address| address.as_str()?.split('/').next()?.parse().ok())
            .collect()
    }
}

impl Cni {
    /// Reads the configuration that counts now.
    pub(super) fn network(&self) -> Result<Network, Error> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(&self.conf_dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let extension = path.extension().and_then(|extension| extension.to_str());
                matches!(extension, Some("conf" | "conflist" | "json"))
            })
            .collect();
        files.sort();
        let path = files.into_iter().next().ok_or(Error::NotInitialized)?;
        let text = std::fs::read(&path).map_err(|error| Error::Config {
            path: path.clone(),
            message: error.to_string(),
        })?;
        parse(&text).map_err(|message| Error::Config { path, message })
    }

    /// Adds a sandbox to the network that `attachment` was made for; on failure what was done is undone.
    pub(super) async fn add(&self, attachment: &mut Attachment) -> Result<(), Error> {
        for plugin in attachment.network.plugins.clone() {
            match self.invoke("ADD", attachment, &plugin).await {
                Ok(Value::Null) => {
                    return Err(Error::Broken {
                        plugin: plugin["type"].as_str().unwrap_or_default().to_owned(),
                        command: "ADD",
                        message: "it returned no result".to_owned(),
                    });
                }
                Ok(result) => attachment.result = result,
                Err(error) => {
                    if let Err(undo) = self.del(attachment).await {
                        tracing::debug!(id = attachment.target.id, error = %undo, "undoing a failed CNI ADD");
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Takes a sandbox off its network.
    pub(super) async fn del(&self, attachment: &Attachment) -> Result<(), Error> {
        for plugin in attachment.network.plugins.iter().rev() {
            self.invoke("DEL", attachment, plugin).await?;
        }
        Ok(())
    }

    /// Asks the plugins whether they could add a sandbox now.
    pub(super) async fn status(&self, network: &Network) -> Result<(), Error> {
        for plugin in network.plugins.iter().filter(|_| network.knows_status()) {
            let config = configuration(network, plugin, &Value::Null, &Value::Null);
            self.call("STATUS", plugin, config, &[]).await?;
        }
        Ok(())
    }

    /// Has the plugins free whatever belongs to none of these. Not beside ADD and DEL. Goes on where one fails.
    pub(super) async fn gc(&self, network: &Network, in_use: &[Attachment]) -> Result<(), Error> {
        let valid: Vec<Value> = in_use.iter().map(Attachment::reference).collect();
        let mut outcome = Ok(());
        for plugin in network
            .plugins
            .iter()
            .filter(|_| network.knows_status() && !network.no_gc)
        {
            let mut config = configuration(network, plugin, &Value::Null, &Value::Null);
            config["cni.dev/valid-attachments"] = valid.clone().into();
            outcome = outcome.and(self.call("GC", plugin, config, &[]).await.map(drop));
        }
        outcome
    }

    async fn invoke(&self, command: &'static str, to: &Attachment, plugin: &Value) -> Result<Value, Error> {
        let config = configuration(&to.network, plugin, &to.target.capabilities, &to.result);
        let environment = [
            ("CNI_CONTAINERID", OsStr::new(&to.target.id)),
            ("CNI_NETNS", to.target.netns.as_os_str()),
            ("CNI_IFNAME", OsStr::new(INTERFACE)),
            ("CNI_ARGS", OsStr::new(&to.target.args)),
        ];
        self.call(command, plugin, config, &environment).await
    }

    async fn call(
        &self,
        command: &'static str,
        plugin: &Value,
        config: Value,
        environment: &[(&str, &OsStr)],
    ) -> Result<Value, Error> {
        let kind = plugin["type"].as_str().unwrap_or_default();
        let broken = |message: String| Error::Broken {
            plugin: kind.to_owned(),
            command,
            message,
        };
        let binary = self.bin_dir.join(kind);
        if kind.contains('/') || !binary.is_file() {
            return Err(Error::Missing {
                plugin: kind.to_owned(),
                path: self.bin_dir.clone(),
            });
        }
        let config = config.to_string();
        let mut child = tokio::process::Command::new(&binary)
            .env("CNI_COMMAND", command)
            .envs(environment.iter().copied())
            .env("CNI_PATH", &self.bin_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| broken(format!("cannot start {}: {error}", binary.display())))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that refuses early may not read it all; its answer says why.
            stdin.write_all(config.as_bytes()).await.ok();
        }
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
            .await
            .map_err(|_| broken(format!("no answer within {} s", PATIENCE.as_secs())))?
            .map_err(|error| broken(error.to_string()))?;
        if output.status.success() {
            if output.stdout.iter().all(u8::is_ascii_whitespace) {
                return Ok(Value::Null);
            }
            return serde_json::from_slice(&output.stdout)
                .map_err(|error| broken(format!("its result is not valid JSON: {error}")));
        }
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        match answer["code"].as_u64() {
            Some(code) => Err(Error::Refused {
                plugin: kind.to_owned(),
                command,
                code,
                message: [&answer["msg"], &answer["details"]]
                    .into_iter()
                    .filter_map(|part| part.as_str().filter(|part| !part.is_empty()))
                    .collect::<Vec<_>>()
                    .join("; "),
            }),
            None => {
                let text = String::from_utf8_lossy(&output.stderr);
                Err(broken(format!(
                    "netplugin failed with {}: {}",
                    output.status,
                    text.trim()
                )))
            }
        }
    }
}

const INTERFACE: &str = "eth0";

/// The newest version of CNI that is spoken here.
const NEWEST: &str = "1.1.0";

/// How long a plugin may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one plugin gets on its standard input.
fn configuration(network: &Network, plugin: &Value, capabilities: &Value, previous: &Value) -> Value {
    let mut config = plugin.clone();
    config["name"] = network.name.clone().into();
    config["cniVersion"] = network.version.clone().into();
    let asked = plugin["capabilities"].as_object().into_iter().flatten();
    let runtime: serde_json::Map<String, Value> = asked
        .filter(|(_, wanted)| wanted.as_bool() == Some(true))
        .filter_map(|(name, _)| Some((name.clone(), capabilities.get(name)?.clone())))
        .collect();
    if !runtime.is_empty() {
        config["runtimeConfig"] = Value::Object(runtime);
    }
    if let Some(config) = config.as_object_mut() {
        config.remove("capabilities");
    }
    if !previous.is_null() {
        config["prevResult"] = previous.clone();
    }
    config
}

/// Reads a configuration list, or a single configuration as a list of one.
fn parse(text: &[u8]) -> Result<Network, String> {
    let config: Value = serde_json::from_slice(text).map_err(|error| format!("not valid JSON: {error}"))?;
    let name = match config["name"].as_str() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => return Err("error parsing configuration list: no name".to_owned()),
    };
    let plugins = match &config["plugins"] {
        Value::Array(plugins) if plugins.is_empty() => {
            return Err("error parsing configuration list: no plugins in list".to_owned());
        }
        Value::Array(plugins) => plugins.clone(),
        Value::Null if config["type"].is_string() => vec![config.clone()],
        Value::Null => return Err("error parsing configuration list: no 'plugins' key".to_owned()),
        _ => return Err("error parsing configuration list: 'plugins' is not a list".to_owned()),
    };
    if let Some(at) = plugins
        .iter()
        .position(|plugin| plugin["type"].as_str().is_none_or(str::is_empty))
    {
        return Err(format!("error parsing configuration list: plugin {at} has no 'type'"));
    }
    let version = match &config["cniVersion"] {
        Value::Null => "0.1.0".to_owned(),
        Value::String(version) => version.clone(),
        _ => return Err("error parsing configuration list: 'cniVersion' is not a string".to_owned()),
    };
    // The newest that both sides know.
    let more = config["cniVersions"].as_array().into_iter().flatten();
    let more = more
        .filter_map(Value::as_str)
        .filter(|version| numbers(version) <= numbers(NEWEST));
    let version = more
        .map(str::to_owned)
        .chain([version])
        .max_by_key(|version| numbers(version));
    Ok(Network {
        name,
        version: version.unwrap_or_default(),
        plugins,
        no_gc: config["disableGC"] == true,
    })
}

/// CNI_ARGS of a pod.
pub(super) fn pod_args(namespace: &str, name: &str, uid: &str, sandbox: &str) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
         K8S_POD_INFRA_CONTAINER_ID={sandbox};K8S_POD_UID={uid}"
    )
}

/// One `hostPort`, as the `portMappings` capability wants it.
pub(super) fn port_mapping(host_ip: &str, host_port: i32, container_port: i32, protocol: &str) -> Value {
    json!({
        "hostPort": host_port,
        "containerPort": container_port,
        "protocol": protocol.to_ascii_lowercase(),
        "hostIP": host_ip,
    })
}

#[cfg(test)]
mod tests;
