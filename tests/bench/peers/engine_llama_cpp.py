"""llama.cpp through llama-cpp-python, built on this machine for it."""

import llama_cpp
import ggml_sequences
import protocol

BATCH_TOKENS = 2048  # logical; computed in parts of `ubatch` rows
VARIANTS = {  # name: (flash attention, ubatch)
    "flash attention, ubatch 512": (1, 512),
    "no flash attention, ubatch 512": (0, 512),
    "flash attention, ubatch 1024": (1, 1024),
}


class LlamaCpp:
    variants = VARIANTS

    def load(self, request):
        llama_cpp.llama_backend_init()
        self._threads = request["threads"]
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(request["model"].encode(), params)
        if not self._model:
            raise RuntimeError("the model was not loaded")
        return {"settings": f"llama-cpp-python {llama_cpp.__version__}, "
                            + llama_cpp.llama_print_system_info().decode().strip()}

    def run(self, request):
        flash, ubatch = VARIANTS[request["variant"]]
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = ggml_sequences.capacity(request) * request["streams"]
        params.n_seq_max = request["streams"]
        params.n_batch, params.n_ubatch = BATCH_TOKENS, ubatch
        params.n_threads = params.n_threads_batch = self._threads
        params.flash_attn_type = flash
        params.no_perf = True
        context = llama_cpp.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError("no context was made")
        try:
            return ggml_sequences.run(llama_cpp, context, request, BATCH_TOKENS)
        finally:
            llama_cpp.llama_free(context)


if __name__ == "__main__":
    protocol.serve(LlamaCpp())
