"""SlimInfer: the built sliminfer-bench, called once for each figure. It loads the model every time,
which is not counted, and makes a warm-up of its own."""

import json
import os
import pathlib
import subprocess
import tempfile

import protocol

ROOT = pathlib.Path(__file__).resolve().parents[3]
PRUNING = {"dense": "off", "pruned": "profile"}


class Ours:
    variants = PRUNING

    def load(self, request):
        self._peak_memory_bytes = 0
        self._program = os.environ.get("SLIMINFER_BENCH", str(ROOT / "build/bin/sliminfer-bench"))
        # The probes would count as memory of ours.
        self._common = ["--model", request["model"], "--threads", str(request["threads"]),
                        "--no_roofline"]
        smallest = ["--lengths", "1", "--pruning", "off", "--runs", "1"]
        machine = self._bench("prefill", *smallest)["machine"]
        return {"settings": f"kernels {machine['isa']}, commit {machine['commit']}",
                "seconds": machine["load_seconds"], "machine": machine}

    def _bench(self, *arguments):
        with tempfile.NamedTemporaryFile(suffix=".json") as output:
            command = [self._program, *arguments, *self._common, "--json", output.name]
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode != 0:
                raise RuntimeError(f"{' '.join(command)} ended with status {child.returncode}")
            self._peak_memory_bytes = max(self._peak_memory_bytes, usage.ru_maxrss * 1024)
            return json.load(output)

    def run(self, request):
        pruning = PRUNING[request["variant"]]
        tokens, steps, streams = request["tokens"], request["steps"], request["streams"]
        answer = {"prefill_seconds": None, "decode_seconds": None}
        if streams == 1:
            row = self._bench("prefill", "--lengths", str(tokens), "--pruning", pruning,
                              "--runs", "1")["rows"][0]
            answer["prefill_seconds"] = row["ttft_seconds_median"]
        if steps > 0:
            row = self._bench("decode", "--contexts", str(tokens), "--streams", str(streams),
                              "--pruning", pruning, "--max_new_tokens", str(steps))["rows"][0]
            answer["decode_seconds"] = steps * streams / row["tokens_per_second"]
        return {**answer, "peak_memory_bytes": self._peak_memory_bytes}


if __name__ == "__main__":
    protocol.serve(Ours())
