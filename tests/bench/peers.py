#!/usr/bin/env python3
"""Speed and memory of this engine and of those that one would run instead, in one run.

    tests/bench/peers.py --install  # a virtual environment for each peer; the only use of a network
    tests/bench/peers.py            # measures, prints ratios, writes peers.json and peers.png

Every engine is a process that keeps its model loaded. All read the same GGUF (one as a copy in
another type), use the same number of threads and get prompts of the same length; they take turns
cell by cell, and a cell is repeated in every round. A round in which other programs took more than
15 % of the machine is dropped for that figure. Each peer first shows which of its settings are its
best here; prefill, decode and several streams may use different ones. A peer that cannot be used is
reported with the reason."""

import argparse
import collections
import contextlib
import fcntl
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

import engine_process  # noqa: E402
import install  # noqa: E402
import measures  # noqa: E402
import report  # noqa: E402

ROOT = HERE.parents[1]
# name, program and its arguments, virtual environment (None: this interpreter), settings to try
# (None: ask the engine)
Engine = collections.namedtuple("Engine", "name program environment variants")
ENGINES = {
    "ours": Engine("SlimInfer", "engine_ours.py", None, ["dense"]),
    "ours_pruned": Engine("SlimInfer, pruned", "engine_ours.py", None, ["pruned"]),
    "llama_cpp": Engine("llama.cpp", "engine_llama_cpp.py", "llama_cpp", None),
    "llama_cpp_q4_0": Engine("llama.cpp, Q4_0 copy", "engine_llama_cpp.py Q4_0", "llama_cpp", None),
    "ik_llama": Engine("ik_llama.cpp", "engine_ik_llama.py", "ik_llama", None),
    "openvino": Engine("OpenVINO GenAI", "engine_openvino.py", "openvino", None),
    "torch": Engine("PyTorch", "engine_torch.py", "torch", None),
}
TUNING = {"tokens": 2048, "streams": 1, "steps": 24, "seed": 1}
TUNING_STREAMS = {"tokens": 512, "streams": 4, "steps": 12, "seed": 1}


