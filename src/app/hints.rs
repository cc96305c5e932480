//! What was perhaps meant, where nothing is found because nothing is called so.

use std::collections::BTreeSet;

use crate::app::App;
use crate::app::Error;
use crate::db::BestScope;
use crate::domain::filter::Field;
use crate::domain::filter::Operand;
use crate::domain::filter::parse_filter;
use crate::domain::filter::parse_order;
use crate::domain::ids::ArtifactName;
use crate::domain::ids::shown;
use crate::near::nearest;

/// Names that a hint tells where none is near.
const TOLD: usize = 5;

impl App {
    /// Of a list that is empty: a sentence for each metric and run in its filter and order that its artifact does not have.
    pub async fn hints(
        &self,
        artifact: &ArtifactName,
        filter: &str,
        order_by: &str,
    ) -> Result<Vec<String>, Error> {
        let (conditions, order) = (parse_filter(filter)?, parse_order(order_by)?);
        let (mut metrics, mut runs) = (BTreeSet::new(), BTreeSet::new());
        for (field, operands) in conditions.iter().flat_map(|it| it.fields()) {
            match field {
                Field::Metric(name) => {
                    metrics.insert(name.as_str());
                }
                Field::Run => runs.extend(operands.iter().filter_map(|it| match it {
                    Operand::Text(id) => Some(id.as_str()),
                    Operand::Number(_) | Operand::Integer(_) => None,
                })),
                _ => {}
            }
        }
        if let Field::Metric(name) = &order.field {
            metrics.insert(name);
        }
        if metrics.is_empty() && runs.is_empty() {
            return Ok(Vec::new());
        }
        let uid = self.db.artifact(artifact).await?.uid;
        let mut hints = Vec::new();
        if !metrics.is_empty() {
            let names = self.db.metric_names(&BestScope::Artifact(uid.clone())).await?;
            let what = |name: &str| format!("no version of `{artifact}` has a metric `{}`", shown(name));
            hints.extend(metrics.into_iter().filter_map(|it| hint(it, &names, what(it))));
        }
        if !runs.is_empty() {
            let ids = self.db.run_ids_of(&uid).await?;
            let what = |id: &str| format!("no run `{}` saves into `{artifact}`", shown(id));
            hints.extend(runs.into_iter().filter_map(|it| hint(it, &ids, what(it))));
        }
        Ok(hints)
    }

    /// Behind a sentence that says that no version has a metric: what it may have meant.
    pub(super) async fn with_near_metric(
        &self,
        scope: &BestScope,
        metric: &str,
        sentence: String,
    ) -> Result<String, Error> {
        let names = self.db.metric_names(scope).await?;
        Ok(hint(metric, &names, sentence.clone()).unwrap_or(sentence))
    }
}

/// The sentence with what was perhaps meant; none if there is one of that name, or none of any name.
fn hint(name: &str, names: &[String], sentence: String) -> Option<String> {
    if names.is_empty() || names.iter().any(|it| it == name) {
        return None;
    }
    let all = || names.iter().map(String::as_str);
    Some(match nearest(name, all()) {
        Some(near) => format!("{sentence}: `{}` is nearly called so", shown(near)),
        None => {
            let told: Vec<String> = all().take(TOLD).map(|it| format!("`{}`", shown(it))).collect();
            let more = if names.len() > TOLD { ", ..." } else { "" };
            format!("{sentence}: there are {}{more}", told.join(", "))
        }
    })
}
