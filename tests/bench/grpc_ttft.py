#!/usr/bin/env python3
"""Time to first token through gRPC beside the same prompt length in-process.

    .venv-test/bin/python tests/bench/grpc_ttft.py [--tokens 2039] [--rounds 4] [--runs 5]

A server and a client on this machine, and sliminfer-bench prefill, by turns: in every round `runs`
prompts of random tokens, one after the other, then as many in-process. Prints the medians and their
ratio, dense and pruned. Needs what ./tests/run.sh installs, and the targets sliminfer-server and
sliminfer-bench."""

import argparse
import pathlib
import random
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from conftest import BUILD, MODEL, Server, pb  # noqa: E402

MODES = {"profile": pb.PruningOptions.PROFILE, "off": pb.PruningOptions.OFF}


def through_grpc(server, tokens, mode, draw):
    message = pb.GenerateRequest(bypass_prefix_cache=True)
    message.token_ids.ids.extend(draw.randrange(100, 49000) for _ in range(tokens))
    message.sampling.temperature = 0
    message.stopping.max_tokens = 1
    message.stopping.ignore_eos = True
    message.pruning.mode = MODES[mode]
    begin = time.perf_counter()
    for event in server.inference.Generate(message):
        if event.WhichOneof("event") == "delta":
            return time.perf_counter() - begin
    raise RuntimeError("the stream ended without a token")


def in_process(tokens, mode, runs):
    output = subprocess.run(
        [BUILD / "bin" / "sliminfer-bench", "prefill", "--model", MODEL, "--lengths", str(tokens),
         "--runs", str(runs), "--pruning", mode, "--no_roofline"],
        check=True, capture_output=True, text=True).stdout
    row = next(line for line in output.splitlines() if line.split()[:2] == [f"{tokens:,}", mode])
    return float(row.split()[3])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--tokens", type=int, default=2039)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    draw = random.Random(1)
    server = Server()
    ratios = {mode: [] for mode in MODES}
    try:
        for mode in MODES:
            through_grpc(server, options.tokens, mode, draw)
        for turn in range(options.rounds):
            for mode in MODES:
                remote = statistics.median(through_grpc(server, options.tokens, mode, draw)
                                           for _ in range(options.runs))
                local = in_process(options.tokens, mode, options.runs)
                ratios[mode].append(remote / local)
                print(f"round {turn + 1}  pruning {mode:8s} gRPC {remote:.3f} s  in-process "
                      f"{local:.3f} s  ratio {remote / local:.3f}", flush=True)
    finally:
        server.stop()
    for mode, values in ratios.items():
        print(f"pruning {mode:8s} median ratio {statistics.median(values):.3f}")


if __name__ == "__main__":
    main()
