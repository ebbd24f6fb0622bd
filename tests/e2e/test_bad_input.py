"""Every field out of range is refused with a status, a reason, and a message that names it."""

import math

import grpc
import pytest
from conftest import long_text, pb, reason, request

NAN, INF = math.nan, math.inf
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def edit(path, value):
    def apply(message):
        *parents, leaf = path.split(".")
        for name in parents:
            message = getattr(message, name)
        setattr(message, leaf, value)
    return apply


def bias(entries):
    return lambda m: [m.sampling.logit_bias.__setitem__(k, v) for k, v in entries]


def extend(path, values):
    def apply(message):
        *parents, leaf = path.split(".")
        for name in parents:
            message = getattr(message, name)
        getattr(message, leaf).extend(values)
    return apply


def custom(*stages):
    def apply(message):
        message.pruning.mode = pb.PruningOptions.CUSTOM
        for layer, budget in stages:
            message.pruning.stages.add(layer=layer, budget_tokens=budget)
    return apply


CASES = [
    ("temperature", edit("sampling.temperature", -0.1)),
    ("temperature", edit("sampling.temperature", 2.1)),
    ("temperature", edit("sampling.temperature", NAN)),
    ("temperature", edit("sampling.temperature", INF)),
    ("top_p", edit("sampling.top_p", 0.0)),
    ("top_p", edit("sampling.top_p", 1.01)),
    ("top_p", edit("sampling.top_p", NAN)),
    ("top_k", edit("sampling.top_k", -1)),
    ("top_k", edit("sampling.top_k", 2**31 - 1)),
    ("min_p", edit("sampling.min_p", -0.5)),
    ("min_p", edit("sampling.min_p", 1.5)),
    ("min_p", edit("sampling.min_p", NAN)),
    ("repetition_penalty", edit("sampling.repetition_penalty", 0.0)),
    ("repetition_penalty", edit("sampling.repetition_penalty", 2.5)),
    ("repetition_penalty", edit("sampling.repetition_penalty", -INF)),
    ("frequency_penalty", edit("sampling.frequency_penalty", -2.5)),
    ("frequency_penalty", edit("sampling.frequency_penalty", NAN)),
    ("presence_penalty", edit("sampling.presence_penalty", 2.01)),
    ("logit_bias", bias([(49152, 1.0)])),
    ("logit_bias", bias([(1, NAN)])),
    ("logit_bias", bias([(1, 101.0)])),
    ("logit_bias", bias([(i, 1.0) for i in range(301)])),
    ("max_tokens", edit("stopping.max_tokens", 0)),
    ("max_tokens", edit("stopping.max_tokens", -1)),
    ("max_tokens", edit("stopping.max_tokens", -2**31)),
    ("min_tokens", edit("stopping.min_tokens", -1)),
    ("min_tokens", edit("stopping.min_tokens", 17)),
    ("stop_strings", extend("stopping.stop_strings", ["a", "b", "c", "d", "e"])),
    ("stop_strings", extend("stopping.stop_strings", [""])),
    ("stop_strings", extend("stopping.stop_strings", ["x" * 257])),
    ("stop_token_ids", extend("stopping.stop_token_ids", [49152])),
    ("stop_token_ids", extend("stopping.stop_token_ids", list(range(17)))),
    ("logprobs", edit("response.logprobs", -1)),
    ("logprobs", edit("response.logprobs", 21)),
    ("priority", edit("priority", 101)),
    ("priority", edit("priority", -101)),
    ("request_id", edit("request_id", "x" * 129)),
    ("request_id", edit("request_id", "line\nbreak")),
    ("cache_salt", edit("cache_salt", "s" * 257)),
    ("overflow", edit("overflow", 9)),
    ("mode", edit("pruning.mode", 99)),
    ("ratio", edit("pruning.ratio", 0.0)),
    ("ratio", edit("pruning.ratio", NAN)),
    ("gamma", edit("pruning.gamma", 1.5)),
    ("sink_blocks", edit("pruning.sink_blocks", -1)),
    ("local_tokens", edit("pruning.local_tokens", -5)),
    ("min_prompt_tokens", edit("pruning.min_prompt_tokens", -1)),
    ("score_kind", edit("pruning.score_kind", 77)),
    ("decode_mode", edit("pruning.decode_mode", 77)),
    ("stages", custom((0, 512))),
    ("stages", custom((30, 512))),
    ("stages", custom((8, 512), (8, 256))),
    ("stages", custom((8, 256), (9, 512))),
    ("stages", custom((8, 500))),
]


