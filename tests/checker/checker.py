#!/usr/bin/env python3
r"""Compares the records that went into the machine-health example with those that came out. Reads no counter of ours.

    checker.py --run DIR                                                  what one run of `littoral dev --once` left
    checker.py --input DIR --scores FILE... --rejects FILE... [options]   the same, file by file

It takes set differences of record ids between the files that were replayed and dumps of the output streams, prints what
it found, and exits 0 only if no record was lost, none came out twice, and none came out that did not go in. It shares
no code with what it checks: which rows are well formed, it decides for itself.

Input, `--input DIR`
    Every `*.ndjson` in DIR, one for each device node, one line per record that was published:
        {"key": "machine-042", "value": "17,2013-12-02 21:15:00,73.96732207"}
    `key` is the sensor, `value` the row as replayed. Other members are ignored.

Record ids
    A row is well formed if it has three fields `<seq>,<timestamp>,<value>`: seq of 1 to 18 digits, a timestamp that the
    calendar knows, written YYYY-MM-DD HH:MM:SS, and a decimal number from -459.67 to 10000 (degrees Fahrenheit). Its id
    is `<key>/<seq>`, which the input must not repeat. Any other row is malformed; its id is the key and the whole value,
    and the same malformed row may be published several times.

Output, `--scores FILE...` and `--rejects FILE...`
    Dumps of the streams, as `littoral stream tail --from start` prints them, one row a line. In several files
    (a dump for each partition, say) all rows count.
        scores:   {"sensor": "machine-042", "seq": 17, ...}    each well-formed record exactly once
        rejects:  {"stage": "clean", "reason": "...", "row": "{\"key\":\"machine-042\",\"value\":\"17,2013-...\"}", ...}
                  each malformed record exactly once; `row` is the rejected row, as JSON in a text

Evidence that a fault struck what it should have, optional
    --struck NODE --at-strike FILE
        FILE has the flows as `littoral get flows -o json` of a node that was not struck printed them just before: a list
        of flows, each with `stages`, each of these with `name`, `partition`, `site`, `owner` and `epoch`. Fails unless
        NODE owned a stage then.
    --after FILE
        The same, some time after the strike. Fails unless each stage that NODE owned has another owner or a higher epoch.
    --cut FROM_US..TO_US --acks FILE --scores-at-cut FILE --scores-at-heal FILE
        When a link was cut and mended, in microseconds since 1970; what devices acknowledged, a line each,
        {"time_us": 1, "node": "device-1", "records": 20}; dumps of the scores from an edge node at both times. Fails
        unless records were acknowledged in between, and published records are in the second dump but not in the first.

A run's folder, `--run DIR`
    input/, output/scores.ndjson and output/rejects.ndjson, and for each fault in timeline.ndjson,
        {"time_us": 1, "event": "strike", "fault": "kill:edge-1@50%"}         at-strike.json and, if there, after.json
        {"time_us": 1, "event": "cut" or "heal", "fault": "cut:cloud@..."}   acks.ndjson, scores-at-{cut,heal}.ndjson
    Other events are ignored.

Other options
    --malformed N    fails unless the input has exactly N malformed records
    --json FILE      writes the result there, too

Exit status: 0 all of it holds; 1 it does not; 2 the files cannot be read as described.
"""

import argparse
import json
import math
import re
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path

SEQ = re.compile(r"[0-9]{1,18}", re.ASCII)
TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}", re.ASCII)
NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
VALUE_MIN = -459.67
VALUE_MAX = 10_000.0
# How many ids of each kind of fault are printed; all are counted.
EXAMPLES_MAX = 10


class Unreadable(Exception):
    """A file that is not what the docstring says; tells which line, and what was expected."""


def seq_of(value):
    """The sequence number of a well-formed row; None for a malformed one."""
    fields = value.split(",")
    if len(fields) != 3:
        return None
    seq, timestamp, number = fields
    if not (SEQ.fullmatch(seq) and TIMESTAMP.fullmatch(timestamp) and NUMBER.fullmatch(number)):
        return None
    try:
        datetime.strptime(timestamp, "%Y-%m-%d %H:%M:%S")
    except ValueError:
        return None
    degrees = float(number)
    if not math.isfinite(degrees) or not VALUE_MIN <= degrees <= VALUE_MAX:
        return None
    return int(seq)


def rows_of(path):
    """Each line of an NDJSON file with its number. Splits at newlines only, as a row may hold other separators."""
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise Unreadable(f"{path}:{number}: not JSON: {error}") from error
                if not isinstance(row, dict):
                    raise Unreadable(f"{path}:{number}: expected an object")
                yield number, row
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{path}: {error}") from error


