"""What a client sees when all is well: streams, unary answers, text tools, reports, many at once."""

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from conftest import ROOT, long_text, pb, request
from sliminfer.v1 import control_pb2 as cpb


def collect(stream):
    events = list(stream)
    text = "".join(e.delta.text for e in events if e.WhichOneof("event") == "delta")
    ids = [i for e in events if e.WhichOneof("event") == "delta" for i in e.delta.token_ids]
    return events, text, ids


def test_stream_begins_with_accepted_and_ends_with_finished(server):
    message = request(max_tokens=8)
    message.request_id = "first"
    message.response.progress = True
    events, text, _ = collect(server.inference.Generate(message))
    kinds = [e.WhichOneof("event") for e in events]
    assert kinds[0] == "accepted" and kinds[-1] == "finished" and "progress" in kinds
    assert events[0].accepted.request_id == "first"
    done = events[-1].finished
    assert done.finish_reason == pb.LENGTH
    assert done.usage.completion_tokens == 8
    assert done.usage.prompt_tokens == events[0].accepted.prompt_tokens
    assert text
    assert done.timing.time_to_first_token_seconds > 0


def test_unary_equals_stream_and_greedy_is_reproducible(server):
    message = request(max_tokens=24)
    message.response.token_ids = True
    _, text, ids = collect(server.inference.Generate(message))
    for _ in range(3):
        unary = server.inference.GenerateUnary(message)
        assert unary.text == text
        assert list(unary.token_ids) == ids
        assert len(ids) == 24


def test_golden_greedy_tokens(server):
    data = ROOT / "tests" / "data" / "reference"
    prompts = json.loads((data / "prompts.json").read_text())
    reference = json.loads((data / "logits_reference.json").read_text())
    for name in ("short", "p500", "p4000"):
        message = pb.GenerateRequest(token_ids=pb.TokenIds(ids=prompts[name]["ids"]))
        message.sampling.temperature = 0
        message.stopping.max_tokens = 32
        message.stopping.ignore_eos = True
        message.response.token_ids = True
        ids = list(server.inference.GenerateUnary(message).token_ids)
        for i, margin in enumerate(reference[name]["margins_fp32"]):
            if margin < 0.8:
                break
            assert ids[i] == reference[name]["greedy_fp32"][i], (name, i)


def test_chat_goes_through_the_template(server):
    prompts = json.loads((ROOT / "tests/data/reference/prompts.json").read_text())
    message = pb.GenerateRequest(
        chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="What is gravity?")]))
    message.stopping.max_tokens = 1
    events = list(server.inference.Generate(message))
    assert events[0].accepted.prompt_tokens == len(prompts["short"]["ids"])


def test_tokenize_and_detokenize_round_trip(server):
    for text in ("", "Hello, world!", "naïve café 東京 🙂", "<|im_start|>system"):
        ids = server.inference.Tokenize(pb.TokenizeRequest(text=text)).token_ids
        assert server.inference.Detokenize(pb.DetokenizeRequest(token_ids=ids)).text == text
    assert len(ids) > 3  # a special token's name in text is ordinary text


def test_seeded_sampling_is_reproducible_and_seeds_differ(server):
    message = request(max_tokens=20)
    message.sampling.temperature = 1.0
    message.sampling.seed = 7
    first = server.inference.GenerateUnary(message).text
    assert server.inference.GenerateUnary(message).text == first
    message.sampling.seed = 8
    assert server.inference.GenerateUnary(message).text != first


def test_stop_string_ends_the_text_before_it(server):
    whole = server.inference.GenerateUnary(request(max_tokens=40)).text
    stop = whole[20:26]
    message = request(max_tokens=40)
    message.stopping.stop_strings.append(stop)
    answer = server.inference.GenerateUnary(message)
    assert answer.text == whole[:whole.index(stop)]
    assert answer.finished.finish_reason == pb.STOP
    assert answer.finished.stop_match == stop


