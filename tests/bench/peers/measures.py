"""What is measured, and what becomes of the samples. Pure: no processes, no files, no clock."""

import collections

STREAM_CONTEXT = 1024  # tokens of each stream where several run
# Time of the processor cores that others took while a sample ran, above which it is dropped.
MAX_OTHERS_SHARE = 0.15
# Times faster that other settings have to be.
WORTH_A_CHANGE = 1.07

# One `run` request; `parts` of its answer are wanted: "prefill", "decode".
Cell = collections.namedtuple("Cell", "kind tokens streams steps parts")
Sample = collections.namedtuple("Sample", "seconds others_share")
# `seconds` of the best sample, the number of undisturbed ones, whether there was none.
Figure = collections.namedtuple("Figure", "value seconds counted disturbed")


def cells(lengths, contexts, streams, steps):
    """The fewest requests that give a prefill of every length and a decode at every context."""
    made = []
    for tokens in sorted(set(lengths) | set(contexts)):
        parts = [part for part, wanted in (("prefill", lengths), ("decode", contexts))
                 if tokens in wanted]
        made.append(Cell("single", tokens, 1, steps if "decode" in parts else 0, tuple(parts)))
    return made + [Cell("streams", STREAM_CONTEXT, count, steps, ("decode",))
                   for count in sorted(set(streams))]


def requests(cell, variants):
    """[(variant, parts)]: one request where the same variant is the best for all parts."""
    by_variant = {}
    for part in cell.parts:
        use = "streams" if cell.streams > 1 else part
        by_variant.setdefault(variants[use], []).append(part)
    return [(variant, tuple(parts)) for variant, parts in by_variant.items()]


def capacity_tokens(all_cells):
    """Tokens that are in the KV cache at once, of the request that needs most."""
    return max((cell.tokens + cell.steps + 64) * cell.streams for cell in all_cells)


def measure_of(cell, part):
    """Name of the figure that a part of a cell gives."""
    if cell.kind == "streams":
        return f"{cell.streams} stream{'s' if cell.streams > 1 else ''}"
    return f"{part} {cell.tokens}"


def tokens_of(cell, part):
    return cell.tokens * cell.streams if part == "prefill" else cell.steps * cell.streams


def others_share(machine_busy, machine_total, own):
    """Share of the machine's time that was not ours, of seconds (or ticks) between two looks."""
    return max(0.0, machine_busy - own) / machine_total if machine_total > 0 else 0.0


def summarise(samples, tokens):
    """Tokens per second of the best undisturbed sample; of the best one where all were disturbed.
    What else happens on a machine only ever costs time, so the best says most."""
    clean = [sample for sample in samples if sample.others_share <= MAX_OTHERS_SHARE]
    seconds = min(sample.seconds for sample in clean or samples)
    return Figure(tokens / seconds, seconds, len(clean), not clean)


def best_variants(tuning):
    """{"prefill": name, "decode": name, "streams": name} of [{"variant": name, "prefill": seconds,
    "decode": seconds, "streams": seconds}], the usual settings first. Others are taken where they
    gain more than noise; decode and streams leave those of prefill only then, since a change costs
    some engines another loading of the model."""
    chosen, common = {}, tuning[0]
    for use in ("prefill", "decode", "streams"):
        best = min(tuning, key=lambda row: row[use])
        taken = best if best[use] * WORTH_A_CHANGE < common[use] else common
        chosen[use] = taken["variant"]
        common = taken if use == "prefill" else common
    return chosen


def order(engines, turn):
    """Every turn begins with another engine, so that none always follows the same one."""
    return engines[turn % len(engines):] + engines[:turn % len(engines)] if engines else []
