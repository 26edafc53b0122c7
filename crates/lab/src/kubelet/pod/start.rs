//! Starts one container of a pod, or says why it cannot be started.

use std::path::Path;

use jiff::Timestamp;
use tokio::time::Instant;

use super::Worker;
use super::bring_up::random_id;
use super::container::{Member, Role};
use super::record::{End, Instance};
use crate::client::{self, Res};
use crate::kubelet::env::{self, Environment, Sources};
use crate::kubelet::error::Error;
use crate::kubelet::images::Image;
use crate::kubelet::runtime::start_time;
use crate::kubelet::spec::{self, Bind, Plan};
use crate::kubelet::stdio::{self, Pump, Streams3};
use crate::kubelet::{hooks, images, rootfs, volumes};

/// Why a container is not running, as its status says it.
struct Refused {
    reason: &'static str,
    message: String,
    /// The container was made, but did not start: that counts as a run that ended.
    ran: bool,
}

impl Refused {
    fn config(message: impl Into<String>) -> Self {
        Self {
            reason: "CreateContainerConfigError",
            message: message.into(),
            ran: false,
        }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self {
            reason: "CreateContainerError",
            message: error.to_string(),
            ran: false,
        }
    }
}

impl Worker {
    /// Makes sure that a container runs if it should; when to look again.
    pub(super) async fn ensure(&mut self, at: usize) -> Option<Instant> {
        let member = &self.members[at];
        if member.record.running().is_some() {
            return None;
        }
        if let Some(end) = member.record.ended() {
            if !self.restarts(member, end) {
                return None;
            }
            if let Some(until) = member.crashes.waiting() {
                let name = &member.spec.name;
                let pod = format!("{}_{}({})", self.name(), self.namespace(), self.uid());
                let delay = member.crashes.delay;
                let message = format!("back-off {} restarting failed container={name} pod={pod}", human(delay));
                if member.waiting.as_ref().is_none_or(|(_, before)| *before != message) {
                    let event = format!("Back-off restarting failed container {name} in pod {pod}");
                    self.tell_of(member, true, "BackOff", event);
                }
                self.members[at].waiting = Some(("CrashLoopBackOff", message));
                return Some(until);
            }
        }
        if let Some(until) = member.retry.waiting() {
            return Some(until);
        }
        self.start(at).await
    }

