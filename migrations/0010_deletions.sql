-- Runs and artifacts are deleted, and known to be alive.

-- Since when it is being deleted. Its versions go first, some at a time; then it gives its name back and is called `~` and its uid,
-- which nobody can ask for. The row stays: versions that were deleted refer to it.
ALTER TABLE runs ADD COLUMN delete_time_us BIGINT;
ALTER TABLE artifacts ADD COLUMN delete_time_us BIGINT;
-- Since when nothing of it is left to take away.
ALTER TABLE runs ADD COLUMN purge_time_us BIGINT;
ALTER TABLE artifacts ADD COLUMN purge_time_us BIGINT;
-- The collector: deletions to finish.
CREATE INDEX runs_to_purge ON runs (delete_time_us) WHERE delete_time_us IS NOT NULL AND purge_time_us IS NULL;
CREATE INDEX artifacts_to_purge ON artifacts (delete_time_us) WHERE delete_time_us IS NOT NULL AND purge_time_us IS NULL;
-- DeleteArtifact: the runs that save into it.
CREATE INDEX runs_of_artifact ON runs (artifact_uid, uid);

-- When a process of the newest attempt was heard from last. NULL of a run of before this migration, until it is heard from again.
ALTER TABLE runs ADD COLUMN heard_time_us BIGINT;

-- ListRuns, ListArtifacts, ListProjects and the monitors of a project or a team, without what was deleted, of which there may be
-- many more.
CREATE INDEX runs_of_project_listed ON runs (team, project, create_time_us, uid) WHERE delete_time_us IS NULL;
CREATE INDEX runs_of_team_listed ON runs (team, create_time_us, uid) WHERE delete_time_us IS NULL;
CREATE INDEX artifacts_listed ON artifacts (team, project, id) WHERE delete_time_us IS NULL;
CREATE INDEX artifacts_listed_by_monitor ON artifacts (team, project, monitor, direction) WHERE delete_time_us IS NULL;
CREATE INDEX artifacts_of_team_listed_by_monitor ON artifacts (team, monitor, direction) WHERE delete_time_us IS NULL;
