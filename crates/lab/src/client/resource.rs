//! Where a kind of object lives below the API server's root.

use std::borrow::Cow;

/// A resource: group, version and plural name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Res {
    group: Cow<'static, str>,
    version: Cow<'static, str>,
    plural: Cow<'static, str>,
}

impl Res {
    /// A resource known when this was written; the core group is empty.
    pub const fn new(group: &'static str, version: &'static str, plural: &'static str) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            plural: Cow::Borrowed(plural),
        }
    }

    /// A resource found at run time (through discovery).
    pub fn dynamic(group: &str, version: &str, plural: &str) -> Self {
        Self {
            group: Cow::Owned(group.to_owned()),
            version: Cow::Owned(version.to_owned()),
            plural: Cow::Owned(plural.to_owned()),
        }
    }

    /// The resource of a typed Kubernetes object.
    pub fn of<T: k8s_openapi::Resource>() -> Self {
        Self::new(T::GROUP, T::VERSION, T::URL_PATH_SEGMENT)
    }

    /// The plural name, such as `pods`.
    pub fn plural(&self) -> &str {
        &self.plural
    }

    /// The path of the collection, of an object in it, or of a part of that object. An empty namespace means
    /// cluster-scoped, or all namespaces.
    pub fn path(&self, namespace: &str, name: Option<&str>, subresource: Option<&str>) -> String {
        let mut path = match &*self.group {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if !namespace.is_empty() {
            path.push_str(&format!("/namespaces/{namespace}"));
        }
        path.push_str(&format!("/{}", self.plural));
        for part in [name, subresource].into_iter().flatten() {
            path.push_str(&format!("/{part}"));
        }
        path
    }
}
