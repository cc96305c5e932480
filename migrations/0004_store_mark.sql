-- The mark: which object store belongs to this database. The store has an object that says the same, so that neither is ever
-- used with another one: a bucket of another server, a folder whose disk is not mounted.

CREATE TABLE store_marks (
    -- Always 1.
    id BIGINT PRIMARY KEY,
    store_id TEXT NOT NULL,
    -- 1 once the store had the object: from then on a store without it is another one.
    is_written BIGINT NOT NULL DEFAULT 0
);
