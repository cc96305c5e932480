//! The names of environment variables: which are the settings', which are known otherwise, and which are slips.

use std::ffi::OsString;

use super::{ConfigError, ENVIRONMENT_PREFIX, KEYS, PLAIN_DATABASE_URL, environment_name, store};
use crate::near::nearest;

/// Variables of the program and of the clients that are no settings of the server. A trainer has them in the environment in which
/// it runs the program, too.
const OF_CLIENTS: [&str; 10] = [
    "KEEPBEST_ADDRESS",
    "KEEPBEST_CA",
    "KEEPBEST_CLIENT_CERT",
    "KEEPBEST_CLIENT_KEY",
    "KEEPBEST_CONFIG",
    "KEEPBEST_LAUNCH",
    "KEEPBEST_PROJECT",
    "KEEPBEST_RUN",
    "KEEPBEST_TOKEN",
    "KEEPBEST_TOKEN_FILE",
];

/// Those of them that name a server, a project or a file: one that is empty is a script's whose own variable is not set.
const WITH_A_VALUE: [(&str, &str); 8] = [
    ("KEEPBEST_ADDRESS", "an address, as http://127.0.0.1:7400"),
    ("KEEPBEST_CA", "the path of a file of certificates of authorities"),
    ("KEEPBEST_CLIENT_CERT", "the path of a file with a certificate"),
    ("KEEPBEST_CLIENT_KEY", "the path of a file with the key of the certificate"),
    ("KEEPBEST_PROJECT", "TEAM/PROJECT, as vision/resnet"),
    ("KEEPBEST_CONFIG", "the path of a file of settings"),
    ("KEEPBEST_TOKEN", "an API token"),
    ("KEEPBEST_TOKEN_FILE", "the path of a file that holds an API token"),
];

/// Variables of the tests, which start the program in their own environment.
const OF_TESTS: [&str; 3] = ["KEEPBEST_BIN", "KEEPBEST_SOAK", "KEEPBEST_FAILPOINTS"];

/// What a seed of the tests ends with, and what the names of other variables of theirs begin with.
const SEED: &str = "_SEED";
const TEST: &str = "KEEPBEST_TEST_";

/// Refuses a variable that looks like one of ours and is none: what it was meant to set would be left at its default without a
/// word.
///
/// # Errors
/// Names the variable, and the one that was perhaps meant.
pub fn check_names(names: impl IntoIterator<Item = String>) -> Result<(), ConfigError> {
    let settings: Vec<String> = KEYS.iter().map(|key| environment_name(key)).collect();
    let is_known = |name: &str| {
        settings.iter().any(|it| it == name)
            || OF_CLIENTS.contains(&name)
            || OF_TESTS.contains(&name)
            || name.ends_with(SEED)
            || name.starts_with(TEST)
            || is_of_a_service(name)
    };
    let unknown = names.into_iter().find(|it| it.starts_with(ENVIRONMENT_PREFIX) && !is_known(it));
    let Some(name) = unknown else { return Ok(()) };
    let known = settings.iter().map(String::as_str).chain(OF_CLIENTS);
    let meant = nearest(&name, known).map(str::to_owned);
    Err(ConfigError::UnknownVariable { name, meant })
}

/// Refuses a variable that is empty where it must name something: whoever wants the default leaves it unset.
///
/// # Errors
/// Names the variable, and what would be right.
pub(super) fn check_not_empty(value_of: impl Fn(&str) -> Option<OsString>) -> Result<(), ConfigError> {
    let is_empty = |name: &str| value_of(name).is_some_and(|it| it.is_empty());
    match WITH_A_VALUE.into_iter().find(|(name, _)| is_empty(name)) {
        Some((name, right)) => Err(ConfigError::EmptyVariable { name, right }),
        None => Ok(()),
    }
}

