"""Tests of tests/bench/peers.py's pure parts: plan, filter of rounds, ratios, tables; and of the
conversation with an engine."""

import io
import pathlib
import subprocess
import sys
import tempfile
import unittest
from contextlib import redirect_stderr

BENCH = pathlib.Path(__file__).resolve().parent.parent / "bench"
sys.path[:0] = [str(BENCH), str(BENCH / "peers")]

import engine_process  # noqa: E402
import measures  # noqa: E402
import peers  # noqa: E402
import protocol  # noqa: E402
import report  # noqa: E402
from measures import Cell, Sample  # noqa: E402


class PlanTest(unittest.TestCase):
    def test_a_length_that_is_also_a_context_is_computed_once(self):
        made = measures.cells([512, 2048], [16, 2048], [4, 1], 32)
        self.assertEqual(made, [
            Cell("single", 16, 1, 32, ("decode",)),
            Cell("single", 512, 1, 0, ("prefill",)),
            Cell("single", 2048, 1, 32, ("prefill", "decode")),
            Cell("streams", 1024, 1, 32, ("decode",)),
            Cell("streams", 1024, 4, 32, ("decode",))])
        self.assertEqual([measures.measure_of(cell, cell.parts[-1]) for cell in made],
                         ["decode 16", "prefill 512", "decode 2048", "1 stream", "4 streams"])

    def test_two_requests_only_where_the_best_settings_differ(self):
        both = Cell("single", 2048, 1, 32, ("prefill", "decode"))
        self.assertEqual(measures.requests(both, {"prefill": "a", "decode": "a"}),
                         [("a", ("prefill", "decode"))])
        self.assertEqual(measures.requests(both, {"prefill": "a", "decode": "b"}),
                         [("a", ("prefill",)), ("b", ("decode",))])
        streams = Cell("streams", 1024, 8, 32, ("decode",))
        chosen = {"prefill": "a", "decode": "b", "streams": "c"}
        self.assertEqual(measures.requests(streams, chosen), [("c", ("decode",))])

    def test_every_engine_begins_once_and_none_always_follows_the_same_one(self):
        turns = [measures.order(["a", "b", "c"], turn) for turn in range(3)]
        self.assertEqual([turn[0] for turn in turns], ["a", "b", "c"])
        self.assertEqual([sorted(turn) for turn in turns], [["a", "b", "c"]] * 3)
        self.assertEqual(measures.order([], 4), [])

    def test_room_for_the_largest_request(self):
        cells = measures.cells([8000], [16], [8], 32)
        self.assertEqual(measures.capacity_tokens(cells), 8 * (1024 + 32 + 64))

    def test_settings_differ_where_that_gains_something(self):
        tuning = [{"variant": "a", "prefill": 1.0, "decode": 0.5, "streams": 3.0},
                  {"variant": "b", "prefill": 2.0, "decode": 0.4, "streams": 2.9}]
        self.assertEqual(measures.best_variants(tuning),
                         {"prefill": "a", "decode": "b", "streams": "a"})
        # A change within the noise is none, and the first ones are the usual ones.
        tuning[1]["prefill"] = 0.95
        self.assertEqual(measures.best_variants(tuning)["prefill"], "a")
        tuning[1]["prefill"] = 0.5
        self.assertEqual(set(measures.best_variants(tuning).values()), {"b"})


class RoundsTest(unittest.TestCase):
    def test_disturbed_rounds_are_dropped(self):
        figure = measures.summarise([Sample(4.0, 0.02), Sample(1.0, 0.5), Sample(2.0, 0.0)], 100)
        self.assertEqual((figure.value, figure.counted, figure.disturbed), (50.0, 2, False))

    def test_the_best_one_is_marked_where_all_were_disturbed(self):
        figure = measures.summarise([Sample(5.0, 0.4), Sample(4.0, 0.6)], 100)
        self.assertEqual((figure.value, figure.counted, figure.disturbed), (25.0, 0, True))

    def test_share_of_others(self):
        self.assertEqual(measures.others_share(machine_busy=80, machine_total=100, own=60), 0.2)
        # The two clocks are not read at the same moment.
        self.assertEqual(measures.others_share(machine_busy=60, machine_total=100, own=61), 0.0)
        self.assertEqual(measures.others_share(0, 0, 0), 0.0)


def engine(name, **figures):
    return {"name": name, "figures": {key.replace("_", " "): {"value": number}
                                      for key, number in figures.items()}}


