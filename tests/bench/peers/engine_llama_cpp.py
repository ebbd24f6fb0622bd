"""llama.cpp through llama-cpp-python, built on this machine for it.

    engine_llama_cpp.py [TYPE]    with TYPE: of a copy of the model in another type of weights,
                                  since llama.cpp has no fast kernels for every one"""

import pathlib
import sys
import tempfile
import time

import llama_cpp
import ggml_sequences
import protocol

BATCH_TOKENS = 2048
F16, Q8_0 = 1, 8  # ggml_type
FILE_TYPES = {"Q4_0": 2, "Q8_0": 7}  # llama_ftype
VARIANTS = {  # name: (flash attention, rows computed at a time, type of keys and values)
    "flash attention": (1, 512, F16),
    "flash attention, rows 1024": (1, 1024, F16),
    "flash attention, q8_0 KV": (1, 512, Q8_0),
    "no flash attention": (0, 512, F16),
}


def copy_of(model, file_type):
    """A file in the temporary folder, made once; the embedding stays as it is."""
    copy = pathlib.Path(tempfile.gettempdir()) / f"{pathlib.Path(model).stem}.{file_type}-copy.gguf"
    if not copy.exists():
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = FILE_TYPES[file_type]
        params.allow_requantize = True
        params.output_tensor_type = params.token_embedding_type = Q8_0
        unfinished = copy.with_suffix(".unfinished")
        if llama_cpp.llama_model_quantize(model.encode(), str(unfinished).encode(), params) != 0:
            raise RuntimeError(f"no {file_type} copy was made")
        unfinished.rename(copy)
    return str(copy)


class LlamaCpp:
    variants = VARIANTS

    def __init__(self, file_type):
        self._file_type = file_type

    def load(self, request):
        llama_cpp.llama_backend_init()
        model = request["model"]
        if self._file_type:
            model = copy_of(model, self._file_type)
        begin = time.perf_counter()
        self._threads = request["threads"]
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(model.encode(), params)
        if not self._model:
            raise RuntimeError("the model was not loaded")
        return {"settings": f"llama-cpp-python {llama_cpp.__version__}, "
                            + llama_cpp.llama_print_system_info().decode().strip(" |"),
                "seconds": time.perf_counter() - begin}

    def run(self, request):
        flash, rows, kv_type = VARIANTS[request["variant"]]
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = ggml_sequences.capacity(request) * request["streams"]
        params.n_seq_max = request["streams"]
        params.n_batch, params.n_ubatch = BATCH_TOKENS, rows
        params.type_k = params.type_v = kv_type
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
    protocol.serve(LlamaCpp(sys.argv[1] if len(sys.argv) > 1 else None))
