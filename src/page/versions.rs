//! A table of versions, with links that sort it and boxes that choose what is compared.

use std::collections::BTreeMap;

use keepbest_proto::v1;
use maud::Markup;
use maud::html;

use crate::figures;
use crate::page::query::Query;
use crate::page::show;

/// Metrics that have a column: the monitor's, and those that most versions have.
const COLUMNS: usize = 4;

/// A metric as filters and orders name it.
pub(super) fn field(metric: &str) -> String {
    format!("metrics.\"{}\"", metric.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The metrics that are worth a column.
fn columns(versions: &[v1::Version], monitor: &str) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in versions.iter().flat_map(|it| it.metrics.keys()) {
        *counts.entry(name).or_default() += 1;
    }
    let mut names: Vec<_> = counts.into_iter().collect();
    // What is on held-out data says more than what is on training.
    names.sort_by_key(|(name, count)| (*name != monitor, usize::MAX - count, !name.starts_with("val_")));
    names.into_iter().take(COLUMNS).map(|(name, _)| name.to_owned()).collect()
}

pub(super) fn table(versions: &[v1::Version], artifact: &v1::Artifact, query: &Query, now_us: i64) -> Markup {
    let columns = columns(versions, &artifact.monitor);
    let sort = Sort { query, first: "" };
    let falling = Sort { query, first: " desc" };
    html! {
        div.scroll #version-list tabindex="0" role="region" aria-label="Table of versions" {
            table {
                thead { tr {
                    th.pick scope="col" { span.hidden { "Compare" } }
                    (falling.head("number", "Version", false))
                    th scope="col" { "Names" }
                    (sort.head("epoch", "Epoch", true))
                    @for name in &columns {
                        @let rises = *name != artifact.monitor || artifact.direction() != v1::Mode::Max;
                        (if rises { &sort } else { &falling }.head(&field(name), name, true))
                    }
                    (falling.head("size_bytes", "Size", true))
                    th.number scope="col" { "Files" }
                    th scope="col" { "Digest" }
                    (falling.head("create_time", "When", false))
                    th scope="col" { "Run" }
                } }
                tbody {
                    @for version in versions {
                        @let id = show::id(&version.name);
                        tr {
                            td.pick { input type="checkbox" name="v" value=(id) aria-label={ "Compare " (id) }; }
                            th scope="row" { (show::link(&version.name)) }
                            td { (show::aliases(version)) }
                            td.number { (show::epoch(version.epoch, version.batch)) }
                            @for name in &columns { td.number { (show::metric(version.metrics.get(name).copied())) } }
                            td.number { (figures::size(version.size_bytes)) }
                            td.number { (version.file_count) }
                            td { (show::digest(&version.digest)) }
                            td { (show::age(version.create_time.as_ref(), now_us)) }
                            td { (show::link(&version.run)) }
                        }
                    }
                }
            }
        }
    }
}

/// How the heads of columns sort: at first so, and the other way round the second time.
struct Sort<'a> {
    query: &'a Query,
    first: &'static str,
}

impl Sort<'_> {
    fn head(&self, field: &str, label: &str, is_number: bool) -> Markup {
        let order = self.query.first("order");
        let (rising, falling) = (field.to_owned(), format!("{field} desc"));
        let first = format!("{field}{}", self.first);
        let next = if order == first && first == rising {
            &falling
        } else if order == first {
            &rising
        } else {
            &first
        };
        let (sorted, sign) = match order {
            it if it == rising => (Some("ascending"), " ↑"),
            it if it == falling => (Some("descending"), " ↓"),
            _ => (None, ""),
        };
        html! {
            th.number[is_number] scope="col" aria-sort=[sorted] {
                a href=(self.query.with("page", "").with("order", next).link()) { (show::text(label)) span aria-hidden="true" { (sign) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn a_metrics_name_is_quoted() {
        assert_eq!(field("Top-1 (%)"), "metrics.\"Top-1 (%)\"");
        assert_eq!(field("a\"b\\"), "metrics.\"a\\\"b\\\\\"");
    }
}
