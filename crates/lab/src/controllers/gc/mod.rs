//! The garbage collector: what belongs to something that has gone, goes. Covers every kind, custom ones too.

mod graph;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::context::Context;
use super::discovery::{Found, Served, found};
use super::error::Error;
use super::kinds;
use super::object::{Key, finalizers_without, list, uid};
use super::queue::{Queue, Reconcile, work};
use crate::client::Res;
use graph::{FOREGROUND, Graph, Node, ORPHAN, Owner};

/// How often the served kinds are looked at without a hint that they changed.
const REDISCOVER: Duration = Duration::from_secs(30);
/// How soon after that has failed.
const RETRY: Duration = Duration::from_millis(200);

pub(crate) struct Collector {
    ctx: Context,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    graph: Graph,
    /// By group and kind.
    kinds: HashMap<(String, String), Served>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) async fn run(ctx: Context) {
    let queue = Arc::new(Queue::default());
    let state = Arc::new(Mutex::new(State::default()));
    let collector = Arc::new(Collector {
        ctx: ctx.clone(),
        state: state.clone(),
    });
    tokio::join!(follow_kinds(ctx, state, queue.clone()), work(collector, queue, 8));
}

/// Watches every kind that is served, as kinds come and go.
async fn follow_kinds(ctx: Context, state: Arc<Mutex<State>>, queue: Arc<Queue>) {
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    ctx.cache(&kinds::CRDS).subscribe(move |_| notify.notify_one());
    loop {
        let wait = match found(&ctx.client).await {
            Ok(found) => {
                let whole = found.failed.is_empty();
                take_kinds(&ctx, &state, &queue, found);
                if whole { REDISCOVER } else { RETRY }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot ask which kinds are served; trying again");
                RETRY
            }
        };
        let _ = tokio::time::timeout(wait, changed.notified()).await;
    }
}

fn take_kinds(ctx: &Context, state: &Arc<Mutex<State>>, queue: &Arc<Queue>, found: Found) {
    let before = lock(state).kinds.clone();
    // Nothing owns or is owned there, and a lot happens.
    let quiet = |served: &Served| !matches!(served.res.plural(), "events" | "leases");
    let served = found.served.into_iter().filter(quiet);
    let mut new: HashMap<_, _> = served
        .map(|served| ((served.group.clone(), served.kind.clone()), served))
        .collect();
    // What is not known now is as it was.
    let unknown = before
        .iter()
        .filter(|((group, _), _)| found.failed.iter().any(|(failed, _)| failed == group));
    new.extend(unknown.map(|(kind, served)| (kind.clone(), served.clone())));
    let old = std::mem::replace(&mut lock(state).kinds, new.clone());
    for (kind, served) in &new {
        if old.get(kind).is_some_and(|old| old.res == served.res) {
            continue;
        }
        let (res, state, queue) = (served.res.clone(), state.clone(), queue.clone());
        ctx.cache(&served.res).subscribe(move |change| {
            let look = match (change.new, change.old) {
                (Some(object), _) => lock(&state).graph.apply(&res, object),
                (None, Some(object)) => lock(&state).graph.remove(uid(object)),
                (None, None) => return,
            };
            for uid in look {
                queue.add(Key::new("", &uid));
            }
        });
    }
    for served in old.values().filter(|old| !new.values().any(|new| new.res == old.res)) {
        ctx.caches.forget(&served.res);
    }
}

/// How an owner is.
#[derive(PartialEq, Eq)]
enum Bond {
    Solid,
    /// It has gone.
    Dangling,
    /// It goes, once its dependents have gone.
    Waiting,
}

impl Reconcile for Collector {
    fn name(&self) -> &'static str {
        "garbagecollector"
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(node) = lock(&self.state).graph.get(&key.name).cloned() else {
            return Ok(None);
        };
        if !node.deleting {
            self.judge(&key.name, &node).await?;
        } else if node.orphan {
            self.orphan(&key.name, &node).await?;
        } else if node.foreground {
            self.dependents_first(&key.name, &node).await?;
        }
        Ok(None)
    }
}

