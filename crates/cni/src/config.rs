//! The network configuration that a runtime writes to standard input.

use std::path::PathBuf;

use serde_json::Value;
use weft_model::cni::{AddResult, AttachmentId, CniError, Command, Dns, RuntimeConfig, SUPPORTED_VERSIONS, code};

const AGENT_SOCKET: &str = "/run/weft/cni.sock";
const SPOOL_DIR: &str = "/run/weft/cni-spool";

/// What the plugin needs to know of the configuration.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) version: String,
    pub(crate) agent_socket: PathBuf,
    pub(crate) spool_dir: PathBuf,
    pub(crate) mtu: Option<u32>,
    pub(crate) prev_result: Option<AddResult>,
    pub(crate) runtime: RuntimeConfig,
    /// Name servers that the pod's result is to name.
    pub(crate) dns: Dns,
    pub(crate) valid_attachments: Vec<AttachmentId>,
}

/// Any JSON object.
pub(crate) fn decode(input: &str) -> Result<Value, CniError> {
    let failed = |details: String| CniError::new(code::DECODE, "cannot decode the network configuration", details);
    let value: Value = serde_json::from_str(input).map_err(|error| {
        failed(format!(
            "standard input is not JSON: {error}; check the file in /etc/cni/net.d"
        ))
    })?;
    match value.is_object() {
        true => Ok(value),
        false => Err(failed(
            "standard input must be a JSON object with cniVersion, name and type".into(),
        )),
    }
}

/// The configuration's version, if it can be found at all.
pub(crate) fn version_of(input: &str) -> Option<String> {
    Some(
        serde_json::from_str::<Value>(input)
            .ok()?
            .get("cniVersion")?
            .as_str()?
            .to_owned(),
    )
}

impl Config {
    pub(crate) fn parse(input: &str, command: Command) -> Result<Self, CniError> {
        let value = decode(input)?;
        let version = version(&value, command)?;
        network_name(&value)?;
        unsupported(&value)?;
        let prev_result = match value.get("prevResult").filter(|previous| !previous.is_null()) {
            Some(previous) if matches!(command, Command::Add | Command::Check) => Some(field(previous, "prevResult")?),
            None if command == Command::Check => {
                return Err(invalid(
                    "prevResult",
                    "CHECK needs the result of ADD; the runtime has to pass it",
                ));
            }
            _ => None,
        };
        let runtime = runtime(&value)?;
        let dns: Dns = optional(&value, "dns")?;
        Ok(Self {
            version,
            agent_socket: path(&value, "agentSocket", AGENT_SOCKET)?,
            spool_dir: path(&value, "spoolDir", SPOOL_DIR)?,
            mtu: value
                .get("mtu")
                .filter(|mtu| !mtu.is_null())
                .map(mtu)
                .transpose()?
                .filter(|mtu| *mtu > 0),
            prev_result,
            dns: match dns.is_empty() {
                true => runtime.dns.clone().unwrap_or_default(),
                false => dns,
            },
            runtime,
            valid_attachments: match command {
                Command::Gc => valid_attachments(&value)?,
                _ => vec![],
            },
        })
    }
}

fn invalid(name: &str, problem: &str) -> CniError {
    CniError::new(code::CONFIG, format!("invalid network configuration: {name}"), problem)
}

fn field<T: serde::de::DeserializeOwned>(value: &Value, name: &str) -> Result<T, CniError> {
    serde_json::from_value(value.clone()).map_err(|error| invalid(name, &error.to_string()))
}

/// A field that may be absent or null.
fn optional<T: serde::de::DeserializeOwned + Default>(value: &Value, name: &str) -> Result<T, CniError> {
    match value.get(name) {
        None | Some(Value::Null) => Ok(T::default()),
        Some(found) => field(found, name),
    }
}

/// What would be ignored, although the one who wrote it counts on it.
fn unsupported(value: &Value) -> Result<(), CniError> {
    let refused = |key: &str, found: &Value, remedy: &str| {
        let msg = format!("unsupported field in the network configuration: {key} = {found}");
        Err(CniError::new(code::FIELD, msg, remedy))
    };
    if let Some(ipam) = value.get("ipam").filter(|ipam| ipam.get("type").is_some()) {
        let remedy = "Weft gives addresses itself, from the node's pod CIDRs or from IPPools; remove the field";
        return refused("ipam", ipam, remedy);
    }
    let device = value.pointer("/runtimeConfig/deviceID");
    match device.filter(|device| !device.is_null() && *device != "") {
        Some(device) => refused(
            "runtimeConfig.deviceID",
            device,
            "Weft makes a link of its own; remove the capability, or use a plugin that moves devices",
        ),
        None => Ok(()),
    }
}