def member(path, number, row, name, kind):
    """A member of a row, of the kind that it must have."""
    value = row.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Unreadable(f"{path}:{number}: `{name}` must be {kind.__name__}, found {value!r}")
    return value


class Input:
    """What was published: ids of well-formed records, and malformed ones with their number."""

    def __init__(self, folder):
        self.well_formed = set()
        self.malformed = Counter()
        paths = sorted(Path(folder).glob("*.ndjson"))
        if not paths:
            raise Unreadable(f"{folder}: no *.ndjson file in it")
        for path in paths:
            for number, row in rows_of(path):
                self._add(path, number, row)

    def _add(self, path, number, row):
        key = member(path, number, row, "key", str)
        value = member(path, number, row, "value", str)
        seq = seq_of(value)
        if seq is None:
            self.malformed[(key, value)] += 1
            return
        record = f"{key}/{seq}"
        if record in self.well_formed:
            raise Unreadable(f"{path}:{number}: `{record}` was published twice; ids in the input must differ")
        self.well_formed.add(record)


def scored_ids(paths):
    """How often each record was scored."""
    scored = Counter()
    for path in paths:
        for number, row in rows_of(path):
            scored[f"{member(path, number, row, 'sensor', str)}/{member(path, number, row, 'seq', int)}"] += 1
    return scored


def rejected_ids(paths):
    """How often each row was rejected."""
    rejected = Counter()
    for path in paths:
        for number, row in rows_of(path):
            try:
                record = json.loads(member(path, number, row, "row", str))
            except ValueError as error:
                raise Unreadable(f"{path}:{number}: `row` is not JSON: {error}") from error
            if not isinstance(record, dict):
                raise Unreadable(f"{path}:{number}: `row` must be an object")
            rejected[(member(path, number, record, "key", str), member(path, number, record, "value", str))] += 1
    return rejected


def stages_owned(path, node):
    """The stages that a node owned, as {(stage, partition, site): epoch}, according to a list of flows."""
    try:
        flows = json.loads(Path(path).read_text(encoding="utf-8"))
        stages = [stage for flow in flows for stage in flow["stages"]]
        return {(stage["name"], stage["partition"], stage["site"]): stage["epoch"]
                for stage in stages if stage["owner"] == node}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"{path}: expected a list of flows with their stages: {error!r}") from error


def compare(expected, found, name):
    """What is wrong with `found`, as (what, ids): all of `expected` must be in it, as often, and nothing else."""
    lost = sorted(str(record) for record, times in expected.items() if found[record] < times)
    twice = sorted(str(record) for record, times in found.items() if 0 < expected[record] < times)
    unexpected = sorted(str(record) for record in found if expected[record] == 0)
    return [(f"lost from {name}", lost), (f"duplicated in {name}", twice), (f"unexpected in {name}", unexpected)]


def check_struck(arguments):
    """What contradicts that the struck node held a stage, and lost it."""
    owned = stages_owned(arguments.at_strike, arguments.struck)
    if not owned:
        return [f"`{arguments.struck}` owned no stage when it was struck"]
    print(f"when it was struck, `{arguments.struck}` owned {len(owned)} stage partitions")
    if arguments.after is None:
        return []
    still = stages_owned(arguments.after, arguments.struck)
    return [f"`{arguments.struck}` still owns {stage[0]}/{stage[1]} under epoch {epoch}"
            for stage, epoch in sorted(owned.items()) if still.get(stage) == epoch]


def check_cut(arguments, published):
    """What contradicts that devices and edge nodes went on during the cut."""
    start, end = arguments.cut
    acknowledged = sum(member(arguments.acks, number, row, "records", int)
                       for number, row in rows_of(arguments.acks)
                       if start <= member(arguments.acks, number, row, "time_us", int) <= end)
    before = scored_ids([arguments.scores_at_cut]).keys()
    scored = (scored_ids([arguments.scores_at_heal]).keys() - before) & published.well_formed
    print(f"during the cut: {acknowledged} acknowledged by devices, {len(scored)} scored at the edge")
    faults = []
    if acknowledged == 0:
        faults.append("no device acknowledged a record during the cut")
    if not scored:
        faults.append("no published record was scored during the cut")
    return faults


