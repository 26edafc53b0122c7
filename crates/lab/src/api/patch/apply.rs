//! Server-side apply: a manager says all that it wants of an object; what it no longer says goes, and what others
//! own is not taken from them without force.

use serde_json::{Value, json};

use super::super::call::{Call, Target};
use super::super::status::{FieldError, Status};
use super::super::strategy::Part;
use super::super::write::Written;
use super::super::{ApiServer, body, meta};
use super::fieldset::FieldSet;
use super::managers::{self, Manager};
use super::shape::Place;
use super::walk;

impl ApiServer {
    /// Applies a configuration.
    pub(super) fn apply(&self, call: &Call, part: Part, bytes: &[u8]) -> Result<Written, Status> {
        let resource = &call.target.resource;
        let name = call.target.name()?;
        if call.query.get("fieldManager").is_none() {
            let error = FieldError::required("fieldManager", "is required for apply patch");
            return Err(Status::invalid(resource, name, &[error]));
        }
        let config = configuration(bytes, part)?;
        let mut call = call.clone();
        call.applying = true;
        let merge = |call: &Call| self.modify(call, part, |old| applied(call, part, old, &config));
        match merge(&call) {
            Err(status) if status.code == 404 && part == Part::Main => {}
            result => return result,
        }
        let mut new = config.clone();
        let mut own = Manager::new(&call.manager, "Apply", part, resource);
        own.set = managers::owned(&new, resource);
        managers::write(&mut new, &[own]);
        meta::of(&mut new).insert("name".to_owned(), name.into());
        let collection = Call {
            target: Target {
                name: None,
                ..call.target.clone()
            },
            ..call.clone()
        };
        match self.create(&collection, new) {
            // Somebody else was faster.
            Err(status) if status.reason == "AlreadyExists" => merge(&call),
            result => result,
        }
    }
}

