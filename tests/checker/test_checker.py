"""Shows that the checker fails on each thing that it is there to find: `python3 -m unittest discover -s tests/checker`."""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import checker  # noqa: E402

WELL_FORMED = [{"key": key, "value": f"{seq},2013-12-02 21:{seq:02}:00,{70 + seq}.5"}
               for key in ("machine-001", "machine-002") for seq in range(5)]
MALFORMED = [
    {"key": "machine-001", "value": "7,2013-12-02 21:15:00"},
    {"key": "machine-001", "value": ""},
    {"key": "machine-001", "value": ""},
    {"key": "machine-002", "value": "8,2013-13-02 21:15:00,1.0"},
]
SCORES = [{"sensor": row["key"], "seq": int(row["value"].split(",")[0]), "score": 0.1} for row in WELL_FORMED]


def reject(row):
    """A row of the dead-letter stream."""
    return {"stage": "clean", "reason": "malformed", "row": json.dumps({**row, "time": "2024-01-01T00:00:00Z"})}


REJECTS = [reject(row) for row in MALFORMED]


class Run(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "input").mkdir()

    def write(self, name, rows):
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    def run_checker(self, scores=SCORES, rejects=REJECTS, published=None, options=()):
        """The exit status and what was printed."""
        published = WELL_FORMED + MALFORMED if published is None else published
        self.write("input/device-1.ndjson", published[::2])
        self.write("input/device-2.ndjson", published[1::2])
        arguments = ["--input", str(self.folder / "input"), "--scores", self.write("scores.ndjson", scores),
                     "--rejects", self.write("rejects.ndjson", rejects), *options]
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            status = checker.main(arguments)
        return status, out.getvalue()

    def assert_fails(self, expected, status=1, **run):
        found, out = self.run_checker(**run)
        self.assertEqual(found, status, out)
        self.assertIn(expected, out)


class Differences(Run):
    def test_all_records_exactly_once(self):
        status, out = self.run_checker(options=["--malformed", "4", "--json", str(self.folder / "result.json")])
        self.assertEqual(status, 0, out)
        result = json.loads((self.folder / "result.json").read_text())
        self.assertEqual((result["published"], result["lost"], result["duplicated"], result["ok"]), (10, 0, 0, True))

    def test_the_order_does_not_matter(self):
        self.assertEqual(self.run_checker(scores=SCORES[::-1], rejects=REJECTS[::-1])[0], 0)

    def test_a_lost_record(self):
        self.assert_fails("lost from scores: 1\n    machine-002/4\n", scores=SCORES[:-1])

    def test_a_duplicated_record(self):
        self.assert_fails("duplicated in scores: 1\n    machine-001/0\n", scores=SCORES + SCORES[:1])

    def test_a_duplicate_does_not_make_up_for_a_loss(self):
        self.assert_fails("lost from scores: 1", scores=SCORES[:-1] + SCORES[:1])

    def test_a_record_from_nowhere(self):
        self.assert_fails("unexpected in scores: 1", scores=SCORES + [{"sensor": "machine-001", "seq": 99}])

    def test_a_lost_reject(self):
        self.assert_fails("lost from rejects: 1", rejects=REJECTS[:-1])

    def test_malformed_rows_are_counted_even_if_they_are_equal(self):
        self.assert_fails("lost from rejects: 1", rejects=[REJECTS[0], REJECTS[1], REJECTS[3]])
        self.assert_fails("duplicated in rejects: 1", rejects=REJECTS + [REJECTS[1]])

    def test_a_well_formed_row_that_was_rejected(self):
        self.assert_fails("unexpected in rejects: 1", scores=SCORES[1:], rejects=REJECTS + [reject(WELL_FORMED[0])])

    def test_a_malformed_row_that_was_scored(self):
        self.assert_fails("unexpected in scores: 1", scores=SCORES + [{"sensor": "machine-001", "seq": 7}])

    def test_the_number_of_malformed_rows(self):
        self.assert_fails("has 4 malformed records, not 5", options=["--malformed", "5"])

    def test_nothing_published_shows_nothing(self):
        self.assert_fails("nothing was shown", published=[MALFORMED[0]], scores=[], rejects=[REJECTS[0]])

    def test_ids_of_the_input_differ(self):
        self.assert_fails("published twice", status=2, published=WELL_FORMED + WELL_FORMED[:1])

    def test_files_that_cannot_be_read(self):
        self.assert_fails("`seq` must be int", status=2, scores=[{"sensor": "machine-001", "seq": None}])
        self.assert_fails("`key` must be str", status=2, rejects=[reject({"value": "x"})])
        self.assert_fails("`row` is not JSON", status=2, rejects=[{"row": "{"}])
        (self.folder / "input" / "device-3.ndjson").write_text("{\n")
        self.assert_fails("device-3.ndjson:1: not JSON", status=2)


