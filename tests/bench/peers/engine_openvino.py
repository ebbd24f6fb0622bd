"""OpenVINO GenAI: the GGUF is read by its own loader; continuous batching with paged attention."""

import time

import numpy
import openvino
import openvino_genai
import protocol

KV_BLOCK_TOKENS = 32
VARIANTS = {  # name: (tokens of a batch, properties of the device)
    "batches of 512": (512, {}),
    "batches of 2048": (2048, {}),
    "batches of 512, f32": (512, {"INFERENCE_PRECISION_HINT": "f32"}),
}


class OpenVino:
    variants = VARIANTS

    def load(self, request):
        self._request = request
        self._name = None
        self._pipeline_of(request["variant"])
        return {"settings": f"openvino-genai {openvino_genai.__version__}"}

    def _pipeline_of(self, name):
        # One at a time: the memory of two would be counted.
        if name != self._name:
            self._pipeline = None
            batch_tokens, properties = VARIANTS[name]
            scheduler = openvino_genai.SchedulerConfig()
            scheduler.max_num_batched_tokens = batch_tokens
            scheduler.num_kv_blocks = self._request["capacity_tokens"] // KV_BLOCK_TOKENS + 16
            scheduler.enable_prefix_caching = False
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(
                self._request["model"], scheduler, "CPU",
                {"INFERENCE_NUM_THREADS": self._request["threads"], **properties})
            self._name = name
            self._warm = False
        return self._pipeline

    def run(self, request):
        pipeline = self._pipeline_of(request["variant"])
        if not self._warm:
            # The first prompt of a pipeline also compiles kernels.
            self._timed(pipeline, request)
            self._warm = True
        return self._timed(pipeline, request)

    def _timed(self, pipeline, request):
        texts = protocol.prompts(request)
        config = openvino_genai.GenerationConfig()
        # Streams whose prompt is computed generate while the later ones are: tokens for that too.
        config.max_new_tokens = (request["steps"] + protocol.WARM_UP_STEPS + 1
                                 + len(texts) * (-(-request["tokens"] // 512)))
        config.ignore_eos = True
        config.do_sample = False
        begin = time.perf_counter()
        handles = []
        for number, tokens in enumerate(texts):
            ids = openvino.Tensor(numpy.array([tokens], dtype=numpy.int64))
            handles.append(pipeline.add_request(number, ids, config))
        while not all(handle.can_read() for handle in handles):
            pipeline.step()
        prefill_seconds = time.perf_counter() - begin
        decode_seconds = protocol.timed_steps(pipeline.step, request["steps"])
        for handle in handles:
            handle.stop()
        while pipeline.has_non_finished_requests():
            pipeline.step()
        return {"prefill_seconds": prefill_seconds, "decode_seconds": decode_seconds}


if __name__ == "__main__":
    protocol.serve(OpenVino())
