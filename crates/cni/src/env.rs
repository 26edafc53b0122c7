//! The environment variables by which a runtime says what it wants.

use std::collections::HashMap;

use weft_model::cni::{CniError, Command, code};

/// The `CNI_*` variables; an empty one counts as absent.
pub(crate) struct Env(HashMap<String, String>);

/// What `CNI_COMMAND` asks for.
pub(crate) enum Verb {
    /// Which versions are spoken; answered by the plugin itself.
    Version,
    /// Something for the agent.
    Request(Command),
}

/// Which interface of which container.
pub(crate) struct Ids {
    pub(crate) container_id: String,
    pub(crate) ifname: String,
    pub(crate) netns: Option<String>,
}

fn invalid(msg: impl Into<String>, details: impl Into<String>) -> CniError {
    CniError::new(code::ENVIRONMENT, msg, details)
}

impl Env {
    pub(crate) fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::new(std::env::vars_os().filter_map(text))
    }

    fn new(variables: impl Iterator<Item = (String, String)>) -> Self {
        Self(
            variables
                .filter(|(name, value)| name.starts_with("CNI_") && !value.is_empty())
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(crate) fn verb(&self) -> Result<Verb, CniError> {
        let command = match self.get("CNI_COMMAND") {
            Some("ADD") => Command::Add,
            Some("DEL") => Command::Del,
            Some("CHECK") => Command::Check,
            Some("GC") => Command::Gc,
            Some("STATUS") => Command::Status,
            Some("VERSION") => return Ok(Verb::Version),
            Some(other) => {
                let details = "known are ADD, DEL, CHECK, GC, STATUS and VERSION";
                return Err(invalid(format!("unknown CNI_COMMAND: {other}"), details));
            }
            None => {
                let details = "this is a CNI plugin: a container runtime starts it, and sets CNI_COMMAND";
                return Err(invalid("required env variables [CNI_COMMAND] missing", details));
            }
        };
        Ok(Verb::Request(command))
    }

    /// Checks the variables that this command needs; all that are missing are named at once.
    pub(crate) fn identify(&self, command: Command) -> Result<Ids, CniError> {
        let required: &[&str] = match command {
            Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
            Command::Gc | Command::Status => &["CNI_PATH"],
        };
        let missing: Vec<&str> = required
            .iter()
            .copied()
            .filter(|name| self.get(name).is_none())
            .collect();
        if !missing.is_empty() {
            let msg = format!("required env variables [{}] missing", missing.join(","));
            return Err(invalid(msg, "the container runtime has to set them for this command"));
        }
        let container_id = self.get("CNI_CONTAINERID").unwrap_or_default();
        let ifname = self.get("CNI_IFNAME").unwrap_or_default();
        if matches!(command, Command::Add | Command::Del | Command::Check) {
            container(container_id)?;
            interface(ifname)?;
        }
        let netns = self.get("CNI_NETNS").map(str::to_owned);
        Ok(Ids {
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
            netns,
        })
    }

    /// `CNI_ARGS`, such as `K8S_POD_NAMESPACE=default;K8S_POD_NAME=web`. What we do not know is an error, unless
    /// `IgnoreUnknown` is set, or the container is to be disconnected, which nothing may hinder.
    pub(crate) fn args(&self, command: Command) -> Result<Vec<(String, String)>, CniError> {
        let text = self.get("CNI_ARGS").unwrap_or_default();
        let strict = matches!(command, Command::Add | Command::Check);
        let mut args = vec![];
        for part in text.split(';').filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((key, value)) => args.push((key.to_owned(), value.to_owned())),
                None if strict => {
                    let details = "pairs are KEY=VALUE with ';' between them";
                    return Err(invalid(format!("invalid CNI_ARGS pair {part:?}"), details));
                }
                None => {}
            }
        }
        let truth = |value: &str| matches!(value.to_ascii_lowercase().as_str(), "1" | "t" | "true");
        let lenient = args.iter().any(|(key, value)| key == "IgnoreUnknown" && truth(value));
        match args.iter().find(|(key, _)| !KNOWN_ARGS.contains(&key.as_str())) {
            Some((key, _)) if strict && !lenient => {
                let details = format!("known are {}; IgnoreUnknown=1 lets others pass", KNOWN_ARGS.join(", "));
                Err(invalid(format!("unknown argument in CNI_ARGS: {key}"), details))
            }
            _ => Ok(args),
        }
    }
}

