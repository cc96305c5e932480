-- Several processes (ranks) save one checkpoint: each completes a part, and the last one publishes it.

-- Of how many parts it is, as the first complete part declared it; NULL: of none, one process commits it.
ALTER TABLE checkpoints ADD COLUMN part_count BIGINT;

-- A part that is complete: its process has written all of its files, so many.
CREATE TABLE checkpoint_parts (
    checkpoint_uid TEXT NOT NULL REFERENCES checkpoints (uid),
    part BIGINT NOT NULL,
    file_count BIGINT NOT NULL,
    complete_time_us BIGINT NOT NULL,
    PRIMARY KEY (checkpoint_uid, part)
);
