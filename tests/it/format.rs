//! Formats and templates against a real Python: a script makes random cases and prints what Python makes of
//! them, and the Rust code must give the same output or the same error, word for word.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::Command;

use keepbest::domain::format::{Conversion, FormatError, FormatSpec, FormatValue};
use keepbest::domain::metric::MetricValue;
use keepbest::domain::template::{Fields, MissingKeys, RenderError, Template, TemplateError};
use serde_json::Value;

/// Fewer cases than this mean that the script broke off.
const LEAST_CASES: usize = 20_000;

/// How many differences a failure shows.
const SHOWN_DIFFERENCES: usize = 20;

/// An output, or the name of a Python exception and its text.
type Outcome = Result<String, (String, String)>;

#[test]
fn python_and_we_format_alike() {
    let cases = cases_from_python();
    let mut compared: BTreeMap<&str, usize> = BTreeMap::new();
    let mut differences = Vec::new();
    for case in &cases {
        let expected = expected(case);
        let (kind, ours) = match text(&case["case"]) {
            "spec" => ("spec", Some(formatted(case))),
            "conversion" => ("conversion", Some(Ok(converted(case)))),
            "template" => ("template", rendered(case, &expected)),
            other => panic!("the script made a case of kind `{other}`"),
        };
        let Some(ours) = ours else { continue };
        *compared.entry(kind).or_default() += 1;
        if ours != expected {
            differences.push(format!("{case}\n    ours: {ours:?}"));
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {} cases differ, among them:\n{}",
        differences.len(),
        cases.len(),
        differences.iter().take(SHOWN_DIFFERENCES).cloned().collect::<Vec<_>>().join("\n")
    );
    println!("compared with Python: {compared:?}");
    assert!(compared.values().sum::<usize>() >= LEAST_CASES, "only compared {compared:?}");
    assert_eq!(compared.len(), 3, "only compared {compared:?}");
}

fn cases_from_python() -> Vec<Value> {
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| OsString::from("python3"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/make_format_cases.py");
    let output = Command::new(&python)
        .arg(script)
        .output()
        .unwrap_or_else(|error| panic!("{python:?} is needed to compare with Python: {error}"));
    assert!(
        output.status.success(),
        "{python:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout).expect("the script prints ASCII");
    lines.lines().map(|line| serde_json::from_str(line).expect("every line is a JSON object")).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("the script writes text here")
}

fn expected(case: &Value) -> Outcome {
    let expected = &case["expected"];
    let shown = text(&expected["text"]).to_owned();
    match expected["error"].as_str() {
        Some(exception) => Err((exception.to_owned(), shown)),
        None => Ok(shown),
    }
}

fn given(value: &Value) -> FormatValue<'_> {
    let written = text(&value["value"]);
    match text(&value["kind"]) {
        "int" => FormatValue::Int(written.parse().expect("a 64-bit integer")),
        "float" => FormatValue::Float(f64::from_bits(written.parse().expect("the bits of a float"))),
        _ => FormatValue::Str(written),
    }
}

fn python_error(error: &FormatError) -> (String, String) {
    (error.python_type().to_owned(), error.to_string())
}

fn formatted(case: &Value) -> Outcome {
    FormatSpec::parse(text(&case["spec"]))
        .and_then(|spec| spec.format(&given(&case["given"])))
        .map_err(|error| python_error(&error))
}

fn converted(case: &Value) -> String {
    let letter = text(&case["letter"]).chars().next().expect("a letter");
    let conversion = Conversion::from_letter(letter).expect("a conversion that Python has");
    conversion.apply(&given(&case["given"]))
}

/// What we make of a template; none where we refuse on purpose what Python accepts, which is asserted to be that.
fn rendered(case: &Value, expected: &Outcome) -> Option<Outcome> {
    let metrics = case["metrics"].as_object().expect("an object");
    let metrics = metrics.iter().map(|(key, value)| (key.clone(), metric(value))).collect();
    let fields = Fields {
        epoch: case["epoch"].as_i64().expect("an integer"),
        batch: case["batch"].as_i64(),
        metrics: &metrics,
    };
    match Template::parse(text(&case["template"])) {
        Ok(template) => match template.render(&fields, MissingKeys::Fail) {
            Ok(rendered) => Some(Ok(rendered.path)),
            Err(RenderError::Path { .. }) => {
                assert!(expected.is_ok(), "{case}: the path was made, so Python made it, too");
                None
            }
            Err(RenderError::Format {
                error: FormatError::WidthTooLarge { .. } | FormatError::PrecisionTooLarge { .. },
                ..
            }) => None,
            Err(error) => Some(Err((error.python_type().to_owned(), error.to_string()))),
        },
        // These are refused early although Python may accept them with the right values.
        Err(TemplateError::Path { .. } | TemplateError::Attribute { .. } | TemplateError::Index { .. }) => {
            None
        }
        Err(refusal) => {
            assert!(expected.is_err(), "{case}: Python accepts what we refuse: {refusal}");
            None
        }
    }
}

fn metric(value: &Value) -> MetricValue {
    match given(value) {
        FormatValue::Int(int) => MetricValue::Integer(int),
        FormatValue::Float(float) => MetricValue::Number(float),
        FormatValue::Str(text) => MetricValue::Text(text.to_owned()),
    }
}
