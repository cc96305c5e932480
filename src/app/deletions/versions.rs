//! Deleting versions of an artifact: one by its number, or those that a filter matches.

use crate::app::App;
use crate::app::Error;
use crate::app::deletions::Deletion;
use crate::app::deletions::How;
use crate::app::deletions::Tally;
use crate::app::queries::named_by_alias;
use crate::db::Db;
use crate::db::DeleteSlice;
use crate::db::Doomed;
use crate::db::VersionQuery;
use crate::domain::alias::VersionRef;
use crate::domain::filter::parse_filter;
use crate::domain::filter::parse_order;
use crate::domain::ids::ArtifactName;
use crate::domain::ids::VersionName;
use crate::domain::refusal::Refusal;

/// Which versions of an artifact to delete.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// As in ListVersions.
    pub filter: String,
    /// Of those that match so many with the highest numbers stay.
    pub keep_newest: i64,
    /// Those that aliases of users point at, too.
    pub delete_aliases: bool,
    /// The one that `best` points at, too.
    pub delete_best: bool,
    /// Only say what would go.
    pub validate_only: bool,
}

impl App {
    /// Deletes the versions of an artifact that are selected.
    pub async fn delete_versions(&self, name: &ArtifactName, which: &Selection) -> Result<Deletion, Error> {
        let (terms, order) = (parse_filter(&which.filter)?, parse_order("number desc")?);
        let what = match which.keep_newest {
            ..0 => "keep_newest is negative: 0 keeps none because it is new".to_owned(),
            0 if terms.is_empty() => {
                "an empty filter would delete all versions: say `number >= 0` if that is meant, or how many to keep".to_owned()
            }
            _ => String::new(),
        };
        if !what.is_empty() {
            return Err(Refusal::invalid("BAD_FILTER", what).into());
        }
        let artifact_uid = self.db.artifact(name).await?.uid;
        let (mut tally, mut place, mut to_keep) = (Tally::default(), None, which.keep_newest);
        let mut slices = Vec::new();
        loop {
            let query = VersionQuery {
                artifact_uid: artifact_uid.clone(),
                terms: terms.clone(),
                order: order.clone(),
                after: place,
                limit: Db::SLICE,
            };
            let page = self.db.list_versions(&query).await?;
            let mut slice = Vec::new();
            for (version, _) in page.versions {
                if to_keep > 0 {
                    to_keep -= 1;
                    continue;
                }
                let doomed = Doomed {
                    uid: version.checkpoint.checkpoint.as_str().to_owned(),
                    artifact: name.clone(),
                    artifact_uid: artifact_uid.clone(),
                    number: version.number,
                    size_bytes: version.size_bytes,
                };
                slice.push(doomed);
            }
            let kept = self.kept(&slice, which).await?;
            tally.deletion.kept_count += i64::try_from(kept.len()).unwrap_or(i64::MAX);
            slice.retain(|it| !kept.contains(&it.uid));
            slice.iter().for_each(|it| tally.add(it));
            slices.push(slice.into_iter().map(|it| it.uid).collect::<Vec<_>>());
            place = page.next;
            if place.is_none() {
                break;
            }
        }
        let mut deletion = self.told(tally).await?;
        if which.validate_only {
            return Ok(deletion);
        }
        for uids in slices.into_iter().filter(|it| !it.is_empty()) {
            let slice = DeleteSlice {
                artifact_uid: artifact_uid.clone(),
                uids,
                delete_aliases: which.delete_aliases,
                delete_best: which.delete_best,
                now_us: self.clock.now_us(),
            };
            // What an alias was given meanwhile stays after all.
            let kept = self.delete_slice(slice).await?;
            deletion.kept_count += kept;
            deletion.version_count -= kept;
        }
        Ok(deletion)
    }

    /// Deletes a version, and says what that frees.
    pub async fn delete_one_version(&self, name: &VersionName, how: How) -> Result<Deletion, Error> {
        let VersionRef::Number(number) = VersionRef::of(&name.version) else {
            return Err(named_by_alias(name).into());
        };
        let told = self.version_deletion(&name.artifact, number).await;
        if how.validate_only {
            let artifact = self.db.artifact(&name.artifact).await?;
            self.db.check_version_deletable(&artifact, number, how.force).await?;
            return told;
        }
        let deleted = self.delete_version(name, how.force).await?;
        let purge_time_us = deleted.delete_time_us.saturating_add(self.limits.graces.deleted_us);
        match told {
            Ok(told) => Ok(Deletion { purge_time_us, ..told }),
            // It was deleted before, and is counted no more.
            Err(Error::Refused(_)) => {
                let size_bytes = deleted.size_bytes;
                Ok(Deletion { version_count: 1, size_bytes, purge_time_us, ..Deletion::default() })
            }
            Err(error) => Err(error),
        }
    }

    /// What deleting one version would free.
    async fn version_deletion(&self, name: &ArtifactName, number: i64) -> Result<Deletion, Error> {
        let version = self.db.version(name, &VersionRef::Number(number)).await?;
        let mut tally = Tally::default();
        tally.add(&Doomed {
            uid: version.checkpoint.checkpoint.as_str().to_owned(),
            artifact: name.clone(),
            artifact_uid: String::new(),
            number,
            size_bytes: version.size_bytes,
        });
        self.told(tally).await
    }

    /// Of the versions, those that stay because of an alias.
    async fn kept(&self, versions: &[Doomed], which: &Selection) -> Result<Vec<String>, Error> {
        let uids: Vec<&str> = versions.iter().map(|it| it.uid.as_str()).collect();
        Ok(self.db.kept_by_aliases(&uids, which.delete_aliases, which.delete_best).await?)
    }
}
