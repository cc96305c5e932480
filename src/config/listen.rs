//! Who may reach the server: the one rule on where it listens.

use super::{Config, ConfigError};

impl Config {
    /// Beyond loopback only where callers show who they are over connections that nobody reads along, or by a flag. This is the only
    /// place that decides it.
    pub(super) fn check_listen(&self) -> Result<(), ConfigError> {
        let is_guarded = self.tls.pair().is_some() && self.auth.required;
        if is_guarded || self.allow_remote || self.listen.ip().is_loopback() {
            return Ok(());
        }
        let mut dangers = Vec::new();
        let mut guards = Vec::new();
        if !self.auth.required {
            dangers.push(
                "callers need not show who they are, so anyone there could read and delete every model",
            );
            guards.push("`auth.required = true`");
        }
        if self.tls.pair().is_none() {
            dangers.push("nothing is encrypted, so whoever is on the way could read along");
            guards.push("`tls.certificate` and `tls.key`");
        }
        Err(ConfigError::NotServed {
            key: "listen".to_owned(),
            problem: format!(
                "is `{}`, which other machines can reach, but {}",
                self.listen,
                dangers.join(", and ")
            ),
            remedy: format!(
                "set {}; or use `127.0.0.1:7400`; or set `allow_remote = true`, which says that you know who can reach the \
                 port, because a firewall, a proxy or client certificates guard it",
                guards.join(", and ")
            ),
        })
    }
}
