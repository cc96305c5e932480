//! What a caller's certificate says of its holder, once it was verified.

/// A certificate that a caller has shown, of an authority that the settings name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// Of its subject's alternative names those that are URIs, as `spiffe://team/service`.
    pub uris: Vec<String>,
    /// Those that are names of hosts.
    pub dns_names: Vec<String>,
    /// Those that are addresses of e-mail.
    pub emails: Vec<String>,
    /// The common name of its subject.
    pub common_name: Option<String>,
    /// The SHA-256 of all of it, in hexadecimal digits.
    pub fingerprint: String,
}

impl Certificate {
    /// What its holder is called in a log line: the first of its names.
    pub fn name(&self) -> &str {
        let names = self.uris.first().or(self.dns_names.first()).or(self.emails.first());
        names.or(self.common_name.as_ref()).unwrap_or(&self.fingerprint)
    }
}
