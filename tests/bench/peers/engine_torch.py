"""PyTorch with transformers: the GGUF's weights, dequantised, in LlamaForCausalLM."""

import os
import time

import protocol
import torch
import transformers

VARIANTS = {"bf16": torch.bfloat16, "f32": torch.float32}


class Torch:
    variants = VARIANTS

    def load(self, request):
        torch.set_num_threads(request["threads"])
        torch.set_grad_enabled(False)
        self._request = request
        self._name = None
        self._model_of(request["variant"])
        return {"settings": f"torch {torch.__version__}, "
                            f"transformers {transformers.__version__}, sdpa"}

    def _model_of(self, name):
        # One at a time: the memory of two would be counted.
        if name != self._name:
            self._model = None
            folder, file = os.path.split(os.path.abspath(self._request["model"]))
            self._model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=file, dtype=VARIANTS[name], attn_implementation="sdpa").eval()
            self._name = name
        return self._model

    def run(self, request):
        model = self._model_of(request["variant"])
        cache = transformers.DynamicCache(config=model.config)
        tokens = torch.tensor(protocol.prompts(request))

        def forward(ids):
            logits = model(input_ids=ids, past_key_values=cache, use_cache=True,
                           logits_to_keep=1).logits
            return logits[:, -1].argmax(dim=-1, keepdim=True)

        begin = time.perf_counter()
        last = [forward(tokens)]
        prefill_seconds = time.perf_counter() - begin

        def step():
            last[0] = forward(last[0])

        return {"prefill_seconds": prefill_seconds,
                "decode_seconds": protocol.timed_steps(step, request["steps"])}


if __name__ == "__main__":
    protocol.serve(Torch())
