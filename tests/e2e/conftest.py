"""Starts real servers on free ports and gives tests clients for them."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import grpc
import pytest
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The build folder under test; ctest names its own.
BUILD = pathlib.Path(os.environ.get("SLIM_BUILD_DIR", ROOT / "build"))
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"

_stubs = tempfile.mkdtemp(prefix="slim-stubs-")
assert protoc.main([
    "protoc", f"-I{ROOT / 'proto'}", f"--python_out={_stubs}", f"--grpc_python_out={_stubs}",
    "sliminfer/v1/inference.proto", "sliminfer/v1/control.proto",
]) == 0
sys.path.insert(0, _stubs)

from sliminfer.v1 import control_pb2_grpc, inference_pb2 as pb, inference_pb2_grpc  # noqa: E402


class Server:
    """A server process on free ports."""

    def __init__(self, *flags, model=MODEL, channel_credentials=None):
        self._work = tempfile.TemporaryDirectory(prefix="slim-e2e-")
        ports = pathlib.Path(self._work.name) / "ports"
        self.log_path = pathlib.Path(self._work.name) / "log"
        self.process = subprocess.Popen(
            [BUILD / "bin" / "sliminfer-server", "--model", model, "--listen", "127.0.0.1:0",
             "--http_listen", "127.0.0.1:0", "--port_file", ports, *flags],
            stderr=open(self.log_path, "w"))
        deadline = time.monotonic() + 120
        while not (ports.exists() and "http=" in ports.read_text()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(f"server did not start:\n{self.log_path.read_text()}")
            time.sleep(0.02)
        found = dict(line.split("=", 1) for line in ports.read_text().split())
        self.address, self.http = found["grpc"], found["http"]
        self.channel = (grpc.secure_channel(self.address, channel_credentials)
                        if channel_credentials else grpc.insecure_channel(self.address))
        self.inference = inference_pb2_grpc.InferenceStub(self.channel)
        self.control = control_pb2_grpc.ControlStub(self.channel)

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name, **labels):
        """Sum of a family's samples that carry these labels."""
        total = None
        for line in self.get("/metrics")[1].splitlines():
            match = re.match(r"(\w+)(?:\{(.*)\})? (\S+)$", line)
            if not match or match.group(1) != f"sliminfer_{name}":
                continue
            found = dict(re.findall(r'(\w+)="([^"]*)"', match.group(2) or ""))
            if all(found.get(k) == v for k, v in labels.items()):
                total = (total or 0) + float(match.group(3))
        return total

    def log(self):
        return self.log_path.read_text()

    def used_pages(self):
        return self.metric("kv_cache_blocks", tier="device", state="used")

    def wait_until(self, condition, what, seconds=90):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
            time.sleep(0.01)

    def stop(self):
        self.channel.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=60)
            finally:
                self.process.kill()
        self._work.cleanup()


@pytest.fixture(scope="session", autouse=True)
def needs_model():
    if not MODEL.exists():
        pytest.skip(f"no model at {MODEL}")


@pytest.fixture(scope="module")
def server():
    running = Server("--pruning", "off", "--prefix_cache_bytes", "0", "--max_running", "96",
                     "--max_queued_requests", "96", "--max_streams_per_connection", "200")
    yield running
    running.stop()


@pytest.fixture
def start():
    """Starts servers that are stopped after the test."""
    running = []

    def make(*flags, **options):
        running.append(Server(*flags, **options))
        return running[-1]
    yield make
    for server in running:
        server.stop()


def endless(**fields):
    """A request that goes on until somebody stops it, or the context ends."""
    message = request(max_tokens=8000, **fields)
    message.stopping.ignore_eos = True
    return message


def request(text="The sea was calm and the", max_tokens=16, **fields):
    """A greedy request for a raw text prompt."""
    message = pb.GenerateRequest(text=text, **fields)
    message.sampling.temperature = 0
    message.stopping.max_tokens = max_tokens
    return message


def long_text(words):
    return " ".join(f"line{i % 97} of the long log says nothing new" for i in range(words // 8))


def reason(error):
    return dict(error.trailing_metadata() or ()).get("x-reason")
