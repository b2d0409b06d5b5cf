//! `littoral build`: runs the build commands of a manifest.

use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::app::{App, Component};
use crate::args::{BuildArgs, Format};
use crate::failure::hinted;

/// Builds an app's functions.
pub(super) async fn run(args: &BuildArgs) -> anyhow::Result<ExitCode> {
    build_app(&App::load(&args.app, Format::Table)?).await?;
    Ok(ExitCode::SUCCESS)
}

/// Runs each distinct build command of the app's functions once, in the manifest's folder, and checks that the
/// components are there afterwards.
///
/// # Errors
/// When a command fails, or does not produce the component that the manifest names.
pub(crate) async fn build_app(app: &App) -> anyhow::Result<()> {
    let mut done: Vec<&str> = Vec::new();
    for function in &app.functions {
        let Some(command) = function.build.as_deref() else { continue };
        if !done.contains(&command) {
            build(app, &function.name, command).await?;
            done.push(command);
        }
    }
    for function in &app.functions {
        if let Component::File(path) = &function.component
            && !path.exists()
        {
            return Err(hinted(
                format!("the component of function {} is not there: {}", function.name, path.display()),
                "see that `build` and `component` of the function in littoral.toml fit each other",
            ));
        }
    }
    Ok(())
}

async fn build(app: &App, function: &str, command: &str) -> anyhow::Result<()> {
    eprintln!("building {function}: {command}");
    // What a component is built for is the guest's business: our own cargo's settings must not leak into it.
    let ended = tokio::process::Command::new("sh")
        .args(["-c", command])
        .current_dir(&app.folder)
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("RUSTFLAGS")
        .kill_on_drop(true)
        .status()
        .await;
    let status = match ended {
        Ok(status) => status,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(hinted("there is no `sh` to run build commands with", "build by hand, then use --no-build"));
        }
        Err(error) => return Err(error).context("cannot run the build command"),
    };
    if status.success() {
        return Ok(());
    }
    let hint = missing_tool(command).unwrap_or_else(|| format!("run it by hand in {}", app.folder.display()));
    Err(hinted(format!("building {function} failed ({status}): {command}"), hint))
}

/// What to install, where the cause of a failed build is likely that something is missing.
fn missing_tool(command: &str) -> Option<String> {
    let first = command.split_whitespace().next()?;
    let present = |tool: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
    };
    if !first.contains('/') && !present(first) && first.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Some(match first {
            "cargo" => "install Rust (https://rustup.rs), then: rustup target add wasm32-wasip2".to_owned(),
            "npm" | "npx" | "node" => "install Node.js".to_owned(),
            other => format!("install `{other}`: it is not on the PATH"),
        });
    }
    let targets = std::process::Command::new("rustup").args(["target", "list", "--installed"]).output().ok()?;
    if first == "cargo" && command.contains("wasm32-wasip2") {
        let installed = String::from_utf8_lossy(&targets.stdout).lines().any(|target| target == "wasm32-wasip2");
        return (!installed).then(|| "the target is not installed: rustup target add wasm32-wasip2".to_owned());
    }
    None
}
