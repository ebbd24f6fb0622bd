"""The live /metrics page: the families that were promised, dashboards that read them, counts that add up."""

import re
import shutil
import socket
import subprocess
import sys

import grpc
import pytest
from conftest import ROOT, Server, endless, long_text, request

sys.path.insert(0, str(ROOT / "tests" / "lint"))
import deployment  # noqa: E402

PROMISED = """
num_requests_running num_requests_waiting num_waiting_prompt_tokens kv_cache_usage_ratio kv_cache_blocks
cache_config_info build_info model_info host_kv_pool_bytes
requests_total request_success_total admission_rejections_total request_cancellations_total
prompt_tokens_total generation_tokens_total prefix_cache_queries_total prefix_cache_hits_total
prefill_tokens_total prompt_kv_bytes_total kv_transfer_bytes_total kv_transfer_seconds_total
kv_prefetch_blocks_total
time_to_first_token_seconds inter_token_latency_seconds e2e_request_latency_seconds
request_queue_time_seconds request_prefill_time_seconds request_decode_time_seconds request_prompt_tokens
request_generation_tokens iteration_tokens prefill_kept_ratio prune_step_seconds kv_stall_seconds
cancel_latency_seconds
""".split()
PROCESS = ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds",
           "process_start_time_seconds"]


def families(page):
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.M))


@pytest.fixture(scope="module")
def busy():
    """A server that has seen a bit of everything."""
    server = Server("--prefix_cache_bytes", "64MiB", "--pruning", "profile")
    pruned = server.inference.GenerateUnary(request(long_text(1800), max_tokens=3))
    assert pruned.finished.usage.pruned_tokens > 0
    server.inference.GenerateUnary(request(long_text(1800), max_tokens=3))
    with pytest.raises(grpc.RpcError):
        server.inference.GenerateUnary(request(max_tokens=0))
    stream = server.inference.Generate(endless())
    next(stream)
    stream.cancel()
    server.wait_until(lambda: server.metric("request_cancellations_total"), "a cancellation")
    yield server
    server.stop()


def test_every_promised_family_is_there(busy):
    found = families(busy.get("/metrics")[1])
    wanted = [f"sliminfer_{name}" for name in PROMISED] + PROCESS
    assert [name for name in wanted if name not in found] == []


def test_dashboards_and_alerts_read_what_exists(busy):
    page = busy.get("/metrics")[1]
    found = families(page)
    queries = list(deployment.dashboard_queries(ROOT)) + list(deployment.rule_queries(ROOT))
    assert len(queries) > 15
    for where, query in queries:
        for name in deployment.series_of(query):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name in found or found.get(base) == "histogram", (where, name)
            # Labels that the query selects by are labels of that series.
            for labels in re.findall(re.escape(name) + r"\{([^}]*)\}", query):
                for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels):
                    if label != "job" and re.search(rf"^{name}\{{", page, re.M):
                        assert re.search(rf"^{name}\{{[^}}]*\b{label}=", page, re.M), (where, label)


def test_promtool_passes_the_busy_page(busy):
    promtool = shutil.which("promtool")
    assert promtool, "promtool comes with Debian's prometheus package"
    check = subprocess.run([promtool, "check", "metrics"], input=busy.get("/metrics")[1],
                           text=True, capture_output=True)
    assert check.returncode == 0, check.stdout + check.stderr


def test_every_series_names_the_model_and_no_client(busy):
    for line in busy.get("/metrics")[1].splitlines():
        if line.startswith("sliminfer_"):
            assert 'model_name="' in line, line
            assert not re.search(r"\b(request_id|peer|client|user)=", line), line


def test_counts_add_up(start):
    server = start("--prefix_cache_bytes", "0", "--pruning", "off")
    total = sum(server.metric("kv_cache_blocks", tier="device", state=state)
                for state in ("used", "free", "cached", "in_flight"))
    prompts = tokens = 0
    for i in range(5):
        done = server.inference.GenerateUnary(request(long_text(40 + 8 * i), 3 + i)).finished
        prompts += done.usage.prompt_tokens
        tokens += done.usage.completion_tokens
    server.wait_until(lambda: server.metric("e2e_request_latency_seconds_count") == 5, "5 done")
    assert server.metric("prompt_tokens_total") == prompts
    assert server.metric("generation_tokens_total") == tokens
    assert server.metric("time_to_first_token_seconds_count") == 5
    assert server.metric("inter_token_latency_seconds_count") == tokens - 5
    assert server.metric("request_success_total") == 5
    server.wait_until(lambda: server.metric(
        "requests_total", grpc_method="sliminfer.v1.Inference/GenerateUnary",
        grpc_code="OK") == 5, "5 calls")
    assert server.metric("prefill_tokens_total", outcome="pruned") == 0
    assert server.metric("prompt_kv_bytes_total", kind="stored") == \
        server.metric("prompt_kv_bytes_total", kind="full_equivalent")
    with pytest.raises(grpc.RpcError):
        server.inference.GenerateUnary(request("", max_tokens=4))
    server.wait_until(lambda: server.metric("admission_rejections_total") == 1, "one refusal")
    server.wait_until(lambda: server.used_pages() == 0, "all pages free")
    assert sum(server.metric("kv_cache_blocks", tier="device", state=state)
               for state in ("used", "free", "cached", "in_flight")) == total


def test_pruning_is_visible(busy):
    kept = busy.metric("prefill_tokens_total", outcome="kept")
    pruned = busy.metric("prefill_tokens_total", outcome="pruned")
    assert 0 < kept and 0 < pruned
    assert busy.metric("prompt_kv_bytes_total", kind="stored") < \
        busy.metric("prompt_kv_bytes_total", kind="full_equivalent")
    assert busy.metric("prefill_kept_ratio_count") >= 2
    assert busy.metric("prefix_cache_hits_total") > 0


def test_slow_scrapers_do_not_keep_health_waiting(busy):
    host, port = busy.http.rsplit(":", 1)
    idle = [socket.create_connection((host, int(port))) for _ in range(6)]
    for connection in idle:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")  # and no end
    assert busy.get("/healthz")[0] == 200
    assert busy.inference.GenerateUnary(request(max_tokens=2)).text
    for connection in idle:
        connection.close()
