//! How a rolling update moves pods from old ReplicaSets to the new one: pure arithmetic, with the two promises that
//! never more than `replicas + max_surge` pods are asked for and never less than `replicas - max_unavailable` are available.

/// What a Deployment asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) replicas: i64,
    pub(crate) max_surge: i64,
    pub(crate) max_unavailable: i64,
}

/// One ReplicaSet: how many it is asked for, and how many of those are available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) replicas: i64,
    pub(crate) available: i64,
}

/// The new sizes, of the new ReplicaSet and of the old ones (oldest first).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) new: i64,
    pub(crate) old: Vec<i64>,
}

/// The next step of a rolling update. Either the new set changes or old ones, never both, so that each step is judged
/// by what the previous one brought.
pub(crate) fn rolling(wanted: Wanted, new: Size, old: &[Size]) -> Step {
    let mut step = Step {
        new: new.replicas,
        old: old.iter().map(|set| set.replicas).collect(),
    };
    let total = new.replicas + step.old.iter().sum::<i64>();
    if new.replicas > wanted.replicas {
        step.new = wanted.replicas;
    } else if new.replicas < wanted.replicas {
        let room = wanted.replicas + wanted.max_surge - total;
        step.new += room.clamp(0, wanted.replicas - new.replicas);
    }
    if step.new == new.replicas {
        shrink_old(wanted, new, old, &mut step.old);
    }
    step
}

fn shrink_old(wanted: Wanted, new: Size, old: &[Size], sizes: &mut [i64]) {
    let total = new.replicas + sizes.iter().sum::<i64>();
    let at_least = wanted.replicas - wanted.max_unavailable;
    let unavailable_new = (new.replicas - new.available).max(0);
    let mut may_go = total - at_least - unavailable_new;
    if may_go <= 0 {
        return;
    }
    // What does not serve anyway goes first.
    for (set, size) in old.iter().zip(sizes.iter_mut()) {
        let idle = (set.replicas - set.available).clamp(0, may_go);
        *size -= idle;
        may_go -= idle;
    }
    let available = new.available + old.iter().map(|set| set.available).sum::<i64>();
    let mut spare = available - at_least;
    for (set, size) in old.iter().zip(sizes.iter_mut()) {
        let less = (*size).min(spare).min(set.available).max(0);
        *size -= less;
        spare -= less;
    }
}

/// The limits of a rolling update: a number or a percentage of the replicas; surge is rounded up, unavailable down. Both
/// being zero would never end, so then one may be unavailable.
pub(crate) fn limits(replicas: i64, surge: &serde_json::Value, unavailable: &serde_json::Value) -> (i64, i64) {
    let resolve = |value: &serde_json::Value, up: bool| {
        if let Some(number) = value.as_i64() {
            return number;
        }
        let percent = value
            .as_str()
            .and_then(|text| text.strip_suffix('%')?.parse::<i64>().ok());
        let scaled = replicas * percent.unwrap_or(25);
        if up { (scaled + 99) / 100 } else { scaled / 100 }
    };
    let (surge, unavailable) = (resolve(surge, true), resolve(unavailable, false));
    if surge == 0 && unavailable == 0 {
        return (0, 1);
    }
    (surge, unavailable.min(replicas))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn percentages() {
        assert_eq!(limits(3, &json!("25%"), &json!("25%")), (1, 0));
        assert_eq!(limits(10, &json!("25%"), &json!("25%")), (3, 2));
        assert_eq!(limits(4, &json!(0), &json!(0)), (0, 1));
        assert_eq!(limits(2, &json!(1), &json!(5)), (1, 2));
    }

    #[test]
    fn a_fresh_deployment_gets_all_at_once() {
        let wanted = Wanted {
            replicas: 3,
            max_surge: 1,
            max_unavailable: 0,
        };
        let step = rolling(
            wanted,
            Size {
                replicas: 0,
                available: 0,
            },
            &[],
        );
        assert_eq!(step, Step { new: 3, old: vec![] });
    }

    #[test]
    fn what_never_became_available_goes_first() {
        let wanted = Wanted {
            replicas: 3,
            max_surge: 1,
            max_unavailable: 0,
        };
        let old = [
            Size {
                replicas: 3,
                available: 3,
            },
            Size {
                replicas: 1,
                available: 0,
            },
        ];
        let step = rolling(
            wanted,
            Size {
                replicas: 0,
                available: 0,
            },
            &old,
        );
        assert_eq!(
            step,
            Step {
                new: 0,
                old: vec![3, 0]
            }
        );
    }

    proptest! {
        /// From any start, with pods becoming available in any order, the promises hold at each step, and it ends.
        #[test]
        fn promises_hold_until_the_end(
            replicas in 0..12i64, surge in 0..4i64, unavailable in 0..4i64,
            start in prop::collection::vec((0..8i64, 0..8i64), 0..4), luck in prop::collection::vec(0..4i64, 200),
        ) {
            let (max_surge, max_unavailable) = limits(replicas, &json!(surge), &json!(unavailable));
            let wanted = Wanted { replicas, max_surge, max_unavailable };
            let mut new = Size { replicas: 0, available: 0 };
            let mut old: Vec<Size> = start.iter().map(|(n, a)| Size { replicas: *n, available: *a.min(n) }).collect();
            let mut done = false;
            for luck in luck {
                let total = new.replicas + old.iter().map(|s| s.replicas).sum::<i64>();
                let available = new.available + old.iter().map(|s| s.available).sum::<i64>();
                let step = rolling(wanted, new, &old);
                let after = step.new + step.old.iter().sum::<i64>();
                prop_assert!(step.new >= 0 && step.new <= replicas && step.old.iter().all(|n| *n >= 0));
                prop_assert!(after <= total.max(replicas + max_surge));
                // Available pods are taken away last, so this many are left.
                let left: i64 = new.available.min(step.new)
                    + old.iter().zip(&step.old).map(|(set, size)| set.available.min(*size)).sum::<i64>();
                prop_assert!(left >= available.min(replicas - max_unavailable));
                new = Size { replicas: step.new, available: (new.available + luck).min(step.new) };
                for (set, size) in old.iter_mut().zip(step.old) {
                    *set = Size { replicas: size, available: set.available.min(size) };
                }
                done = new.replicas == replicas && new.available == replicas && old.iter().all(|s| s.replicas == 0);
            }
            prop_assert!(done, "{new:?} {old:?}");
        }
    }
}
