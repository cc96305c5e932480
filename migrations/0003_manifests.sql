-- Manifests: what the object store alone knows of each version, so that `keepbest rebuild` can make this database anew.

-- The state that the manifest in the store tells ('' is none). Where it is not the version's own, a manifest is due: no
-- transaction has to say so, whichever release ran it, and no crash can lose it.
ALTER TABLE checkpoints ADD COLUMN manifest_state TEXT NOT NULL DEFAULT '';
CREATE INDEX checkpoints_with_manifest_due ON checkpoints (uid) WHERE version IS NOT NULL AND manifest_state <> state;

-- A row stands while `keepbest rebuild` fills this database: until it is gone, no server opens it.
CREATE TABLE unfinished_rebuilds (
    begin_time_us BIGINT PRIMARY KEY
);
