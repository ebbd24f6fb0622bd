#!/usr/bin/env python3
"""Time to first token through gRPC beside the same prompt length in-process.

    .venv-test/bin/python tests/bench/grpc_ttft.py [--tokens 2039] [--rounds 12] [--runs 2]

A server and a client on this machine, and sliminfer-bench prefill, by turns: in every round `runs`
prompts of random tokens through gRPC and as many in-process, dense and pruned; who comes first
changes from round to round. Both sides get a new process for every measurement and one prompt to
warm up. Prints every round's medians, the ratio of the medians of all rounds with the quartiles of
the rounds' ratios, and how much of a first token's time the server did not spend computing (the
client's time less Timing.prefill_seconds): that alone is what gRPC, queue and client cost. The rest
of the ratio is the size of the server's steps (SchedulerOptions::lone_step_time) and how evenly the
machine runs. Needs what ./tests/run.sh installs, and the targets sliminfer-server and
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
    """Seconds to the first token, and how many of them were not spent in the engine."""
    message = pb.GenerateRequest(bypass_prefix_cache=True)
    message.token_ids.ids.extend(draw.randrange(100, 49000) for _ in range(tokens))
    message.sampling.temperature = 0
    message.stopping.max_tokens = 1
    message.stopping.ignore_eos = True
    message.pruning.mode = MODES[mode]
    begin = time.perf_counter()
    first = None
    for event in server.inference.Generate(message):
        if first is None and event.WhichOneof("event") == "delta":
            first = time.perf_counter() - begin
        if first is not None and event.WhichOneof("event") == "finished":
            return first, first - event.finished.timing.prefill_seconds
    raise RuntimeError("the stream ended without a token or without its report")


def served(tokens, mode, runs, draw):
    """through_grpc of `runs` prompts, from a server of their own that is warm."""
    server = Server()
    try:
        through_grpc(server, tokens, mode, draw)
        return [through_grpc(server, tokens, mode, draw) for _ in range(runs)]
    finally:
        server.stop()


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
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--runs", type=int, default=2)
    options = parser.parse_args()
    if options.rounds < 2 or options.runs < 1:
        parser.error("--rounds is at least 2, --runs at least 1")
    draw = random.Random(1)
    remotes, locals_, outside = ({mode: [] for mode in MODES} for _ in range(3))
    for turn in range(options.rounds):
        for mode in MODES:
            if turn % 2 == 1:
                locals_[mode].append(in_process(options.tokens, mode, options.runs))
            times = served(options.tokens, mode, options.runs, draw)
            remotes[mode].append(statistics.median(first for first, _ in times))
            outside[mode] += [rest for _, rest in times]
            if turn % 2 == 0:
                locals_[mode].append(in_process(options.tokens, mode, options.runs))
            remote, local = remotes[mode][-1], locals_[mode][-1]
            print(f"round {turn + 1:2d}  pruning {mode:8s} gRPC {remote:.3f} s  in-process "
                  f"{local:.3f} s  ratio {remote / local:.3f}", flush=True)
    for mode in MODES:
        remote, local = statistics.median(remotes[mode]), statistics.median(locals_[mode])
        ratios = [a / b for a, b in zip(remotes[mode], locals_[mode])]
        low, _, high = statistics.quantiles(ratios, n=4)
        rest = statistics.median(outside[mode])
        print(f"pruning {mode:8s} gRPC {remote:.3f} s  in-process {local:.3f} s  ratio "
              f"{remote / local:.3f} (rounds {low:.3f} to {high:.3f})  outside the engine "
              f"{1000 * rest:.1f} ms = {100 * rest / remote:.1f} %")


if __name__ == "__main__":
    main()
