//! From a service, its pods and the slices that exist to the fewest writes that make the slices right: endpoints stay in
//! the slice they are in, new ones fill what is written anyway, and no slice holds more than a hundred.

use std::collections::BTreeMap;
use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::super::cache::Object;
use super::super::object::{deleting, label, list, name, namespace, owner_reference, text};
use super::desired::{self, Family};
use super::{Input, topology};

pub(super) const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Endpoints per slice, as in Kubernetes.
const FULL: usize = 100;

/// Slices to be written.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub(super) create: Vec<Value>,
    pub(super) update: Vec<Value>,
    pub(super) delete: Vec<Value>,
}

/// Was the slice made here? Others are left alone.
pub(super) fn is_ours(slice: &Value) -> bool {
    label(slice, MANAGED_BY) == Some(MANAGER)
}

/// The slice's ports in a form that can be compared.
fn ports_key(ports: &[Value]) -> String {
    let mut keys: Vec<String> = ports
        .iter()
        .map(|port| {
            let text = |field: &str| port[field].as_str().unwrap_or_default();
            format!(
                "{}/{}/{}/{}",
                text("name"),
                text("protocol"),
                port["port"],
                text("appProtocol")
            )
        })
        .collect();
    keys.sort();
    keys.join(",")
}

/// One set of resolved ports and the endpoints that have it, by address.
struct Group {
    ports: Vec<Value>,
    endpoints: BTreeMap<String, Value>,
}

/// The writes that are needed.
pub(super) fn slices(input: &Input<'_>, existing: &[Object]) -> Writes {
    let mut writes = Writes::default();
    let families = Family::of(input.service);
    for family in &families {
        let groups = groups(input, *family);
        let mut present: HashMap<String, Vec<&Object>> = HashMap::new();
        for slice in existing
            .iter()
            .filter(|slice| text(slice, "/addressType") == family.name())
        {
            present.entry(ports_key(list(slice, "/ports"))).or_default().push(slice);
        }
        for (key, group) in groups {
            let slices = present.remove(&key).unwrap_or_default();
            group_writes(input.service, *family, group, slices, &mut writes);
        }
        writes
            .delete
            .extend(present.into_values().flatten().map(|slice| Value::clone(slice)));
    }
    let foreign = |slice: &&Object| {
        !families
            .iter()
            .any(|family| text(slice, "/addressType") == family.name())
    };
    writes
        .delete
        .extend(existing.iter().filter(foreign).map(|slice| Value::clone(slice)));
    writes.delete.retain(|slice| !deleting(slice));
    recycle(&mut writes);
    writes
}

/// A slice that would go is rewritten as one that would come: one write instead of two.
fn recycle(writes: &mut Writes) {
    for mut wish in std::mem::take(&mut writes.create) {
        let same_family = |old: &Value| old["addressType"] == wish["addressType"];
        let Some(at) = writes.delete.iter().position(same_family) else {
            writes.create.push(wish);
            continue;
        };
        let mut slice = writes.delete.swap_remove(at);
        for field in ["ports", "endpoints"] {
            slice[field] = wish[field].take();
        }
        for field in ["labels", "ownerReferences"] {
            slice["metadata"][field] = wish["metadata"][field].take();
        }
        writes.update.push(slice);
    }
}

fn groups(input: &Input<'_>, family: Family) -> BTreeMap<String, Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for pod in input.pods.iter().filter(|pod| desired::belongs(pod)) {
        let Some(address) = desired::address(pod, family) else {
            continue;
        };
        let ports = desired::ports(input.service, pod);
        let group = groups.entry(ports_key(&ports)).or_insert_with(|| Group {
            ports,
            endpoints: BTreeMap::new(),
        });
        let endpoint = desired::endpoint(input, pod, address);
        group.endpoints.insert(identity(&endpoint), endpoint);
    }
    if groups.is_empty() {
        // A service without endpoints has one empty slice, which tells it apart from one that is not known yet.
        let nothing = Group {
            ports: Vec::new(),
            endpoints: BTreeMap::new(),
        };
        groups.insert(String::new(), nothing);
    }
    for group in groups.values_mut() {
        topology::hint(input.service, group.endpoints.values_mut());
    }
    groups
}

