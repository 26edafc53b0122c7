//! Each rule breaks on a small workspace made to break it, and only there.

use super::*;

const INHERITS: &str = "[package]\nname = \"x\"\n\n[lints]\nworkspace = true\n";

/// A crate that keeps every rule.
fn good(folder: &str) -> Crate {
    Crate {
        package: if folder == "weft" {
            "weft".into()
        } else {
            format!("weft-{folder}")
        },
        folder: folder.into(),
        dependencies: vec!["serde".into()],
        manifest: INHERITS.into(),
        files: vec![file(
            &format!("crates/{folder}/src/lib.rs"),
            "//! Good.\n\nfn main() {}\n",
        )],
    }
}

fn file(path: &str, text: &str) -> File {
    File {
        path: path.into(),
        text: text.into(),
    }
}

fn findings(crates: Vec<Crate>) -> Vec<String> {
    let manifest = "[workspace.lints.rust]\nunsafe_code = \"forbid\"\n".into();
    rules(&Workspace { manifest, crates })
        .iter()
        .map(Finding::to_string)
        .collect()
}

fn needing(folder: &str, dependency: &str) -> Vec<String> {
    let mut member = good(folder);
    member.dependencies.push(dependency.into());
    findings(vec![member])
}

fn having(folder: &str, text: &str) -> Vec<String> {
    let mut member = good(folder);
    member.files = vec![file(&format!("crates/{folder}/src/x.rs"), text)];
    findings(vec![member])
}

#[track_caller]
fn only(findings: &[String], part: &str) {
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].contains(part), "{findings:?}");
}

#[test]
fn a_good_house_has_no_findings() {
    let all = [
        "model",
        "packet",
        "ebpf",
        "cluster",
        "dataplane",
        "dns",
        "lab",
        "cni",
        "weft",
        "e2e",
        "xtask",
    ];
    assert!(findings(all.map(good).into()).is_empty());
}

#[test]
fn rooms_do_not_know_rooms_or_doors() {
    only(&needing("dns", "weft-cluster"), "rooms never import rooms");
    only(&needing("lab", "weft-cni"), "rooms do not know who wires them");
    assert!(needing("dns", "weft-model").is_empty());
    assert!(needing("weft", "weft-dns").is_empty());
}

#[test]
fn words_stay_words() {
    only(&needing("model", "tokio"), "no I/O");
    only(&needing("packet", "weft-dns"), "words know nobody");
    assert!(needing("ebpf", "weft-packet").is_empty());
}

#[test]
fn what_lives_in_one_place_stays_there() {
    only(&needing("lab", "kube"), "cluster");
    only(&needing("weft", "aya"), "dataplane");
    only(&needing("dataplane", "aya-ebpf"), "packet and ebpf");
    only(&needing("dns", "anyhow"), "thiserror");
    assert!(needing("cluster", "kube").is_empty());
    assert!(needing("weft", "anyhow").is_empty());
}

#[test]
fn a_crate_has_its_place_and_its_name() {
    only(&findings(vec![good("attic")]), "plan of the house");
    let mut renamed = good("dns");
    renamed.package = "names".into();
    only(&findings(vec![renamed]), "not weft-dns");
}

#[test]
fn nobody_escapes_the_lints() {
    let mut free = good("dns");
    free.manifest = "[package]\nworkspace = true\n[lints.rust]\n".into();
    only(&findings(vec![free]), "lints are not inherited");
    let mut own = good("packet");
    own.manifest = "[lints.rust]\nunsafe_op_in_unsafe_fn = \"deny\"\n".into();
    only(&findings(vec![own]), "undocumented_unsafe_blocks");
    let lax = rules(&Workspace {
        manifest: "[workspace.lints.rust]\nunsafe_code = \"warn\"\n".into(),
        crates: vec![],
    });
    assert_eq!(lax.len(), 1);
}

#[test]
fn unsafe_stays_where_it_may_be() {
    let text = "//! X.\nfn f() { unsafe { g() } }\n";
    only(&having("dns", text), "crates/dns/src/x.rs:2: unsafe");
    assert!(having("dataplane", text).is_empty());
    assert!(having("dns", "//! X.\n// unsafe { }\nconst S: &str = \"unsafe { }\";\n").is_empty());
}

#[test]
fn a_file_says_what_it_is_for_and_is_finished() {
    only(&having("dns", "fn f() {}\n"), "what the file is for");
    only(
        &having("dns", &format!("//! X.\n// {}: later\n", ["TO", "DO"].concat())),
        "finish it",
    );
    only(
        &having(
            "dns",
            "//! X.\n#[derive(thiserror::Error)]\nenum E {\n    Other(String),\n}\n",
        ),
        "says nothing",
    );
    assert!(
        having("dns", "//! X.\nenum E {\n    Other(String),\n}\n").is_empty(),
        "not an error"
    );
}

#[test]
fn a_file_is_one_idea_but_its_tests_are_free() {
    let long = format!("//! X.\n{}", "fn f() {}\n".repeat(800));
    only(&having("dns", &long), "801 lines");
    let tests = format!("//! X.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(900));
    assert!(having("dns", &tests).is_empty());
    let mut apart = good("dns");
    apart.files = vec![
        file("crates/dns/tests/big.rs", &long),
        file("crates/dns/src/zone/tests.rs", &long),
    ];
    assert!(findings(vec![apart]).is_empty());
}

#[test]
fn the_summary_counts_and_warns() {
    let with = |lines: usize| {
        let mut member = good("dns");
        member.files = vec![file("crates/dns/src/x.rs", &"x\n".repeat(lines))];
        files::summary(&Workspace {
            manifest: String::new(),
            crates: vec![member],
        })
    };
    assert!(with(100).starts_with("1 files, 100 lines") && !with(100).contains("warning"));
    assert!(with(200).contains("warning"));
}
