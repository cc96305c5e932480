-- Reads go by an index (docs/adr/0022-reads-go-by-an-index.md). Each index says which reads it serves.

-- AwaitDecision: an attempt's decision at one moment.
CREATE INDEX decisions_by_moment ON decisions (run_uid, attempt, epoch, batch, position);
-- ListDecisions by action.
CREATE INDEX decisions_by_action ON decisions (run_uid, action, position);
-- ListDecisions by epoch and action; by epoch alone it is read once for each of the three actions.
CREATE INDEX decisions_by_epoch_and_action ON decisions (run_uid, epoch, action, position);

-- StartRun on resume: the newest version of a run; ListVersions of one run; what is pending in a run.
CREATE INDEX checkpoints_of_run ON checkpoints (run_uid, state, version);

-- ListVersions by number and by create_time (a later version of an artifact has a later time), and where `latest` goes when its
-- version is deleted: without the versions that were deleted, of which there may be many more than of others.
CREATE INDEX versions_by_number ON checkpoints (artifact_uid, version) WHERE state = 'COMMITTED';
-- ListVersions by epoch, and of one epoch.
CREATE INDEX versions_by_epoch ON checkpoints (artifact_uid, epoch, version) WHERE state = 'COMMITTED';
-- ListVersions by size_bytes, and of one size.
CREATE INDEX versions_by_size ON checkpoints (artifact_uid, size_bytes, version) WHERE state = 'COMMITTED';

-- GetBestVersion in a project or a team without a metric: the first and the last monitor of its artifacts.
CREATE INDEX artifacts_by_monitor ON artifacts (team, project, monitor, direction);
CREATE INDEX artifacts_of_team_by_monitor ON artifacts (team, monitor, direction);
