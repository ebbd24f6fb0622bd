#!/usr/bin/env python3
"""Prefill and decode of PyTorch on a GPU beside this engine's: same shapes, random weights, one run.

    tests/bench/gpu_peers.py --bench build/bin/sliminfer-bench --geometry llama-3.1-8b

PyTorch computes the model with its own operators (bf16, scaled_dot_product_attention with each of
its kernels, flash-attn and transformers where they are installed; decode from a CUDA graph) and the
fastest variant counts. Engines take turns length by length. Where torch or a GPU is missing, that is
said and nothing is measured: exit status 0, "skipped" in the JSON."""

import argparse
import collections
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

Geometry = collections.namedtuple(
    "Geometry", "layers width heads kv_heads head_dim ffn vocabulary rope_base tied bias")
# As tools/common/random_model.cc has them.
GEOMETRIES = {
    "llama-3.1-8b": Geometry(32, 4096, 32, 8, 128, 14336, 128256, 5e5, False, False),
    "llama-3.2-1b": Geometry(16, 2048, 32, 8, 64, 8192, 128256, 5e5, True, False),
    "qwen2.5-7b": Geometry(28, 3584, 28, 4, 128, 18944, 152064, 1e6, False, True),
    "tiny": Geometry(6, 128, 4, 2, 32, 256, 512, 1e4, True, False),
}
DEVICE = "cuda"
WARM_UPS = 2


def numbers(text):
    return [int(word) for word in text.split(",") if word]


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--bench", help="sliminfer-bench; without it only the peers are measured")
    parser.add_argument("--backend", default="cuda", help="of --bench; default: %(default)s")
    parser.add_argument("--geometry", choices=GEOMETRIES, default="llama-3.1-8b")
    parser.add_argument("--lengths", type=numbers, default=[2048, 8192, 32768])
    parser.add_argument("--decode_context", type=int, default=32768, help="0: no decode")
    parser.add_argument("--chunk_tokens", type=int, default=8192, help="of --bench")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=32, help="decode steps")
    parser.add_argument("--json", help="file for the result")
    return parser.parse_args(arguments)


def missing():
    """Why PyTorch cannot be measured here; None where it can."""
    try:
        import torch
    except ImportError as error:
        return f"no PyTorch: {error}"
    if not torch.cuda.is_available():
        return "PyTorch sees no GPU"
    return None