/// `runtimeConfig`, and what the older convention `args.cni` says of addresses where it says nothing.
fn runtime(value: &Value) -> Result<RuntimeConfig, CniError> {
    let mut runtime: RuntimeConfig = optional(value, "runtimeConfig")?;
    if let Some(args) = value.pointer("/args/cni") {
        if runtime.ips.is_empty() {
            runtime.ips = optional(args, "ips")?;
        }
        if runtime.mac.is_none() {
            runtime.mac = optional(args, "mac")?;
        }
    }
    Ok(runtime)
}

/// Null is an empty list, as Go programs write it. But a list that is not there is a mistake: everything would be
/// disconnected.
fn valid_attachments(value: &Value) -> Result<Vec<AttachmentId>, CniError> {
    // The second is what the specification called it for a while.
    let name = ["cni.dev/valid-attachments", "cni.dev/attachments"]
        .into_iter()
        .find(|name| value.get(*name).is_some())
        .ok_or_else(|| {
            invalid(
                "cni.dev/valid-attachments",
                "GC needs the list of what is in use; the runtime has to pass it",
            )
        })?;
    optional(value, name)
}

/// CHECK is younger than ADD, GC and STATUS are younger still.
fn version(value: &Value, command: Command) -> Result<String, CniError> {
    let refused = |found: &str, supported: &[&str]| {
        let details = format!("config is {found:?}, plugin supports {supported:?}");
        Err(CniError::new(code::VERSION, "incompatible CNI versions", details))
    };
    let since = match command {
        Command::Add | Command::Del => 0,
        Command::Check => 2,
        Command::Gc | Command::Status => 4,
    };
    let supported = &SUPPORTED_VERSIONS[since..];
    match value.get("cniVersion") {
        Some(Value::String(version)) if supported.contains(&version.as_str()) => Ok(version.clone()),
        Some(Value::String(version)) => refused(version, supported),
        None => refused("", supported),
        Some(other) => refused(&other.to_string(), supported),
    }
}

fn network_name(value: &Value) -> Result<(), CniError> {
    let Some(name) = value
        .get("name")
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty())
    else {
        return Err(invalid("name", "missing network name"));
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    match name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(allowed) {
        true => Ok(()),
        false => Err(invalid(
            "name",
            "only letters, digits, '_', '.' and '-', beginning with a letter or digit",
        )),
    }
}

fn path(value: &Value, name: &str, default: &str) -> Result<PathBuf, CniError> {
    match value.get(name) {
        None | Some(Value::Null) => Ok(default.into()),
        Some(Value::String(path)) if path.starts_with('/') => Ok(path.into()),
        Some(other) => Err(invalid(name, &format!("expected an absolute path, found {other}"))),
    }
}