@pytest.mark.parametrize("field,apply", CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_out_of_range_is_refused(server, field, apply):
    message = request(long_text(600))
    apply(message)
    with pytest.raises(grpc.RpcError) as error:
        list(server.inference.Generate(message))
    assert error.value.code() == INVALID, error.value.details()
    assert field in error.value.details()
    assert reason(error.value).startswith(("BAD_FIELD", "LIMIT"))
    with pytest.raises(grpc.RpcError) as error:
        server.inference.GenerateUnary(message)
    assert error.value.code() == INVALID


PROMPTS = [
    ("no prompt", lambda m: m.ClearField("prompt"), INVALID, None),
    ("empty text", edit("text", ""), INVALID, None),
    ("no ids", lambda m: m.token_ids.SetInParent(), INVALID, None),
    ("id too large", lambda m: m.token_ids.ids.extend([1, 49152]), INVALID, None),
    ("no messages", lambda m: m.chat.SetInParent(), INVALID, None),
    ("unknown role", lambda m: m.chat.messages.add(role="root", content="x"), INVALID, None),
    ("too long", edit("text", long_text(20000)), INVALID, "CONTEXT_LENGTH"),
    ("more than 1 MiB", edit("text", "x" * (2**20 + 1)), INVALID, None),
    ("other model", edit("model", "gpt-5"), grpc.StatusCode.NOT_FOUND, "MODEL"),
]


@pytest.mark.parametrize("name,apply,code,why", PROMPTS, ids=[p[0] for p in PROMPTS])
def test_bad_prompts(server, name, apply, code, why):
    message = request()
    apply(message)
    with pytest.raises(grpc.RpcError) as error:
        list(server.inference.Generate(message))
    assert error.value.code() == code, error.value.details()
    if why:
        assert reason(error.value) == why


def test_a_message_over_the_limit_is_refused_by_the_library(server):
    with pytest.raises(grpc.RpcError) as error:
        server.inference.GenerateUnary(request("x" * 2_000_000))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_truncation_fits_the_prompt_into_the_context(server):
    message = request(long_text(12000), max_tokens=2)
    message.response.progress = True
    for policy in (pb.TRUNCATE_LEFT, pb.TRUNCATE_MIDDLE):
        message.overflow = policy
        stream = server.inference.Generate(message)
        assert 8000 < next(stream).accepted.prompt_tokens < 8192
        assert next(stream).WhichOneof("event") != "accepted"  # the engine takes it
        stream.cancel()


def test_garbage_bytes_and_unknown_methods(server):
    call = server.channel.unary_unary("/sliminfer.v1.Inference/GenerateUnary")
    with pytest.raises(grpc.RpcError) as error:
        call(b"\xff\xff\xff\xff")
    assert error.value.code() in (INVALID, grpc.StatusCode.UNIMPLEMENTED)
    call = server.channel.unary_unary("/sliminfer.v1.Inference/NoSuchMethod")
    with pytest.raises(grpc.RpcError) as error:
        call(b"")
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_the_server_is_whole_after_all_this(server):
    assert server.inference.GenerateUnary(request(max_tokens=3)).finished.usage.completion_tokens == 3
    server.wait_until(lambda: server.used_pages() == 0, "all pages free")
