//! The schemas of all built-in types under their upstream names (`io.k8s.api.core.v1.Pod`), made once, when first asked for.

use std::sync::OnceLock;

use k8s_openapi::api::{apps, autoscaling, batch, coordination, core, discovery, events, networking};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, SchemaGenerator as Generator};
use serde_json::{Map, Value};

use crate::api::kinds::Resource;

/// Where references between schemas point to.
pub const REFERENCE_PREFIX: &str = "#/components/schemas/";

/// The name of the schema of every object's metadata.
pub const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// All built-in schemas by name.
pub fn all() -> &'static Map<String, Value> {
    static ALL: OnceLock<Map<String, Value>> = OnceLock::new();
    ALL.get_or_init(generate)
}

/// The name of the schema of a kind: upstream's for built-in kinds, its reversed group for custom ones.
pub fn name_of(resource: &Resource) -> String {
    let (version, kind) = (&resource.version, &resource.kind);
    if resource.custom.is_some() {
        let reversed: Vec<&str> = resource.group.rsplit('.').collect();
        return format!("{}.{version}.{kind}", reversed.join("."));
    }
    match resource.group.as_str() {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        "apiextensions.k8s.io" => format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}"),
        group => format!(
            "io.k8s.api.{}.{version}.{kind}",
            group.split('.').next().unwrap_or_default()
        ),
    }
}

/// What a schema refers to, alone or beside its own description.
pub fn reference(schema: &Value) -> Option<&str> {
    let other = schema.get("$ref").or_else(|| schema.pointer("/allOf/0/$ref"))?;
    other.as_str()
}

/// The schema that a reference such as `#/components/schemas/io.k8s.api.core.v1.PodSpec` names, with that name.
pub fn resolve(reference: &str) -> Option<(&'static str, &'static Value)> {
    let name = reference.strip_prefix(REFERENCE_PREFIX)?;
    all().get_key_value(name).map(|(name, schema)| (name.as_str(), schema))
}

fn generate() -> Map<String, Value> {
    fn add<T: JsonSchema>(generator: &mut Generator) {
        generator.subschema_for::<T>();
    }
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = SchemaGenerator::new(settings);
    for add in [
        add::<core::v1::ConfigMap>,
        add::<core::v1::Endpoints>,
        add::<core::v1::Event>,
        add::<core::v1::Namespace>,
        add::<core::v1::Node>,
        add::<core::v1::Pod>,
        add::<core::v1::Secret>,
        add::<core::v1::Service>,
        add::<core::v1::ServiceAccount>,
        add::<apps::v1::ControllerRevision>,
        add::<apps::v1::DaemonSet>,
        add::<apps::v1::Deployment>,
        add::<apps::v1::ReplicaSet>,
        add::<apps::v1::StatefulSet>,
        add::<autoscaling::v1::Scale>,
        add::<batch::v1::Job>,
        add::<coordination::v1::Lease>,
        add::<discovery::v1::EndpointSlice>,
        add::<events::v1::Event>,
        add::<networking::v1::Ingress>,
        add::<networking::v1::IngressClass>,
        add::<networking::v1::NetworkPolicy>,
        add::<networking::v1::ServiceCIDR>,
        add::<apiextensions::v1::CustomResourceDefinition>,
        add::<meta::v1::DeleteOptions>,
        add::<meta::v1::ListMeta>,
        add::<meta::v1::Status>,
    ] {
        add(&mut generator);
    }
    generator.take_definitions(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::built_in;

    #[test]
    fn every_built_in_kind_has_a_schema() {
        for resource in built_in() {
            assert!(all().contains_key(&name_of(&resource)), "{}", name_of(&resource));
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                        assert!(resolve(reference).is_some(), "{reference}");
                    }
                    map.values().for_each(walk);
                }
                Value::Array(items) => items.iter().for_each(walk),
                _ => {}
            }
        }
        all().values().for_each(walk);
    }
}
