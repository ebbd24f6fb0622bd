"""Tests of tests/gpu.sh as it is gathered for another machine, with programs that are scripts, and of
tests/bench/gpu_verdict.py."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS / "bench"))

import gpu_verdict  # noqa: E402

NO_GPU = "error: UNAVAILABLE: --backend cuda: no usable GPU: cudaErrorNoDevice"
PASSES = """#!/bin/bash
echo "[       OK ] A/cuda (1 ms)"
echo "[  SKIPPED ] B/cuda (0 ms)"
"""
SKIPS = """#!/bin/bash
echo "NOT_FOUND: CUDA module not found"
echo "[  SKIPPED ] A/cuda (0 ms)"
"""
# Writes one row, and says where its libraries come from.
BENCH = """#!/bin/bash
[[ $1 == --json ]] && echo '{"rows": [{"length": 32768, "pruning": "off", "tflops_per_second": 600}]}' >"$2"
echo "libraries from $LD_LIBRARY_PATH"
"""


class Pack:
    """What `gpu.sh --pack` gathers, made of scripts."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        for name in ("bin", "tests", "lib", "tools"):
            (self.folder / name).mkdir()
        shutil.copy(TESTS / "gpu.sh", self.folder)
        shutil.copy(TESTS / "bench" / "gpu_verdict.py", self.folder)
        (self.folder / "lib/libcublasLt.so.13").touch()
        self.script("gpu_peers.py", "#!/bin/bash\n")
        self.script("bin/sliminfer-bench", BENCH)
        for name in ("backend_device_conformance_test", "engine_test", "golden_test"):
            self.script(f"tests/{name}", PASSES)

    def script(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)

    def run(self, *arguments):
        path = f"{self.folder / 'tools'}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", self.folder / "gpu.sh", *arguments], cwd=self.folder, text=True, timeout=50,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            env={**os.environ, "PATH": path, "LD_LIBRARY_PATH": "/elsewhere"})


class GpuScriptTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.pack = Pack(folder.name)

    def test_ends_at_once_where_nothing_can_run(self):
        self.pack.script("bin/sliminfer-bench", f"#!/bin/bash\necho '{NO_GPU}' >&2\nexit 1\n")
        done = self.pack.run()
        self.assertEqual(done.returncode, 3, done.stdout)
        self.assertIn("nothing can run on a GPU here: " + NO_GPU, done.stdout)
        self.assertEqual(len(done.stdout.splitlines()), 1)

    def test_all_stages_end_in_one_table(self):
        self.pack.script("tools/compute-sanitizer",
                         '#!/bin/bash\n[[ $1 == --help ]] && echo --kernel-name && exit\n'
                         'echo "$@"\necho "[       OK ] A/cuda (1 ms)"\n')
        done = self.pack.run("--geometries", "llama-3.1-8b,tiny")
        self.assertEqual(done.returncode, 0, done.stdout)
        for line in ("op conformance +1 passed, 1 skipped", "prefill-llama-3.1-8b +measured",
                     "prefill-tiny +measured", "decode-quarter-reselect +measured",
                     "decode-long-frozen +measured", "engine against the oracle +1 passed",
                     "text of the default model +1 passed", "compute-sanitizer racecheck +1 passed",
                     r"dense prefill of 32K, TFLOP/s +at least 550 +600 +holds",
                     "paper schedule over dense at 128K .* not measured"):
            self.assertRegex(done.stdout, line)
        log = (self.pack.folder / "gpu-results/compute-sanitizer-racecheck.log").read_text()
        self.assertIn("--kernel-name kns=slim", log)

    def test_only_our_programs_get_the_gathered_libraries(self):
        self.pack.script("tools/python3", '#!/bin/bash\necho "python with $LD_LIBRARY_PATH"\n'
                         '[[ $2 == --bench ]] && "$3"\nexit 0\n')
        done = self.pack.run("--stages", "peers")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("python with /elsewhere\n", done.stdout)
        self.assertIn(f"libraries from {self.pack.folder}/lib:/elsewhere\n", done.stdout)

    def test_finds_a_cublaslt_that_was_not_gathered(self):
        (self.pack.folder / "lib/libcublasLt.so.13").unlink()
        (self.pack.folder / "tools/libcublasLt.so.13").touch()
        self.pack.script("tools/python3", f"#!/bin/bash\necho /nowhere\necho {self.pack.folder}/tools\n")
        done = self.pack.run("--stages", "prefill")
        folders = re.search("libraries from (.*)", done.stdout).group(1).split(":")
        self.assertEqual(folders[:2], [f"{self.pack.folder}/lib", "/elsewhere"])
        self.assertTrue((pathlib.Path(folders[2]) / "libcublasLt.so.13").exists())

    def test_what_fails_is_told_and_the_rest_goes_on(self):
        self.pack.script("tests/backend_device_conformance_test",
                         '#!/bin/bash\necho "[  FAILED  ] A/cuda (1 ms)"\nexit 1\n')
        self.pack.script("tests/engine_test", SKIPS)
        done = self.pack.run("--stages", "conformance,prefill,engine")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertRegex(done.stdout, "op conformance +FAILED: status 1, .*1 cases failed")
        self.assertRegex(done.stdout, "prefill-llama-3.1-8b +measured")
        self.assertRegex(done.stdout, "engine against the oracle +FAILED: nothing ran: NOT_FOUND")

    def test_stages_add_to_what_is_there_and_a_whole_run_begins_anew(self):
        self.pack.run("--stages", "conformance")
        both = self.pack.run("--stages", "prefill")
        self.assertRegex(both.stdout, "op conformance +1 passed")
        self.assertRegex(both.stdout, "prefill-llama-3.1-8b +measured")
        late = self.pack.run("--minutes", "-1")
        self.assertRegex(late.stdout, "op conformance +left out after -1 minutes")
        self.assertRegex(late.stdout, "32K, TFLOP/s .* not measured")

    def test_joins_the_pieces_of_the_model(self):
        folder = self.pack.folder / "model"
        folder.mkdir()
        name = "SmolLM2-135M-Instruct.Q4_1.gguf"
        (folder / f"{name}.part-00").write_text("one")
        (folder / f"{name}.part-01").write_text("two")
        (folder / f"{name}.sha256").write_text(
            subprocess.run(["sha256sum"], input="onetwo", capture_output=True, text=True,
                           check=True).stdout)
        self.pack.script("tests/golden_test",
                         '#!/bin/bash\ncat "$SLIM_TEST_MODEL" && echo && ' + PASSES.split("\n", 1)[1])
        done = self.pack.run("--stages", "golden")
        self.assertRegex(done.stdout, "text of the default model +1 passed")
        self.assertEqual((folder / name).read_text(), "onetwo")

    def test_wrong_arguments(self):
        for arguments in (["--what"], ["--stages", "conformance,nonsense"]):
            done = self.pack.run(*arguments)
            self.assertEqual(done.returncode, 2, done.stdout)
            self.assertIn("usage", done.stdout)


class VerdictTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def write(self, name, rows):
        (self.folder / f"{name}.json").write_text(json.dumps({"rows": rows}))

    def verdicts(self):
        return [gpu_verdict.verdict(relation, limit, value) for _, relation, limit, value
                in gpu_verdict.goals(self.folder, "llama-3.1-8b")]

    def test_what_is_missing_or_broken_was_not_measured(self):
        (self.folder / "decode-full.json").write_text("{")
        self.assertEqual(self.verdicts(), ["not measured"] * 7)

    def measure(self, better):
        """Every goal just held (better = 1.01) or just missed (0.99)."""
        self.write("prefill-llama-3.1-8b", [
            {"length": 32768, "pruning": "off", "tflops_per_second": 550 * better},
            {"length": 32768, "pruning": "paper", "speedup_vs_off": 2.5 * better},
            {"length": 131072, "pruning": "paper", "speedup_vs_off": 3.1 * better}])
        self.write("peers-llama-3.1-8b", [
            {"engine": engine, "variant": variant, "measure": "prefill", "tokens": tokens,
             "seconds_median": seconds}
            for tokens, ours in ((8192, 0.5), (32768, 1 / better))
            for engine, variant, seconds in (
                ("SlimInfer", "off", ours), ("SlimInfer", "paper", 0.1),
                ("PyTorch", "sdpa flash", 1.0), ("transformers", "sdpa", 2.0))])
        self.write("decode-full", [
            {"context": 32768, "pruning": "off", "roofline": {"share_of_read": 0.8 * better}},
            {"context": 32768, "pruning": "paper", "roofline": None}])
        self.write("decode-quarter-reselect", [
            {"context": 32768, "kv_tier": tier, "prefetch": prefetch,
             "prefill_seconds_median": prompt, "seconds_per_token_median": token}
            for tier, prefetch, prompt, token in (
                ("unified", True, 0.5, 0.01), ("discrete", True, 1.0, 0.013 / better),
                ("discrete", False, 1.15 * better, 1.15 * 0.013))])

    def test_every_goal_holds_or_misses(self):
        self.measure(1.01)
        self.assertEqual(self.verdicts(), ["holds"] * 7)
        self.measure(0.99)
        self.assertEqual(self.verdicts(), ["misses"] * 7)


if __name__ == "__main__":
    unittest.main()
