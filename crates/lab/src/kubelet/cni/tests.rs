//! The plugin chain against plugins that are shell scripts.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

fn plugin(dir: &Path, name: &str, script: &str) {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn lab() -> (tempfile::TempDir, Cni) {
    let dir = tempfile::tempdir().unwrap();
    let cni = Cni {
        conf_dir: dir.path().join("net.d"),
        bin_dir: dir.path().to_owned(),
    };
    std::fs::create_dir(&cni.conf_dir).unwrap();
    (dir, cni)
}

fn target() -> Target {
    Target {
        id: "s1".to_owned(),
        netns: "/run/netns/s1".into(),
        args: pod_args("ns", "web", "u", "s1"),
        capabilities: json!({"portMappings": [port_mapping("", 8080, 80, "TCP")], "unasked": 1}),
    }
}

#[tokio::test]
async fn chain_passes_results_on_and_deletes_backwards() {
    let (dir, cni) = lab();
    let log = dir.path().join("log");
    let script = |result: &str| {
        format!(
            "echo \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $(cat)\" >> {}\n[ $CNI_COMMAND = DEL ] || echo '{result}'",
            log.display()
        )
    };
    plugin(
        dir.path(),
        "one",
        &script(r#"{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.5/24"},{"address":"fd00::5/64"}]}"#),
    );
    plugin(
        dir.path(),
        "two",
        &script(r#"{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.6/24"}]}"#),
    );
    std::fs::write(
        cni.conf_dir.join("10-x.conflist"),
        r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"one"},{"type":"two","capabilities":{"portMappings":true}}]}"#,
    )
    .unwrap();
    std::fs::write(cni.conf_dir.join("20-later.conflist"), "{").unwrap();
    let mut attachment = Attachment::new(cni.network().unwrap(), target());
    cni.add(&mut attachment).await.unwrap();
    assert!(attachment.is_complete());
    assert_eq!(attachment.addresses(), ["10.1.0.6".parse::<IpAddr>().unwrap()]);
    cni.del(&attachment).await.unwrap();
    let log = std::fs::read_to_string(log).unwrap();
    let lines: Vec<_> = log.lines().collect();
    assert!(
        lines[0].starts_with("ADD s1 eth0 ") && !lines[0].contains("prevResult"),
        "{log}"
    );
    assert!(
        lines[1].contains("10.1.0.5/24") && lines[1].contains(r#""hostPort":8080"#),
        "{log}"
    );
    assert!(!log.contains("unasked") && !log.contains("capabilities"), "{log}");
    assert!(
        lines[2].starts_with("DEL") && lines[2].contains(r#""type":"two""#),
        "{log}"
    );
    assert!(
        lines[3].contains(r#""type":"one""#) && lines[3].contains("10.1.0.6/24"),
        "{log}"
    );
}

#[tokio::test]
async fn a_refusal_is_undone_and_told() {
    let (dir, cni) = lab();
    let log = dir.path().join("log");
    plugin(
        dir.path(),
        "good",
        &format!("echo $CNI_COMMAND >> {}; echo '{{}}'", log.display()),
    );
    plugin(
        dir.path(),
        "bad",
        r#"[ $CNI_COMMAND = DEL ] && exit 0; echo '{"cniVersion":"1.0.0","code":11,"msg":"later","details":"agent is away"}'; exit 1"#,
    );
    let network = parse(br#"{"name":"n","plugins":[{"type":"good"},{"type":"bad"}]}"#).unwrap();
    let error = cni.add(&mut Attachment::new(network, target())).await.unwrap_err();
    assert!(error.is_temporary());
    assert_eq!(
        error.to_string(),
        r#"plugin type="bad" failed (ADD): later; agent is away (code 11)"#
    );
    assert_eq!(std::fs::read_to_string(log).unwrap(), "ADD\nDEL\n");
    let absent = parse(br#"{"name":"n","plugins":[{"type":"../good"}]}"#).unwrap();
    let error = cni.add(&mut Attachment::new(absent, target())).await.unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
}

#[test]
fn malformed_configurations_name_the_fault() {
    let (_dir, cni) = lab();
    assert!(matches!(cni.network(), Err(Error::NotInitialized)));
    for (text, fault) in [
        ("{", "not valid JSON"),
        ("{}", "no name"),
        (r#"{"name":"n"}"#, "no 'plugins' key"),
        (r#"{"name":"n","plugins":[]}"#, "no plugins"),
        (r#"{"name":"n","plugins":[{"typ":"x"}]}"#, "plugin 0 has no 'type'"),
        (
            r#"{"name":"n","cniVersion":1,"plugins":[{"type":"x"}]}"#,
            "'cniVersion'",
        ),
    ] {
        std::fs::write(cni.conf_dir.join("10-x.conflist"), text).unwrap();
        let message = cni.network().unwrap_err().to_string();
        assert!(
            message.contains(fault) && message.contains("10-x.conflist"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn plugins_of_the_newest_version_are_asked_how_they_are_and_told_what_is_in_use() {
    let (dir, cni) = lab();
    let log = dir.path().join("log");
    let sick = dir.path().join("sick");
    let script = format!(
        "echo \"$CNI_COMMAND $CNI_CONTAINERID$CNI_IFNAME $(cat)\" >> {}; [ $CNI_COMMAND = STATUS ] && [ -e {} ] || exit 0\n\
         echo '{{\"code\":51,\"msg\":\"no way out\"}}'; exit 1",
        log.display(),
        sick.display()
    );
    plugin(dir.path(), "one", &script);
    let read = |more: &str| {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"net",{more}"plugins":[{{"type":"one"}}]}}"#);
        parse(text.as_bytes()).unwrap()
    };
    let attachment = Attachment::new(read(""), target());
    let in_use = std::slice::from_ref(&attachment);
    for older in [read(""), read(r#""cniVersions":["0.4.0","2.0.0"],"#)] {
        cni.status(&older).await.unwrap();
        cni.gc(&older, in_use).await.unwrap();
        assert!(!log.exists());
    }
    let newest = read(r#""cniVersions":["1.1.0","1.0.0"],"#);
    cni.status(&newest).await.unwrap();
    cni.gc(&newest, in_use).await.unwrap();
    let said = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].starts_with("STATUS  {") && lines[0].contains(r#""cniVersion":"1.1.0""#),
        "{said}"
    );
    let valid = r#""cni.dev/valid-attachments":[{"containerID":"s1","ifname":"eth0"}]"#;
    assert!(lines[1].starts_with("GC  {") && lines[1].contains(valid), "{said}");
    std::fs::write(&sick, "").unwrap();
    let error = cni.status(&newest).await.unwrap_err().to_string();
    assert_eq!(error, r#"plugin type="one" failed (STATUS): no way out (code 51)"#);
    let shared = read(r#""cniVersions":["1.1.0"],"disableGC":true,"#);
    cni.gc(&shared, in_use).await.unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap().matches("GC").count(), 1);
}
