//! Logs over the real socket and a container that ends while it is followed.

use std::io::Write as _;

use jiff::Timestamp;

use super::Options;
use crate::streaming::containers::RunState;
use crate::streaming::query::Query;
use crate::streaming::testing::Fixture;

fn options(text: &str) -> Result<Options, String> {
    Options::parse(&Query::parse(text), Timestamp::from_second(1_000_000).unwrap())
}

#[test]
fn refuses_values_that_mean_nothing_and_names_them() {
    for (text, named) in [
        ("tailLines=-1", "tailLines"),
        ("tailLines=x", "tailLines"),
        ("limitBytes=0", "limitBytes"),
        ("sinceSeconds=0", "sinceSeconds"),
        ("sinceTime=yesterday", "sinceTime"),
        ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", "sinceTime"),
        ("stream=Both", "stream"),
    ] {
        assert!(options(text).unwrap_err().contains(named), "{text}");
    }
    let since = options("sinceSeconds=60").unwrap().since;
    assert_eq!(since, Some(Timestamp::from_second(999_940).unwrap()));
}

#[tokio::test]
async fn follows_until_the_container_ends_and_loses_nothing() {
    let fixture = Fixture::new().await;
    let mut log = std::fs::File::create(fixture.log()).unwrap();
    writeln!(log, "2026-01-02T03:04:05Z stdout F first").unwrap();
    writeln!(log, "2026-01-02T03:04:05Z stdout F second").unwrap();
    fixture.set_state(RunState::Running);
    let writer = async {
        for number in 0..50 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            write!(log, "2026-01-02T03:04:05Z stdout F {number}").unwrap();
            tokio::task::yield_now().await;
            writeln!(log).unwrap();
        }
        fixture.set_state(RunState::Terminated);
        writeln!(log, "2026-01-02T03:04:05Z stderr F late").unwrap();
    };
    let reader = fixture.get("/containerLogs/default/web/main?follow=true");
    let ((), (status, body)) = tokio::join!(writer, reader);
    assert_eq!(status, 200);
    let numbers: String = (0..50).map(|number| format!("{number}\n")).collect();
    assert_eq!(body, format!("first\nsecond\n{numbers}late\n"));
    let tail = fixture.get("/containerLogs/default/web/main?tailLines=2").await;
    assert_eq!(tail, (200, "49\nlate\n".into()));
}

#[tokio::test]
async fn words_its_refusals_like_a_kubelet() {
    let fixture = Fixture::new().await;
    fixture.set_state(RunState::Waiting("ErrImagePull".into()));
    let refused = |path: &'static str| fixture.get(path);
    assert_eq!(
        refused("/containerLogs/default/web/main").await,
        (
            400,
            "container \"main\" in pod \"web\" is waiting to start: image can't be pulled".into()
        )
    );
    assert_eq!(
        refused("/containerLogs/default/web/main?previous=true").await,
        (
            400,
            "previous terminated container \"main\" in pod \"web\" not found".into()
        )
    );
    assert_eq!(
        refused("/containerLogs/default/web/side").await,
        (404, "container \"side\" not found in pod \"web\"".into())
    );
    assert_eq!(
        refused("/containerLogs/default/other/main").await,
        (404, "pod does not exist".into())
    );
    assert_eq!(refused("/containerLogs/default/web/main?tailLines=x").await.0, 422);
}