/// The part of the body that this path is about.
fn configuration(bytes: &[u8], part: Part) -> Result<Value, Status> {
    let mut config = body::yaml(bytes)?;
    if !config.is_object() {
        return Err(Status::bad_request("the configuration is not an object"));
    }
    if config["metadata"]["managedFields"]
        .as_array()
        .is_some_and(|managed| !managed.is_empty())
    {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    for field in ["creationTimestamp", "generation", "managedFields", "selfLink"] {
        meta::of(&mut config).remove(field);
    }
    if let Some(fields) = config.as_object_mut() {
        match part {
            Part::Status => {
                fields.retain(|field, _| matches!(field.as_str(), "apiVersion" | "kind" | "metadata" | "status"))
            }
            _ => {
                fields.remove("status");
            }
        }
    }
    Ok(config)
}

/// What becomes of `old`.
fn applied(call: &Call, part: Part, old: &Value, config: &Value) -> Result<Value, Status> {
    let resource = &*call.target.resource;
    let mut all = managers::read(old);
    if all.is_empty() {
        let mut before = Manager::new("before-first-apply", "Update", Part::Main, resource);
        before.set = managers::owned(old, resource);
        all.push(before);
    }
    let mut own = Manager::new(&call.manager, "Apply", part, resource);
    let before = all.iter().find(|manager| manager.is(&own)).cloned();
    all.retain(|manager| !manager.is(&own));
    own.set = managers::owned(config, resource);

    let mut new = old.clone();
    walk::merge(&mut new, config, Place::root(resource));
    let changed = managers::changed(old, &new, resource);
    if call.query.flag("force") {
        for manager in &mut all {
            manager.set = manager.set.difference(&changed);
        }
    } else {
        refuse_conflicts(&all, &changed)?;
    }
    let others = all
        .iter()
        .fold(FieldSet::default(), |sum, manager| sum.union(&manager.set));
    if let Some(before) = &before {
        let gone = before.set.difference(&own.set).difference(&others);
        walk::remove(&mut new, &gone, &others, Place::root(resource));
        if before.set == own.set {
            own.time.clone_from(&before.time);
        }
    }
    all.push(own);
    managers::write(&mut new, &all);
    Ok(new)
}

fn refuse_conflicts(others: &[Manager], changed: &FieldSet) -> Result<(), Status> {
    let mut lines = Vec::new();
    let mut causes = Vec::new();
    for manager in others {
        let paths = manager.set.intersection(changed).paths();
        if paths.is_empty() {
            continue;
        }
        let who = format!("{:?} using {}", manager.name, manager.api_version);
        causes.extend(paths.iter().map(
            |path| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {who}"), "field": path}),
        ));
        match paths.as_slice() {
            [only] => lines.push(format!("conflict with {who}: {only}")),
            many => lines.push(format!("conflicts with {who}:\n- {}", many.join("\n- "))),
        }
    }
    if causes.is_empty() {
        return Ok(());
    }
    let plural = if causes.len() == 1 { "" } else { "s" };
    let message = format!(
        "Apply failed with {} conflict{plural}: {}",
        causes.len(),
        lines.join("\n")
    );
    Err(Status::apply_conflict(message, causes))
}

#[cfg(test)]
mod tests {
    use super::super::super::registry::Registry;
    use super::*;

    fn step(call: &Call, old: &Value, config: Value) -> Result<Value, Status> {
        applied(call, Part::Main, old, &config)
    }

    fn call(manager: &str, query: &str) -> Call {
        let registry = Registry::new([]);
        let target = Target::resolve(
            &registry,
            "apps",
            "v1",
            &["namespaces", "default", "deployments", "web"],
        );
        Call {
            target: target.unwrap(),
            query: super::super::super::query::Query::parse(query),
            accept: super::super::super::accept::Accept::JSON,
            manager: manager.to_owned(),
            applying: true,
        }
    }

    fn web(containers: Value) -> Value {
        json!({"metadata": {"name": "web"}, "spec": {"template": {"spec": {"containers": containers}}}})
    }

    #[test]
    fn each_manager_keeps_its_own_items() {
        let a = step(
            &call("a", ""),
            &json!({"metadata": {"name": "web"}}),
            web(json!([{"name": "one", "image": "x"}])),
        )
        .unwrap();
        let b = step(
            &call("b", ""),
            &a,
            web(json!([{"name": "two", "image": "y", "env": [{"name": "E", "value": "1"}]}])),
        )
        .unwrap();
        let both = &b["spec"]["template"]["spec"]["containers"];
        assert_eq!(both.as_array().unwrap().len(), 2);
        // What b no longer says goes, what a says stays.
        let c = step(&call("b", ""), &b, web(json!([{"name": "two", "image": "y"}]))).unwrap();
        assert_eq!(
            c["spec"]["template"]["spec"]["containers"],
            json!([{"name": "one", "image": "x"}, {"name": "two", "image": "y"}])
        );
        let d = step(&call("b", ""), &c, json!({"metadata": {"name": "web"}})).unwrap();
        assert_eq!(
            d["spec"]["template"]["spec"]["containers"],
            json!([{"name": "one", "image": "x"}])
        );
    }

    #[test]
    fn taking_a_field_needs_force() {
        let a = step(
            &call("a", ""),
            &json!({"metadata": {"name": "web"}}),
            web(json!([{"name": "one", "image": "x"}])),
        )
        .unwrap();
        let wanted = web(json!([{"name": "one", "image": "z"}]));
        let refused = step(&call("b", ""), &a, wanted.clone()).unwrap_err();
        assert_eq!(refused.code, 409);
        let path = ".spec.template.spec.containers[name=\"one\"].image";
        assert_eq!(
            refused.message,
            format!("Apply failed with 1 conflict: conflict with \"a\" using apps/v1: {path}")
        );
        let taken = step(&call("b", "force=true"), &a, wanted).unwrap();
        assert_eq!(taken["spec"]["template"]["spec"]["containers"][0]["image"], "z");
        // Now it is b's, and the same value from a is no conflict.
        assert!(step(&call("a", ""), &taken, web(json!([{"name": "one", "image": "z"}]))).is_ok());
        assert!(step(&call("a", ""), &taken, web(json!([{"name": "one", "image": "x"}]))).is_err());
    }

    #[test]
    fn an_update_takes_what_it_changes() {
        let call = call("a", "");
        let a = step(
            &call,
            &json!({"metadata": {"name": "web"}}),
            web(json!([{"name": "one", "image": "x"}])),
        )
        .unwrap();
        let mut edited = a.clone();
        edited["spec"]["template"]["spec"]["containers"][0]["image"] = "y".into();
        managers::track(&call.target.resource, "editor", Part::Main, &a, &mut edited);
        let refused = step(&call, &edited, web(json!([{"name": "one", "image": "x"}]))).unwrap_err();
        assert!(refused.message.contains("\"editor\""), "{refused}");
    }
}
