//! Which chunks a caller may speak of. A team's chunks are shared, and who knows a digest could ask whether the team has such bytes, or
//! take them over without ever having had them. So whoever may not read all of the team may name what lies in its project, no more.

use std::collections::HashMap;

use crate::app::App;
use crate::app::Error;
use crate::db::HeldChunk;
use crate::domain::digest::Digest;
use crate::domain::ids::ProjectName;

impl App {
    /// Those of the chunks that the team holds and the caller may name.
    pub(super) async fn nameable_chunks(
        &self,
        project: &ProjectName,
        digests: impl Iterator<Item = Digest>,
    ) -> Result<HashMap<Digest, HeldChunk>, Error> {
        let mut held = self.db.held_chunks(project.team.as_str(), digests).await?;
        let reads_all =
            self.caller.as_ref().is_none_or(|it| it.is_anybody() || it.reads_all_of(&project.team));
        if !reads_all && !held.is_empty() {
            let own = self.db.chunks_of_project(project, held.keys().copied()).await?;
            held.retain(|digest, _| own.contains(digest));
        }
        Ok(held)
    }
}
