//! How a filter becomes a condition.

use super::*;
use crate::db::version_queries::column;
use crate::domain::filter::parse_filter;

#[test]
fn a_tree_becomes_one_condition_with_all_values_bound() {
    let parsed = parse_filter("(epoch = 1 OR metrics.\"a b\" IN (2, 3)) AND config : 'x_%\"\\\\'").unwrap();
    let filter = Filter::of(&parsed, column);
    let expected = " AND (c.epoch = v.o0 OR EXISTS (SELECT 1 FROM version_metrics f WHERE f.checkpoint_uid = c.uid \
        AND f.name = v.o3 AND f.value IN (v.o1, v.o2))) AND LOWER(r.config) LIKE LOWER(v.o4) ESCAPE '\\'";
    assert_eq!(filter.sql, expected);
    assert_eq!(filter.columns, ", o0 bigint, o1 real, o2 real, o3 text, o4 text");
    assert_eq!(pattern("x_%\"\\"), "%x\\_\\%\\\\\"\\\\\\\\%");
}
