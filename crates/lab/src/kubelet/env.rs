//! The environment, command and arguments of a container.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Service};

use super::downward::Downward;

/// The ConfigMaps and Secrets a container's environment refers to, by name; absent ones are not in it.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) config_maps: HashMap<String, ConfigMap>,
    pub(super) secrets: HashMap<String, Secret>,
}

/// Names of the ConfigMaps and of the Secrets that a container's environment refers to.
pub(super) fn references(container: &Container) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for from in container.env_from.iter().flatten() {
        config_maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
    }
    for value in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
        config_maps.extend(value.config_map_key_ref.iter().map(|r| r.name.clone()));
        secrets.extend(value.secret_key_ref.iter().map(|r| r.name.clone()));
    }
    (config_maps, secrets)
}

/// Variables in order, a later one of the same name replacing the earlier.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Environment {
    names: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Environment {
    /// Sets a variable.
    pub(super) fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let name = name.into();
        if self.values.insert(name.clone(), value.into()).is_none() {
            self.names.push(name);
        }
    }

    /// Its value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// All as `NAME=value`.
    pub(super) fn lines(&self) -> Vec<String> {
        self.names
            .iter()
            .map(|name| format!("{name}={}", self.values[name]))
            .collect()
    }

    /// Replaces `$(NAME)` by the variable's value where it is known; `$$` stands for one dollar.
    pub(super) fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
                match self.get(name) {
                    Some(value) => out.push_str(value),
                    None => out.push_str(&format!("$({name})")),
                }
                rest = after;
            } else {
                out.push('$');
            }
        }
        out + rest
    }
}

/// Builds a container's environment on top of its image's.
pub(super) fn build(
    image: &[String],
    container: &Container,
    services: &[Service],
    sources: &Sources,
    downward: &Downward<'_>,
) -> Result<Environment, String> {
    let mut env = Environment::default();
    env.set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    for (name, value) in image.iter().filter_map(|line| line.split_once('=')) {
        env.set(name, value);
    }
    for service in services {
        service_variables(&mut env, service);
    }
    env_from(&mut env, container, sources)?;
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => Some(env.expand(value)),
            (_, Some(from)) => value_from(from, container, sources, downward)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            env.set(&variable.name, value);
        }
    }
    Ok(env)
}

fn env_from(env: &mut Environment, container: &Container, sources: &Sources) -> Result<(), String> {
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match sources.config_maps.get(&reference.name) {
                Some(found) => {
                    for (key, value) in found.data.iter().flatten() {
                        env.set(format!("{prefix}{key}"), value);
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap \"{}\" not found", reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.secrets.get(&reference.name) {
                Some(found) => {
                    for (key, value) in found.data.iter().flatten() {
                        env.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0));
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret \"{}\" not found", reference.name)),
            }
        }
    }
    Ok(())
}

fn value_from(
    from: &k8s_openapi::api::core::v1::EnvVarSource,
    container: &Container,
    sources: &Sources,
    downward: &Downward<'_>,
) -> Result<Option<String>, String> {
    if let Some(field) = &from.field_ref {
        return downward.field(&field.field_path).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return downward.resource(container, resource).map(Some);
    }
    let (kind, name, key, optional, found, value) = if let Some(key) = &from.config_map_key_ref {
        let source = sources.config_maps.get(&key.name);
        let value = source.and_then(|found| found.data.as_ref()?.get(&key.key).cloned());
        ("configmap", &key.name, &key.key, key.optional, source.is_some(), value)
    } else if let Some(key) = &from.secret_key_ref {
        let source = sources.secrets.get(&key.name);
        let value = source.and_then(|found| found.data.as_ref()?.get(&key.key));
        let value = value.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
        ("secret", &key.name, &key.key, key.optional, source.is_some(), value)
    } else {
        return Err("invalid valueFrom: no known source".to_owned());
    };
    match value {
        Some(value) => Ok(Some(value)),
        None if optional == Some(true) => Ok(None),
        None if found => Err(format!("couldn't find key {key} in {kind} {name}")),
        None => Err(format!("{kind} \"{name}\" not found")),
    }
}

