-- The first schema, one text for SQLite and Postgres (see README.md in this folder).

CREATE TABLE artifacts (
    uid TEXT PRIMARY KEY,
    team TEXT NOT NULL,
    project TEXT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    monitor TEXT NOT NULL,
    direction TEXT NOT NULL,
    next_version BIGINT NOT NULL,
    create_time_us BIGINT NOT NULL,
    UNIQUE (team, project, id)
);

CREATE TABLE runs (
    uid TEXT PRIMARY KEY,
    team TEXT NOT NULL,
    project TEXT NOT NULL,
    id TEXT NOT NULL,
    artifact_uid TEXT NOT NULL REFERENCES artifacts (uid),
    strategy TEXT NOT NULL,
    direction TEXT NOT NULL,
    monitor_state TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    state TEXT NOT NULL,
    revision BIGINT NOT NULL,
    event_count BIGINT NOT NULL,
    last_epoch BIGINT,
    config TEXT,
    create_time_us BIGINT NOT NULL,
    update_time_us BIGINT NOT NULL,
    finish_time_us BIGINT,
    UNIQUE (team, project, id)
);
CREATE INDEX runs_by_time ON runs (team, project, create_time_us, uid);
CREATE INDEX runs_of_team_by_time ON runs (team, create_time_us, uid);

-- Each start of the trainer's process. The request id makes a repeated StartRun the same attempt.
CREATE TABLE run_attempts (
    run_uid TEXT NOT NULL REFERENCES runs (uid),
    attempt BIGINT NOT NULL,
    request_id TEXT NOT NULL,
    start_time_us BIGINT NOT NULL,
    PRIMARY KEY (run_uid, attempt)
);
CREATE INDEX run_attempts_by_request ON run_attempts (run_uid, request_id);

CREATE TABLE run_writers (
    run_uid TEXT NOT NULL REFERENCES runs (uid),
    writer TEXT NOT NULL,
    next_sequence BIGINT NOT NULL,
    PRIMARY KEY (run_uid, writer)
);

-- One row a request: its events packed, from `position` on in the order of the run.
CREATE TABLE events (
    run_uid TEXT NOT NULL REFERENCES runs (uid),
    position BIGINT NOT NULL,
    writer TEXT NOT NULL,
    first_sequence BIGINT NOT NULL,
    event_count BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (run_uid, position),
    UNIQUE (run_uid, writer, first_sequence)
);

CREATE TABLE checkpoints (
    uid TEXT PRIMARY KEY,
    run_uid TEXT NOT NULL REFERENCES runs (uid),
    artifact_uid TEXT NOT NULL REFERENCES artifacts (uid),
    attempt BIGINT NOT NULL,
    state TEXT NOT NULL,
    version BIGINT,
    epoch BIGINT NOT NULL,
    batch BIGINT,
    step BIGINT,
    path TEXT NOT NULL,
    weights_only BIGINT NOT NULL,
    value DOUBLE PRECISION,
    reason TEXT NOT NULL,
    reason_text TEXT NOT NULL,
    aliases TEXT NOT NULL,
    metrics TEXT NOT NULL,
    metadata TEXT,
    size_bytes BIGINT NOT NULL,
    file_count BIGINT NOT NULL,
    digest BYTEA,
    create_time_us BIGINT NOT NULL,
    expire_time_us BIGINT NOT NULL,
    commit_time_us BIGINT,
    delete_time_us BIGINT,
    purge_time_us BIGINT,
    UNIQUE (artifact_uid, version)
);
CREATE INDEX checkpoints_by_run ON checkpoints (run_uid, state);
CREATE INDEX checkpoints_to_expire ON checkpoints (state, expire_time_us);
CREATE INDEX checkpoints_to_purge ON checkpoints (state, purge_time_us, delete_time_us);

-- Every save attempt's answer, kept for ever.
CREATE TABLE decisions (
    run_uid TEXT NOT NULL REFERENCES runs (uid),
    position BIGINT NOT NULL,
    writer TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    batch BIGINT,
    action TEXT NOT NULL,
    checkpoint_uid TEXT,
    decide_time_us BIGINT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (run_uid, position),
    UNIQUE (run_uid, writer, sequence)
);
CREATE INDEX decisions_by_epoch ON decisions (run_uid, epoch, position);

-- The numbers (not NaN) of committed versions only: rows come with the commit and go with the deletion.
CREATE TABLE version_metrics (
    checkpoint_uid TEXT NOT NULL REFERENCES checkpoints (uid),
    name TEXT NOT NULL,
    value DOUBLE PRECISION NOT NULL,
    commit_time_us BIGINT NOT NULL,
    run_uid TEXT NOT NULL,
    artifact_uid TEXT NOT NULL,
    team TEXT NOT NULL,
    project TEXT NOT NULL,
    PRIMARY KEY (checkpoint_uid, name)
);
CREATE INDEX version_metrics_by_run ON version_metrics (run_uid, name, value, commit_time_us);
CREATE INDEX version_metrics_by_artifact ON version_metrics (artifact_uid, name, value, commit_time_us);
CREATE INDEX version_metrics_by_project ON version_metrics (team, project, name, value, commit_time_us);
CREATE INDEX version_metrics_by_team ON version_metrics (team, name, value, commit_time_us);

CREATE TABLE aliases (
    artifact_uid TEXT NOT NULL REFERENCES artifacts (uid),
    alias TEXT NOT NULL,
    checkpoint_uid TEXT NOT NULL REFERENCES checkpoints (uid),
    owner TEXT NOT NULL,
    update_time_us BIGINT NOT NULL,
    PRIMARY KEY (artifact_uid, alias)
);
CREATE INDEX aliases_by_checkpoint ON aliases (checkpoint_uid);

CREATE TABLE files (
    uid TEXT PRIMARY KEY,
    checkpoint_uid TEXT NOT NULL REFERENCES checkpoints (uid),
    path TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    state TEXT NOT NULL,
    digest BYTEA,
    sha256 BYTEA,
    -- The stream that may write it; a newer stream takes it over.
    writer_token TEXT NOT NULL,
    UNIQUE (checkpoint_uid, path)
);

-- A stored piece. The key is made by the server and never used again.
CREATE TABLE chunks (
    team TEXT NOT NULL,
    digest BYTEA NOT NULL,
    size_bytes BIGINT NOT NULL,
    object_key TEXT NOT NULL,
    touch_time_us BIGINT NOT NULL,
    PRIMARY KEY (team, digest)
);
CREATE INDEX chunks_by_touch ON chunks (touch_time_us, team, digest);

-- Which chunk stands where in a file; also the pin that keeps the chunk.
CREATE TABLE file_chunks (
    file_uid TEXT NOT NULL REFERENCES files (uid),
    offset_bytes BIGINT NOT NULL,
    size_bytes BIGINT NOT NULL,
    team TEXT NOT NULL,
    digest BYTEA NOT NULL,
    PRIMARY KEY (file_uid, offset_bytes)
);
CREATE INDEX file_chunks_by_digest ON file_chunks (team, digest);

-- Objects that may exist without a chunk row: uploads under way (a day) and collected chunks (the reader's grace).
CREATE TABLE doomed_objects (
    object_key TEXT PRIMARY KEY,
    due_time_us BIGINT NOT NULL
);
CREATE INDEX doomed_objects_by_due ON doomed_objects (due_time_us);
