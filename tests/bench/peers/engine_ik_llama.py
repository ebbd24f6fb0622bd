"""ik_llama.cpp through ik-llama-cpp-python."""

import importlib.metadata

import ggml_sequences
import protocol
from ik_llama_cpp import _ctypes_api as api

BATCH_TOKENS = 2048
F16, Q8_0, BF16 = 1, 8, 30  # ggml_type
VARIANTS = {  # name: (flash attention, rows computed at a time, type of keys and values)
    "flash attention": (True, 512, F16),
    "flash attention, rows 1024": (True, 1024, F16),
    "flash attention, q8_0 KV": (True, 512, Q8_0),
    "flash attention, bf16 KV": (True, 512, BF16),
    "no flash attention": (False, 512, F16),
}


class IkLlama:
    variants = VARIANTS

    def load(self, request):
        api.llama_backend_init()
        self._threads = request["threads"]
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = api.llama_model_load_from_file(request["model"].encode(), params)
        if not self._model:
            raise RuntimeError("the model was not loaded")
        version = importlib.metadata.version("ik-llama-cpp-python")
        return {"settings": f"ik-llama-cpp-python {version}"}

    def run(self, request):
        flash, rows, kv_type = VARIANTS[request["variant"]]
        params = api.llama_context_default_params()
        params.n_ctx = ggml_sequences.capacity(request) * request["streams"]
        params.n_seq_max = request["streams"]
        params.n_batch, params.n_ubatch = BATCH_TOKENS, rows
        params.type_k = params.type_v = kv_type
        params.n_threads = params.n_threads_batch = self._threads
        params.flash_attn = flash
        context = api.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError("no context was made")
        try:
            return ggml_sequences.run(api, context, request, BATCH_TOKENS)
        finally:
            api.llama_free(context)


if __name__ == "__main__":
    protocol.serve(IkLlama())
