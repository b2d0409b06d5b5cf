"""Runs conformance tests on `littoral run` and on others, and says where they differ.

    tests/conformance/run.py [--target littoral --target wasmtime] [FOLDER…]

A folder holds tests as the public suite's `doc/specification.md` describes them: `NAME.wasm`, and beside it `NAME.json` with
arguments, environment, folders, and what is expected. Without folders: our own tests of WASI 0.2, which has no public suite,
and every folder of the public suite that lies in $WASI_TESTSUITE (a checkout of the branch `prod/testsuite-base`).

It exits with 1 where `littoral` fails a test that every other target passes, or, alone, any test.
"""

import argparse
import concurrent.futures
import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# As long as a test may take on a busy machine.
SECONDS_MAX = 60
# Tests wait more than they compute.
TESTS_AT_ONCE = 4
# What our own tests are: one component, whose first argument names the test.
OWN = HERE / "wasi-0.2"
OWN_VERSION = "wasm32-wasip2"


@dataclasses.dataclass(frozen=True)
class Test:
    suite: str
    name: str
    path: Path
    version: str
    expected: dict


def adapter(name):
    spec = importlib.util.spec_from_file_location(name, HERE / "adapters" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tests_in(folder):
    """The tests of a folder of the public suite, whose name says for which version they are."""
    versions = [part for part in folder.parts if part.startswith("wasm32-wasip")]
    version = versions[-1] if versions else "wasm32-wasip1"
    manifest = folder / "manifest.json"
    suite = json.loads(manifest.read_text())["name"] if manifest.exists() else str(folder)
    for path in sorted(folder.glob("*.wasm")):
        described = path.with_suffix(".json")
        expected = json.loads(described.read_text()) if described.exists() else {}
        yield Test(suite, path.stem, path, version, expected)


def own_tests(component):
    for path in sorted(OWN.glob("*.json")):
        yield Test("WASI 0.2, from the specification", path.stem, component, OWN_VERSION, json.loads(path.read_text()))


def run(test, target):
    """Why the test fails on the target, or None."""
    if "operations" in test.expected or "proposals" in test.expected:
        return "skipped: it needs the public runner"
    with tempfile.TemporaryDirectory() as scratch:
        folders = []
        for name in test.expected.get("dirs", []):
            copy = Path(scratch) / name
            source = test.path.parent / name
            if source.is_dir():
                shutil.copytree(source, copy, symlinks=True)
            else:
                copy.mkdir(parents=True)
            folders.append((copy, name))
        given = (test.expected.get("args", []), test.expected.get("env", {}), folders)
        argv = target.compute_argv(test.path, given, wasi_version=test.version)
        try:
            ended = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS_MAX, check=False, cwd=scratch
            )
        except subprocess.TimeoutExpired:
            return f"longer than {SECONDS_MAX} s"
    wanted = test.expected.get("exit_code", 0)
    said = (ended.stdout + ended.stderr).decode(errors="replace").strip().replace("\n", " | ")[-300:]
    if ended.returncode != wanted:
        return f"it exits with {ended.returncode}, not {wanted}: {said}"
    for stream in ("stdout", "stderr"):
        expected = test.expected.get(stream)
        found = getattr(ended, stream).decode(errors="replace")
        if expected is not None and found != expected:
            return f"{stream} is {found!r}, not {expected!r}"
    return None


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--target", action="append", help="an adapter's name; littoral and wasmtime by default")
    options.add_argument("--component", type=Path, required=True, help="our tests' component, `conformance.wasm`")
    options.add_argument("folders", nargs="*", type=Path, help="folders of tests")
    options = options.parse_args()
    targets = {name: adapter(name) for name in options.target or ["littoral", "wasmtime"]}
    folders = list(options.folders)
    suite = os.environ.get("WASI_TESTSUITE")
    if suite and not folders:
        folders = sorted({path.parent for path in Path(suite).glob("tests/*/testsuite/**/*.wasm")})
    tests = [] if options.folders else list(own_tests(options.component.resolve()))
    for folder in folders:
        tests += tests_in(folder.resolve())
    if not tests:
        sys.exit("there is no test: is the folder right?")
    outcomes = {}
    with concurrent.futures.ThreadPoolExecutor(TESTS_AT_ONCE) as pool:
        for name, target in targets.items():
            # One target after the other: some tests bind to ports of their choice.
            outcomes[name] = list(pool.map(lambda test: run(test, target), tests))  # pylint: disable=cell-var-from-loop
    sys.exit(report(tests, targets, outcomes))


def report(tests, targets, outcomes):
    """Prints a column a target; the exit status."""
    worse = 0
    width = max(len(test.name) for test in tests)
    print(" " * width, *(f"{name} {target.get_version()}" for name, target in targets.items()), sep="  ")
    for at, test in enumerate(tests):
        found = {name: outcomes[name][at] for name in targets}
        words = ["passed" if why is None else why.split(":")[0] if why.startswith("skipped") else "FAILED" for why in found.values()]
        print(test.name.ljust(width), *words, sep="  ")
        for name, why in found.items():
            if why and not why.startswith("skipped"):
                print(f"    {name}: {why}")
        others = [why for name, why in found.items() if name != "littoral"]
        ours = found.get("littoral")
        worse += bool(ours) and not ours.startswith("skipped") and all(why is None for why in others)
    for name, found in outcomes.items():
        failed = sum(bool(why) and not why.startswith("skipped") for why in found)
        skipped = sum(bool(why) and why.startswith("skipped") for why in found)
        print(f"{name}: {len(found) - failed - skipped} passed, {failed} failed, {skipped} skipped")
    if worse:
        print(f"littoral fails {worse} that the others pass" if len(targets) > 1 else f"littoral fails {worse}")
    return 1 if worse else 0


if __name__ == "__main__":
    main()
