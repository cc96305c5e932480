-- Indexes whose reads go by those of 0010, in a migration of their own, as in 0009.

DROP INDEX runs_by_time;
DROP INDEX runs_of_team_by_time;
DROP INDEX artifacts_by_monitor;
DROP INDEX artifacts_of_team_by_monitor;