class ReportTest(unittest.TestCase):
    result = {
        "machine": {"cpu": "A CPU", "cores": 2, "memory_gb": 24, "threads": 2, "isa": "avx2",
                    "commit": "abc"},
        "engines": {
            "ours": engine("Ours", prefill_8000=600, prefill_512=2000, decode_16=200, memory=300,
                           load=0.2, **{"8_streams": 400}),
            "ours_pruned": engine("Ours, pruned", prefill_8000=1800),
            "a": engine("A", prefill_8000=200, prefill_512=1000, decode_16=250, memory=400,
                        load=0.1, **{"8_streams": 100}),
            "b": engine("B", prefill_8000=300, prefill_512=800, memory=1200, load=9),
            "c": {"name": "C", "figures": {}, "absent": "no wheel for this machine"}}}

    def test_order_of_the_measures(self):
        self.assertEqual(report.measures(self.result),
                         ["prefill 512", "prefill 8000", "decode 16", "8 streams", "memory",
                          "load"])

    def test_ratios_are_to_the_best_peer_and_above_one_where_ours_is_better(self):
        self.assertEqual(report.fastest_peer(self.result, "prefill 8000"), ("b", 300))
        self.assertEqual(report.fastest_peer(self.result, "memory"), ("a", 400))
        self.assertEqual(report.fastest_peer(self.result, "prefill 4096"), (None, None))
        self.assertEqual(report.ratio("prefill 8000", 600, 300), 2.0)
        self.assertEqual(report.ratio("load", 0.2, 0.1), 0.5)
        self.assertIsNone(report.ratio("load", None, 0.1))

    def test_tables(self):
        ratios = report.ratio_table(self.result).splitlines()
        self.assertEqual(ratios[0],
                         "| ours / peer | A | B | fastest peer | pruned / fastest peer |")
        self.assertEqual(ratios[3], "| prefill 8000 | 3.00x | 2.00x | 2.00x | 6.00x |")
        self.assertEqual(ratios[4], "| decode 16 | 0.80x | - | 0.80x | - |")
        figures = report.figure_table(self.result).splitlines()
        self.assertEqual(figures[2], "| prefill 512 (tokens/s) | 2,000 | - | 1,000 | 800 |")
        self.assertEqual(figures[-1], "| load (s) | 0.20 | - | 0.10 | 9.00 |")

    def test_an_absent_engine_is_named_with_its_reason(self):
        text = report.text(self.result)
        self.assertIn("C: absent: no wheel for this machine", text)
        self.assertIn("machine: A CPU, 2 cores, 24 GB, kernels avx2, threads 2, commit abc", text)


class ConversationTest(unittest.TestCase):
    PROGRAM = """
import os, protocol
class Engine:
    variants = ["one"]
    def load(self, request):
        os.write(1, b"noise of a library\\n")
        return {"settings": request["model"]}
    def run(self, request):
        if request["steps"] == 7: raise ValueError("seven")
        if request["steps"] == 9: os._exit(3)
        calls = []
        seconds = protocol.timed_steps(lambda: calls.append(1), request["steps"])
        return {"calls": len(calls), "decode_seconds": seconds,
                "tokens": [len(p) for p in protocol.prompts(request)]}
protocol.serve(Engine())
"""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        program = pathlib.Path(self.folder.name) / "engine.py"
        program.write_text(self.PROGRAM)
        self.log = open(program.with_suffix(".log"), "w", encoding="utf-8")
        self.engine = engine_process.EngineProcess(sys.executable, str(program), self.log, 60)

    def tearDown(self):
        self.engine.quit()
        self.log.close()
        self.folder.cleanup()

    def test_answers_despite_noise_and_errors(self):
        self.assertEqual(self.engine.ask(op="variants")["variants"], ["one"])
        answer = self.engine.ask(op="load", model="m")
        self.assertEqual(answer["settings"], "m")
        self.assertGreaterEqual(answer["seconds"], 0)
        run = {"op": "run", "tokens": 5, "streams": 2, "seed": 1}
        with self.assertRaisesRegex(engine_process.EngineError, "ValueError: seven"):
            self.engine.ask(steps=7, **run)
        answer = self.engine.ask(steps=3, **run)
        self.assertEqual((answer["calls"], answer["tokens"]), (3 + protocol.WARM_UP_STEPS, [5, 5]))
        self.assertIsNone(self.engine.ask(steps=0, **run)["decode_seconds"])
        self.assertGreater(self.engine.peak_memory_bytes(), 1 << 20)
        with self.assertRaisesRegex(engine_process.EngineError, "status 3"):
            self.engine.ask(steps=9, **run)


class CommandLineTest(unittest.TestCase):
    def test_defaults_and_quick(self):
        self.assertEqual(peers.parse([]).lengths, [512, 2048, 4096, 8000])
        quick = peers.parse(["--quick", "--engines", "ours,torch"])
        self.assertEqual((quick.rounds, quick.engines), (1, ["ours", "torch"]))

    def test_wrong_arguments_are_refused(self):
        for wrong in (["--engines", "abacus"], ["--rounds", "0"], ["--lengths", "many"]):
            with self.assertRaises(SystemExit), redirect_stderr(io.StringIO()):
                peers.parse(wrong)

    def test_a_missing_package_is_reported(self):
        # In a copy, where nothing is installed.
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / "tests/bench"
            copy.parent.mkdir()
            subprocess.run(["cp", "-r", str(BENCH), str(copy)], check=True)
            result = subprocess.run(
                [sys.executable, str(copy / "peers.py"), "--quick", "--engines", "torch",
                 "--output", f"{folder}/result.json"], capture_output=True, text=True, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("PyTorch: absent: not installed", result.stdout)


if __name__ == "__main__":
    unittest.main()