def numbers(text):
    return [int(word) for word in text.split(",") if word]


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--install", action="store_true", help="install the peers and stop")
    parser.add_argument("--engines", default=",".join(ENGINES), help="default: %(default)s")
    parser.add_argument("--model", default=str(ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", type=numbers, default=[512, 2048, 4096, 8000],
                        help="prompt tokens of the prefill figures")
    parser.add_argument("--contexts", type=numbers, default=[16, 2048, 7900],
                        help="prompt tokens of the decode figures")
    parser.add_argument("--streams", type=numbers, default=[1, 4, 8],
                        help=f"streams at {measures.STREAM_CONTEXT} tokens of context")
    parser.add_argument("--steps", type=int, default=64, help="measured tokens of every stream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true",
                        help="one round of 512, 2048; 16, 2048; 1, 4")
    parser.add_argument("--timeout", type=int, default=600, help="seconds for one answer")
    parser.add_argument("--exclusive", help="lock this file while an engine computes, so that "
                        "measurements of others who do the same wait")
    parser.add_argument("--output", default=str(HERE / "peers.json"),
                        help="result; the plot lies beside it")
    parser.add_argument("--print", action="store_true",
                        help="only print and draw what --output has")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.lengths, options.contexts = 1, [512, 2048], [16, 2048]
        options.streams = [1, 4]
    options.engines = options.engines.split(",")
    for name in options.engines:
        if name not in ENGINES:
            parser.error(f"--engines: {name} is none of {', '.join(ENGINES)}")
    if options.rounds < 1 or options.steps < 1 or options.threads < 1:
        parser.error("--rounds, --steps and --threads are at least 1")
    return options


def say(text):
    print(text, file=sys.stderr, flush=True)


class Run:
    """All engines of one run. `result` is what the JSON file gets."""

    def __init__(self, options, logs):
        self._options = options
        self._logs = pathlib.Path(logs)
        self._cells = measures.cells(options.lengths, options.contexts, options.streams,
                                     options.steps)
        self._processes = {}
        self._samples = collections.defaultdict(list)  # (engine, cell, part) -> samples
        self.result = {"machine": self._machine(), "rounds": options.rounds, "engines": {}}

    def _machine(self):
        model = next((line.split(":", 1)[1].strip() for line in
                      pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
                      if line.startswith("model name")), "unknown")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return {"cpu": model, "cores": os.cpu_count(), "memory_gb": round(memory / 1e9),
                "threads": self._options.threads}

    @contextlib.contextmanager
    def _alone(self):
        if not self._options.exclusive:
            yield
            return
        with open(self._options.exclusive, "a", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _absent(self, name, reason):
        say(f"{name}: absent: {reason}")
        self.result["engines"][name]["absent"] = reason
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()

    def _start(self, name):
        engine = ENGINES[name]
        if engine.environment is None:
            python = sys.executable
        else:
            if not install.is_installed(engine.environment):
                reason = install.failure_of(engine.environment)
                raise engine_process.EngineError(
                    f"its package does not install: {reason}" if reason
                    else "not installed; --install does that")
            python = install.python_of(engine.environment)
        # The file outlives the process: its last line says why one ended.
        log = open(self._logs / f"{name}.log", "a", encoding="utf-8")
        return engine_process.EngineProcess(python, engine.program, log, self._options.timeout)

    def _load(self, name, process, variant):
        with self._alone():
            answer = process.ask(op="load", model=self._options.model,
                                 threads=self._options.threads, variant=variant,
                                 capacity_tokens=measures.capacity_tokens(self._cells))
        entry = self.result["engines"][name]
        entry["settings"] = answer["settings"]
        environment = ENGINES[name].environment
        if environment and install.is_prebuilt(environment):
            entry["settings"] += ", prebuilt package"
        if "machine" in answer:
            self.result["machine"].update(isa=answer["machine"]["isa"],
                                          commit=answer["machine"]["commit"])
        seconds = min(answer["seconds"], entry["figures"].get("load", {"value": 1e9})["value"])
        entry["figures"]["load"] = {"value": seconds}

    def tune(self, name):
        """Which variant is the best for what; in a process of its own, so that its memory and its
        caches do not count."""
        entry = {"name": ENGINES[name].name, "figures": {}}
        self.result["engines"][name] = entry
        process = None
        try:
            process = self._start(name)
            variants = ENGINES[name].variants or process.ask(op="variants")["variants"]
            self._load(name, process, variants[0])
            entry["variants"] = dict.fromkeys(("prefill", "decode", "streams"), variants[0])
            if len(variants) > 1:
                entry["tuning"], entry["refused"] = [], {}
                for variant in variants:
                    process = self._try_variant(name, process, variant)
                if not entry["tuning"]:
                    raise engine_process.EngineError("; ".join(entry["refused"].values()))
                entry["variants"] = measures.best_variants(entry["tuning"])
            process.quit()
            process = self._processes[name] = self._start(name)
            self._load(name, process, entry["variants"]["prefill"])
        except engine_process.EngineError as error:
            if process is not None:
                process.kill()
            self._absent(name, str(error))

    def _try_variant(self, name, process, variant):
        """The process for the next one: another where this one did not survive."""
        entry = self.result["engines"][name]
        try:
            with self._alone():
                one = process.ask(op="run", variant=variant, **TUNING)
                many = process.ask(op="run", variant=variant, **TUNING_STREAMS)
            entry["tuning"].append({"variant": variant, "prefill": one["prefill_seconds"],
                                    "decode": one["decode_seconds"],
                                    "streams": many["decode_seconds"]})
            say(f"{name}: {entry['tuning'][-1]}")
        except engine_process.EngineError as error:
            entry["refused"][variant] = str(error)
            say(f"{name}: {variant}: {error}")
            process.kill()
            process = self._start(name)
            self._load(name, process, variant)
        return process

    def _measure(self, name, cell, seed):
        process, entry = self._processes[name], self.result["engines"][name]
        for variant, parts in measures.requests(cell, entry["variants"]):
            with self._alone():
                answer = process.ask(op="run", tokens=cell.tokens, streams=cell.streams,
                                     steps=cell.steps if "decode" in parts else 0,
                                     variant=variant, seed=seed)
            peak = answer.get("peak_memory_bytes") or process.peak_memory_bytes()
            entry["figures"]["memory"] = {"value": peak / 1e6}
            ticks = answer["machine_ticks"]
            others = measures.others_share(ticks["busy"], ticks["total"], ticks["own"])
            for part in parts:
                samples = self._samples[name, cell, part]
                samples.append(measures.Sample(answer[f"{part}_seconds"], others))
                figure = measures.summarise(samples, measures.tokens_of(cell, part))
                entry["figures"][measures.measure_of(cell, part)] = {
                    **figure._asdict(), "samples": [sample._asdict() for sample in samples]}
                say(f"{name}: {measures.measure_of(cell, part)}: {figure.value:.1f} tokens/s, "
                    f"others {others:.0%}")

    def round(self, number):
        for turn, cell in enumerate(self._cells):
            for name in measures.order(list(self._processes), number + turn):
                try:
                    self._measure(name, cell, seed=number)
                except engine_process.EngineError as error:
                    self._absent(name, f"{cell.tokens} tokens, {cell.streams} streams: {error}")
            self.save()

    def save(self):
        """After every cell, so that an interrupted run is not lost."""
        pathlib.Path(self._options.output).write_text(json.dumps(self.result, indent=1) + "\n",
                                                      encoding="utf-8")

    def finish(self):
        for process in self._processes.values():
            process.quit()


def publish(options, result):
    output = pathlib.Path(options.output)
    print(report.text(result))
    python = install.python_of("plot")
    if not install.is_installed("plot"):
        say("no plot: matplotlib is not installed; --install does that")
        return
    subprocess.run([str(python), str(HERE / "peers/plot.py"), str(output),
                    str(output.with_suffix(".png"))], check=True)


def main(arguments):
    options = parse(arguments)
    output = pathlib.Path(options.output)
    if options.install:
        wanted = dict.fromkeys([ENGINES[name].environment for name in options.engines] + ["plot"])
        done = [install.install(name) for name in wanted if name is not None]
        return 0 if all(done) else 1
    if options.print:
        publish(options, json.loads(output.read_text(encoding="utf-8")))
        return 0
    with tempfile.TemporaryDirectory() as logs:
        run = Run(options, logs)
        try:
            for name in options.engines:
                run.tune(name)
            for number in range(options.rounds):
                run.round(number)
        finally:
            run.finish()
            run.save()
    publish(options, run.result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
