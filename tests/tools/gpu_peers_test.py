"""Tests of tests/bench/gpu_peers.py's pure parts: the skip, reading our bench, the table."""

import io
import json
import pathlib
import stat
import sys
import tempfile
import unittest
from contextlib import redirect_stdout
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))

import gpu_peers  # noqa: E402


def row(engine, variant, measure, tokens, seconds):
    return {"engine": engine, "variant": variant, "measure": measure, "tokens": tokens,
            "seconds_median": seconds, "runs": 5}


class GpuPeersTest(unittest.TestCase):
    def test_says_why_nothing_is_measured(self):
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()) as out, \
                mock.patch.object(gpu_peers, "missing", return_value="no GPU here"):
            result = pathlib.Path(folder) / "peers.json"
            self.assertEqual(gpu_peers.main(["--json", str(result)]), 0)
            self.assertIn("no GPU here", out.getvalue())
            self.assertEqual(json.loads(result.read_text())["skipped"], "no GPU here")

    def test_compares_with_the_fastest_peer(self):
        text = gpu_peers.table([
            row("SlimInfer", "off", "prefill", 8192, 0.5),
            row("SlimInfer", "paper", "prefill", 8192, 0.25),
            row("PyTorch", "sdpa flash", "prefill", 8192, 1.0),
            row("PyTorch", "flash_attn", "prefill", 8192, 0.75),
            row("SlimInfer", "off", "decode", 32768, 0.01)])
        prefill, decode = text.splitlines()[1:]
        self.assertIn("8,192", prefill)
        self.assertIn("1.50x", prefill)
        self.assertIn("3.00x", prefill)
        self.assertIn("PyTorch, flash_attn", prefill)
        self.assertTrue(decode.endswith("none"))

    def test_reads_the_rows_of_our_bench_or_its_error(self):
        with tempfile.TemporaryDirectory() as folder:
            bench = pathlib.Path(folder) / "bench"
            bench.write_text("#!/bin/sh\necho '{\"rows\": [{\"pruning\": \"off\"}]}' > \"$2\"\n")
            bench.chmod(bench.stat().st_mode | stat.S_IXUSR)
            options = gpu_peers.parse(["--bench", str(bench), "--geometry", "tiny"])
            self.assertEqual(gpu_peers.ours(options, "prefill"), [{"pruning": "off"}])
            bench.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
            with self.assertRaisesRegex(RuntimeError, "broken"):
                gpu_peers.ours(options, "prefill")

    def test_rows_are_kept_as_they_come_and_one_peer_stops_no_other(self):
        saved = []
        torch = mock.MagicMock()
        with mock.patch.dict(sys.modules, {"torch": torch}), \
                redirect_stdout(io.StringIO()), mock.patch.object(sys, "stderr", io.StringIO()), \
                mock.patch.object(gpu_peers, "attentions",
                                  return_value={"one": None, "two": None}), \
                mock.patch.object(gpu_peers, "Model"), \
                mock.patch.object(gpu_peers, "transformers_model", side_effect=KeyError("rope")), \
                mock.patch.object(gpu_peers, "prefill_seconds",
                                  side_effect=[AssertionError("no kernel"), [2.0, 1.0, 3.0]]):
            run = gpu_peers.Run(gpu_peers.parse(["--lengths", "64", "--decode_context", "0"]),
                                lambda run: saved.append((len(run.rows), len(run.refused))))
            run.measure()
        self.assertEqual([(r["variant"], r["seconds_median"]) for r in run.rows], [("two", 2.0)])
        self.assertEqual(run.refused, {"PyTorch, one, prefill 64": "AssertionError: no kernel",
                                       "transformers": "KeyError: 'rope'"})
        self.assertEqual(saved, [(0, 1), (1, 1), (1, 2)])


if __name__ == "__main__":
    unittest.main()
