//! Watches: a stream of what changes, from a resource version on or after a look at the present state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream;
use http::Response;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::accept::{Accept, Form};
use super::call::Call;
use super::read::Filter;
use super::status::Status;
use super::store::{Change, Expired, Follower, Object};
use super::{ApiServer, respond, tables, views};
use crate::client::{Body, BoxError};

const BOOKMARK_EVERY: Duration = Duration::from_secs(15);
/// Ends a list that was asked for in the form of a watch.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

struct Watch {
    server: Arc<ApiServer>,
    call: Call,
    filter: Filter,
    follower: Follower,
    /// Lines to send before anything else.
    queue: VecDeque<Bytes>,
    /// A table's columns are sent once.
    columns_sent: bool,
    bookmarks: Option<Instant>,
    /// The last version told to the client.
    told: u64,
    deadline: Instant,
    over: bool,
}

impl ApiServer {
    /// Starts a watch.
    pub(super) fn watch(self: &Arc<Self>, call: &Call) -> Result<Response<Body>, Status> {
        let filter = Filter::of(call)?;
        let seconds = call.query.number("timeoutSeconds")?.filter(|s| *s > 0);
        let seconds = seconds.unwrap_or_else(|| rand::rng().random_range(1800..3600));
        let asked = call.query.number("resourceVersion")?.unwrap_or(0);
        let bookmarks = call.query.flag("allowWatchBookmarks");
        let as_list = call.query.flag("sendInitialEvents");
        let history = self.store.history(&call.target.storage());
        let mut initial = None;
        let from = if asked == 0 || as_list {
            let (objects, version) = self.select(call, &filter);
            // Without a version, and with `sendInitialEvents=false`, the watch starts with what happens next.
            if call.query.get("sendInitialEvents") != Some("false") {
                initial = Some(objects);
            }
            version
        } else {
            asked
        };
        let now = self.store.read().version();
        if asked > now {
            return Err(Status::expired(asked, now));
        }
        let follower = history
            .follow(from)
            .map_err(|Expired { oldest }| Status::expired(asked, oldest))?;
        let mut watch = Watch {
            server: self.clone(),
            call: call.clone(),
            filter,
            follower,
            queue: VecDeque::new(),
            columns_sent: false,
            bookmarks: bookmarks.then(|| Instant::now() + BOOKMARK_EVERY),
            told: from,
            deadline: Instant::now() + Duration::from_secs(seconds),
            over: false,
        };
        for object in initial.into_iter().flatten() {
            let line = watch.line("ADDED", &object, object.version);
            watch.queue.push_back(line);
        }
        if as_list && bookmarks {
            let line = watch.bookmark(from, true);
            watch.queue.push_back(line);
        }
        Ok(watch.into_response())
    }
}

impl Watch {
    fn into_response(self) -> Response<Body> {
        let frames = stream::unfold(self, |mut watch| async move {
            let bytes = watch.next().await?;
            Some((Ok::<_, BoxError>(Frame::data(bytes)), watch))
        });
        let body = StreamBody::new(frames).boxed_unsync();
        let mut response = respond::json_bytes(200, Bytes::new());
        *response.body_mut() = body;
        response
    }

