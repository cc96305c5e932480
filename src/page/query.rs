//! What stands behind the `?` of an address, and in the body of a form: names and values, which a page reads and writes anew
//! for its links. All that a page shows follows from its address, so that a link can be sent to somebody.

use form_urlencoded::Serializer;

/// Names and values in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(bytes: &[u8]) -> Query {
        let pairs =
            form_urlencoded::parse(bytes).map(|(name, value)| (name.into_owned(), value.into_owned()));
        Query(pairs.collect())
    }

    /// The first value of that name; empty if there is none.
    pub(super) fn first(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or_default()
    }

    /// The values of that name that are not empty.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(its, value)| its == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// The same with one value of that name; without it, if the value is empty.
    pub(super) fn with(&self, name: &str, value: &str) -> Query {
        let mut pairs: Vec<_> = self.0.iter().filter(|(its, _)| its != name).cloned().collect();
        if !value.is_empty() {
            pairs.push((name.to_owned(), value.to_owned()));
        }
        Query(pairs)
    }

    /// An address on this page: `?` and the names and values, also if there are none.
    pub(super) fn link(&self) -> String {
        let mut text = Serializer::for_suffix(String::from("?"), 1);
        text.extend_pairs(self.0.iter().filter(|(_, value)| !value.is_empty()));
        text.finish()
    }
}

/// The address of a page with these names and values.
pub(super) fn address(path: &str, pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    format!("{path}{}", Query(pairs).link())
}

#[cfg(test)]
mod tests {
    use super::{Query, address};

    #[test]
    fn what_is_read_is_written_again() {
        let query = Query::of(b"m=val+loss&m=a%26b&smooth=0.6&empty=");
        assert_eq!(query.all("m").collect::<Vec<_>>(), ["val loss", "a&b"]);
        assert_eq!([query.first("smooth"), query.first("empty"), query.first("none")], ["0.6", "", ""]);
        assert_eq!(query.link(), "?m=val+loss&m=a%26b&smooth=0.6");
        assert_eq!(query.with("m", "").with("scale", "log").link(), "?smooth=0.6&scale=log");
        assert_eq!(address("/-/login", &[("next", "/teams/t?a=b")]), "/-/login?next=%2Fteams%2Ft%3Fa%3Db");
        assert_eq!(Query::default().link(), "?");
    }
}
