//! What helps a person to find their way: completions, pages for `man`, and the address of a page.

use std::process::Command;

use super::Desk;
use super::keepbest;

#[test]
fn bash_completes_commands_and_their_options() {
    let program = env!("CARGO_BIN_EXE_keepbest");
    let script = format!(
        "source <({program} completions bash)
        complete_words() {{ COMP_WORDS=(keepbest \"$@\"); COMP_CWORD=$#; _keepbest keepbest \"${{@: -1}}\" keepbest; echo ${{COMPREPLY[@]}}; }}
        complete_words wa; complete_words watch --cursor-"
    );
    let done = Command::new("bash").args(["-euc", &script]).output().unwrap();
    let (told, problem) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8_lossy(&done.stderr));
    assert_eq!(told, "watch\n--cursor-file\n", "{problem}");
}

#[test]
fn each_command_has_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let done = keepbest(&["man", "pages", "--json"], folder.path());
    assert_eq!(done.code, 0, "{}", done.stderr);
    let written: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    let pages = written["pages"].as_array().unwrap();
    assert!(pages.len() > 25, "{pages:?}");
    let read = |page: &str| std::fs::read_to_string(folder.path().join("pages").join(page)).unwrap();
    assert!(read("keepbest.1").contains("Exit codes: 0 done"), "{}", read("keepbest.1"));
    assert!(read("keepbest-admin-create-token.1").contains("role"));
    assert!(read("keepbest-watch.1").contains("keepbest watch cnn"));
}

#[test]
fn the_address_of_a_page_is_that_of_the_thing() {
    let desk = Desk::new();
    std::fs::write(desk.folder.path().join("m.bin"), "x").unwrap();
    desk.ok(&["push", "m.bin", "cnn", "--metric", "val_loss=0.5"]);
    let printed = desk.ok(&["open", "cnn", "--print"]);
    assert_eq!(printed, format!("{}/teams/default/projects/default/artifacts/cnn\n", desk.server.address()));
    let project = desk.ok(&["open", "--print"]);
    assert!(project.ends_with("/teams/default/projects/default\n"), "{project}");
    assert_eq!(desk.run(&["open", "none", "--print"]).code, 3);
}
