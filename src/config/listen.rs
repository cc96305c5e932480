//! Who may reach the server: the one rule on where it listens.

use super::{Config, ConfigError};

impl Config {
    /// Beyond loopback only by a flag, as long as callers are not authenticated. This is the only place that decides it.
    pub(super) fn check_listen(&self) -> Result<(), ConfigError> {
        if self.allow_remote || self.listen.ip().is_loopback() {
            return Ok(());
        }
        let (read_along, first) = match self.tls.pair() {
            Some(_) => ("", ""),
            None => (
                ", and whoever is on the way could read along",
                "encrypt connections with `tls.certificate` and `tls.key`, let in only those with a certificate of yours by \
                 `tls.client_ca` and `tls.require_client_certificate = true`, and then ",
            ),
        };
        Err(ConfigError::NotServed {
            key: "listen".to_owned(),
            problem: format!(
                "is `{}`, which other machines can reach, but callers are not authenticated yet: anyone there could \
                 read and delete every model{read_along}",
                self.listen
            ),
            remedy: format!(
                "use `127.0.0.1:7400`; or {first}set `allow_remote = true`, which says that you know who can reach the \
                 port, because a firewall, a proxy or client certificates guard it"
            ),
        })
    }
}
