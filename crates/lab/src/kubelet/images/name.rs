//! Image names, completed the way every container engine completes them.

use std::fmt;

/// `registry/repository:tag` or `registry/repository@digest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// Registry and repository, such as `docker.io/library/nginx`.
    pub(crate) repository: String,
    /// `:tag` or `@algorithm:hex`.
    pub(crate) version: String,
}

impl Name {
    /// Completes a name; `None` where it cannot be one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_./:@+".contains(c);
        if text.is_empty() || !text.chars().all(good) {
            return None;
        }
        let (path, digest) = match text.split_once('@') {
            Some((path, digest)) => (path, Some(digest)),
            None => (text, None),
        };
        let (path, tag) = match path.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (path, None),
        };
        let has_registry = path
            .split_once('/')
            .is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost");
        let repository = match path {
            _ if has_registry => path.to_owned(),
            _ if path.contains('/') => format!("docker.io/{path}"),
            _ => format!("docker.io/library/{path}"),
        };
        let lower = !repository.chars().any(|c| c.is_ascii_uppercase()) || has_registry;
        if !lower || repository.split('/').any(str::is_empty) {
            return None;
        }
        let version = match (digest, tag) {
            (Some(digest), _) => format!("@{digest}"),
            (None, Some(tag)) if !tag.is_empty() => format!(":{tag}"),
            (None, None) => ":latest".to_owned(),
            (None, Some(_)) => return None,
        };
        Some(Self { repository, version })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.repository, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion() {
        for (short, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("weft/lab:v1", "docker.io/weft/lab:v1"),
            ("weft.dev/lab", "weft.dev/lab:latest"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("localhost/a/b:c", "localhost/a/b:c"),
            ("a@sha256:00", "docker.io/library/a@sha256:00"),
            ("a:1@sha256:00", "docker.io/library/a@sha256:00"),
        ] {
            assert_eq!(
                Name::parse(short).map(|name| name.to_string()).as_deref(),
                Some(full),
                "{short}"
            );
        }
        for bad in ["", "a b", "UPPER", "a:", "a//b", "x;y"] {
            assert_eq!(Name::parse(bad), None, "{bad}");
        }
    }
}
