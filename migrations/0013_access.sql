-- Who may use the service, and what they did.

-- A team that an admin made. Data of a team without a row here is from a time in which the service did not ask who calls; making
-- the team gives it to its new members.
CREATE TABLE teams (
    id TEXT PRIMARY KEY,
    creator TEXT NOT NULL,
    create_time_us BIGINT NOT NULL
);

-- An API token: not its text, but the BLAKE3 of it, which nobody can turn into one.
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    digest BYTEA NOT NULL,
    role TEXT NOT NULL,
    -- Where the role holds; empty: the service.
    team TEXT NOT NULL,
    project TEXT,
    -- With these it holds for one attempt of one run. By its uid: another run of the same name is another run.
    run_uid TEXT,
    attempt BIGINT,
    description TEXT NOT NULL,
    creator TEXT NOT NULL,
    create_time_us BIGINT NOT NULL,
    expire_time_us BIGINT NOT NULL,
    last_use_time_us BIGINT,
    revoke_time_us BIGINT
);
CREATE INDEX tokens_by_team ON tokens (team, id);
CREATE INDEX tokens_of_attempts ON tokens (expire_time_us) WHERE run_uid IS NOT NULL;

-- What a holder of a certificate may do: a role in a team, or in one project of it.
CREATE TABLE members (
    -- As `certificate:uri:spiffe://example/trainer`.
    identity TEXT NOT NULL,
    team TEXT NOT NULL,
    -- Empty: all of the team.
    project TEXT NOT NULL,
    role TEXT NOT NULL,
    creator TEXT NOT NULL,
    create_time_us BIGINT NOT NULL,
    PRIMARY KEY (identity, team, project)
);
CREATE INDEX members_by_team ON members (team, identity, project);

-- What somebody did, written in the transaction that did it. Its place in its team's chain comes a moment later.
CREATE TABLE audit_entries (
    uid TEXT PRIMARY KEY,
    -- Empty: the service's own.
    team TEXT NOT NULL,
    position BIGINT,
    -- BLAKE3 of the digest before and of this entry.
    digest BYTEA,
    time_us BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE UNIQUE INDEX audit_entries_by_position ON audit_entries (team, position);
CREATE INDEX audit_entries_without_place ON audit_entries (uid) WHERE position IS NULL;

-- The end of each team's chain, and where what is kept of it begins.
CREATE TABLE audit_chains (
    team TEXT PRIMARY KEY,
    last_position BIGINT NOT NULL,
    last_digest BYTEA NOT NULL,
    -- The digest before the first entry that is kept.
    first_position BIGINT NOT NULL,
    before_digest BYTEA NOT NULL
);
