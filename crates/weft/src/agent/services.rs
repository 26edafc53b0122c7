//! Services: what each of them makes this node do, brought into force and kept there.
//!
//! The work for a change is that of the Service which it touches: compiled anew, and handed over as steps that come in
//! force together. What is refused is told to the Service, and tried again; everything else goes on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tracing::{info, warn};
use weft_model::compile::{self, Backend, Forwarding, Problem, Rule, SetKey, Step};
use weft_model::desired::{self, Wanted};
use weft_model::{Frontend, ObjectKey, State};

use super::node::Node;

/// The Services of the cluster, as this node has them.
pub(super) struct Services {
    node: Arc<Node>,
    frontends: Wanted<ObjectKey, Frontend, Rule>,
    sets: HashMap<ObjectKey, Sets>,
    /// How many backends all sets have.
    backends: usize,
    failed: BTreeMap<ObjectKey, Failed>,
    /// What the objects ask for and do not get, of the Services for which there is such.
    problems: BTreeMap<ObjectKey, Vec<Problem>>,
}

/// The sets of a Service.
#[derive(Default)]
struct Sets {
    keys: BTreeSet<SetKey>,
    backends: usize,
}

/// What could not be brought into force.
struct Failed {
    why: String,
    /// Frontends that are to be something else, or nothing.
    touched: BTreeSet<Frontend>,
    /// Sets that nothing is to lead to any more.
    forgotten: BTreeSet<SetKey>,
}

/// What one Service's change means.
struct Change {
    sets: Vec<(SetKey, Vec<Backend>)>,
    touched: BTreeSet<Frontend>,
    forgotten: BTreeSet<SetKey>,
}

