#!/usr/bin/env python3
"""Checks that no compiler makes: include direction, forbidden constructs, dashboards, configurations.

Needs the Python environment that tests/run.sh makes."""

import pathlib
import sys

import deployment
import sources

ROOT = pathlib.Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    problems = sources.check(ROOT) + deployment.check(ROOT, sys.executable)
    for problem in problems:
        print(f"lint: {problem}", file=sys.stderr)
    print(f"lint: {len(problems)} problems")
    sys.exit(1 if problems else 0)
