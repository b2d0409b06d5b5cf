"""Makes `littoral run` a target of the public wasi-testsuite runner (https://github.com/WebAssembly/wasi-testsuite):

    wasi-testsuite/run-tests --runtime-adapter tests/conformance/adapters/littoral.py

LITTORAL is the command, `target/debug/littoral` of this repository by default.
"""

import os
import shlex
import subprocess
from pathlib import Path

_BUILT = Path(__file__).resolve().parents[3] / os.environ.get("CARGO_TARGET_DIR", "target") / "debug" / "littoral"
LITTORAL = shlex.split(os.getenv("LITTORAL", shlex.quote(str(_BUILT))))

# The suite talks to itself over the loopback interface, and binds to every address.
_GRANTS = ["--allow-socket", "0.0.0.0/0", "--allow-socket", "[::/0]", "--allow-http", "127.0.0.0/8"]
_GRANTS += ["--allow-http", "*.invalid", "--allow-http", "nowhere.invalid"]


def get_name():
    return "littoral"


def get_version():
    told = subprocess.run(LITTORAL[:1] + ["--version"], encoding="UTF-8", capture_output=True, check=True)
    return told.stdout.splitlines()[0].split(" ")[1]


def get_wasi_versions():
    return ["wasm32-wasip1", "wasm32-wasip3"]


def get_wasi_worlds():
    return ["wasi:cli/command", "wasi:http/service"]


def compute_argv(test_path, args_env_dirs, proposals=(), wasi_world="wasi:cli/command", wasi_version="wasm32-wasip1"):
    """The command line of a test. The runner hands over folders as pairs of host and guest path, or, since 2026, one
    folder that is seen at `/`."""
    del proposals, wasi_version
    arguments, environment, folders = args_env_dirs
    if folders is None:
        folders = []
    elif isinstance(folders, (str, Path)):
        folders = [(folders, "/")]
    argv = LITTORAL + ["run"] + _GRANTS
    if wasi_world == "wasi:http/service":
        # The runner reads the address from the first line on standard error.
        argv += ["--addr", "127.0.0.1:0"]
    for name, value in environment.items():
        argv += ["--env", f"{name}={value}"]
    for host, guest in folders:
        argv += ["--dir", f"{host}::{guest}"]
    return argv + [str(test_path)] + list(arguments)
