//! Which form of an answer the client asked for.

use super::status::Status;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The objects themselves.
    Object,
    /// A server-side table.
    Table,
    /// Only metadata.
    Metadata,
}

/// A form and how it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accept {
    /// The form.
    pub(super) form: Form,
    /// YAML instead of JSON.
    pub(super) yaml: bool,
}

impl Accept {
    /// Plain JSON objects.
    pub(super) const JSON: Accept = Accept {
        form: Form::Object,
        yaml: false,
    };

    /// Takes the first of the accepted media types that can be produced.
    pub(super) fn parse(header: Option<&str>) -> Result<Self, Status> {
        let Some(header) = header.filter(|h| !h.trim().is_empty()) else {
            return Ok(Self::JSON);
        };
        header
            .split(',')
            .find_map(one)
            .ok_or_else(|| Status::not_acceptable("application/json, application/yaml"))
    }
}

fn one(media_range: &str) -> Option<Accept> {
    let mut parts = media_range.split(';').map(str::trim);
    let yaml = match parts.next()? {
        "application/json" | "*/*" | "application/*" => false,
        "application/yaml" => true,
        _ => return None,
    };
    let parameter = |name: &str| {
        media_range
            .split(';')
            .find_map(|p| p.trim().strip_prefix(name)?.strip_prefix('='))
    };
    let form = match parameter("as") {
        None => Form::Object,
        Some("Table") if parameter("v") == Some("v1") => Form::Table,
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") if parameter("v") == Some("v1") => Form::Metadata,
        Some(_) => return None,
    };
    Some(Accept { form, yaml })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_possible_form_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(Accept::parse(Some(table)).unwrap().form, Form::Table);
        let old = "application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json";
        assert_eq!(Accept::parse(Some(old)).unwrap().form, Form::Object);
        let protobuf = "application/vnd.kubernetes.protobuf, */*";
        assert_eq!(Accept::parse(Some(protobuf)).unwrap(), Accept::JSON);
        assert_eq!(
            Accept::parse(Some("application/vnd.kubernetes.protobuf"))
                .unwrap_err()
                .code,
            406
        );
        assert!(Accept::parse(Some("application/yaml")).unwrap().yaml);
    }
}
