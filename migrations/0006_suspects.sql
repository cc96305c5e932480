-- What is found wrong is known as wrong, and a start that is repeated is known to be the same.

-- 1 once a read found other bytes under the chunk's key, or none: the next upload of these bytes writes them there again.
ALTER TABLE chunks ADD COLUMN is_suspect BIGINT NOT NULL DEFAULT 0;

-- Digests of what the start asked for, and of its config; NULL of a start by a version that kept none.
ALTER TABLE run_attempts ADD COLUMN body_digest BYTEA;
ALTER TABLE run_attempts ADD COLUMN config_digest BYTEA;