/// Kubernetes sets these in every pod beside a service whose name is `keepbest` or begins with `keepbest-`:
/// `KEEPBEST_SERVICE_HOST`, `KEEPBEST_SERVICE_PORT_GRPC`, `KEEPBEST_PORT_7400_TCP_ADDR` and the like.
fn is_of_a_service(name: &str) -> bool {
    if name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT") || name.ends_with("_PORT") {
        return true;
    }
    if name.contains("_SERVICE_PORT_") {
        return true;
    }
    let Some((_, behind)) = name.split_once("_PORT_") else { return false };
    let mut words = behind.split('_');
    let is_port = words.next().is_some_and(|it| !it.is_empty() && it.bytes().all(|b| b.is_ascii_digit()));
    is_port && words.next().is_some_and(|it| ["TCP", "UDP", "SCTP"].contains(&it))
}

/// Whether a variable of this name sets something.
pub(super) fn is_ours(name: &str) -> bool {
    name == PLAIN_DATABASE_URL
        || store::is_option(name)
        || KEYS.iter().any(|key| environment_name(key) == name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::check_names;
    use super::check_not_empty;

    #[test]
    fn a_variable_that_is_empty_is_named() {
        let with = |value: Option<&str>| {
            let value_of = |name: &str| value.filter(|_| name == "KEEPBEST_PROJECT").map(Into::into);
            check_not_empty(value_of).map_err(|error| error.to_string())
        };
        let expected = "the environment variable `KEEPBEST_PROJECT` is empty: set it to TEAM/PROJECT, as vision/resnet, or unset it";
        assert_eq!(with(Some("")), Err(expected.to_owned()));
        assert_eq!(with(Some("vision/resnet")), Ok(()));
        assert_eq!(with(None), Ok(()));
    }

    fn check(name: &str) -> Result<(), String> {
        check_names([name.to_owned()]).map_err(|error| error.to_string())
    }

    #[test]
    fn a_slip_is_refused_with_the_name_that_was_meant() {
        for (slip, meant) in [
            ("KEEPBEST_DATA_DRI", "KEEPBEST_DATA_DIR"),
            ("KEEPBEST_LIMITS_DRAIN_SECOND", "KEEPBEST_LIMITS_DRAIN_SECONDS"),
            ("KEEPBEST_ADRESS", "KEEPBEST_ADDRESS"),
            ("KEEPBEST_PROJCT", "KEEPBEST_PROJECT"),
        ] {
            let said = check(slip).unwrap_err();
            assert!(said.contains(&format!("`{slip}`")) && said.contains(&format!("`{meant}`")), "{said}");
        }
        let said = check("KEEPBEST_COLOUR").unwrap_err();
        assert!(said.contains("`keepbest check-config`"), "{said}");
    }

    #[test]
    fn what_others_set_is_let_be() {
        for name in [
            "PATH",
            "KEEPBEST_DATA_DIR",
            "KEEPBEST_LOG_FILTER",
            "KEEPBEST_RUN",
            "KEEPBEST_SERVICE_HOST",
            "KEEPBEST_SERVICE_PORT_GRPC",
            "KEEPBEST_PORT",
            "KEEPBEST_PORT_7400_TCP",
            "KEEPBEST_PORT_7400_TCP_ADDR",
            "KEEPBEST_HEADLESS_SERVICE_HOST",
            "KEEPBEST_CRASH_SEED",
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn the_variables_of_the_python_client_are_known() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/src/keepbest");
        let mut names = Vec::new();
        for path in fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()) {
            if path.extension().is_none_or(|it| it != "py") {
                continue;
            }
            let code = fs::read_to_string(path).unwrap();
            let quoted = code.split('"').skip(1).step_by(2);
            let is_name = |it: &&str| it.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
            let ours = quoted.filter(|it| it.starts_with("KEEPBEST_")).filter(is_name);
            names.extend(ours.map(str::to_owned));
        }
        assert!(names.iter().any(|it| it == "KEEPBEST_PROJECT"), "{names:?}");
        for name in names {
            assert_eq!(check(&name), Ok(()), "{name}");
        }
    }
}
