"""Tables of a result: figures of every engine, and ratios. Pure."""

OURS, PRUNED = "ours", "ours_pruned"
LESS_IS_BETTER = ("memory", "load")


def measures(result):
    """Names of all figures, in the order in which they were measured; memory and load last."""
    names = []
    for engine in result["engines"].values():
        names += [name for name in engine.get("figures", {}) if name not in names]
    return sorted(names, key=rank)


def rank(measure):
    kinds = ("prefill", "decode", "stream", "memory", "load")
    kind = next(place for place, word in enumerate(kinds) if word in measure)
    return kind, next((int(word) for word in measure.split() if word.isdigit()), 0)


def peers(result):
    return [name for name in result["engines"] if name not in (OURS, PRUNED)]


def value(result, engine, measure):
    figure = result["engines"].get(engine, {}).get("figures", {}).get(measure)
    return None if figure is None else figure["value"]


def ratio(measure, ours, theirs):
    """Above 1: ours is better."""
    if not ours or not theirs:
        return None
    return theirs / ours if measure.startswith(LESS_IS_BETTER) else ours / theirs


def fastest_peer(result, measure):
    """(engine, value) of the best peer, (None, None) without one."""
    known = [(name, value(result, name, measure)) for name in peers(result)]
    known = [(name, number) for name, number in known if number]
    if not known:
        return None, None
    pick = min if measure.startswith(LESS_IS_BETTER) else max
    return pick(known, key=lambda row: row[1])


def number_text(number):
    if number is None:
        return "-"
    return f"{number:,.{0 if number >= 100 else 1 if number >= 10 else 2}f}"


def ratio_text(number):
    return "-" if number is None else f"{number:.2f}x"


def figure_text(result, engine, measure):
    figure = result["engines"][engine].get("figures", {}).get(measure)
    if figure is None:
        return "-"
    return number_text(figure["value"]) + ("*" if figure.get("disturbed") else "")


def markdown(rows):
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def present(result):
    return [name for name, engine in result["engines"].items() if not engine.get("absent")]


def figure_table(result):
    names = present(result)
    rows = [["measure", *(result["engines"][name]["name"] for name in names)]]
    for measure in measures(result):
        rows.append([f"{measure} ({unit(measure)})",
                     *(figure_text(result, name, measure) for name in names)])
    return markdown(rows)


def unit(measure):
    return {"memory": "MB", "load": "s"}.get(measure.split()[0], "tokens/s")


def ratio_table(result):
    others = [name for name in peers(result) if name in present(result)]
    rows = [["ours / peer", *(result["engines"][name]["name"] for name in others), "fastest peer",
             "pruned / fastest peer"]]
    for measure in measures(result):
        ours, pruned = value(result, OURS, measure), value(result, PRUNED, measure)
        best = fastest_peer(result, measure)[1]
        rows.append([measure,
                     *(ratio_text(ratio(measure, ours, value(result, name, measure)))
                       for name in others),
                     ratio_text(ratio(measure, ours, best)),
                     ratio_text(ratio(measure, pruned, best))])
    return markdown(rows)


def machine_line(result):
    machine = result["machine"]
    return (f"machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
            f"kernels {machine.get('isa', 'unknown')}, threads {machine['threads']}, "
            f"commit {machine.get('commit', 'unknown')}")


def text(result):
    parts = [machine_line(result), "", figure_table(result), "", ratio_table(result), ""]
    parts.append("Ratios above 1: ours is better (memory and load: the peer's figure over ours). "
                 "*: every round was disturbed by other programs; the best one is given.")
    for engine in result["engines"].values():
        if engine.get("absent"):
            parts.append(f"{engine['name']}: absent: {engine['absent']}")
        else:
            variants = engine.get("variants", {})
            parts.append(f"{engine['name']}: {engine.get('settings', '')}; prefill with "
                         f"'{variants.get('prefill')}', decode with '{variants.get('decode')}', "
                         f"streams with '{variants.get('streams')}'")
    return "\n".join(parts) + "\n"
