#!/usr/bin/env python3
"""What a GPU must reach, beside what tests/gpu.sh measured in a folder of results: one line per goal,
"holds", "misses" or "not measured". A goal that was not measured is unverified.

    tests/bench/gpu_verdict.py gpu-results [--geometry llama-3.1-8b]"""

import argparse
import json
import pathlib
import sys

TOKENS = 128  # of an answer, where prompt and answer count together
LONG, LONGEST = 32768, 131072


def rows_of(folder, name):
    """Rows of a result; none where it was not measured or cannot be read."""
    try:
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8")).get("rows", [])
    except (OSError, ValueError):
        return []


def find(rows, **wanted):
    """The first row with these values, or an empty one."""
    return next((row for row in rows if all(row.get(k) == v for k, v in wanted.items())), {})


def ratio(a, b):
    return a / b if a is not None and b else None


def whole_answer(row):
    """Seconds of a prompt and TOKENS tokens behind it."""
    prompt, token = row.get("prefill_seconds_median"), row.get("seconds_per_token_median")
    return prompt + TOKENS * token if prompt is not None and token is not None else None


def worst_peer_ratio(rows, measure):
    """Time of the fastest peer over ours, at the length where we are worst; None without peers."""
    ratios = []
    for tokens in {row["tokens"] for row in rows if row["measure"] == measure}:
        here = [row for row in rows if (row["measure"], row["tokens"]) == (measure, tokens)]
        ours = [r["seconds_median"] for r in here
                if r["engine"] == "SlimInfer" and r["variant"] == "off"]
        peers = [r["seconds_median"] for r in here if r["engine"] != "SlimInfer"]
        if ours and peers:
            ratios.append(min(peers) / ours[0])
    return min(ratios, default=None)


def goals(folder, geometry):
    """(goal, "at least" or "at most", limit, value or None)."""
    prefill = rows_of(folder, f"prefill-{geometry}")
    peers = rows_of(folder, f"peers-{geometry}")
    full = find(rows_of(folder, "decode-full"), context=LONG, pruning="off")
    quarter = rows_of(folder, "decode-quarter-reselect")
    unified = find(quarter, context=LONG, kv_tier="unified")
    moved = find(quarter, context=LONG, kv_tier="discrete", prefetch=True)
    on_demand = find(quarter, context=LONG, kv_tier="discrete", prefetch=False)
    read = (full.get("roofline") or {}).get("share_of_read")
    dense = find(prefill, length=LONG, pruning="off")
    return [
        ("dense prefill of 32K, TFLOP/s", "at least", 550, dense.get("tflops_per_second")),
        ("dense prefill over PyTorch, worst length", "at least", 1.0,
         worst_peer_ratio(peers, "prefill")),
        ("paper schedule over dense at 32K", "at least", 2.5,
         find(prefill, length=LONG, pruning="paper").get("speedup_vs_off")),
        ("paper schedule over dense at 128K", "at least", 3.1,
         find(prefill, length=LONGEST, pruning="paper").get("speedup_vs_off")),
        ("decode at 32K over the bandwidth's time", "at most", 1.25, ratio(1, read)),
        ("decode, a quarter of the KV over all, RESELECT", "at most", 1.3,
         ratio(moved.get("seconds_per_token_median"), unified.get("seconds_per_token_median"))),
        (f"32K and {TOKENS} tokens, prefetch off over on", "at least", 1.15,
         ratio(whole_answer(on_demand), whole_answer(moved))),
    ]


def verdict(relation, limit, value):
    if value is None:
        return "not measured"
    return "holds" if (value >= limit if relation == "at least" else value <= limit) else "misses"


def table(found):
    lines = [f"{'goal':<50}{'wanted':>14}{'measured':>11}  verdict"]
    for goal, relation, limit, value in found:
        measured = "-" if value is None else f"{value:.2f}" if limit < 100 else f"{value:.0f}"
        lines.append(f"{goal:<50}{relation + ' ' + format(limit, 'g'):>14}{measured:>11}  "
                     + verdict(relation, limit, value))
    return "\n".join(lines)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--geometry", default="llama-3.1-8b")
    options = parser.parse_args(arguments)
    print(table(goals(options.folder, options.geometry)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
