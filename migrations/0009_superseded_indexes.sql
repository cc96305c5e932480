-- Indexes whose reads go by those of 0007. In a migration of their own: a drop shuts readers out, here for a moment, and there
-- for as long as the other indexes take to build.

DROP INDEX decisions_by_epoch;
DROP INDEX checkpoints_by_run;
