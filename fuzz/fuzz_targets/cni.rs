//! Whatever a runtime or another plugin writes as JSON: reading it never fails otherwise than with an error, and what was
//! read is written and read again as the same.
//! Run with `cargo +nightly fuzz run cni`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_model::cni::{AddResult, Request, Response, RuntimeConfig, SUPPORTED_VERSIONS};

fuzz_target!(|data: &[u8]| {
    if let Ok(result) = serde_json::from_slice::<AddResult>(data) {
        let text = serde_json::to_vec(&result).unwrap();
        assert_eq!(serde_json::from_slice::<AddResult>(&text).unwrap(), result);
        for version in SUPPORTED_VERSIONS {
            let merged = result.clone().after(result.clone());
            assert_eq!(merged.clone().in_version(version).ips.len(), 2 * result.ips.len());
        }
    }
    if let Ok(runtime) = serde_json::from_slice::<RuntimeConfig>(data) {
        let text = serde_json::to_vec(&runtime).unwrap();
        assert_eq!(serde_json::from_slice::<RuntimeConfig>(&text).unwrap(), runtime);
    }
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let _ = request.wanted_ips();
    }
    let _ = serde_json::from_slice::<Response>(data);
});
