//! The query string of a request, with Kubernetes' reading of values.

/// The pairs of a query string, decoded, in order: `command` comes once per argument.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(uri: &http::Uri) -> Self {
        Self::parse(uri.query().unwrap_or_default())
    }

    pub(super) fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value of a name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Every value of a name.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        let of_name = self.0.iter().filter(|(key, _)| key == name);
        of_name.map(|(_, value)| value.clone()).collect()
    }

    /// A switch: `true` and `1` in any case are on, as is a name without a value; all else is off.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value.is_empty() || value == "1" || value.eq_ignore_ascii_case("true"))
    }
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn keeps_every_argument_in_order_and_decodes_it() {
        let query =
            Query::parse("command=sh&command=-c&command=echo+a%20b%26%3D%E2%82%AC&input=1&tty=false&output=true");
        assert_eq!(query.all("command"), ["sh", "-c", "echo a b&=€"]);
        assert!(query.flag("input") && query.flag("output"));
        assert!(!query.flag("tty") && !query.flag("error"));
    }
}
