//! Who may depend on whom.

use super::house::{self, EXCLUSIVE, Floor, NOT_IN_WORDS};
use super::{Crate, Finding};

/// Checks what one crate depends on.
pub(super) fn check(member: &Crate) -> Vec<Finding> {
    let place = format!("crates/{}/Cargo.toml", member.folder);
    let Some(floor) = house::floor(&member.folder) else {
        let message = "the plan of the house does not have this crate; add it to crates/xtask/src/check/house.rs";
        return vec![Finding::new(place, message)];
    };
    let dependencies = member.dependencies.iter();
    let broken = dependencies.filter_map(|name| forbidden(&member.folder, floor, name).map(|why| (name, why)));
    broken
        .map(|(name, why)| Finding::new(&place, format!("must not depend on {name}: {why}")))
        .collect()
}

fn forbidden(folder: &str, floor: Floor, dependency: &str) -> Option<String> {
    if let Some(ours) = dependency.strip_prefix("weft-").and_then(house::floor) {
        return match (floor, ours) {
            (Floor::Words, Floor::Room | Floor::Door | Floor::Workshop) => Some("words know nobody but words".into()),
            (Floor::Room, Floor::Room) => Some("rooms never import rooms; they meet in model".into()),
            (Floor::Room, Floor::Door | Floor::Workshop) => Some("rooms do not know who wires them".into()),
            _ => None,
        };
    }
    if floor == Floor::Words && NOT_IN_WORDS.contains(&dependency) {
        return Some("words have no I/O, no async and no Kubernetes".into());
    }
    let (_, allowed, why) = EXCLUSIVE.iter().find(|(name, ..)| *name == dependency)?;
    (!allowed.contains(&folder)).then(|| (*why).into())
}