/// What makes an endpoint the same one: its pod and its address.
fn identity(endpoint: &Value) -> String {
    format!(
        "{} {}",
        text(endpoint, "/targetRef/uid"),
        text(endpoint, "/addresses/0")
    )
}

fn group_writes(service: &Value, family: Family, mut group: Group, present: Vec<&Object>, writes: &mut Writes) {
    let mut kept: Vec<(&Object, Vec<Value>, bool)> = Vec::new();
    let empty_wanted = group.endpoints.is_empty();
    for slice in present {
        let mut endpoints = Vec::new();
        let mut changed = !shape_fits(service, slice);
        for old in list(slice, "/endpoints") {
            match group.endpoints.remove(&identity(old)) {
                Some(wish) => {
                    changed |= !same_endpoint(old, &wish);
                    endpoints.push(wish);
                }
                None => changed = true,
            }
        }
        kept.push((slice, endpoints, changed));
    }
    let mut rest: Vec<Value> = group.endpoints.into_values().collect();
    // First fill what is written anyway, then whatever has room for all of the rest, then new slices.
    for (_, endpoints, _) in kept.iter_mut().filter(|(_, _, changed)| *changed) {
        let room = FULL.saturating_sub(endpoints.len()).min(rest.len());
        endpoints.extend(rest.drain(..room));
    }
    let roomy = kept
        .iter_mut()
        .filter(|(_, endpoints, _)| endpoints.len() + rest.len() <= FULL)
        .max_by_key(|(_, endpoints, _)| endpoints.len());
    if let Some((_, endpoints, changed)) = roomy.filter(|_| !rest.is_empty()) {
        endpoints.append(&mut rest);
        *changed = true;
    }
    for chunk in rest.chunks(FULL) {
        writes.create.push(new_slice(service, family, &group.ports, chunk));
    }
    if empty_wanted && kept.is_empty() {
        writes.create.push(new_slice(service, family, &group.ports, &[]));
    }
    let mut placeholder = empty_wanted;
    for (slice, endpoints, changed) in kept {
        if endpoints.is_empty() && !std::mem::take(&mut placeholder) {
            writes.delete.push(Value::clone(slice));
        } else if changed {
            writes
                .update
                .push(changed_slice(service, slice, &group.ports, endpoints));
        }
    }
}

/// Equal in what this controller sets; the server may have added nothing else.
fn same_endpoint(old: &Value, wish: &Value) -> bool {
    let fields = [
        "addresses",
        "conditions",
        "targetRef",
        "nodeName",
        "zone",
        "hostname",
        "hints",
    ];
    fields.iter().all(|field| old[field] == wish[field])
}

/// Are the slice's labels and owner those that the service asks for?
fn shape_fits(service: &Value, slice: &Value) -> bool {
    let owners = list(slice, "/metadata/ownerReferences");
    slice["metadata"]["labels"].as_object() == Some(&labels(service)) && owners.contains(&owner_reference(service))
}

fn labels(service: &Value) -> Map<String, Value> {
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.remove(HEADLESS);
    if service["spec"]["clusterIP"] == "None" {
        labels.insert(HEADLESS.into(), "".into());
    }
    labels.insert(SERVICE.into(), name(service).into());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn new_slice(service: &Value, family: Family, ports: &[Value], endpoints: &[Value]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "generateName": format!("{}-", name(service)),
            "namespace": namespace(service),
            "labels": labels(service),
            "ownerReferences": [owner_reference(service)],
        },
        "addressType": family.name(),
        "endpoints": endpoints,
        "ports": ports,
    })
}

fn changed_slice(service: &Value, slice: &Value, ports: &[Value], endpoints: Vec<Value>) -> Value {
    let mut slice = slice.clone();
    slice["metadata"]["labels"] = labels(service).into();
    slice["metadata"]["ownerReferences"] = json!([owner_reference(service)]);
    slice["ports"] = ports.into();
    slice["endpoints"] = endpoints.into();
    slice
}
