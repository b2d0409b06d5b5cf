//! `littoral build`: runs the build commands of a manifest.

use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::app::{App, Build};
use crate::args::{BuildArgs, Format};
use crate::commands::tools;
use crate::failure::hinted;

/// Builds an app's functions.
pub(super) async fn run(args: &BuildArgs) -> anyhow::Result<ExitCode> {
    build_app(&App::load(&args.app, Format::Table)?).await?;
    Ok(ExitCode::SUCCESS)
}

/// Runs each distinct build command of the app's functions once, in its folder, and checks that the
/// components are there afterwards.
///
/// # Errors
/// When a command fails, or does not produce the component that the manifest names.
pub(crate) async fn build_app(app: &App) -> anyhow::Result<()> {
    let mut done: Vec<&Build> = Vec::new();
    for function in &app.functions {
        let Some(command) = &function.build else { continue };
        if !done.contains(&command) {
            build(&function.name, command).await?;
            done.push(command);
        }
    }
    for function in &app.functions {
        if let Some(path) = function.component.path().filter(|path| !path.exists()) {
            return Err(hinted(
                format!("the component of function {} is not there: {}", function.name, path.display()),
                "see that `build` and `component` of the function in littoral.toml fit each other",
            ));
        }
    }
    Ok(())
}

async fn build(function: &str, Build { command, folder }: &Build) -> anyhow::Result<()> {
    eprintln!("building {function}: {command}");
    // What a component is built for is the guest's business: our own cargo's settings must not leak into it.
    let ended = tokio::process::Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
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
    let path = std::env::var_os("PATH").unwrap_or_default();
    let hint = tools::missing(folder, command, &path, status.code())
        .unwrap_or_else(|| format!("run it by hand in {}", folder.display()));
    Err(hinted(format!("building {function} failed ({status}): {command}"), hint))
}
