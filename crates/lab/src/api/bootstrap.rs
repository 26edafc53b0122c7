//! The objects that every cluster has from the start.

use serde_json::{Value, json};

use super::ApiServer;
use super::accept::Accept;
use super::call::{Call, Target};
use super::query::Query;
use super::status::Status;
use super::strategy::Part;
use super::{admission, meta};

const NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

impl ApiServer {
    /// Makes what is missing; what is there stays as it is, but the API's own endpoint is corrected.
    pub(super) fn bootstrap(&self) -> Result<(), Status> {
        for name in NAMESPACES {
            self.ensure("", "v1", "namespaces", None, json!({ "metadata": { "name": name } }))?;
        }
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let families = self.config.families;
        let own = families.primary("10.96.0.1", "fd00:10:96::1");
        let service = json!({
            "metadata": {"name": "kubernetes", "labels": labels},
            "spec": {
                "type": "ClusterIP", "clusterIP": own, "clusterIPs": [own],
                "ipFamilies": [families.primary("IPv4", "IPv6")], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster",
                "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": self.config.advertise.port()}],
            },
        });
        self.ensure("", "v1", "services", Some("default"), service)?;
        let address = self.config.advertise.ip().to_string();
        let ports = json!([{"name": "https", "port": self.config.advertise.port(), "protocol": "TCP"}]);
        let endpoints = json!({
            "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": [{"ip": address}], "ports": ports}],
        });
        self.ensure("", "v1", "endpoints", Some("default"), endpoints)?;
        let slice = json!({
            "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": if self.config.advertise.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": ports,
        });
        self.ensure("discovery.k8s.io", "v1", "endpointslices", Some("default"), slice)?;
        self.service_cidr()
    }

    /// The network of Services, and that it is in use: nobody but the server itself can say so.
    fn service_cidr(&self) -> Result<(), Status> {
        let object = json!({
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": admission::service_ranges(self.config.families)},
        });
        self.ensure("networking.k8s.io", "v1", "servicecidrs", None, object)?;
        let mut call = self.own_call("networking.k8s.io", "v1", "servicecidrs", None)?;
        call.target.name = Some("kubernetes".to_owned());
        let ready = json!({
            "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": meta::now(),
            "message": "Kubernetes default Service CIDR is ready",
        });
        self.modify(&call, Part::Status, |old| {
            let mut new = old.clone();
            if new["status"]["conditions"].is_null() {
                new["status"] = json!({"conditions": [ready]});
            }
            Ok(new)
        })?;
        Ok(())
    }

    fn ensure(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<(), Status> {
        let call = self.own_call(group, version, plural, namespace)?;
        match self.create(&call, object) {
            Err(status) if status.reason != "AlreadyExists" => Err(status),
            _ => Ok(()),
        }
    }

    /// A request of the server to itself, about the resource as a whole.
    fn own_call(&self, group: &str, version: &str, plural: &str, namespace: Option<&str>) -> Result<Call, Status> {
        let registry = self.registry();
        let resource = registry
            .find(group, version, plural)
            .ok_or_else(Status::no_such_path)?
            .clone();
        let target = Target {
            resource,
            namespace: namespace.map(str::to_owned),
            name: None,
            subresource: String::new(),
            rest: String::new(),
        };
        Ok(Call {
            target,
            query: Query::default(),
            accept: Accept::JSON,
            manager: "kube-apiserver".to_owned(),
            applying: false,
        })
    }
}