def check(arguments):
    """Does all comparisons and prints them; the result as an object for `--json`."""
    published = Input(arguments.input)
    scored = scored_ids(arguments.scores)
    rejected = rejected_ids(arguments.rejects)

    differences = compare(Counter(dict.fromkeys(published.well_formed, 1)), scored, "scores")
    differences += compare(published.malformed, rejected, "rejects")
    faults = []
    malformed = published.malformed.total()
    if arguments.malformed is not None and malformed != arguments.malformed:
        faults.append(f"the input has {malformed} malformed records, not {arguments.malformed}")
    if not published.well_formed:
        faults.append("the input has no well-formed record: nothing was shown")
    if arguments.struck is not None:
        faults += check_struck(arguments)
    if arguments.cut is not None:
        faults += check_cut(arguments, published)

    print(f"published: {len(published.well_formed)} well-formed, {malformed} malformed")
    print(f"came out: {scored.total()} scored, {rejected.total()} rejected")
    for what, ids in differences:
        print(f"{what}: {len(ids)}")
        for record in ids[:EXAMPLES_MAX]:
            print(f"    {record}")
        if len(ids) > EXAMPLES_MAX:
            print(f"    ... and {len(ids) - EXAMPLES_MAX} more")
    for fault in faults:
        print(f"failed: {fault}")

    counts = {kind: sum(len(ids) for what, ids in differences if what.startswith(kind))
              for kind in ("lost", "duplicated", "unexpected")}
    return {
        "published": len(published.well_formed),
        "malformed": malformed,
        "scored": scored.total(),
        "rejected": rejected.total(),
        **counts,
        "faults": faults,
        "ok": not faults and not any(counts.values()),
    }


def span(text):
    """`FROM_US..TO_US` as a pair."""
    start, separator, end = text.partition("..")
    if not separator or not start.isdigit() or not end.isdigit() or int(start) > int(end):
        raise argparse.ArgumentTypeError(f"`{text}` is not FROM_US..TO_US, microseconds since 1970")
    return int(start), int(end)


def from_run(arguments):
    """Fills in what `--run` stands for."""
    run = Path(arguments.run)
    arguments.input = run / "input"
    arguments.scores = [run / "output" / "scores.ndjson"]
    arguments.rejects = [run / "output" / "rejects.ndjson"]
    times = {}
    for number, row in rows_of(run / "timeline.ndjson") if (run / "timeline.ndjson").exists() else ():
        event = row.get("event")
        if event == "strike":
            _, _, rest = member("timeline.ndjson", number, row, "fault", str).partition(":")
            arguments.struck = rest.partition("@")[0]
            arguments.at_strike = run / "at-strike.json"
            arguments.after = run / "after.json" if (run / "after.json").exists() else None
        elif event in ("cut", "heal"):
            times[event] = member("timeline.ndjson", number, row, "time_us", int)
    if times:
        if len(times) != 2:
            raise Unreadable("timeline.ndjson: a cut needs a `cut` and a `heal`")
        arguments.cut = (times["cut"], times["heal"])
        arguments.acks = run / "acks.ndjson"
        arguments.scores_at_cut = run / "scores-at-cut.ndjson"
        arguments.scores_at_heal = run / "scores-at-heal.ndjson"


def parse(arguments):
    """The command line; options that need one another are given together."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0], epilog="The formats are in the docstring.")
    parser.add_argument("--run", metavar="DIR")
    parser.add_argument("--input", metavar="DIR")
    parser.add_argument("--scores", nargs="+", metavar="FILE")
    parser.add_argument("--rejects", nargs="+", metavar="FILE")
    parser.add_argument("--struck", metavar="NODE")
    parser.add_argument("--at-strike", metavar="FILE")
    parser.add_argument("--after", metavar="FILE")
    parser.add_argument("--cut", type=span, metavar="FROM_US..TO_US")
    parser.add_argument("--acks", metavar="FILE")
    parser.add_argument("--scores-at-cut", metavar="FILE")
    parser.add_argument("--scores-at-heal", metavar="FILE")
    parser.add_argument("--malformed", type=int, metavar="N")
    parser.add_argument("--json", metavar="FILE")
    parsed = parser.parse_args(arguments)
    files = [parsed.input, parsed.scores, parsed.rejects]
    if parsed.run is not None and any(file is not None for file in files):
        parser.error("--run stands for --input, --scores and --rejects; give it alone")
    if parsed.run is None and None in files:
        parser.error("give --run, or --input, --scores and --rejects")
    if (parsed.struck is None) != (parsed.at_strike is None):
        parser.error("--struck and --at-strike are given together")
    if parsed.after is not None and parsed.struck is None:
        parser.error("--after needs --struck and --at-strike")
    cut = [parsed.cut, parsed.acks, parsed.scores_at_cut, parsed.scores_at_heal]
    if any(part is None for part in cut) and any(part is not None for part in cut):
        parser.error("--cut, --acks, --scores-at-cut and --scores-at-heal are given together")
    return parsed


def main(arguments=None):
    parsed = parse(arguments)
    try:
        if parsed.run is not None:
            from_run(parsed)
        result = check(parsed)
    except Unreadable as error:
        print(f"checker: {error}", file=sys.stderr)
        return 2
    if parsed.json is not None:
        Path(parsed.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("ok" if result["ok"] else "NOT OK")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
