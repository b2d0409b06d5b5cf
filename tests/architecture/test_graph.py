"""Holds the crate graph to ARCHITECTURE.md and to deny.toml.

ARCHITECTURE.md's code map is a table with a row for each crate, whose last column names the crates that it depends on.
This test compares it with what cargo says, in both directions, so the map cannot drift. What deny.toml says about licences,
sources and who may name which engine is checked here too, because cargo-deny itself takes minutes to build; where it is
installed, it reads the same file. Standard library only; run by `make check`.
"""

import json
import os
import re
import subprocess
import tomllib
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "littoral-"

# The crates that only decide (ARCHITECTURE.md, invariants): no clock, no I/O, no randomness of their own.
PURE = {"model", "sql", "plan", "control"}
# What would bring one of these in: runtimes, wires, engines, sources of randomness.
IMPURE_DEPENDENCIES = {
    "tokio", "tokio-util", "async-trait", "futures", "zenoh", "hyper", "axum", "redb", "openraft", "wasmtime",
    "rand", "getrandom", "rustix", "libc", "socket2", "mio",
}


def metadata():
    """What cargo knows of the workspace, on the platform that CI runs on (others would need downloads)."""
    command = ["cargo", "metadata", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"]
    command += ["--locked"] if (ROOT / "Cargo.lock").exists() else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(command)}` failed:\n{done.stderr}")
    return json.loads(done.stdout)


def documented_graph(text):
    """The rows of the code map, the table whose first column is `crate` and whose last one is `depends on`."""
    graph = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if cells and cells[0] == "crate" and cells[-1] == "depends on":
            graph = {}
        elif graph is not None and not cells:
            break
        elif graph is not None and not set(line) <= set("|-: "):
            graph[cells[0].strip("`")] = set(re.findall(r"`([a-z0-9-]+)`", cells[-1]))
    if not graph:
        raise ValueError("ARCHITECTURE.md has no table `| crate | ... | depends on |` with a row for each crate")
    return graph


def allowed(expression, licences):
    """Whether an SPDX expression can be met with `licences`. `/` is the old way to write OR."""
    tokens = re.findall(r"\(|\)|[^\s()/]+|/", expression.replace(" WITH ", "~WITH~"))

    def either(position):
        value, position = both(position)
        while position < len(tokens) and tokens[position] in ("OR", "/"):
            right, position = both(position + 1)
            value = value or right
        return value, position

    def both(position):
        value, position = one(position)
        while position < len(tokens) and tokens[position] == "AND":
            right, position = one(position + 1)
            value = value and right
        return value, position

    def one(position):
        if tokens[position] == "(":
            value, position = either(position + 1)
            return value, position + 1
        return tokens[position].replace("~WITH~", " WITH ") in licences, position + 1

    return either(0)[0]


class Licences(unittest.TestCase):
    def test_expressions(self):
        for expression, expected in {
            "MIT": True,
            "GPL-3.0": False,
            "MIT OR GPL-3.0": True,
            "GPL-3.0/MIT": True,
            "MIT AND GPL-3.0": False,
            "(MIT OR GPL-3.0) AND ISC": True,
            "Apache-2.0 WITH LLVM-exception": False,
        }.items():
            self.assertEqual(allowed(expression, {"MIT", "ISC"}), expected, expression)


class Graph(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        found = metadata()
        cls.packages = {package["id"]: package for package in found["packages"]}
        cls.ours = {package["name"].removeprefix(PREFIX): package
                    for package in found["packages"] if package["id"] in found["workspace_members"]}
        # Build and normal dependencies of what is resolved; `dev` ones reach no product.
        cls.edges = [
            (cls.packages[node["id"]]["name"], cls.packages[dependency["pkg"]]["name"])
            for node in found["resolve"]["nodes"]
            for dependency in node["deps"]
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"])
        ]
        with open(ROOT / "deny.toml", "rb") as file:
            cls.deny = tomllib.load(file)

    def test_architecture_matches_the_crates(self):
        documented = documented_graph((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
        actual = {
            crate: {dependency["name"].removeprefix(PREFIX) for dependency in package["dependencies"]
                    if dependency["kind"] is None and dependency["name"].startswith(PREFIX)}
            for crate, package in self.ours.items()
        }
        lines = []
        for crate in sorted(actual.keys() | documented.keys()):
            if crate not in documented:
                lines.append(f"`{crate}` exists but is not in ARCHITECTURE.md")
            elif crate not in actual:
                lines.append(f"`{crate}` is in ARCHITECTURE.md but does not exist")
            else:
                lines += [f"`{crate}` uses `{other}`; ARCHITECTURE.md does not say so"
                          for other in sorted(actual[crate] - documented[crate])]
                lines += [f"ARCHITECTURE.md says that `{crate}` uses `{other}`; it does not"
                          for other in sorted(documented[crate] - actual[crate])]
        self.assertEqual(lines, [])

    def test_folders_carry_no_prefix(self):
        for crate, package in self.ours.items():
            self.assertTrue(package["name"].startswith(PREFIX), package["name"])
            self.assertEqual(Path(package["manifest_path"]).parent.name, crate)

    def test_pure_crates_name_nothing_impure(self):
        found = [f"`{crate}` names `{dependency['name']}`"
                 for crate in sorted(PURE & self.ours.keys())
                 for dependency in self.ours[crate]["dependencies"]
                 if dependency["kind"] is None and dependency["name"] in IMPURE_DEPENDENCIES]
        self.assertEqual(found, [])

    def test_pure_crates_depend_on_pure_crates_only(self):
        found = [f"`{crate}` uses `{dependency['name']}`"
                 for crate in sorted(PURE & self.ours.keys())
                 for dependency in self.ours[crate]["dependencies"]
                 if dependency["kind"] is None and dependency["name"].startswith(PREFIX)
                 and dependency["name"].removeprefix(PREFIX) not in PURE]
        self.assertEqual(found, [])

    def test_engines_are_named_by_one_crate_each(self):
        found = []
        for rule in self.deny["bans"]["deny"]:
            wrappers = set(rule.get("wrappers", []))
            found += [f"`{user}` uses `{rule['crate']}`: {rule['reason']}"
                      for user, used in self.edges if used == rule["crate"] and user not in wrappers]
        self.assertEqual(sorted(found), [])

    def test_licences_are_allowed(self):
        licences = set(self.deny["licenses"]["allow"])
        found = [f"`{package['name']}` {package['version']}: {package['license']}"
                 for package in self.packages.values()
                 if not allowed(package["license"] or "none", licences)]
        self.assertEqual(sorted(found), [])

    def test_sources_are_allowed(self):
        registries = {f"registry+{registry}" for registry in self.deny["sources"]["allow-registry"]}
        found = [f"`{package['name']}` comes from {package['source']}"
                 for package in self.packages.values()
                 if package["source"] is not None and package["source"] not in registries]
        self.assertEqual(sorted(found), [])


class Sources(unittest.TestCase):
    def test_every_module_says_what_it_is_for(self):
        silent = []
        for source in sorted(ROOT.glob("crates/*/src/**/*.rs")):
            lines = source.read_text(encoding="utf-8").splitlines()
            code = [line for line in lines if line.strip() and not line.startswith("#![")]
            if code and not code[0].startswith(("//!", "/*!")):
                silent.append(str(source.relative_to(ROOT)))
        self.assertEqual(silent, [])


if __name__ == "__main__":
    unittest.main()
