"""Prefill and decode through the C interface that llama.cpp and its forks share, by ctypes."""

import ctypes
import time

import numpy

import protocol


class Sequences:
    """The streams of one `run` in a context of their own. `api` has the functions of llama.h."""

    def __init__(self, api, context, streams, batch_tokens):
        self._api = api
        self._context = context
        self._batch_tokens = batch_tokens
        self._batch = api.llama_batch_init(max(batch_tokens, streams), 0, 1)
        self._next = [0] * streams
        self._positions = [0] * streams

    def close(self):
        self._api.llama_batch_free(self._batch)

    def _put(self, row, token, position, stream, wants_logits):
        batch = self._batch
        batch.token[row] = token
        batch.pos[row] = position
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = stream
        batch.logits[row] = wants_logits

    def _decode(self, rows):
        self._batch.n_tokens = rows
        status = self._api.llama_decode(self._context, self._batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")

    def _likeliest(self, row):
        logits = self._api.llama_get_logits_ith(self._context, row)
        address = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float * protocol.VOCABULARY))
        return int(numpy.frombuffer(address.contents, dtype=numpy.float32).argmax())

    def prefill(self, stream, tokens):
        for begin in range(0, len(tokens), self._batch_tokens):
            part = tokens[begin:begin + self._batch_tokens]
            for row, token in enumerate(part):
                self._put(row, token, begin + row, stream, begin + row + 1 == len(tokens))
            self._decode(len(part))
        self._next[stream] = self._likeliest((len(tokens) - 1) % self._batch_tokens)
        self._positions[stream] = len(tokens)

    def step(self):
        for stream, token in enumerate(self._next):
            self._put(stream, token, self._positions[stream], stream, True)
            self._positions[stream] += 1
        self._decode(len(self._next))
        self._next = [self._likeliest(stream) for stream in range(len(self._next))]


def capacity(request):
    """Tokens that one stream of this request needs room for, as llama.cpp pads them."""
    needed = request["tokens"] + request["steps"] + protocol.WARM_UP_STEPS + 1
    return (needed + 255) // 256 * 256


def run(api, context, request, batch_tokens):
    """Answers a `run` request with this fresh context."""
    sequences = Sequences(api, context, request["streams"], batch_tokens)
    try:
        texts = protocol.prompts(request)
        begin = time.perf_counter()
        for stream, tokens in enumerate(texts):
            sequences.prefill(stream, tokens)
        prefill_seconds = time.perf_counter() - begin
        return {"prefill_seconds": prefill_seconds,
                "decode_seconds": protocol.timed_steps(sequences.step, request["steps"])}
    finally:
        sequences.close()
