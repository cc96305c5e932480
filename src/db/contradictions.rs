//! Rows that contradict each other, found page by page: no statement of a check takes longer the more there is.

use std::collections::HashMap;

use crate::db::Db;
use crate::db::Error;
use crate::db::check::CheckPage;
use crate::db::check::PAGE;
use crate::db::check::page;
use crate::db::connection::Row;
use crate::db::connection::args;
use crate::db::from_json;
use crate::domain::monitor::MonitorState;

impl Db {
    /// A sentence about each; none is right.
    pub async fn contradictions(&self) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        let mut after = Some((String::new(), String::new()));
        while let Some(from) = after {
            let (aliases, next) = self.aliases_of_none(&from).await?;
            found.extend(
                aliases
                    .iter()
                    .map(|alias| format!("alias `{alias}` points at a checkpoint that is not committed")),
            );
            after = next;
        }
        self.runs_with_best_of_none(&mut found).await?;
        self.artifacts_with_gaps(&mut found).await?;
        let mut after = Some(String::new());
        while let Some(from) = after {
            let (uids, next) = self.metrics_of_none(&from).await?;
            let sentence = |uid: &String| {
                format!("version metrics stand for checkpoint `{uid}`, which is not committed")
            };
            found.extend(uids.iter().map(sentence));
            after = next;
        }
        Ok(found)
    }

    async fn aliases_of_none(
        &self,
        after: &(String, String),
    ) -> Result<CheckPage<String, (String, String)>, Error> {
        let sql = "SELECT l.artifact_uid, l.alias, c.state FROM aliases l JOIN checkpoints c ON c.uid = l.checkpoint_uid \
            WHERE (l.artifact_uid, l.alias) > ($1, $2) ORDER BY l.artifact_uid, l.alias LIMIT $3";
        let alias = |row: &Row| {
            let key = (row.text(0)?, row.text(1)?);
            Ok((key, (row.text(2)? != "COMMITTED").then_some(row.text(1)?)))
        };
        let rows = self.page(sql, args![&after.0, &after.1, PAGE]).await?;
        Ok(page(rows.iter().map(alias).collect::<Result<_, Error>>()?))
    }

    async fn metrics_of_none(&self, after: &str) -> Result<CheckPage<String, String>, Error> {
        let sql = "SELECT c.uid, CAST(CASE WHEN c.state <> 'COMMITTED' AND (SELECT 1 FROM version_metrics m \
            WHERE m.checkpoint_uid = c.uid LIMIT 1) IS NOT NULL THEN 1 ELSE 0 END AS BIGINT) FROM checkpoints c WHERE c.uid > $1 \
            ORDER BY c.uid LIMIT $2";
        let uid = |row: &Row| Ok((row.text(0)?, row.flag(1)?.then_some(row.text(0)?)));
        let rows = self.page(sql, args![after, PAGE]).await?;
        Ok(page(rows.iter().map(uid).collect::<Result<_, Error>>()?))
    }

    async fn runs_with_best_of_none(&self, found: &mut Vec<String>) -> Result<(), Error> {
        let sql = "SELECT uid, id, monitor_state FROM runs WHERE uid > $1 ORDER BY uid LIMIT $2";
        let mut after = Some(String::new());
        while let Some(from) = after {
            let rows = self.page(sql, args![from, PAGE]).await?;
            let run = |row: &Row| Ok((row.text(0)?, Some((row.text(0)?, row.text(1)?, row.text(2)?))));
            let (runs, next) = page(rows.iter().map(run).collect::<Result<_, Error>>()?);
            let mut best = HashMap::new();
            for (run_uid, id, state) in runs {
                match from_json::<MonitorState>("monitor state", &state) {
                    Ok(state) => best.extend(state.best_checkpoint.map(|uid| (uid, (run_uid, id)))),
                    Err(error) => found.push(format!("run `{id}`: {error}")),
                }
            }
            let gone = "WITH {v: uid text} SELECT c.uid FROM v CROSS JOIN checkpoints c WHERE c.uid = v.uid \
                AND c.state <> 'COMMITTED'";
            for row in self.page_of(gone, best.keys().map(|uid| args![uid]).collect()).await? {
                let uid = row.text(0)?;
                let Some((run_uid, id)) = best.get(&uid) else { continue };
                // It may have been deleted since its run was read, which then has another best.
                let still = "SELECT 1 FROM runs WHERE uid = $1 AND monitor_state LIKE $2";
                let of_it = format!("%\"best_checkpoint\":\"{uid}\"%");
                if self.row(still, args![run_uid, of_it]).await?.is_some() {
                    found.push(format!("run `{id}` has a best checkpoint that is not committed"));
                }
            }
            after = next;
        }
        Ok(())
    }

    async fn artifacts_with_gaps(&self, found: &mut Vec<String>) -> Result<(), Error> {
        let sql = "SELECT uid, id FROM artifacts WHERE uid > $1 ORDER BY uid LIMIT $2";
        let mut after = Some(String::new());
        while let Some(from) = after {
            let rows = self.page(sql, args![from, PAGE]).await?;
            let artifact = |row: &Row| Ok((row.text(0)?, Some((row.text(0)?, row.text(1)?))));
            let (artifacts, next) = page(rows.iter().map(artifact).collect::<Result<_, Error>>()?);
            for (uid, id) in artifacts {
                // One at a time, each of one moment: a commit between two statements is no gap.
                let gap = "SELECT 1 FROM artifacts a WHERE a.uid = $1 AND a.next_version <> a.lost_versions + (SELECT COUNT(*) \
                    FROM checkpoints c WHERE c.artifact_uid = a.uid AND c.version IS NOT NULL)";
                if !self.page(gap, args![uid]).await?.is_empty() {
                    found.push(format!("artifact `{id}` has a gap in its version numbers"));
                }
            }
            after = next;
        }
        Ok(())
    }
}
