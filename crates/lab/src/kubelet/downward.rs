//! The downward API: what a pod may learn about itself, as variables and as files.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use super::quantity;

/// A pod and what only its node knows about it.
#[derive(Debug)]
pub(super) struct Downward<'a> {
    pub(super) pod: &'a Pod,
    pub(super) pod_ips: &'a [IpAddr],
    pub(super) host_ips: &'a [IpAddr],
    /// Stands in where a container sets no limit, in thousandths of a core.
    pub(super) node_cpu_milli: i128,
    /// Stands in where a container sets no limit, in bytes.
    pub(super) node_memory: i128,
}

impl<'a> Downward<'a> {
    /// Of a pod without addresses.
    #[cfg(test)]
    pub(super) fn bare(pod: &'a Pod) -> Self {
        Self {
            pod,
            pod_ips: &[],
            host_ips: &[],
            node_cpu_milli: 2000,
            node_memory: 1 << 30,
        }
    }

    /// The value of a `fieldRef`.
    pub(super) fn field(&self, path: &str) -> Result<String, String> {
        let metadata = &self.pod.metadata;
        let spec = self.pod.spec.as_ref();
        let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
        let all = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
        if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
            let map = match map {
                "metadata.labels" => &metadata.labels,
                "metadata.annotations" => &metadata.annotations,
                _ => return Err(format!("unsupported fieldPath: {path}")),
            };
            return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
        }
        Ok(match path {
            "metadata.name" => metadata.name.clone().unwrap_or_default(),
            "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
            "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
            "metadata.labels" => lines(metadata.labels.iter().flatten()),
            "metadata.annotations" => lines(metadata.annotations.iter().flatten()),
            "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            "spec.serviceAccountName" => spec
                .and_then(|spec| spec.service_account_name.clone())
                .unwrap_or_else(|| "default".to_owned()),
            "status.hostIP" => first(self.host_ips),
            "status.hostIPs" => all(self.host_ips),
            "status.podIP" => first(self.pod_ips),
            "status.podIPs" => all(self.pod_ips),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        })
    }

    /// The value of a `resourceFieldRef` in this container, or in the one it names.
    pub(super) fn resource(&self, container: &Container, selector: &ResourceFieldSelector) -> Result<String, String> {
        let containers = self
            .pod
            .spec
            .iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        let container = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => containers
                .into_iter()
                .find(|container| container.name == name)
                .ok_or_else(|| format!("container {name} not found"))?,
            None => container,
        };
        let resources = container.resources.as_ref();
        let (bound, name) = selector.resource.split_once('.').unwrap_or_default();
        let set = match bound {
            "limits" => resources.and_then(|r| r.limits.as_ref()?.get(name)),
            "requests" => resources.and_then(|r| r.requests.as_ref()?.get(name)),
            _ => return Err(format!("unsupported container resource : {}", selector.resource)),
        };
        let value = match (set, bound, name) {
            (Some(set), ..) => quantity::milli(&set.0).ok_or_else(|| format!("malformed quantity {}", set.0))?,
            (None, "limits", "cpu") => self.node_cpu_milli,
            (None, "limits", "memory") => self.node_memory * 1000,
            (None, ..) => 0,
        };
        let divisor = selector
            .divisor
            .as_ref()
            .and_then(|divisor| quantity::milli(&divisor.0))
            .unwrap_or(0);
        Ok(quantity::divided(value, divisor).to_string())
    }
}

/// A map as the files of the downward API show it: one `key="value"` per line.
fn lines<'a>(map: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    map.map(|(key, value)| format!("{key}={value:?}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_resources() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"app": "a \"b\"", "x": "y"}},
            "spec": {"nodeName": "node-1", "containers": [
                {"name": "c", "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}}]}}))
        .unwrap();
        let ips = ["10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap()];
        let downward = Downward {
            pod_ips: &ips,
            ..Downward::bare(&pod)
        };
        for (path, value) in [
            ("metadata.labels['app']", "a \"b\""),
            ("metadata.labels['none']", ""),
            ("metadata.labels", "app=\"a \\\"b\\\"\"\nx=\"y\""),
            ("status.podIP", "10.1.2.3"),
            ("status.podIPs", "10.1.2.3,fd00::3"),
            ("spec.nodeName", "node-1"),
            ("spec.serviceAccountName", "default"),
        ] {
            assert_eq!(downward.field(path).as_deref(), Ok(value), "{path}");
        }
        assert!(downward.field("spec.hostname").is_err());
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let resource = |resource: &str, divisor: &str| {
            let selector = serde_json::from_value(json!({"resource": resource, "divisor": divisor})).unwrap();
            downward.resource(container, &selector)
        };
        assert_eq!(resource("limits.memory", "1Mi").as_deref(), Ok("64"));
        assert_eq!(resource("requests.cpu", "1m").as_deref(), Ok("250"));
        assert_eq!(resource("requests.cpu", "0").as_deref(), Ok("1"));
        assert_eq!(resource("limits.cpu", "1").as_deref(), Ok("2"));
        assert!(resource("cpu", "1").is_err());
    }
}