/// What we read of `CNI_ARGS`, and what the kubelet's runtimes say besides.
const KNOWN_ARGS: [&str; 7] = [
    "IgnoreUnknown",
    "K8S_POD_NAMESPACE",
    "K8S_POD_NAME",
    "K8S_POD_UID",
    "K8S_POD_INFRA_CONTAINER_ID",
    "IP",
    "MAC",
];

/// Container IDs become file names, so nothing but what the specification allows may pass.
fn container(id: &str) -> Result<(), CniError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.chars().all(allowed) && id.len() <= 128 {
        return Ok(());
    }
    let details = "up to 128 letters, digits, '_', '.' and '-', beginning with a letter or digit";
    Err(invalid(format!("invalid characters in containerID: {id:?}"), details))
}

fn interface(name: &str) -> Result<(), CniError> {
    let bad = |details: &str| Err(invalid(format!("invalid interface name: {name:?}"), details));
    if name.len() > 15 {
        return bad("interface names have at most 15 characters");
    }
    if name == "." || name == ".." {
        return bad("interface name is . or ..");
    }
    if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        return bad("interface name contains / or : or whitespace characters");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        Env::new(pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())))
    }

    fn full(ifname: &str, container: &str) -> Env {
        env(&[
            ("CNI_CONTAINERID", container),
            ("CNI_NETNS", "/n"),
            ("CNI_IFNAME", ifname),
            ("CNI_PATH", "/p"),
        ])
    }

    #[test]
    fn every_missing_variable_is_named() {
        let error = |command| env(&[]).identify(command).err().unwrap();
        assert_eq!(
            error(Command::Add).msg,
            "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing"
        );
        assert_eq!(
            error(Command::Del).msg,
            "required env variables [CNI_CONTAINERID,CNI_IFNAME,CNI_PATH] missing"
        );
        assert_eq!(error(Command::Gc).msg, "required env variables [CNI_PATH] missing");
        assert_eq!(env(&[]).verb().err().unwrap().code, code::ENVIRONMENT);
        assert!(
            env(&[("CNI_COMMAND", "DANCE")])
                .verb()
                .err()
                .unwrap()
                .msg
                .contains("DANCE")
        );
    }

    #[test]
    fn names_that_could_escape_are_refused() {
        assert!(full("eth0", "abc-1.2_3").identify(Command::Add).is_ok());
        for ifname in ["a/b", "a:b", "a b", ".", "..", "sixteencharsxxxx"] {
            assert_eq!(
                full(ifname, "c").identify(Command::Add).err().unwrap().code,
                code::ENVIRONMENT,
                "{ifname}"
            );
        }
        for container in ["../x", ".x", "a/b", "a b", "-x"] {
            assert!(full("eth0", container).identify(Command::Del).is_err(), "{container}");
        }
    }

    #[test]
    fn arguments_are_pairs() {
        let args = |text: &str, command| env(&[("CNI_ARGS", text)]).args(command);
        let pairs = args("IgnoreUnknown=1;K8S_POD_NAME=web;", Command::Add).unwrap();
        assert_eq!(pairs[1], ("K8S_POD_NAME".into(), "web".into()));
        assert_eq!(args("nonsense", Command::Add).err().unwrap().code, code::ENVIRONMENT);
        assert!(args("nonsense", Command::Del).unwrap().is_empty());
        assert!(env(&[]).args(Command::Add).unwrap().is_empty());
    }

    #[test]
    fn unknown_arguments_need_leave() {
        let args = |text: &str, command| env(&[("CNI_ARGS", text)]).args(command);
        let error = args("IP=10.1.0.9;COLOUR=red", Command::Add).err().unwrap();
        assert_eq!(error.code, code::ENVIRONMENT);
        assert!(error.msg.contains("COLOUR"), "{}", error.msg);
        for leave in ["1", "true", "True"] {
            assert_eq!(
                args(&format!("IgnoreUnknown={leave};COLOUR=red"), Command::Add)
                    .unwrap()
                    .len(),
                2
            );
        }
        assert!(args("IgnoreUnknown=0;COLOUR=red", Command::Add).is_err());
        assert_eq!(args("COLOUR=red", Command::Del).unwrap().len(), 1);
    }
}
