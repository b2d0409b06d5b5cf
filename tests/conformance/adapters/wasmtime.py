"""The same for `wasmtime` 48, which we compare with; WASMTIME is the command."""

import os
import shlex
import subprocess
from pathlib import Path

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_BUILT = _CACHE / "littoral" / "peers" / "wasmtime-48.0.8" / "bin" / "wasmtime"
WASMTIME = shlex.split(os.getenv("WASMTIME", shlex.quote(str(_BUILT))))

_SOCKETS = ["-S", "inherit-network=y,allow-ip-name-lookup=y,tcp=y,udp=y"]


def get_name():
    return "wasmtime"


def get_version():
    told = subprocess.run(WASMTIME[:1] + ["--version"], encoding="UTF-8", capture_output=True, check=True)
    return told.stdout.split(" ")[1].strip()


def get_wasi_versions():
    return ["wasm32-wasip1", "wasm32-wasip3"]


def get_wasi_worlds():
    return ["wasi:cli/command", "wasi:http/service"]


def compute_argv(test_path, args_env_dirs, proposals=(), wasi_world="wasi:cli/command", wasi_version="wasm32-wasip1"):
    del proposals
    arguments, environment, folders = args_env_dirs
    if folders is None:
        folders = []
    elif isinstance(folders, (str, Path)):
        folders = [(folders, "/")]
    argv = list(WASMTIME)
    if wasi_world == "wasi:http/service":
        argv += ["serve", "--addr", "127.0.0.1:0"]
    else:
        argv += ["run"]
    argv += _SOCKETS
    if wasi_version != "wasm32-wasip1":
        argv += ["-S", "http"]
    if wasi_version == "wasm32-wasip3":
        argv += ["-W", "component-model-async", "-S", "p3"]
    for name, value in environment.items():
        argv += ["--env", f"{name}={value}"]
    for host, guest in folders:
        argv += ["--dir", f"{host}::{guest}"]
    return argv + [str(test_path)] + list(arguments)
