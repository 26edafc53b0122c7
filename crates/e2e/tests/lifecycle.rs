//! Up, down, twice, side by side, after a kill: nothing is left.

use std::process::Command;

use libtest_mimic::Trial;

use crate::support::{Lab, cgroup2, test, weft};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("lifecycle::down_leaves_nothing", down_leaves_nothing),
        test("lifecycle::up_twice_is_up_once", up_twice_is_up_once),
        test("lifecycle::down_after_any_kill", down_after_any_kill),
        test(
            "lifecycle::up_after_the_supervisor_was_killed",
            up_after_the_supervisor_was_killed,
        ),
        test("lifecycle::two_labs_side_by_side", two_labs_side_by_side),
        test("lifecycle::kubeconfig_and_env", kubeconfig_and_env),
        test("lifecycle::what_cannot_work_says_so", what_cannot_work_says_so),
    ]
}

fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Everything on the machine that mentions a lab: namespaces, links, mounts, cgroups, tables, processes, pins.
fn traces(lab: &str) -> String {
    let name = format!("weft-{lab}");
    let listings = [
        "ip netns list".to_owned(),
        "ip -o link".to_owned(),
        "cat /proc/mounts".to_owned(),
        format!("find {} -type d", cgroup2().display()),
        "nft list tables".to_owned(),
        "find /sys/fs/bpf 2>/dev/null".to_owned(),
        "ls -d /run/weft/lab/*".to_owned(),
        // The command lines of processes name the lab by its flag or by its folder.
        format!("pgrep -af -- '(--name {lab}( |$)|weft/lab/{lab}/)'"),
    ];
    let everything: String = listings.iter().map(|command| shell(command)).collect();
    let of_lab = |line: &&str| {
        let mut words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        words.any(|word| word == name || word.starts_with(&format!("{name}-node-")) || word == lab)
            && !line.contains("pgrep")
    };
    everything
        .lines()
        .filter(of_lab)
        .flat_map(|line| [line, "\n"])
        .collect()
}

#[track_caller]
fn assert_gone(lab: &str) {
    let left = traces(lab);
    assert!(left.is_empty(), "left behind:\n{left}");
}

fn down_leaves_nothing() {
    let lab = Lab::own("left", &[]);
    assert!(
        !traces(lab.name()).is_empty(),
        "the search for traces finds none of a lab that is up"
    );
    weft(&["lab", "down", "--name", lab.name()]).good();
    assert_gone(lab.name());
    let again = weft(&["lab", "down", "--name", lab.name()]).good();
    assert!(again.contains("nothing to do"), "{again}");
}

fn up_twice_is_up_once() {
    let lab = Lab::own("twice", &["--nodes", "1"]);
    let before = lab.pids("supervisor", None);
    let said = weft(&["lab", "up", "--name", lab.name(), "--nodes", "1"]).good();
    assert!(said.contains("was up already"), "{said}");
    assert_eq!(lab.pids("supervisor", None), before);
}

fn down_after_any_kill() {
    let lab = Lab::own("killed", &["--nodes", "1"]);
    for component in ["kubelet", "agent", "dns"] {
        assert_eq!(lab.kill(component, Some("node-1")), 1, "{component}");
    }
    assert_eq!(lab.kill("api", None), 1);
    // Beside the supervisor it may be a component that it is just starting again.
    assert!(lab.kill("supervisor", None) >= 1);
    weft(&["lab", "down", "--name", lab.name()]).good();
    assert_gone(lab.name());
}

fn up_after_the_supervisor_was_killed() {
    let lab = Lab::own("again", &["--nodes", "1"]);
    assert_eq!(lab.kill("supervisor", None), 1);
    let listed = weft(&["lab", "list"]).good();
    assert!(
        listed
            .lines()
            .any(|line| line.starts_with(lab.name()) && line.contains("damaged")),
        "{listed}"
    );
    weft(&["lab", "up", "--name", lab.name(), "--nodes", "1"]).good();
    weft(&["lab", "check", "--name", lab.name()]).good();
}

fn two_labs_side_by_side() {
    let (one, two) = (Lab::own("one", &["--nodes", "2"]), Lab::own("two", &["--nodes", "2"]));
    for lab in [&one, &two] {
        weft(&["lab", "check", "--name", lab.name()]).good();
    }
    weft(&["lab", "down", "--name", one.name()]).good();
    assert_gone(one.name());
    weft(&["lab", "check", "--name", two.name()]).good();
}

fn kubeconfig_and_env() {
    let lab = Lab::shared();
    let path = weft(&["lab", "kubeconfig", "--name", lab.name()]).good();
    assert_eq!(path.trim(), lab.dir().join("kubeconfig").display().to_string());
    let env = weft(&["lab", "env", "--name", lab.name()]).good();
    let script = format!("{env}\nkubectl get nodes -o name && command -v weft");
    let output = Command::new("sh")
        .args(["-c", &script])
        .env_remove("KUBECONFIG")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("node/node-3\n") && said.trim_end().ends_with("/weft"),
        "{said}"
    );
}

fn what_cannot_work_says_so() {
    for (args, wanted) in [
        (
            &["lab", "kubeconfig", "--name", "e2e-absent"][..],
            "start one with: weft lab up --name e2e-absent",
        ),
        (&["lab", "up", "--name", "Big/Name"], "lower-case letters"),
        (&["lab", "up", "--name", "e2e-none", "--nodes", "0"], "1 to 100 nodes"),
    ] {
        let said = weft(args).bad();
        assert!(said.contains(wanted), "{args:?}: {said}");
    }
}
