//! Builds the kernel programs (crates/ebpf) for the BPF target and leaves the object in OUT_DIR for `src/bpf`.
//!
//! The BPF target needs a `core` of its own and `bpf-linker`. Two toolchains have the former; the build takes
//! whichever is there: Debian's packages, or a rustup nightly with the `rust-src` component.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What the programs are made of, below the workspace's root. The build runs again when one of these changes.
const SOURCES: [&str; 5] = [
    "crates/ebpf/Cargo.toml",
    "crates/ebpf/src",
    "crates/packet/Cargo.toml",
    "crates/packet/src",
    "Cargo.toml",
];

const HOW_TO_INSTALL: &str = "\
On Debian 12 or newer, as root:
    apt-get install rustc-web libstd-rust-web-dev-bpf
    cargo install bpf-linker@0.10.0
Elsewhere:
    rustup toolchain install nightly --profile minimal --component rust-src
    cargo install bpf-linker@0.10.0";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("The kernel programs (crates/ebpf) cannot be built: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = manifest_dir.join("../..");
    println!("cargo::rerun-if-changed=build.rs");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }

    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.to_str() {
        Some("little") => "bpfel-unknown-none",
        _ => "bpfeb-unknown-none",
    };
    let linker = find_linker()?;
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let target_dir = out_dir.join("target");

    let mut cargo = Toolchain::find(target)?.cargo()?;
    cargo
        .current_dir(&root)
        .args([
            "build",
            "--package",
            "weft-ebpf",
            "--release",
            "--target",
            target,
            "--target-dir",
        ])
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&linker)?)
        // The linker links everything into one module and optimises that; one unit per crate gives it whole crates.
        // The workspace's own profile is for another machine.
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none");
    let output = cargo.output().map_err(|e| format!("{cargo:?} does not start: {e}"))?;
    if !output.status.success() {
        return Err(format!(
            "{cargo:?} failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }

    let built = target_dir.join(target).join("release/weft-ebpf");
    let object = out_dir.join("weft-ebpf.o");
    std::fs::copy(&built, &object)
        .map_err(|e| format!("cannot copy {} to {}: {e}", built.display(), object.display()))?;
    Ok(())
}

/// Flags for the BPF target only: cargo keeps them from build scripts and macros, which run on the host.
fn rustflags(linker: &Path) -> Result<OsString, String> {
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    let mut flags = OsString::from("--cfg=bpf_target_arch=\"");
    flags.push(arch);
    flags.push("\"\x1f-Clinker=");
    flags.push(linker);
    // The instruction set of Linux 5.1: 32-bit arithmetic makes the programs a tenth shorter.
    flags.push("\x1f-Ctarget-cpu=v3");
    Ok(flags)
}

/// A compiler that can build for the BPF target.
enum Toolchain {
    /// A stable compiler that came with a `core` for it, as Debian's does.
    Prebuilt(PathBuf),
    /// rustup's nightly, which builds `core` from its source.
    Nightly,
}

impl Toolchain {
    fn find(target: &str) -> Result<Self, String> {
        let mut tried = Vec::new();

        let debian = PathBuf::from("/usr/bin/rustc");
        match output(clean(&debian).args(["--print", "target-libdir", "--target", target])) {
            Some(libdir) if has_core(Path::new(&libdir)) => return Ok(Self::Prebuilt(debian)),
            Some(libdir) => tried.push(format!("{} has no core for {target} in {libdir}", debian.display())),
            None => tried.push(format!(
                "{} is not a Rust compiler that knows {target}",
                debian.display()
            )),
        }

        match output(clean("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"])) {
            Some(sysroot) if Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir() => {
                return Ok(Self::Nightly);
            }
            Some(sysroot) => tried.push(format!("rustup's nightly in {sysroot} has no rust-src component")),
            None => tried.push("rustup has no nightly toolchain".to_owned()),
        }

        Err(format!(
            "no Rust toolchain for the target {target} was found.\n{}.\n{HOW_TO_INSTALL}",
            tried.join(".\n")
        ))
    }

    /// A cargo that builds with this toolchain.
    fn cargo(&self) -> Result<Command, String> {
        Ok(match self {
            Self::Prebuilt(rustc) => {
                let mut cargo = clean(variable("CARGO")?);
                // aya-ebpf uses unstable features, which this lets a stable compiler accept.
                cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
            Self::Nightly => {
                let mut cargo = clean("rustup");
                cargo.args(["run", "nightly", "cargo", "-Zbuild-std=core"]);
                cargo
            }
        })
    }
}

fn has_core(libdir: &Path) -> bool {
    std::fs::read_dir(libdir).is_ok_and(|files| {
        files.flatten().any(|file| {
            file.file_name()
                .to_str()
                .is_some_and(|name| name.starts_with("libcore-"))
        })
    })
}

/// `bpf-linker`, from the PATH or from where `cargo install` puts it.
fn find_linker() -> Result<PathBuf, String> {
    let mut places: Vec<PathBuf> = env::var_os("PATH").iter().flat_map(env::split_paths).collect();
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    places.extend(
        cargo_home
            .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
            .map(|dir| dir.join("bin")),
    );
    places
        .iter()
        .map(|place| place.join("bpf-linker"))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("bpf-linker was not found.\n{HOW_TO_INSTALL}"))
}

/// A command without what the outer cargo tells its own compilers: flags, wrappers, profiles, the package's variables.
/// Where cargo keeps its things, how it reaches registries, and the job server stay.
fn clean(program: impl AsRef<OsStr>) -> Command {
    const KEPT: [&str; 5] = [
        "CARGO_HOME",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTR",
    ];
    const DROPPED: [&str; 9] = [
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "CARGO",
        "RUSTUP_TOOLCHAIN",
        "TARGET",
        "HOST",
        "PROFILE",
        "OUT_DIR",
    ];
    let mut command = Command::new(program);
    for (key, _) in env::vars_os() {
        let Some(name) = key.to_str() else { continue };
        let starts = |prefix: &&str| name.starts_with(prefix);
        if DROPPED.iter().any(starts) && !KEPT.iter().any(starts) {
            command.env_remove(&key);
        }
    }
    command
}

/// What a command prints on its first line, if it succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set: this is cargo's to run"))
}
