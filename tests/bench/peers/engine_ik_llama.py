"""ik_llama.cpp through ik-llama-cpp-python."""

import importlib.metadata

import ggml_sequences
import protocol
from ik_llama_cpp import _ctypes_api as api

BATCH_TOKENS = 2048
VARIANTS = {  # name: (flash attention, ubatch)
    "flash attention, ubatch 512": (True, 512),
    "no flash attention, ubatch 512": (False, 512),
    "flash attention, ubatch 1024": (True, 1024),
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
        flash, ubatch = VARIANTS[request["variant"]]
        params = api.llama_context_default_params()
        params.n_ctx = ggml_sequences.capacity(request) * request["streams"]
        params.n_seq_max = request["streams"]
        params.n_batch, params.n_ubatch = BATCH_TOKENS, ubatch
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
