//! The audit log: each entry against the digest of the one before it.

use crate::app::App;
use crate::app::Error;
use crate::app::check::CheckReport;
use crate::db::Chain;
use crate::domain::audit::Break;
use crate::domain::audit::Verifier;

/// Teams, and entries of one, that are read at once.
const AT_ONCE: i64 = 1_000;
/// Breaks of one chain that are told.
const MOST_TOLD: usize = 10;

impl App {
    /// Follows the chain of each team.
    pub(super) async fn check_audit_log(&self, report: &mut CheckReport) -> Result<(), Error> {
        let mut after: Option<String> = None;
        loop {
            let chains = self.db.chains(after.as_deref(), AT_ONCE).await?;
            let Some(last) = chains.last() else { return Ok(()) };
            after = Some(last.team.clone());
            for chain in chains {
                let breaks = self.breaks(&chain, report).await?;
                let of = match chain.team.as_str() {
                    "" => "the service".to_owned(),
                    team => format!("team `{team}`"),
                };
                let told = breaks.iter().take(MOST_TOLD).map(|it| format!("audit log of {of}: {it}"));
                report.problems.extend(told);
                if let Some(more) = breaks.len().checked_sub(MOST_TOLD).filter(|it| *it > 0) {
                    report.problems.push(format!("audit log of {of}: {more} more entries are not right"));
                }
            }
        }
    }

    async fn breaks(&self, chain: &Chain, report: &mut CheckReport) -> Result<Vec<Break>, Error> {
        let mut verifier = Verifier::new(chain.first_position, chain.before_digest);
        let mut breaks = Vec::new();
        let mut from = chain.first_position;
        loop {
            let entries = self.db.chained_entries(&chain.team, from, AT_ONCE).await?;
            // What came meanwhile is left to the next check.
            let known = entries.iter().filter(|it| it.position <= Some(chain.last_position));
            for entry in known {
                report.audit_entries += 1;
                breaks.extend(verifier.take(&chain.team, entry));
            }
            match entries.last().and_then(|it| it.position) {
                Some(position) if position < chain.last_position => from = position + 1,
                _ => break,
            }
        }
        breaks.extend(verifier.end(chain.last_position, chain.last_digest));
        Ok(breaks)
    }
}