class Evidence(Run):
    def flows(self, name, *stages):
        """A list of flows with one flow, of stages given by partition, owner and epoch."""
        keys = ("name", "partition", "site", "owner", "epoch")
        stages = [dict(zip(keys, ("health.0", partition, "hall-7", owner, epoch))) for partition, owner, epoch in stages]
        path = self.folder / name
        path.write_text(json.dumps([{"name": "health", "stages": stages}]))
        return str(path)

    def cut(self, start, end):
        """Options for a cut: six records were acknowledged at 1000 and 2000, three scored while it lasted."""
        acks = [{"time_us": time, "node": "device-1", "records": 3} for time in (1000, 2000)]
        return ["--cut", f"{start}..{end}", "--acks", self.write("acks.ndjson", acks),
                "--scores-at-cut", self.write("scores-at-cut.ndjson", SCORES[:2]),
                "--scores-at-heal", self.write("scores-at-heal.ndjson", SCORES[:5])]

    def test_the_struck_node_held_a_stage(self):
        options = ["--struck", "edge-1", "--at-strike", self.flows("before", (0, "edge-1", 1), (1, "edge-2", 1))]
        self.assertEqual(self.run_checker(options=options)[0], 0)
        moved = self.flows("moved", (0, "edge-2", 2), (1, "edge-2", 1))
        self.assertEqual(self.run_checker(options=[*options, "--after", moved])[0], 0)
        back = self.flows("back", (0, "edge-1", 3))
        self.assertEqual(self.run_checker(options=[*options, "--after", back])[0], 0)

    def test_the_struck_node_held_none(self):
        before = self.flows("before", (0, "edge-2", 1))
        self.assert_fails("`edge-1` owned no stage", options=["--struck", "edge-1", "--at-strike", before])

    def test_the_struck_node_kept_its_stage(self):
        before = self.flows("before", (0, "edge-1", 1))
        self.assert_fails("still owns", options=["--struck", "edge-1", "--at-strike", before, "--after", before])

    def test_flows_that_cannot_be_read(self):
        path = self.write("flows", [{"flows": 1}])
        self.assert_fails("expected a list of flows", status=2, options=["--struck", "edge-1", "--at-strike", path])

    def test_work_went_on_during_the_cut(self):
        status, out = self.run_checker(options=self.cut(1500, 2500))
        self.assertEqual(status, 0, out)
        self.assertIn("3 acknowledged by devices, 3 scored at the edge", out)
        self.assert_fails("no device acknowledged", options=self.cut(1100, 1900))

    def test_nothing_was_scored_during_the_cut(self):
        options = self.cut(1500, 2500)
        self.write("scores-at-heal.ndjson", SCORES[:2])
        self.assert_fails("no published record was scored", options=options)

    def test_a_run_s_folder(self):
        self.run_checker(options=self.cut(1500, 2500))
        (self.folder / "output").mkdir()
        for name in ("scores.ndjson", "rejects.ndjson"):
            (self.folder / name).rename(self.folder / "output" / name)
        self.flows("at-strike.json", (0, "edge-1", 1))
        for events, expected in (
            ([], 0),
            ([(1500, "cut", "cut:cloud@30%..70%"), (2500, "heal", "cut:cloud@30%..70%")], 0),
            ([(1100, "cut", "cut:cloud@30%..70%"), (1900, "heal", "cut:cloud@30%..70%")], 1),
            ([(1100, "cut", "cut:cloud@30%..70%")], 2),
            ([(1, "strike", "kill:edge-1@50%")], 0),
            ([(1, "strike", "pause:edge-2@50%+20s"), (2, "resume", "pause:edge-2@50%+20s")], 1),
        ):
            rows = [dict(zip(("time_us", "event", "fault"), event)) for event in events]
            self.write("timeline.ndjson", rows)
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                status = checker.main(["--run", str(self.folder)])
            self.assertEqual(status, expected, f"{events}\n{out.getvalue()}")


class WellFormed(unittest.TestCase):
    def test_rows(self):
        for value, expected in {
            "17,2013-12-02 21:15:00,73.96732207": 17,
            "0,2016-02-29 00:00:00,-3": 0,
            "1,2013-12-02 21:15:00,1e3": 1,
            "17,2013-12-02 21:15:00": None,
            "17,2013-12-02 21:15:00,1.0,2.0": None,
            "": None,
            "\x00\x01\ufffd": None,
            "-1,2013-12-02 21:15:00,1.0": None,
            "x,2013-12-02 21:15:00,1.0": None,
            "17,2013-02-29 21:15:00,1.0": None,
            "17,2013-12-02 24:00:00,1.0": None,
            "17,2013-12-02T21:15:00,1.0": None,
            "17,2013-12-2 21:15:00,1.0": None,
            "17,2013-12-02 21:15:00,": None,
            "17,2013-12-02 21:15:00,nan": None,
            "17,2013-12-02 21:15:00,inf": None,
            "17,2013-12-02 21:15:00,1e999": None,
            "17,2013-12-02 21:15:00,1_0": None,
            "17,2013-12-02 21:15:00, 1.0": None,
            "17,2013-12-02 21:15:00,99999999": None,
            "17,2013-12-02 21:15:00,1.0\n": None,
        }.items():
            self.assertEqual(checker.seq_of(value), expected, repr(value))


if __name__ == "__main__":
    unittest.main()