def test_logprobs_belong_to_the_tokens(server):
    message = request(max_tokens=5)
    message.response.token_ids = True
    message.response.logprobs = 3
    answer = server.inference.GenerateUnary(message)
    assert len(answer.logprobs) == 5
    for token, entry in zip(answer.token_ids, answer.logprobs):
        assert entry.chosen.token_id == token == entry.top[0].token_id  # greedy
        assert entry.chosen.logprob <= 0
        assert len(entry.top) == 3


def test_streams_at_once_equal_their_solo_runs(server):
    messages = []
    for i in range(64):
        message = request(long_text(16 + 8 * (i % 9)) + f" number {i}", max_tokens=6 + i % 7)
        message.response.token_ids = True
        message.sampling.temperature = 0.8 if i % 3 == 0 else 0
        message.sampling.seed = i
        messages.append(message)
    solo = [list(server.inference.GenerateUnary(m).token_ids) for m in messages]
    for streams in (4, 8, 64):
        with ThreadPoolExecutor(streams) as pool:
            together = list(pool.map(lambda m: collect(server.inference.Generate(m))[2],
                                     messages[:streams]))
        assert together == solo[:streams]
    server.wait_until(lambda: server.used_pages() == 0, "all pages free")


def test_pruning_report_and_usage(server):
    message = request(long_text(2600), max_tokens=4)
    message.pruning.mode = pb.PruningOptions.PROFILE
    message.response.pruning_report = True
    done = server.inference.GenerateUnary(message).finished
    stages = done.pruning.stages
    assert len(stages) >= 2
    kept = [s.retained_tokens for s in stages]
    assert kept == sorted(kept, reverse=True) and kept[0] < done.usage.prompt_tokens
    assert done.usage.pruned_tokens == done.usage.prompt_tokens - kept[-1]
    assert len(done.pruning.digest) == 16
    again = server.inference.GenerateUnary(message).finished
    assert again.pruning.digest == done.pruning.digest


def test_prefix_cache_reuses_the_beginning_and_changes_nothing(start):
    cached = start("--prefix_cache_bytes", "256MiB")
    document = long_text(1200)
    cold = cached.inference.GenerateUnary(request(document + " first question", 8))
    hit = cached.inference.GenerateUnary(request(document + " second question", 8))
    fresh = request(document + " second question", 8)
    fresh.bypass_prefix_cache = True
    assert cold.finished.usage.cached_tokens == 0
    assert hit.finished.usage.cached_tokens > 0.8 * hit.finished.usage.prompt_tokens
    assert hit.text == cached.inference.GenerateUnary(fresh).text
    assert cached.metric("prefix_cache_hits_total") == hit.finished.usage.cached_tokens


def test_info_load_health_and_reflection(server):
    info = server.control.GetModelInfo(cpb.GetModelInfoRequest())
    assert (info.num_layers, info.context_tokens, info.vocabulary_size) == (30, 8192, 49152)
    assert info.chat_template == "chatml" and info.profile
    assert server.control.GetServerInfo(cpb.GetServerInfoRequest()).isa
    load = server.control.GetLoad(cpb.GetLoadRequest())
    assert load.accepting and load.running_requests == 0
    health = health_pb2_grpc.HealthStub(server.channel)
    for name in ("", "sliminfer.v1.Inference", "sliminfer.v1.Control"):
        reply = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    names = ProtoReflectionDescriptorDatabase(server.channel).get_services()
    assert "sliminfer.v1.Inference" in names
    assert server.get("/healthz")[0] == 200 and server.get("/readyz")[0] == 200


def test_metrics_pass_promtool(server):
    page = server.get("/metrics")[1]
    assert "sliminfer_time_to_first_token_seconds_bucket" in page
    promtool = shutil.which("promtool")
    assert promtool, "promtool comes with Debian's prometheus package"
    check = subprocess.run([promtool, "check", "metrics"], input=page, text=True,
                           capture_output=True)
    assert check.returncode == 0, check.stdout + check.stderr
