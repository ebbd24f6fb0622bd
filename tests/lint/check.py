#!/usr/bin/env python3
"""Checks that no compiler makes: include direction, forbidden constructs, dashboards, configurations."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
problems = []


def files(*folders, suffixes=(".h", ".cc")):
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in suffixes and path.is_file():
                yield path


def includes(path):
    return re.findall(r'^#include ["<]([^">]+)[">]', path.read_text(), re.M)


def include_direction():
    """Who may include whom; the first rule whose folder holds the file counts."""
    allowed = [
        ("engine/base", ["engine/base/"]),
        ("engine/tensor", ["engine/base/", "engine/tensor/"]),
        ("kvcache", ["engine/base/", "kvcache/"]),
        ("engine", ["engine/", "kvcache/"]),
    ]
    outside = ("grpc", "google/protobuf", "sliminfer/v1", "prometheus", "Civet", "server/", "tools/")
    for path in files("engine", "kvcache"):
        name = str(path.relative_to(ROOT))
        prefixes = next(p for folder, p in allowed if name.startswith(folder + "/"))
        for include in includes(path):
            ours = include.split("/")[0] in ("engine", "kvcache", "server", "tools", "proto")
            if include.startswith(outside) or (ours and not include.startswith(tuple(prefixes))):
                problems.append(f"{name}: may not include {include}")
            if include.startswith("engine/backend/cpu/") and not name.startswith("engine/backend/cpu/"):
                problems.append(f"{name}: may not include the private header {include}")
    core = ("scheduler", "worker", "token_stream", "output_processor", "status_reason", "request.h")
    for path in files("server"):
        if path.name.startswith(core) and path.stem not in ("request_validator", "request_registry"):
            for include in includes(path):
                if include.startswith(("grpc", "sliminfer/v1", "prometheus")):
                    problems.append(f"server/{path.name}: the core may not include {include}")


def forbidden_constructs():
    words = [r"std::regex", r"march=native", r"\bsleep_for\b", r"\busleep\(", r"#pragma once",
             r"DISABLED_"]
    for path in files("engine", "kvcache", "server", "tools"):
        text = path.read_text()
        for word in words:
            if re.search(word, text):
                problems.append(f"{path.relative_to(ROOT)}: contains {word}")


def known_metrics():
    text = "".join(p.read_text() for p in files("server") if "metrics" in p.name or "stats" in p.name)
    names = set(re.findall(r'"(?:sliminfer_)?((?:process_)?[a-z][a-z0-9_]+)"', text))
    return {f"sliminfer_{n}" for n in names} | {n for n in names if n.startswith("process_")}


def check_queries(where, text):
    known = known_metrics()
    for name in set(re.findall(r"\b(sliminfer_[a-z0-9_]+|process_[a-z_]+)\b", text)):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        if name not in known and base not in known:
            problems.append(f"{where}: no metric is named {name}")


def dashboards_and_rules():
    for path in sorted((ROOT / "deploy").rglob("*.json")):
        board = json.loads(path.read_text())
        queries = [t["expr"] for p in board.get("panels", []) for t in p.get("targets", [])]
        if "grafana" in str(path) and not queries:
            problems.append(f"{path.relative_to(ROOT)}: a dashboard without queries")
        check_queries(path.relative_to(ROOT), " ".join(queries))
    for path in sorted((ROOT / "deploy/prometheus").glob("*.yml")):
        check_queries(path.relative_to(ROOT), path.read_text())


def run(tool, *arguments):
    if shutil.which(tool) is None:
        problems.append(f"{tool} is not installed")
        return
    done = subprocess.run([tool, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        problems.append(f"{tool} {' '.join(arguments)}: {(done.stdout + done.stderr).strip()}")


def dockerfile():
    text = (ROOT / "docker/cpu.Dockerfile").read_text()
    for wanted in ("AS build", "USER 65532", "HEALTHCHECK", "ENTRYPOINT"):
        if wanted not in text:
            problems.append(f"docker/cpu.Dockerfile: has no {wanted}")
    if re.search(r"^FROM \S+:latest", text, re.M):
        problems.append("docker/cpu.Dockerfile: a base image without a fixed tag")


include_direction()
forbidden_constructs()
dashboards_and_rules()
dockerfile()
run("promtool", "check", "config", "deploy/prometheus/prometheus.yml")
for script in sorted((ROOT / "deploy").glob("*.sh")) + [ROOT / "tests/run.sh"]:
    run("bash", "-n", str(script.relative_to(ROOT)))
for problem in problems:
    print(f"lint: {problem}", file=sys.stderr)
print(f"lint: {len(problems)} problems")
sys.exit(1 if problems else 0)