/// The services whose variables a pod gets: those of its namespace unless it asked not to, and the API server's.
pub(super) fn visible_services(pod: &Pod, all: &[Service]) -> Vec<Service> {
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links) != Some(false);
    let namespace = pod.metadata.namespace.as_deref();
    let has_address = |service: &Service| {
        let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
        address.is_some_and(|address| !address.is_empty() && address != "None")
    };
    let is_api = |service: &Service| {
        service.metadata.namespace.as_deref() == Some("default")
            && service.metadata.name.as_deref() == Some("kubernetes")
    };
    let own = |service: &Service| links && service.metadata.namespace.as_deref() == namespace;
    let mut services: Vec<Service> = all
        .iter()
        .filter(|s| has_address(s) && (is_api(s) || own(s)))
        .cloned()
        .collect();
    services.sort_by(|a, b| (!is_api(a), &a.metadata.name).cmp(&(!is_api(b), &b.metadata.name)));
    services
}

fn service_variables(env: &mut Environment, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let name = shell_name(service.metadata.name.as_deref().unwrap_or_default());
    let address = spec.cluster_ip.as_deref().unwrap_or_default();
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    for (at, port) in spec.ports.iter().flatten().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_ascii_lowercase(), port.port);
        if at == 0 {
            env.set(format!("{name}_SERVICE_HOST"), address);
            env.set(format!("{name}_SERVICE_PORT"), port.port.to_string());
            env.set(format!("{name}_PORT"), &url);
        }
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            env.set(
                format!("{name}_SERVICE_PORT_{}", shell_name(port_name)),
                port.port.to_string(),
            );
        }
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        env.set(&prefix, url);
        env.set(format!("{prefix}_PROTO"), protocol.to_ascii_lowercase());
        env.set(format!("{prefix}_PORT"), port.port.to_string());
        env.set(format!("{prefix}_ADDR"), address);
    }
}

fn shell_name(name: &str) -> String {
    name.replace('-', "_").to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn typed<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn expansion() {
        let mut env = Environment::default();
        env.set("A", "1");
        for (text, expanded) in [
            ("x$(A)y", "x1y"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("a$$", "a$"),
        ] {
            assert_eq!(env.expand(text), expanded, "{text}");
        }
    }

    #[test]
    fn order_and_sources() {
        let pod: Pod = typed(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": []}}));
        let container: Container = typed(json!({"name": "c",
            "envFrom": [{"prefix": "X_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "gone", "optional": true}}],
            "env": [
                {"name": "PLAIN", "value": "$(X_K)-$(KUBERNETES_SERVICE_HOST)"},
                {"name": "X_K", "value": "later"},
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "MAYBE", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "no", "optional": true}}}]}));
        let mut sources = Sources::default();
        sources
            .config_maps
            .insert("cm".into(), typed(json!({"data": {"K": "v"}})));
        sources
            .secrets
            .insert("s".into(), typed(json!({"data": {"k": "c2VjcmV0"}})));
        let all: Vec<Service> = vec![
            typed(json!({"metadata": {"name": "kubernetes", "namespace": "default"},
                "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}})),
            typed(
                json!({"metadata": {"name": "my-db", "namespace": "n"}, "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 53, "protocol": "UDP"}]}}),
            ),
            typed(json!({"metadata": {"name": "headless", "namespace": "n"}, "spec": {"clusterIP": "None"}})),
            typed(
                json!({"metadata": {"name": "else", "namespace": "m"}, "spec": {"clusterIP": "10.96.0.8", "ports": [{"port": 1}]}}),
            ),
        ];
        let services = visible_services(&pod, &all);
        let env = build(
            &["HOME=/x".into()],
            &container,
            &services,
            &sources,
            &Downward::bare(&pod),
        )
        .unwrap();
        let expected = [
            ("HOME", "/x"),
            ("X_K", "later"),
            ("PLAIN", "v-10.96.0.1"),
            ("NAME", "p"),
            ("KEY", "secret"),
            ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
            ("KUBERNETES_PORT_443_TCP", "tcp://10.96.0.1:443"),
            ("MY_DB_PORT_53_UDP_ADDR", "10.96.0.7"),
            ("MY_DB_PORT", "udp://10.96.0.7:53"),
        ];
        for (name, value) in expected {
            assert_eq!(env.get(name), Some(value), "{name}");
        }
        for name in ["MAYBE", "HEADLESS_SERVICE_HOST", "ELSE_SERVICE_HOST"] {
            assert_eq!(env.get(name), None, "{name}");
        }
        let missing: Container = typed(json!({"name": "c", "envFrom": [{"configMapRef": {"name": "nope"}}]}));
        let error = build(&[], &missing, &[], &sources, &Downward::bare(&pod)).unwrap_err();
        assert_eq!(error, "configmap \"nope\" not found");
    }
}
