//! Calls that are given up, databases that go away, replicas that stop: on Postgres and S3, as many replicas stand.

mod cancels;