    /// The next piece of the body; `None` when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.queue.is_empty() {
                let mut joined = BytesMut::with_capacity(self.queue.iter().map(Bytes::len).sum());
                self.queue.drain(..).for_each(|line| joined.put(line));
                return Some(joined.freeze());
            }
            if self.over {
                return None;
            }
            // Read before the history is: nothing up to this version is delivered later.
            let version = self.server.store.read().version();
            match self.follower.take() {
                Ok(changes) if changes.is_empty() => {
                    let bookmark_at = self.bookmarks.unwrap_or(self.deadline);
                    tokio::select! {
                        () = self.follower.changed() => {}
                        () = tokio::time::sleep_until(self.deadline) => {
                            self.over = true;
                            // So that the client's next watch starts here, not where something last happened.
                            if self.bookmarks.is_some() {
                                let line = self.bookmark(version, false);
                                self.queue.push_back(line);
                            }
                        }
                        () = tokio::time::sleep_until(bookmark_at), if self.bookmarks.is_some() => {
                            self.bookmarks = Some(Instant::now() + BOOKMARK_EVERY);
                            if version > self.told {
                                let line = self.bookmark(version, false);
                                self.queue.push_back(line);
                            }
                        }
                    }
                }
                Ok(changes) => {
                    for change in changes {
                        if let Some(line) = self.event(&change) {
                            self.queue.push_back(line);
                        }
                    }
                }
                Err(Expired { oldest }) => {
                    self.over = true;
                    let status = Status::expired(self.told, oldest).to_value();
                    self.queue.push_back(encode("ERROR", status.to_string().as_bytes()));
                }
            }
        }
    }

    /// The event that a change is for this client, who may see the object come or go by its selectors.
    fn event(&mut self, change: &Change) -> Option<Bytes> {
        let version = change.object.version;
        let was = change.old.as_ref().filter(|old| self.filter.matches(&self.call, old));
        let is = !change.deleted && self.filter.matches(&self.call, &change.object);
        let (kind, object) = match (was, is) {
            (None, false) => return None,
            (None, true) => ("ADDED", &change.object),
            (Some(_), true) => ("MODIFIED", &change.object),
            (Some(_), false) if change.deleted => ("DELETED", &change.object),
            (Some(old), false) => ("DELETED", old),
        };
        Some(self.line(kind, object, version))
    }

    fn line(&mut self, kind: &str, object: &Object, version: u64) -> Bytes {
        self.told = self.told.max(version);
        let resource = self.call.target.resource.clone();
        if self.call.accept == Accept::JSON && views::is_identity(&resource) && object.version == version {
            return encode(kind, &object.json);
        }
        let mut seen = views::from_stored(&resource, &object.value).into_owned();
        seen["metadata"]["resourceVersion"] = version.to_string().into();
        let seen = match self.call.accept.form {
            Form::Object => seen,
            Form::Metadata => respond::metadata_only(&seen),
            Form::Table => {
                let columns = if self.columns_sent {
                    Vec::new()
                } else {
                    tables::columns(&resource)
                };
                self.columns_sent = true;
                let metadata = json!({ "resourceVersion": version.to_string() });
                respond::table(
                    metadata,
                    columns,
                    vec![respond::row(&resource, &self.call.query, &seen)],
                )
            }
        };
        encode(kind, seen.to_string().as_bytes())
    }

    fn bookmark(&mut self, version: u64, initial_end: bool) -> Bytes {
        self.told = self.told.max(version);
        let resource = &self.call.target.resource;
        let mut metadata = json!({ "resourceVersion": version.to_string(), "creationTimestamp": null });
        if initial_end {
            metadata["annotations"] = json!({ INITIAL_EVENTS_END: "true" });
        }
        let (kind, api_version) = match self.call.accept.form {
            Form::Object => (resource.kind.clone(), resource.api_version()),
            Form::Metadata => ("PartialObjectMetadata".to_owned(), "meta.k8s.io/v1".to_owned()),
            Form::Table => {
                let object: Value = json!({
                    "kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata,
                });
                let row = json!({ "cells": [], "object": object });
                let table = respond::table(json!({ "resourceVersion": version.to_string() }), Vec::new(), vec![row]);
                return encode("BOOKMARK", table.to_string().as_bytes());
            }
        };
        let object = json!({ "kind": kind, "apiVersion": api_version, "metadata": metadata });
        encode("BOOKMARK", object.to_string().as_bytes())
    }
}

fn encode(kind: &str, object: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(object.len() + 32);
    line.put(&b"{\"type\":\""[..]);
    line.put(kind.as_bytes());
    line.put(&b"\",\"object\":"[..]);
    line.put(object);
    line.put(&b"}\n"[..]);
    line.freeze()
}