def ours(options, command, *arguments):
    """Rows of this engine's bench."""
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder) / "result.json"
        done = subprocess.run(
            [options.bench, "--json", result, command, "--backend", options.backend, "--geometry",
             options.geometry, "--random_weights", "--chunk_tokens", str(options.chunk_tokens),
             *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{options.bench} {command}: {done.stderr.strip()[-300:]}")
        return json.loads(result.read_text(encoding="utf-8"))["rows"]


class Model:
    """A Llama of plain PyTorch operators. `attend(q, k, v, causal)` takes [1, heads, rows, dims]."""

    def __init__(self, geometry, attend):
        import torch
        self._torch, self._g, self.attend = torch, geometry, attend
        g = geometry

        def matrix(rows, cols):
            return torch.randn(rows, cols, dtype=torch.bfloat16, device=DEVICE) * g.width ** -0.5

        self._embedding = matrix(g.vocabulary, g.width)
        self._head = self._embedding if g.tied else matrix(g.vocabulary, g.width)
        self._norm = torch.ones(g.width, dtype=torch.bfloat16, device=DEVICE)
        columns = (g.heads + 2 * g.kv_heads) * g.head_dim
        self._layers = [{
            "qkv": matrix(columns, g.width),
            "bias": torch.zeros(columns, dtype=torch.bfloat16, device=DEVICE) if g.bias else None,
            "output": matrix(g.width, g.heads * g.head_dim),
            "gate_up": matrix(2 * g.ffn, g.width),
            "down": matrix(g.width, g.ffn),
        } for _ in range(g.layers)]

    def angles(self, first, rows):
        torch, half = self._torch, self._g.head_dim // 2
        frequencies = self._g.rope_base ** (-torch.arange(half, device=DEVICE) / half)
        angles = torch.outer(torch.arange(first, first + rows, device=DEVICE), frequencies)
        return (angles.cos().to(torch.bfloat16), angles.sin().to(torch.bfloat16))

    def _rotate(self, x, angles):
        cosine, sine = angles
        u, v = x.chunk(2, dim=-1)
        return self._torch.cat((u * cosine - v * sine, u * sine + v * cosine), dim=-1)

    def cache(self, capacity):
        g, torch = self._g, self._torch
        return [torch.zeros(2, 1, g.kv_heads, capacity, g.head_dim, dtype=torch.bfloat16,
                            device=DEVICE) for _ in self._layers]

    def forward(self, tokens, angles, first, cache):
        """Logits of the last row; keys and values of rows `first` on go into the cache."""
        torch, g = self._torch, self._g
        functional = torch.nn.functional
        rows, x = tokens.shape[0], functional.embedding(tokens, self._embedding)
        for layer, stored in zip(self._layers, cache):
            h = functional.rms_norm(x, (g.width,), self._norm, 1e-5)
            qkv = functional.linear(h, layer["qkv"], layer["bias"])
            qkv = qkv.view(1, rows, -1, g.head_dim).transpose(1, 2)
            q, k, v = qkv.split([g.heads, g.kv_heads, g.kv_heads], dim=1)
            stored[0, :, :, first:first + rows] = self._rotate(k, angles)
            stored[1, :, :, first:first + rows] = v
            out = self.attend(self._rotate(q, angles), stored[0, :, :, :first + rows],
                              stored[1, :, :, :first + rows], rows > 1)
            x = x + functional.linear(out.transpose(1, 2).reshape(rows, -1), layer["output"])
            h = functional.rms_norm(x, (g.width,), self._norm, 1e-5)
            gate, up = functional.linear(h, layer["gate_up"]).chunk(2, dim=-1)
            x = x + functional.linear(functional.silu(gate) * up, layer["down"])
        return functional.linear(functional.rms_norm(x[-1:], (g.width,), self._norm, 1e-5),
                                 self._head)


def attentions():
    """name -> attend, of every kernel that could be there."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def scaled_dot_product(backend):
        def attend(q, k, v, causal):
            with sdpa_kernel([backend]):
                return torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, is_causal=causal, enable_gqa=True)
        return attend

    found = {"sdpa flash": scaled_dot_product(SDPBackend.FLASH_ATTENTION)}
    if hasattr(SDPBackend, "CUDNN_ATTENTION"):
        found["sdpa cudnn"] = scaled_dot_product(SDPBackend.CUDNN_ATTENTION)
    for module in ("flash_attn_interface", "flash_attn"):  # the first is for Hopper
        try:
            function = __import__(module).flash_attn_func
        except (ImportError, AttributeError):
            continue

        def attend(q, k, v, causal, function=function):
            out = function(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), causal=causal)
            return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)
        found[module] = attend
    return found


def transformers_model(geometry):
    """LlamaForCausalLM, or None where it does not apply."""
    try:
        import torch
        import transformers
    except ImportError:
        return None
    if geometry.bias:
        return None
    g = geometry
    config = transformers.LlamaConfig(
        hidden_size=g.width, intermediate_size=g.ffn, num_hidden_layers=g.layers,
        num_attention_heads=g.heads, num_key_value_heads=g.kv_heads, head_dim=g.head_dim,
        vocab_size=g.vocabulary, max_position_embeddings=131072 + 4096, rope_theta=g.rope_base,
        tie_word_embeddings=g.tied, attn_implementation="sdpa")
    with torch.device(DEVICE):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            return transformers.LlamaForCausalLM(config).eval()
        finally:
            torch.set_default_dtype(before)


def timed(run, count):
    """Seconds of each of `count` runs, after warm-ups, with the device's queue empty around each."""
    import torch
    seconds = []
    for turn in range(WARM_UPS + count):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if turn >= WARM_UPS:
            seconds.append(time.perf_counter() - begin)
    return seconds


def prefill_seconds(model, length, runs):
    import torch
    tokens = torch.randint(0, 512, (length,), device=DEVICE)
    cache, angles = model.cache(length), model.angles(0, length)
    return timed(lambda: model.forward(tokens, angles, 0, cache), runs)


def decode_seconds(model, context, steps):
    """One step at the end of the context, over and over, from a CUDA graph."""
    import torch
    token = torch.zeros(1, dtype=torch.long, device=DEVICE)
    cache, angles = model.cache(context + 1), model.angles(context, 1)
    for _ in range(3):
        model.forward(token, angles, context, cache)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model.forward(token, angles, context, cache)
    return timed(graph.replay, steps)


class Run:
    """Rows and refusals as they come; `save(run)` is called after each, for a run that is cut short."""

    def __init__(self, options, save=lambda run: None):
        self._options, self._save = options, save
        self.rows, self.refused = [], {}

    def refuse(self, what, error):
        self.refused[what] = f"{type(error).__name__}: {error}"[:300]
        self._save(self)

    def add(self, engine, variant, measure, tokens, seconds):
        row = {"engine": engine, "variant": variant, "measure": measure, "tokens": tokens,
               "seconds_median": statistics.median(seconds), "runs": len(seconds)}
        self.rows.append(row)
        print(f"{engine}, {variant}: {measure} {tokens}: {row['seconds_median']:.4f} s",
              file=sys.stderr, flush=True)
        self._save(self)

    def _try(self, engine, variant, measure, tokens, run):
        import torch
        try:
            self.add(engine, variant, measure, tokens, run())
        except Exception as error:  # whatever a peer does, the others are measured
            self.refuse(f"{engine}, {variant}, {measure} {tokens}", error)
        torch.cuda.empty_cache()

    def _ours(self, command, *arguments):
        if self._options.bench is None:
            return []
        try:
            return ours(self._options, command, *arguments)
        except RuntimeError as error:
            self.refuse(f"SlimInfer, {command}", error)
            return []

    def measure(self):
        import torch
        options = self._options
        torch.set_grad_enabled(False)
        kernels = attentions()
        for length in options.lengths:
            for row in self._ours("prefill", "--lengths", str(length), "--pruning", "off,paper",
                                  "--runs", str(options.runs)):
                self.add("SlimInfer", row["pruning"], "prefill", length,
                         [row["ttft_seconds_median"]])
            # Each frees its model when it returns: all engines share the one device.
            self._pytorch(kernels, length)
            self._transformers(length)
            torch.cuda.empty_cache()
        if options.decode_context > 0:
            self._decode(kernels)

    def _pytorch(self, kernels, length):
        model = Model(GEOMETRIES[self._options.geometry], None)
        for name, attend in kernels.items():
            model.attend = attend
            self._try("PyTorch", name, "prefill", length,
                      lambda: prefill_seconds(model, length, self._options.runs))

    def _transformers(self, length):
        import torch
        try:
            model = transformers_model(GEOMETRIES[self._options.geometry])
        except Exception as error:  # its interface differs between versions
            self.refuse("transformers", error)
            return
        if model is None:
            return
        tokens = torch.randint(0, 512, (1, length), device=DEVICE)
        self._try("transformers", "sdpa", "prefill", length,
                  lambda: timed(lambda: model(input_ids=tokens, use_cache=True, logits_to_keep=1),
                                self._options.runs))

    def _decode(self, kernels):
        options = self._options
        for row in self._ours("decode", "--contexts", str(options.decode_context), "--streams", "1",
                              "--pruning", "off,paper"):
            self.add("SlimInfer", row["pruning"], "decode", options.decode_context,
                     [row["seconds_per_token_median"]])
        model = Model(GEOMETRIES[options.geometry], None)
        for name, attend in kernels.items():
            model.attend = attend
            self._try("PyTorch", name, "decode", options.decode_context,
                      lambda: decode_seconds(model, options.decode_context, options.steps))


def table(rows):
    """One line per measure and length: ours, the fastest peer, ratios."""
    lines = [f"{'measure':<10}{'tokens':>9}{'ours s':>10}{'pruned s':>10}{'peer s':>10}"
             f"{'ours':>8}{'pruned':>8}  fastest peer"]
    for measure, tokens in dict.fromkeys((row["measure"], row["tokens"]) for row in rows):
        here = [row for row in rows if (row["measure"], row["tokens"]) == (measure, tokens)]
        mine = {row["variant"]: row["seconds_median"] for row in here
                if row["engine"] == "SlimInfer"}
        peers = [row for row in here if row["engine"] != "SlimInfer"]
        best = min(peers, key=lambda row: row["seconds_median"], default=None)

        def number(value):
            return f"{value:.4f}" if value is not None else "-"

        def ratio(value):
            return f"{best['seconds_median'] / value:.2f}x" if best and value else "-"

        dense, pruned = mine.get("off"), mine.get("paper")
        lines.append(f"{measure:<10}{tokens:>9,}{number(dense):>10}{number(pruned):>10}"
                     f"{number(best['seconds_median'] if best else None):>10}{ratio(dense):>8}"
                     f"{ratio(pruned):>8}  "
                     + (f"{best['engine']}, {best['variant']}" if best else "none"))
    return "\n".join(lines)


def save(options, result):
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main(arguments):
    options = parse(arguments)
    reason = missing()
    result = {"geometry": options.geometry}
    if reason is not None:
        print(f"peers skipped: {reason}")
        result["skipped"] = reason
    else:
        import torch
        result["machine"] = {"gpu": torch.cuda.get_device_name(0), "torch": torch.__version__}

        def save_rows(run):
            result.update(rows=run.rows, refused=run.refused)
            save(options, result)
        run = Run(options, save_rows)
        run.measure()
        print(table(run.rows))
        for what, error in run.refused.items():
            print(f"refused: {what}: {error}")
    save(options, result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
