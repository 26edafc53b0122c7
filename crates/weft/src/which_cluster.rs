//! Which cluster a command is about: the flags that say so, and where its kubeconfig is.

use std::path::PathBuf;

use serde::Serialize;

/// Flags of every command that asks a cluster.
#[derive(clap::Args)]
pub(crate) struct Cluster {
    /// Where the API server is and who asks. Without it: $KUBECONFIG, else the lab called `lab`.
    #[arg(long, conflicts_with = "lab")]
    kubeconfig: Option<PathBuf>,
    /// The lab of this name.
    #[arg(long, value_name = "NAME", visible_alias = "name")]
    lab: Option<String>,
}

/// What keeps a command from its answer, and what to do.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    pub(crate) message: String,
    pub(crate) remedy: String,
}

impl Cluster {
    /// The kubeconfig of the cluster that is meant.
    pub(crate) fn kubeconfig(&self) -> Result<PathBuf, Problem> {
        if let Some(path) = &self.kubeconfig {
            return Ok(path.clone());
        }
        if let Some(lab) = &self.lab {
            let path = lab_kubeconfig(lab);
            return match path.exists() {
                true => Ok(path),
                false => Err(Problem {
                    message: format!("there is no lab called {lab}"),
                    remedy: format!("start it: weft lab up --name {lab}"),
                }),
            };
        }
        if let Some(path) = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) {
            return Ok(path.into());
        }
        let path = lab_kubeconfig("lab");
        match path.exists() {
            true => Ok(path),
            false => Err(Problem {
                message: "no cluster is given, and there is no lab on this machine".into(),
                remedy: "pass --kubeconfig, set KUBECONFIG, or start a lab: weft lab up".into(),
            }),
        }
    }
}

fn lab_kubeconfig(lab: &str) -> PathBuf {
    PathBuf::from(format!("/run/weft/lab/{lab}/kubeconfig"))
}