    /// Whether a container that has ended is to be started again.
    fn restarts(&self, member: &Member, end: &End) -> bool {
        let policy = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.as_deref())
            .unwrap_or("Always");
        match (member.role, policy) {
            (Role::Ephemeral, _) => false,
            (Role::Sidecar, _) => true,
            (Role::Init, "Never") => false,
            (Role::Init, _) => end.code != 0,
            (Role::Main, "Always") => true,
            (Role::Main, "OnFailure") => end.code != 0,
            (Role::Main, _) => false,
        }
    }

    async fn start(&mut self, at: usize) -> Option<Instant> {
        match self.try_start(at).await {
            Ok(()) => {
                let member = &mut self.members[at];
                member.waiting = None;
                member.retry.reset();
                self.after_start(at).await;
                None
            }
            Err(refused) => {
                tracing::info!(
                    pod = self.name(),
                    container = self.members[at].spec.name,
                    reason = refused.reason,
                    message = refused.message,
                    "container not started"
                );
                self.refuse(at, refused);
                let member = &self.members[at];
                member.retry.until.or(member.crashes.waiting())
            }
        }
    }

    fn refuse(&mut self, at: usize, refused: Refused) {
        let member = &self.members[at];
        let image = member.spec.image.as_deref().unwrap_or_default().to_owned();
        let again = member.waiting.is_some();
        let mut waiting = (refused.reason, refused.message.clone());
        match refused.reason {
            "ErrImagePull" => {
                self.tell_of(member, true, "Failed", &refused.message);
                if again {
                    self.tell_of(member, false, "BackOff", format!("Back-off pulling image \"{image}\""));
                    self.tell_of(member, true, "Failed", "Error: ImagePullBackOff");
                    let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", refused.message);
                    waiting = ("ImagePullBackOff", message);
                } else {
                    self.tell_of(member, true, "Failed", "Error: ErrImagePull");
                }
            }
            "InvalidImageName" => self.tell_of(member, true, "InspectFailed", &refused.message),
            "ErrImageNeverPull" => self.tell_of(member, true, "ErrImageNeverPull", &refused.message),
            _ => self.tell_of(member, true, "Failed", format!("Error: {}", refused.message)),
        }
        let member = &mut self.members[at];
        member.waiting = Some(waiting);
        if refused.ran {
            member.crashes.ended(std::time::Duration::ZERO);
        } else {
            member.retry.fail();
        }
    }

    async fn try_start(&mut self, at: usize) -> Result<(), Refused> {
        let image = self.find_image(&self.members[at])?;
        let env = self.environment(&self.members[at], &image).await?;
        let member = &self.members[at];
        let number = member.record.next_number();
        let (dir, id) = (member.dir.clone(), random_id());
        std::fs::create_dir_all(&dir).map_err(Error::io("create folder", &dir))?;
        let log = member.log(number);

        let root = rootfs::mount(&dir, &image, &self.node.images)?;
        let bundle = self.write_bundle(member, &image, &env, &root, &id);
        if let Err(refused) = bundle {
            rootfs::unmount(&dir);
            return Err(refused);
        }
        self.tell_of(
            member,
            false,
            "Created",
            format!("Created container: {}", member.spec.name),
        );

        // Written down first: should this kubelet end now, the next one finds what to clear away.
        let mut instance = Instance {
            id: id.clone(),
            number,
            pid: 0,
            ticks: None,
            started_at: Timestamp::now(),
            image_id: image.id.clone(),
            stop_signal: image.stop_signal.clone(),
            end: None,
        };
        let member = &mut self.members[at];
        member.record.last = member.record.current.take().or(member.record.last.take());
        member.record.current = Some(instance.clone());
        member.record.save(&dir);

        let started = self.launch(at, &id, log).await;
        let member = &mut self.members[at];
        instance.started_at = Timestamp::now();
        match started {
            Ok((pid, pump)) => {
                instance.pid = pid;
                instance.ticks = start_time(pid);
                member.pump = Some(pump);
                member.record.current = Some(instance);
                member.record.save(&dir);
                Ok(())
            }
            Err(error) => {
                rootfs::unmount(&dir);
                let message = error.to_string();
                instance.end = Some(End {
                    code: 128,
                    signal: None,
                    reason: "StartError".to_owned(),
                    message: Some(message.clone()),
                    at: instance.started_at,
                });
                member.record.current = Some(instance);
                member.record.save(&dir);
                Err(Refused {
                    reason: "RunContainerError",
                    message,
                    ran: true,
                })
            }
        }
    }

    async fn launch(&self, at: usize, id: &str, log: std::path::PathBuf) -> Result<(i32, Pump), Error> {
        let member = &self.members[at];
        // Never closed, so there is always room some time.
        let _room = self.node.starts.acquire().await.ok();
        if member.wanted().tty {
            return self.launch_with_terminal(id, &member.dir, log).await;
        }
        let (pump, streams) = stdio::open(&member.dir, log, member.wanted())?;
        match self.node.runtime.start(id, &member.dir, streams, None).await {
            Ok(pid) => Ok((pid, pump)),
            Err(error) => {
                pump.finish().await;
                Err(error)
            }
        }
    }

    async fn launch_with_terminal(&self, id: &str, dir: &Path, log: std::path::PathBuf) -> Result<(i32, Pump), Error> {
        // Socket paths are short: not below the container's own folder.
        let socket = self.node.config.state_dir.join(format!("{}.tty", &id[..8]));
        let listener = std::os::unix::net::UnixListener::bind(&socket).map_err(Error::io("listen at", &socket))?;
        let receiver = tokio::task::spawn_blocking(move || stdio::receive_terminal(&listener));
        let started = self.node.runtime.start(id, dir, Streams3::Null, Some(&socket)).await;
        if started.is_err() {
            // Nobody will call: call oneself, so that the waiting thread ends.
            std::os::unix::net::UnixStream::connect(&socket).ok();
        }
        let terminal = receiver.await;
        std::fs::remove_file(&socket).ok();
        let pid = started?;
        let terminal = terminal.unwrap_or_else(|_| Err(std::io::Error::other("no thread")));
        let terminal = terminal.map_err(Error::io("receive the terminal through", &socket))?;
        Ok((pid, stdio::terminal(terminal, log)?))
    }

    fn find_image(&self, member: &Member) -> Result<Image, Refused> {
        let name = member.spec.image.as_deref().unwrap_or_default();
        let found = self.node.images.find(name, member.spec.image_pull_policy.as_deref());
        let image = found.map_err(|error: images::Error| Refused {
            reason: error.reason(),
            message: error.to_string(),
            ran: false,
        })?;
        self.tell_of(
            member,
            false,
            "Pulled",
            format!("Container image \"{name}\" already present on machine"),
        );
        Ok(image)
    }

    async fn environment(&self, member: &Member, image: &Image) -> Result<Environment, Refused> {
        let (config_maps, secrets) = env::references(&member.spec);
        let mut sources = Sources::default();
        let get = async |plural: &'static str, name: &str| match self
            .node
            .client
            .get(&Res::new("", "v1", plural), self.namespace(), name)
            .await
        {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(Refused::config(error.to_string())),
        };
        let broken = |error: client::Error| Refused::config(error.to_string());
        for name in config_maps {
            if let Some(object) = get("configmaps", &name).await? {
                sources
                    .config_maps
                    .insert(name, client::decode(object).map_err(broken)?);
            }
        }
        for name in secrets {
            if let Some(object) = get("secrets", &name).await? {
                sources.secrets.insert(name, client::decode(object).map_err(broken)?);
            }
        }
        let services = {
            let all = self
                .node
                .services
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            env::visible_services(&self.pod, &all)
        };
        let ips = self
            .sandbox
            .as_ref()
            .map(|sandbox| sandbox.ips.clone())
            .unwrap_or_default();
        let downward = self.node.downward(&self.pod, &ips);
        let mut env = env::build(&image.env, &member.spec, &services, &sources, &downward).map_err(Refused::config)?;
        if image.is_builtin() {
            // Its server says who it is.
            for (name, field) in [
                ("POD_NAME", "metadata.name"),
                ("POD_NAMESPACE", "metadata.namespace"),
                ("NODE_NAME", "spec.nodeName"),
            ] {
                if env.get(name).is_none() {
                    env.set(name, downward.field(field).map_err(Refused::config)?);
                }
            }
        }
        if env.get("HOSTNAME").is_none() {
            env.set("HOSTNAME", crate::kubelet::files::hostname(&self.pod));
        }
        Ok(env)
    }

    fn write_bundle(
        &self,
        member: &Member,
        image: &Image,
        env: &Environment,
        root: &Path,
        id: &str,
    ) -> Result<(), Refused> {
        let Some(sandbox) = &self.sandbox else {
            return Err(Refused::config("the pod has no sandbox"));
        };
        let args = spec::command_line(&member.spec, image, |text| env.expand(text)).map_err(|message| Refused {
            reason: "CreateContainerError",
            message,
            ran: false,
        })?;
        let plan = Plan {
            pod: &self.pod,
            container: &member.spec,
            image,
            sandbox,
            rootfs: root,
            cgroup: format!("/{}/pod{}/{id}", self.node.config.cgroup_parent, self.uid()),
            env: env.lines(),
            args,
            binds: self.binds(member, image, env)?,
        };
        let spec = spec::build(&plan).map_err(Refused::config)?;
        let path = member.dir.join("config.json");
        let text = serde_json::to_vec(&spec).map_err(|error| Refused::config(error.to_string()))?;
        std::fs::write(&path, text).map_err(|error| Error::io("write", path)(error).into())
    }

    fn binds(&self, member: &Member, image: &Image, env: &Environment) -> Result<Vec<Bind>, Refused> {
        let at = |source: std::path::PathBuf, destination: &str, read_only: bool| Bind {
            source,
            destination: destination.into(),
            read_only,
            propagation: "rprivate",
        };
        let (dir, sealed) = (
            self.dir(),
            member
                .spec
                .security_context
                .as_ref()
                .and_then(|security| security.read_only_root_filesystem)
                == Some(true),
        );
        let words = member.dir.join("termination-log");
        std::fs::write(&words, "").map_err(Error::io("write", &words))?;
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&words, everybody).map_err(Error::io("set mode of", &words))?;
        let words_at = member
            .spec
            .termination_message_path
            .as_deref()
            .filter(|path| !path.is_empty());
        let mut binds = vec![
            at(dir.join("resolv.conf"), "/etc/resolv.conf", sealed),
            at(dir.join("hosts"), "/etc/hosts", sealed),
            at(dir.join("hostname"), "/etc/hostname", sealed),
            at(words, words_at.unwrap_or("/dev/termination-log"), false),
        ];
        if image.is_builtin() {
            binds.push(at(self.node.config.weft_binary.clone(), "/usr/local/bin/weft", true));
        }
        for mount in member.spec.volume_mounts.iter().flatten() {
            let bind = volumes::bind(&self.node, &self.pod, mount, |text| env.expand(text)).map_err(Refused::config)?;
            binds.retain(|other| other.destination != bind.destination);
            binds.push(bind);
        }
        Ok(binds)
    }

    /// The container runs: watches it, and runs its first hook.
    async fn after_start(&mut self, at: usize) {
        let member = &self.members[at];
        let Some(running) = member.record.running().cloned() else {
            return;
        };
        self.tell_of(
            member,
            false,
            "Started",
            format!("Started container {}", member.spec.name),
        );
        member.watch_exit(&self.node, &running, &self.sender);
        let hook = member
            .spec
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.clone());
        let pod_ip = self.sandbox.as_ref().and_then(|sandbox| sandbox.ips.first().copied());
        if let Some(hook) = hook {
            let run = hooks::run(&self.node, &hook, &running.id, &member.spec, pod_ip);
            let mut stop = self.stop.clone();
            let outcome = tokio::select! {
                outcome = run => outcome,
                _ = stop.wait_for(Option::is_some) => return,
            };
            if let Err(message) = outcome {
                let member = &self.members[at];
                let message = format!("PostStartHook failed: {message}");
                self.tell_of(member, true, "FailedPostStartHook", message);
                self.stop_member(at, "FailedPostStartHook", None);
                return;
            }
        }
        let pod = self.pod.clone();
        self.members[at].watch_health(&self.node, &pod, pod_ip, &self.sender);
    }

    /// The newest run of a container has ended.
    pub(super) async fn ended(&mut self, id: &str, exit: crate::kubelet::runtime::Exit) {
        let node = self.node.clone();
        let newest = |member: &&mut Member| member.record.running().is_some_and(|running| running.id == id);
        let Some(member) = self.members.iter_mut().find(newest) else {
            return;
        };
        member.clear(&node, exit).await;
        tracing::info!(
            pod = self.pod.metadata.name,
            container = member.spec.name,
            ?exit,
            "container ended"
        );
    }
}

/// A delay as upstream writes it: `10s`, `2m40s`.
fn human(delay: std::time::Duration) -> String {
    match (delay.as_secs() / 60, delay.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays() {
        let human = |seconds| human(std::time::Duration::from_secs(seconds));
        assert_eq!([human(10), human(80), human(300)], ["10s", "1m20s", "5m0s"]);
    }
}
