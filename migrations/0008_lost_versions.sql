-- How many of an artifact's numbers belong to versions of which a rebuild found nothing: they were given out, and stay taken.
ALTER TABLE artifacts ADD COLUMN lost_versions BIGINT NOT NULL DEFAULT 0;
