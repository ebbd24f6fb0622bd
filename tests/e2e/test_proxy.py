"""Through the reference proxy, haproxy with deploy/haproxy/haproxy.cfg: streams, balance, a lost server."""

import os
import pathlib
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from conftest import ROOT, endless, request
from sliminfer.v1 import inference_pb2_grpc

HAPROXY = pathlib.Path("/usr/sbin/haproxy")  # not on the path of ordinary users
CONFIG = ROOT / "deploy" / "haproxy" / "haproxy.cfg"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Proxy:
    """The reference configuration in front of some servers."""

    def __init__(self, servers, folder):
        assert HAPROXY.exists(), "Debian's haproxy package"
        port = free_port()
        text = CONFIG.read_text()
        first = [line for line in text.splitlines() if line.strip().startswith("server one ")]
        assert len(first) == 1
        # More servers are more lines like the first.
        protocols = first[0].rsplit('"', 1)[1]
        lines = [f"  server s{i} {s.address} port {s.http.rsplit(':', 1)[1]}{protocols}"
                 for i, s in enumerate(servers)]
        config = folder / "haproxy.cfg"
        config.write_text(text.replace(first[0], "\n".join(lines)))
        self.process = subprocess.Popen(
            [HAPROXY, "-db", "-f", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "SLIMINFER_PROXY_BIND": f"127.0.0.1:{port}"})
        # Retries of the library would hide what the proxy does.
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_retries", 0)])
        self.inference = inference_pb2_grpc.InferenceStub(self.channel)
        try:
            grpc.channel_ready_future(self.channel).result(timeout=60)
        except grpc.FutureTimeoutError:
            self.stop()
            raise

    def stop(self):
        self.channel.close()
        self.process.terminate()
        self.process.wait(timeout=60)


@pytest.fixture
def pair(start, tmp_path):
    servers = [start("--pruning", "off", "--prefix_cache_bytes", "0", "--threads", "1",
                     "--drain_timeout", "5m") for _ in range(2)]
    proxy = Proxy(servers, tmp_path)
    yield proxy, servers
    proxy.stop()


def finished(server):
    return server.metric("request_success_total") or 0


def test_streams_are_whole_and_both_servers_work(pair):
    proxy, servers = pair
    message = request(max_tokens=12)
    message.response.token_ids = True
    direct = list(servers[0].inference.GenerateUnary(message).token_ids)
    begin = [finished(s) for s in servers]

    def stream(_):
        return [i for e in proxy.inference.Generate(message) for i in e.delta.token_ids]

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(stream, range(24))) == [direct] * 24
    served = lambda: [finished(s) - b for s, b in zip(servers, begin)]
    servers[0].wait_until(lambda: sum(served()) == 24, "all are counted")
    assert min(served()) > 0, served()


def test_errors_and_their_metadata_pass(pair):
    proxy, _ = pair
    with pytest.raises(grpc.RpcError) as error:
        proxy.inference.GenerateUnary(request(max_tokens=0))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert dict(error.value.trailing_metadata())["x-reason"] == "BAD_FIELD"


def test_a_cancel_reaches_the_server(pair):
    proxy, servers = pair
    stream = proxy.inference.Generate(endless())
    servers[0].wait_until(lambda: any(s.used_pages() for s in servers), "one of them works")
    stream.cancel()
    for server in servers:
        server.wait_until(lambda: server.used_pages() == 0, "all pages free")


def test_a_draining_server_gets_nothing_new_and_loses_nothing(pair):
    proxy, servers = pair
    streams = [proxy.inference.Generate(request(max_tokens=60)) for _ in range(6)]
    for stream in streams:
        next(stream)
    servers[0].process.terminate()
    for stream in streams:
        assert list(stream)[-1].WhichOneof("event") == "finished"
    assert servers[0].process.wait(timeout=60) == 0
    answers_through(proxy)


def test_a_killed_server_is_left_out(pair):
    proxy, servers = pair
    servers[0].process.kill()
    servers[0].process.wait()
    answers_through(proxy)


def answers_through(proxy):
    """The proxy needs two failed checks, one a second, to notice; then every request is answered."""
    deadline = time.monotonic() + 120
    good = 0
    while good < 8:
        assert time.monotonic() < deadline, "the proxy still sends requests to the lost server"
        try:
            proxy.inference.GenerateUnary(request(max_tokens=2), timeout=60)
            good += 1
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            good = 0
