-- The versions of a team in the order in which they became visible, for whoever watches. Where one process writes, a version gets its
-- place in the transaction that commits it; where several do, a moment later: so no place appears below one that was seen.
CREATE TABLE feed (
    checkpoint_uid TEXT PRIMARY KEY,
    team TEXT NOT NULL,
    project TEXT NOT NULL,
    artifact_uid TEXT NOT NULL,
    run_uid TEXT NOT NULL,
    -- From 1; none: it has no place yet.
    position BIGINT,
    -- Whether it became the best of its artifact.
    is_best BIGINT NOT NULL,
    commit_time_us BIGINT NOT NULL
);
CREATE UNIQUE INDEX feed_by_team ON feed (team, position);
CREATE INDEX feed_by_project ON feed (team, project, position);
CREATE INDEX feed_by_artifact ON feed (artifact_uid, position);
CREATE INDEX feed_by_run ON feed (run_uid, position);
CREATE INDEX feed_without_place ON feed (commit_time_us, checkpoint_uid) WHERE position IS NULL;

-- Where the feed of each team ends.
CREATE TABLE feed_ends (
    team TEXT PRIMARY KEY,
    -- Made with the row: a place in the feed of another database means nothing here.
    feed_id TEXT NOT NULL,
    last_position BIGINT NOT NULL
);

-- What was committed before has its place in the order of its time; whether it was best then is not known.
INSERT INTO feed (checkpoint_uid, team, project, artifact_uid, run_uid, is_best, commit_time_us)
SELECT c.uid, a.team, a.project, c.artifact_uid, c.run_uid, 0, c.commit_time_us
FROM checkpoints c JOIN artifacts a ON a.uid = c.artifact_uid
WHERE c.state = 'COMMITTED' AND c.commit_time_us IS NOT NULL;