impl Services {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            frontends: Wanted::default(),
            sets: HashMap::new(),
            backends: 0,
            failed: BTreeMap::new(),
            problems: BTreeMap::new(),
        }
    }

    /// The one full pass: everything wanted against everything that is in the kernel.
    pub(super) fn replace(&mut self, state: &State) {
        let keys: Vec<ObjectKey> = state.services().map(|service| service.key.clone()).collect();
        let changes: Vec<Change> = keys.iter().map(|key| self.compile(state, key)).collect();
        // Only now is it known which of them has an address that two of them want.
        let (mut all, mut touched) = (vec![], vec![]);
        for (key, change) in keys.iter().zip(changes) {
            let mut own = change.touched.clone();
            own.retain(|frontend| {
                self.frontends
                    .get(frontend)
                    .is_some_and(|rule| *rule.inside.set.service == *key)
            });
            touched.push((own.clone(), change.forgotten.clone()));
            all.push(self.steps(Change { touched: own, ..change }));
        }
        let answers = self.node.replace_services(&all);
        match answers {
            Ok(answers) => {
                for ((key, answer), (touched, forgotten)) in keys.iter().zip(answers).zip(touched) {
                    self.note(key, answer, touched, forgotten);
                }
            }
            Err(error) => warn!("{error}; what no Service wants any more may still be served"),
        }
        info!(services = keys.len(), frontends = self.frontends.len(), "in sync");
    }

    /// One Service may be another than before, or gone.
    pub(super) fn change(&mut self, state: &State, key: &ObjectKey) {
        let mut change = self.compile(state, key);
        if let Some(failed) = self.failed.remove(key) {
            // Nothing of the last change is in force: this one has to say everything.
            change.touched.extend(failed.touched);
            change.touched.extend(self.own(key));
            change.forgotten.extend(failed.forgotten);
            let keys = self.sets.get(key).map(|sets| &sets.keys);
            change
                .forgotten
                .retain(|set| !keys.is_some_and(|keys| keys.contains(set)));
        }
        let (touched, forgotten) = (change.touched.clone(), change.forgotten.clone());
        let steps = self.steps(change);
        if steps.is_empty() {
            return;
        }
        let answer = self.node.apply_service(&steps);
        self.note(key, answer, touched, forgotten);
    }

    /// Tries again what failed.
    pub(super) fn retry(&mut self, state: &State) {
        let failed: Vec<ObjectKey> = self.failed.keys().cloned().collect();
        failed.iter().for_each(|key| self.change(state, key));
    }

    /// Whether everything is in force.
    pub(super) fn is_well(&self) -> bool {
        self.failed.is_empty()
    }

    fn compile(&mut self, state: &State, key: &ObjectKey) -> Change {
        let Forwarding {
            sets,
            frontends,
            problems,
        } = compile::service(state, key);
        self.take_problems(key, problems);
        let after = Sets {
            keys: sets.keys().cloned().collect(),
            backends: sets.values().map(Vec::len).sum(),
        };
        self.backends += after.backends;
        let before = match sets.is_empty() {
            true => self.sets.remove(key),
            false => self.sets.insert(key.clone(), after),
        };
        let before = before.unwrap_or_default();
        self.backends -= before.backends;
        let steps = self.frontends.set(key, frontends);
        let touched = steps.into_iter().map(|step| match step {
            desired::Step::Put(frontend, _) | desired::Step::Remove(frontend) => frontend,
        });
        let gone = before.keys.into_iter().filter(|set| !sets.contains_key(set));
        Change {
            touched: touched.collect(),
            forgotten: gone.collect(),
            sets: sets.into_iter().collect(),
        }
    }

    /// Every node sees the same problems: they are logged and reported, not told to the Service by each.
    fn take_problems(&mut self, key: &ObjectKey, problems: Vec<Problem>) {
        let before = self.problems.remove(key).unwrap_or_default();
        for problem in problems.iter().filter(|problem| !before.contains(problem)) {
            warn!("Service {key}: {problem}");
        }
        if !problems.is_empty() {
            self.problems.insert(key.clone(), problems);
        }
    }

    /// One line for each problem, and for each address that two Services want.
    fn problems(&self) -> impl Iterator<Item = String> {
        let of_one = self.problems.iter();
        let of_one = of_one.flat_map(|(key, all)| all.iter().map(move |problem| format!("Service {key}: {problem}")));
        let contested = self.frontends.contested().map(|(frontend, services)| {
            let services: Vec<String> = services.map(ObjectKey::to_string).collect();
            format!(
                "{frontend} is that of the Services {}: the first has it",
                services.join(", ")
            )
        });
        of_one.chain(contested)
    }

    /// The frontends that a Service has.
    fn own(&self, key: &ObjectKey) -> Vec<Frontend> {
        let own = |rule: &Rule| *rule.inside.set.service == *key;
        let frontends = self.frontends.iter().filter(|(_, rule)| own(rule));
        frontends.map(|(frontend, _)| *frontend).collect()
    }

    /// What there was before goes only after what replaces it is there.
    fn steps(&self, change: Change) -> Vec<Step> {
        let mut steps: Vec<Step> = change
            .sets
            .into_iter()
            .map(|(set, backends)| Step::Set(set, backends))
            .collect();
        let (there, gone): (Vec<_>, Vec<_>) = change
            .touched
            .into_iter()
            .partition(|frontend| self.frontends.get(frontend).is_some());
        let put = |frontend| Some(Step::Put(frontend, self.frontends.get(&frontend)?.clone()));
        steps.extend(there.into_iter().filter_map(put));
        steps.extend(gone.into_iter().map(Step::Remove));
        steps.extend(change.forgotten.into_iter().map(Step::Forget));
        steps
    }

    fn note(
        &mut self,
        key: &ObjectKey,
        answer: anyhow::Result<()>,
        touched: BTreeSet<Frontend>,
        forgotten: BTreeSet<SetKey>,
    ) {
        let Err(error) = answer else {
            if self.failed.remove(key).is_some() {
                info!("Service {key} is in force now");
            }
            return;
        };
        let why = error.to_string();
        let failed = Failed {
            why: why.clone(),
            touched,
            forgotten,
        };
        if self
            .failed
            .insert(key.clone(), failed)
            .is_none_or(|before| before.why != why)
        {
            warn!("Service {key}: {why}; it keeps what it had");
            self.node.tell_service(key, &error);
        }
    }

    /// What the report says about all this.
    pub(super) fn report(&self, state: &State) {
        let mut progress = self.node.progress();
        progress.services = state.services().count();
        progress.frontends = self.frontends.len();
        progress.backends = self.backends;
        progress.service_problems = self.problems().count();
        progress.first_problem = self.problems().next();
        progress.service_errors = self
            .failed
            .iter()
            .map(|(key, failed)| (key.to_string(), failed.why.clone()))
            .collect();
    }
}
