//! How a source file must look: a first line that says what it is for, one idea, nothing left to do.

use super::house::UNSAFE;
use super::{Crate, File, Finding, Workspace};

/// The longest a file may be, its tests not counted.
const LONGEST: usize = 800;

/// What half of the files, and nine in ten, should stay below.
const GOALS: (usize, usize) = (150, 500);

/// Marks of unfinished work, in two halves so that this file does not have them itself.
const UNFINISHED: [[&str; 2]; 3] = [["TO", "DO"], ["FIX", "ME"], ["XX", "X:"]];

/// Names of error variants that say nothing.
const CATCH_ALL: [&str; 2] = ["Other", "Generic"];

/// Checks one file.
pub(super) fn check(member: &Crate, file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !file.text.trim_start().starts_with("//!") {
        findings.push(Finding::new(
            &file.path,
            "the first line must say what the file is for (//!)",
        ));
    }
    let lines = code_lines(file);
    if lines > LONGEST {
        findings.push(Finding::new(
            &file.path,
            format!("{lines} lines, more than {LONGEST}: cut it by idea"),
        ));
    }
    let may_be_unsafe = UNSAFE.contains(&member.folder.as_str());
    let is_error = file.text.contains("thiserror::Error");
    for (index, line) in file.text.lines().enumerate() {
        let place = || format!("{}:{}", file.path, index + 1);
        if UNFINISHED.iter().any(|halves| line.contains(&halves.concat())) {
            findings.push(Finding::new(place(), "finish it, or make it an issue"));
        }
        let code = line.trim_start();
        if !may_be_unsafe && !code.starts_with("//") && opens_unsafe(code) {
            findings.push(Finding::new(
                place(),
                "unsafe code belongs to packet, ebpf and dataplane",
            ));
        }
        if is_error && CATCH_ALL.iter().any(|name| is_variant(code, name)) {
            findings.push(Finding::new(
                place(),
                "an error variant says what failed; this one says nothing",
            ));
        }
    }
    findings
}

/// One line about the sizes of all files.
pub(super) fn summary(workspace: &Workspace) -> String {
    let mut sizes: Vec<usize> = workspace
        .crates
        .iter()
        .flat_map(|c| c.files.iter().map(code_lines))
        .collect();
    sizes.sort_unstable();
    let at = |percent: usize| {
        sizes
            .get((sizes.len() * percent / 100).min(sizes.len().saturating_sub(1)))
            .copied()
    };
    let (median, ninety, longest) = (
        at(50).unwrap_or(0),
        at(90).unwrap_or(0),
        sizes.last().copied().unwrap_or(0),
    );
    let verdict = if median > GOALS.0 || ninety > GOALS.1 {
        "; warning: longer than we like"
    } else {
        ""
    };
    format!(
        "{} files, {} lines without tests; median {median} (goal {}), 90 % within {ninety} (goal {}), longest {longest}{verdict}",
        sizes.len(),
        sizes.iter().sum::<usize>(),
        GOALS.0,
        GOALS.1,
    )
}

/// Lines that are not tests: none of a test file, and of another those before its test module.
fn code_lines(file: &File) -> usize {
    let is_test = file.path.contains("/tests/") || file.path.ends_with("tests.rs") || file.path.contains("/e2e/");
    if is_test {
        return 0;
    }
    let lines: Vec<&str> = file.text.lines().collect();
    let tests = lines
        .windows(2)
        .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].ends_with(" {"));
    tests.unwrap_or(lines.len())
}

/// Whether a line of code has `unsafe` followed by what it can introduce.
fn opens_unsafe(code: &str) -> bool {
    let forms = [
        "unsafe {",
        "unsafe fn ",
        "unsafe impl ",
        "unsafe extern ",
        "unsafe trait ",
        "#[unsafe(",
    ];
    let code = code.replace("\\\"", "");
    // Every other piece between quotes is outside of strings.
    code.split('"')
        .step_by(2)
        .any(|outside| forms.iter().any(|form| outside.contains(form)))
}

fn is_variant(code: &str, name: &str) -> bool {
    code.strip_prefix(name)
        .is_some_and(|rest| matches!(rest.trim_start().chars().next(), Some('(' | '{' | ',')))
}
