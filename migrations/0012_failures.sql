-- Why a run failed: the text `failure` of its last event when it was finished as FAILED. It stands here because a list of runs cannot
-- read events, of which a row may have some MiB. NULL of a run that failed before this migration.
ALTER TABLE runs ADD COLUMN failure TEXT;
