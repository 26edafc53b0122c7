//! What a StatefulSet does next: a pure function from its members to what is created and deleted.

/// What the set asks for.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// The first number.
    pub(super) start: i64,
    pub(super) replicas: i64,
    /// Members need not wait for each other.
    pub(super) parallel: bool,
    /// Members change their template only when somebody deletes them.
    pub(super) on_delete: bool,
    /// Members below this stay as they are.
    pub(super) partition: Option<i64>,
    /// The present template is not yet that of the whole set.
    pub(super) updating: bool,
}

/// One member that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) ordinal: i64,
    pub(super) finished: bool,
    pub(super) terminating: bool,
    pub(super) available: bool,
    /// Made from the present template.
    pub(super) updated: bool,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Make a member, of the present template or of the one before.
    Create {
        ordinal: i64,
        updated: bool,
    },
    Delete(i64),
}

/// The steps to take now.
pub(super) fn next(shape: &Shape, members: &[Member]) -> Vec<Act> {
    let wanted = shape.start..shape.start + shape.replicas;
    let mut acts = Vec::new();
    for ordinal in wanted.clone() {
        match members.iter().find(|member| member.ordinal == ordinal) {
            None => {
                let updated = is_new(shape, members, ordinal);
                acts.push(Act::Create { ordinal, updated });
            }
            Some(member) if member.finished && !member.terminating => acts.push(Act::Delete(ordinal)),
            Some(member) if member.terminating || !member.available => {
                if !shape.parallel {
                    // The next one waits for this one; only an update may replace what never gets ready.
                    acts.extend(update(shape, members, &wanted).filter(|_| acts.is_empty()));
                    return acts;
                }
                continue;
            }
            Some(_) => continue,
        }
        if !shape.parallel {
            return acts;
        }
    }
    let mut surplus: Vec<&Member> = members
        .iter()
        .filter(|member| !wanted.contains(&member.ordinal))
        .collect();
    surplus.sort_by_key(|member| std::cmp::Reverse(member.ordinal));
    if shape.parallel {
        acts.extend(
            surplus
                .iter()
                .filter(|m| !m.terminating)
                .map(|m| Act::Delete(m.ordinal)),
        );
    } else if let Some(last) = surplus.first() {
        return if last.terminating {
            Vec::new()
        } else {
            vec![Act::Delete(last.ordinal)]
        };
    }
    if acts.is_empty() {
        acts.extend(update(shape, members, &wanted));
    }
    acts
}

/// Is a missing member made from the present template?
fn is_new(shape: &Shape, members: &[Member], ordinal: i64) -> bool {
    if !shape.updating {
        return true;
    }
    match shape.partition {
        Some(partition) if partition > 0 => ordinal >= shape.start + partition,
        // An update goes from the last to the first: what is missing below those it has reached is of the old template.
        _ if shape.on_delete => true,
        _ => !members
            .iter()
            .any(|member| member.ordinal > ordinal && !member.updated && !member.terminating),
    }
}

/// The next member to be replaced: the last one that is of an old template, once those above it are available.
fn update(shape: &Shape, members: &[Member], wanted: &std::ops::Range<i64>) -> Option<Act> {
    if shape.on_delete {
        return None;
    }
    let first = shape.start + shape.partition.unwrap_or(0);
    let mut from_last: Vec<&Member> = members.iter().filter(|m| wanted.contains(&m.ordinal)).collect();
    from_last.sort_by_key(|member| std::cmp::Reverse(member.ordinal));
    for member in from_last.into_iter().filter(|member| member.ordinal >= first) {
        if !member.updated && !member.terminating {
            return Some(Act::Delete(member.ordinal));
        }
        if member.terminating || !member.available {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(replicas: i64) -> Shape {
        Shape {
            start: 0,
            replicas,
            parallel: false,
            on_delete: false,
            partition: None,
            updating: false,
        }
    }

    fn member(ordinal: i64) -> Member {
        Member {
            ordinal,
            finished: false,
            terminating: false,
            available: true,
            updated: true,
        }
    }

    fn create(ordinal: i64) -> Act {
        Act::Create { ordinal, updated: true }
    }

    #[test]
    fn one_after_the_other() {
        assert_eq!(next(&shape(3), &[]), [create(0)]);
        let young = Member {
            available: false,
            ..member(0)
        };
        assert_eq!(next(&shape(3), &[young]), []);
        assert_eq!(next(&shape(3), &[member(0)]), [create(1)]);
        assert_eq!(next(&shape(1), &[member(0), member(1), member(2)]), [Act::Delete(2)]);
        let going = Member {
            terminating: true,
            ..member(2)
        };
        assert_eq!(next(&shape(1), &[member(0), member(1), going]), []);
    }

    #[test]
    fn all_at_once() {
        let parallel = Shape {
            parallel: true,
            ..shape(3)
        };
        assert_eq!(next(&parallel, &[]), [create(0), create(1), create(2)]);
        let less = Shape {
            replicas: 1,
            ..parallel
        };
        assert_eq!(
            next(&less, &[member(0), member(1), member(2)]),
            [Act::Delete(2), Act::Delete(1)]
        );
    }

    #[test]
    fn an_update_goes_from_the_last_to_the_first() {
        let old = |ordinal| Member {
            updated: false,
            ..member(ordinal)
        };
        let updating = Shape {
            updating: true,
            ..shape(3)
        };
        assert_eq!(next(&updating, &[old(0), old(1), old(2)]), [Act::Delete(2)]);
        assert_eq!(next(&updating, &[old(0), old(1)]), [create(2)]);
        let young = Member {
            available: false,
            ..member(2)
        };
        assert_eq!(next(&updating, &[old(0), old(1), young]), []);
        assert_eq!(next(&updating, &[old(0), old(1), member(2)]), [Act::Delete(1)]);
        // A member that was lost below those that were reached comes back as it was.
        assert_eq!(
            next(&updating, &[old(0), old(2)]),
            [Act::Create {
                ordinal: 1,
                updated: false
            }]
        );
        let part = Shape {
            partition: Some(2),
            ..updating.clone()
        };
        assert_eq!(next(&part, &[old(0), old(1), old(2)]), [Act::Delete(2)]);
        assert_eq!(next(&part, &[old(0), old(1), member(2)]), []);
        let by_hand = Shape {
            on_delete: true,
            ..updating
        };
        assert_eq!(next(&by_hand, &[old(0), old(1), old(2)]), []);
        assert_eq!(next(&by_hand, &[old(0), old(2)]), [create(1)]);
    }

    #[test]
    fn an_update_replaces_what_never_got_ready() {
        let stuck = Member {
            available: false,
            updated: false,
            ..member(0)
        };
        assert_eq!(
            next(
                &Shape {
                    updating: true,
                    ..shape(1)
                },
                &[stuck]
            ),
            [Act::Delete(0)]
        );
    }

    #[test]
    fn a_finished_member_is_made_again() {
        let finished = Member {
            finished: true,
            available: false,
            ..member(0)
        };
        assert_eq!(next(&shape(1), &[finished]), [Act::Delete(0)]);
    }
}