impl Collector {
    /// Deletes an object all of whose owners have gone, or wait for it to go. Who waits for it waits for what belongs
    /// to it, too.
    async fn judge(&self, uid: &str, node: &Node) -> Result<(), Error> {
        let (mut solid, mut waited_for, mut lost) = (false, false, Vec::new());
        for owner in &node.owners {
            let bond = self.bond(node, owner).await?;
            waited_for |= bond == Bond::Waiting;
            match bond {
                Bond::Solid => solid = true,
                Bond::Dangling | Bond::Waiting => lost.push(owner.uid.clone()),
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        if solid {
            return self.let_go(uid, node, &lost).await;
        }
        tracing::debug!(resource = node.res.plural(), key = %node.key, "its owners have gone");
        let Key { namespace, name } = &node.key;
        let client = &self.ctx.client;
        let deleted = if waited_for && !lock(&self.state).graph.dependents(uid).is_empty() {
            client.delete_foreground(&node.res, namespace, name, uid).await
        } else {
            client.delete(&node.res, namespace, name, None, Some(uid)).await
        };
        match deleted {
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            result => Ok(result?),
        }
    }

    async fn bond(&self, node: &Node, owner: &Owner) -> Result<Bond, Error> {
        let served = {
            let state = lock(&self.state);
            if let Some(found) = state.graph.get(&owner.uid)
                && (found.key.namespace.is_empty() || found.key.namespace == node.key.namespace)
            {
                return Ok(if found.deleting && found.foreground {
                    Bond::Waiting
                } else {
                    Bond::Solid
                });
            }
            state.kinds.get(&(owner.group.clone(), owner.kind.clone())).cloned()
        };
        let Some(served) = served else {
            let why = format!("nothing is known about the kind of owner {} {}", owner.kind, owner.name);
            return Err(Error::NotYet(why));
        };
        // The mirror may be behind: ask before something is deleted.
        let namespace = if served.namespaced {
            node.key.namespace.as_str()
        } else {
            ""
        };
        match self.ctx.client.get(&served.res, namespace, &owner.name).await {
            Ok(found) if uid(&found) == owner.uid => Ok(Bond::Solid),
            Ok(_) => Ok(Bond::Dangling),
            Err(error) if error.is_not_found() => Ok(Bond::Dangling),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes owners out of an object's list.
    async fn let_go(&self, id: &str, node: &Node, owners: &[String]) -> Result<(), Error> {
        let Some(object) = self.read(&node.res, &node.key, id).await? else {
            return Ok(());
        };
        let all = list(&object, "/metadata/ownerReferences").iter();
        let kept: Vec<&Value> = all.filter(|o| !owners.iter().any(|uid| o["uid"] == **uid)).collect();
        let version = &object["metadata"]["resourceVersion"];
        let patch = json!({"metadata": {"resourceVersion": version, "uid": id, "ownerReferences": kept}});
        self.ctx.patch(&node.res, &object, patch).await?;
        Ok(())
    }

    async fn orphan(&self, id: &str, node: &Node) -> Result<(), Error> {
        let dependents = lock(&self.state).graph.dependents(id);
        for (uid, dependent) in dependents {
            self.let_go(&uid, &dependent, &[id.to_owned()]).await?;
        }
        self.drop_finalizer(id, node, ORPHAN).await
    }

    async fn dependents_first(&self, id: &str, node: &Node) -> Result<(), Error> {
        let dependents = lock(&self.state).graph.dependents(id);
        let blocks = |dependent: &Node| dependent.owners.iter().any(|owner| owner.uid == id && owner.blocks);
        let blocking = dependents.iter().filter(|(_, dependent)| blocks(dependent)).count();
        if blocking == 0 {
            return self.drop_finalizer(id, node, FOREGROUND).await;
        }
        for (uid, dependent) in dependents.iter().filter(|(_, dependent)| !dependent.deleting) {
            self.judge(uid, dependent).await?;
        }
        Ok(())
    }

    async fn drop_finalizer(&self, id: &str, node: &Node, finalizer: &str) -> Result<(), Error> {
        let Some(object) = self.read(&node.res, &node.key, id).await? else {
            return Ok(());
        };
        let version = &object["metadata"]["resourceVersion"];
        let finalizers = finalizers_without(&object, finalizer);
        let patch = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
        self.ctx.patch(&node.res, &object, patch).await?;
        Ok(())
    }

    /// The object as it is, if it is still this one.
    async fn read(&self, res: &Res, key: &Key, id: &str) -> Result<Option<Value>, Error> {
        match self.ctx.client.get(res, &key.namespace, &key.name).await {
            Ok(object) => Ok(Some(object).filter(|object| uid(object) == id)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
