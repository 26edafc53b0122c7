//! Hints for services that ask to be served nearby.

use serde_json::{Value, json};

/// Sets the hints that `trafficDistribution` asks for. Only ready endpoints have them.
pub(super) fn hint<'a>(service: &Value, endpoints: impl Iterator<Item = &'a mut Value>) {
    let wish = service["spec"]["trafficDistribution"].as_str().unwrap_or_default();
    let by_zone = matches!(wish, "PreferClose" | "PreferSameZone" | "PreferSameNode");
    let by_node = wish == "PreferSameNode";
    for endpoint in endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true) {
        let mut hints = json!({});
        if let Some(zone) = endpoint["zone"].as_str().filter(|_| by_zone) {
            hints["forZones"] = json!([{ "name": zone }]);
        }
        if let Some(node) = endpoint["nodeName"].as_str().filter(|_| by_node) {
            hints["forNodes"] = json!([{ "name": node }]);
        }
        if hints.as_object().is_some_and(|hints| !hints.is_empty()) {
            endpoint["hints"] = hints;
        }
    }
}
