"""The engine's side of the conversation with peers.py: one JSON object a line, on standard input
and output.

    {"op": "variants"} -> {"variants": [NAME, ...]}
    {"op": "load", "model": PATH, "threads": 2, "variant": "...", "capacity_tokens": 9216}
        -> {"seconds": 0.3, "settings": "version and what was set, for people"}
    {"op": "run", "tokens": 2048, "streams": 1, "steps": 32, "variant": "...", "seed": 7}
        -> {"prefill_seconds": 1.2, "decode_seconds": 0.4}
    {"op": "quit"}

`run` computes `streams` prompts of `tokens` random tokens each, and then `steps` tokens of every
stream together, after WARM_UP_STEPS that do not count. prefill_seconds ends with the first token of
the last stream. An engine whose work is done by other processes adds their "peak_memory_bytes". A
failed request is answered with {"error": TEXT}. Standard library only."""

import json
import os
import random
import sys
import time

WARM_UP_STEPS = 2
FIRST_ORDINARY_TOKEN, VOCABULARY = 100, 49152  # of the default model


def prompts(request):
    """The token ids of every stream; the same request gives the same ones to every engine."""
    generator = random.Random(request["seed"])
    return [[generator.randrange(FIRST_ORDINARY_TOKEN, VOCABULARY)
             for _ in range(request["tokens"])] for _ in range(request["streams"])]


def timed_steps(step, steps):
    """Seconds of `steps` calls of step(), after the ones that do not count; None without steps."""
    if steps == 0:
        return None
    for _ in range(WARM_UP_STEPS):
        step()
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - begin


def raise_priority():
    """Ahead of whatever else runs on the machine, where this is allowed: all engines alike."""
    try:
        with open("/proc/self/autogroup", "w", encoding="ascii") as group:
            group.write("-18")
    except OSError:
        pass


def serve(engine):
    """Answers requests with engine.load(request) and engine.run(request) until told to quit."""
    raise_priority()
    # Libraries print to standard output too; the answers go where it pointed first.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "quit":
            break
        try:
            if request["op"] == "variants":
                answer = {"variants": list(engine.variants)}
            elif request["op"] == "load":
                begin = time.perf_counter()
                answer = engine.load(request)
                answer.setdefault("seconds", time.perf_counter() - begin)
            else:
                answer = engine.run(request)
        except Exception as error:  # whatever a library throws is the answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
