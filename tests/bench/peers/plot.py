"""Draws a result of peers.py: plot.py RESULT.json OUTPUT.png. Needs matplotlib."""

import json
import sys

import matplotlib
import report

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

PANELS = [("prefill", "prefill, prompt tokens"), ("decode", "decode, tokens of context"),
          ("stream", "streams at 1,024 tokens, together")]
COLOURS = {"ours": "#0b6e4f", "ours_pruned": "#5fbf9f",
           "llama_cpp": "#aeb7c6", "llama_cpp_q4_0": "#8490a6", "ik_llama": "#566079",
           "openvino": "#c9ada7", "torch": "#e0a458"}


def draw_panel(axes, result, kind, title):
    """Bars: speed over the fastest peer's; the figures above them: tokens per second."""
    names = [name for name in report.measures(result) if kind in name]
    engines = report.present(result)
    width = 0.88 / max(1, len(engines))
    for place, engine in enumerate(engines):
        values = [report.value(result, engine, name) or 0 for name in names]
        best = [report.fastest_peer(result, name)[1] or 1 for name in names]
        bars = axes.bar([i + (place - (len(engines) - 1) / 2) * width for i in range(len(names))],
                        [v / b for v, b in zip(values, best)], width,
                        color=COLOURS.get(engine), label=result["engines"][engine]["name"])
        axes.bar_label(bars, [report.number_text(v) if v else "" for v in values], fontsize=6.5,
                       rotation=90, padding=2)
    axes.axhline(1, color="#444444", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(names)), [label(name) for name in names])
    axes.set_title(title, fontsize=10)
    axes.margins(x=0.02, y=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def label(name):
    number = next(int(word) for word in name.split() if word.isdigit())
    return f"{number:,}"


def main(source, target):
    with open(source, encoding="utf-8") as file:
        result = json.load(file)
    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(13, 4.2), layout="constrained")
    for axes, (kind, title) in zip(panels, PANELS):
        draw_panel(axes, result, kind, title)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    panels[0].set_ylabel("speed, fastest peer = 1; above: tokens/s")
    figure.suptitle("SmolLM2-135M, Q4_1. "
                    + report.machine_line(result), fontsize=8)
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    main(*sys.argv[1:])
