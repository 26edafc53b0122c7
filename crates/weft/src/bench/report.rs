//! What every benchmark reports: where and when it ran, and a row for each thing it measured.

use std::fmt;
use std::process::Command;

use serde::Serialize;

/// A benchmark's result.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: String,
    kernel: String,
    commit: String,
    date: String,
    rows: Vec<Row>,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    /// What is done.
    pub(super) work: &'static str,
    /// Over what.
    pub(super) subject: String,
    /// How long it takes, or how much gets through.
    pub(super) value: f64,
    /// Of the value.
    pub(super) unit: &'static str,
    /// To the limit measured in the same run: how many times as long as there it takes. So it is for what gets through, too.
    pub(super) ratio: f64,
    /// The ratio that it is to stay within, where there is such a goal.
    pub(super) goal: Option<f64>,
    /// It does.
    pub(super) met: Option<bool>,
}

impl Report {
    /// A report of this machine, now.
    pub(super) fn new(mut rows: Vec<Row>) -> Self {
        for row in &mut rows {
            row.value = round(row.value, 100.0);
            row.ratio = round(row.ratio, 1000.0);
            row.met = row.goal.map(|goal| row.ratio <= goal);
        }
        Self {
            machine: machine(),
            kernel: kernel(),
            commit: commit(),
            date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            rows,
        }
    }
}

fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut models = info
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = models.next().map_or("unknown processor", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{model}, {cores} cores")
}

fn kernel() -> String {
    let name = nix::sys::utsname::uname();
    name.map_or_else(
        |_| "unknown".into(),
        |name| name.release().to_string_lossy().into_owned(),
    )
}

/// What is checked out where the benchmark runs; outside a checkout, the version of the program.
fn commit() -> String {
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output();
    match git {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => concat!("version ", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}; Linux {}; commit {}; {}",
            self.machine, self.kernel, self.commit, self.date
        )?;
        let width = self
            .rows
            .iter()
            .map(|row| row.subject.chars().count())
            .max()
            .unwrap_or(0);
        let mut work = "";
        for row in &self.rows {
            if row.work != work {
                work = row.work;
                writeln!(f, "\n{work}")?;
                writeln!(f, "  {:<width$} {:>10}  {:>6}  goal", "", row.unit, "ratio")?;
            }
            let goal = match (row.goal, row.met) {
                (Some(goal), Some(true)) => format!("{goal:.2} met"),
                (Some(goal), _) => format!("{goal:.2} MISSED"),
                (None, _) => String::new(),
            };
            let line = format!(
                "  {:<width$} {:>10.2}  {:>6.2}  {goal}",
                row.subject, row.value, row.ratio
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, Row};

    #[test]
    fn a_goal_is_met_up_to_itself_and_the_fields_have_their_names() {
        let row = |ratio, goal| Row {
            work: "round trip",
            subject: "Weft".into(),
            value: 5.0,
            unit: "us",
            ratio,
            goal,
            met: None,
        };
        let report = Report::new(vec![row(1.1, Some(1.1)), row(1.2, Some(1.1)), row(9.0, None)]);
        let met: Vec<_> = report.rows.iter().map(|row| row.met).collect();
        assert_eq!(met, [Some(true), Some(false), None]);
        let json = serde_json::to_value(&report).unwrap();
        for field in ["machine", "kernel", "commit", "date"] {
            assert!(json[field].is_string(), "{field}");
        }
        assert_eq!(json["rows"][1]["met"], false);
        assert!(report.to_string().contains("1.10 MISSED"));
    }
}
