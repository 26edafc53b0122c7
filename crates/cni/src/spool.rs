//! Where DELs wait for an agent that is away. So a dead agent never keeps a node from draining.

use std::io;
use std::path::Path;

use weft_model::cni::{CniError, Request, code};

use crate::agent::Away;

/// Leaves the request where the agent will find it. Whole or not at all: the agent never sees half of it.
pub(crate) fn leave(dir: &Path, request: &Request, away: &Away) -> Result<(), CniError> {
    write(dir, request).map_err(|error| {
        let details = format!("{}; and {} cannot be written: {error}", away.why, dir.display());
        CniError::new(
            code::IO,
            "the Weft agent is away and the request cannot be kept for it",
            details,
        )
    })
}

fn write(dir: &Path, request: &Request) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let name = request.spool_name();
    let draft = dir.join(format!(".{name}.{}", std::process::id()));
    std::fs::write(&draft, serde_json::to_vec(request)?)?;
    std::fs::rename(&draft, dir.join(name)).inspect_err(|_| {
        // The error of the rename is the one that matters.
        let _ = std::fs::remove_file(&draft);
    })
}