fn mtu(value: &Value) -> Result<u32, CniError> {
    match value.as_u64().map(u32::try_from) {
        Some(Ok(mtu)) if mtu == 0 || (1280..=65_535).contains(&mtu) => Ok(mtu),
        _ => Err(invalid(
            "mtu",
            &format!("expected 1280 to 65535, or 0 for the uplink's, found {value}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str, command: Command) -> Result<Config, CniError> {
        Config::parse(text, command)
    }

    #[test]
    fn defaults_and_settings() {
        let bare = parse(
            r#"{"cniVersion":"1.1.0","name":"weft","type":"weft-cni"}"#,
            Command::Add,
        )
        .unwrap();
        assert_eq!(bare.agent_socket, PathBuf::from(AGENT_SOCKET));
        assert_eq!(bare.mtu, None);
        let set = r#"{"cniVersion":"1.0.0","name":"weft","type":"weft-cni","agentSocket":"/x/s","spoolDir":"/x/d","mtu":1400}"#;
        let set = parse(set, Command::Del).unwrap();
        assert_eq!(
            (set.agent_socket, set.spool_dir, set.mtu),
            ("/x/s".into(), "/x/d".into(), Some(1400))
        );
    }

    #[test]
    fn name_servers_come_from_the_configuration_or_else_from_the_runtime() {
        let runtime = r#""runtimeConfig":{"dns":{"servers":["10.96.0.10"]},"ips":["10.1.0.9/24"]}"#;
        let text = |extra: &str| format!(r#"{{"cniVersion":"1.1.0","name":"weft",{runtime}{extra}}}"#);
        let config = parse(&text(""), Command::Add).unwrap();
        assert_eq!(config.dns.nameservers, ["10.96.0.10"]);
        assert_eq!(config.runtime.ips.len(), 1);
        let config = parse(&text(r#","dns":{"nameservers":["10.0.0.1"]}"#), Command::Add).unwrap();
        assert_eq!(config.dns.nameservers, ["10.0.0.1"]);
        let args = r#"{"cniVersion":"1.1.0","name":"n","args":{"cni":{"ips":["10.1.0.9"],"mac":"02:00:00:00:00:09"}}}"#;
        let config = parse(args, Command::Add).unwrap();
        assert_eq!(config.runtime.mac.as_deref(), Some("02:00:00:00:00:09"));
        assert_eq!(config.runtime.ips[0].to_string(), "10.1.0.9");
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for (extra, key) in [
            (r#""ipam":{"type":"host-local"}"#, "ipam"),
            (r#""runtimeConfig":{"deviceID":"0000:04:00.5"}"#, "0000:04:00.5"),
        ] {
            let error = parse(&format!(r#"{{"cniVersion":"1.1.0","name":"n",{extra}}}"#), Command::Add).unwrap_err();
            assert_eq!(error.code, code::FIELD);
            assert!(error.msg.contains(key), "{}", error.msg);
        }
        assert!(
            parse(
                r#"{"cniVersion":"1.1.0","name":"n","ipam":{},"disableGC":true}"#,
                Command::Add
            )
            .is_ok()
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z0-9./:]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-zA-Z]{1,8}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever stands in the fields that we read, it is understood or refused with one of three codes.
        #[test]
        fn any_configuration_is_understood_or_refused(
            fields in proptest::collection::btree_map(
                prop_oneof![
                    Just("prevResult"), Just("runtimeConfig"), Just("dns"), Just("ipam"), Just("args"), Just("mtu"),
                    Just("agentSocket"), Just("spoolDir"), Just("cni.dev/valid-attachments"), Just("cniVersion"), Just("name"),
                ],
                any_json(),
                0..5,
            ),
            command in prop_oneof![Just(Command::Add), Just(Command::Del), Just(Command::Check), Just(Command::Gc)],
        ) {
            let mut config = serde_json::json!({"cniVersion": "1.1.0", "name": "weft"});
            for (name, value) in fields {
                config[name] = value;
            }
            if let Err(error) = parse(&config.to_string(), command) {
                prop_assert!(matches!(error.code, code::VERSION | code::FIELD | code::CONFIG), "{error:?}");
                prop_assert!(!error.msg.is_empty() && !error.details.is_empty());
            }
        }

        #[test]
        fn any_text_is_refused_at_most(text in ".{0,200}") {
            let _ = parse(&text, Command::Add);
            let _ = version_of(&text);
        }
    }

    #[test]
    fn gc_without_its_list_frees_nothing() {
        let gc = |extra: &str| parse(&format!(r#"{{"cniVersion":"1.1.0","name":"n"{extra}}}"#), Command::Gc);
        assert_eq!(gc("").unwrap_err().code, code::CONFIG);
        assert_eq!(
            gc(r#","cni.dev/valid-attachments":null"#).unwrap().valid_attachments,
            []
        );
        let list = r#"[{"containerID":"c","ifname":"eth0"}]"#;
        for name in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            assert_eq!(gc(&format!(r#","{name}":{list}"#)).unwrap().valid_attachments.len(), 1);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let code_of = |text: &str, command| {
            let error = parse(text, command).unwrap_err();
            (error.code, format!("{} - {}", error.msg, error.details))
        };
        assert_eq!(code_of("{", Command::Add).0, code::DECODE);
        assert_eq!(code_of("[]", Command::Add).0, code::DECODE);
        let (code, text) = code_of(r#"{"cniVersion":"9.9.9","name":"n"}"#, Command::Add);
        assert_eq!(code, code::VERSION);
        assert!(text.contains("9.9.9") && text.contains("1.1.0"), "{text}");
        assert_eq!(code_of(r#"{"name":"n"}"#, Command::Add).0, code::VERSION);
        assert_eq!(code_of(r#"{"cniVersion":1,"name":"n"}"#, Command::Add).0, code::VERSION);
        assert_eq!(
            code_of(r#"{"cniVersion":"0.3.1","name":"n"}"#, Command::Check).0,
            code::VERSION
        );
        assert_eq!(
            code_of(r#"{"cniVersion":"1.0.0","name":"n"}"#, Command::Gc).0,
            code::VERSION
        );
        assert_eq!(code_of(r#"{"cniVersion":"1.0.0"}"#, Command::Add).0, code::CONFIG);
        assert_eq!(
            code_of(r#"{"cniVersion":"1.0.0","name":"a/b"}"#, Command::Add).0,
            code::CONFIG
        );
        assert_eq!(
            code_of(r#"{"cniVersion":"1.0.0","name":"n"}"#, Command::Check).0,
            code::CONFIG
        );
        let (code, text) = code_of(r#"{"cniVersion":"1.0.0","name":"n","agentSocket":7}"#, Command::Add);
        assert_eq!(code, code::CONFIG);
        assert!(text.contains("agentSocket") && text.contains("found 7"), "{text}");
        assert_eq!(
            code_of(r#"{"cniVersion":"1.0.0","name":"n","mtu":"big"}"#, Command::Add).0,
            code::CONFIG
        );
    }
}
