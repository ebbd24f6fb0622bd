"""Limits, refusals and the security surface: each row of the status table that a client can cause."""

import hashlib
import os
import re
import subprocess
import threading

import grpc
import pytest
from conftest import endless, long_text, pb, reason, request
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from sliminfer.v1 import control_pb2 as cpb
from sliminfer.v1 import inference_pb2_grpc

CODE = grpc.StatusCode


def refusal(call, *arguments, **options):
    """The error of a unary call, or of a stream read to its end."""
    with pytest.raises(grpc.RpcError) as error:
        answer = call(*arguments, **options)
        if hasattr(answer, "__next__"):
            list(answer)
    return error.value


def test_a_client_that_does_not_read_is_ended_after_the_write_stall_timeout(start):
    server = start("--write_stall_timeout", "1s", "--max_running", "8")
    slow = endless()
    slow.response.logprobs = 20
    channel = grpc.insecure_channel(server.address,
                                    options=[("grpc.http2.lookahead_bytes", 1024),
                                             ("grpc.http2.bdp_probe", 0)])
    stream = inference_pb2_grpc.InferenceStub(channel).Generate(slow)
    next(stream)  # and no more; the window that the library gives a stream is soon full
    cancelled = lambda: server.metric("request_cancellations_total", cause="slow_consumer")
    server.wait_until(lambda: cancelled() == 1, "the slow stream is ended")
    server.wait_until(lambda: server.used_pages() == 0, "all pages free")
    with pytest.raises(grpc.RpcError) as error:
        list(stream)
    assert error.value.code() == CODE.RESOURCE_EXHAUSTED
    assert reason(error.value) == "SLOW_CONSUMER"
    channel.close()
    assert server.inference.GenerateUnary(request(max_tokens=2)).text


def test_waiting_too_long_in_the_queue(start):
    server = start("--max_running", "1", "--max_queue_wait", "2s")
    running = server.inference.Generate(endless())
    next(running)
    error = refusal(server.inference.GenerateUnary, request())
    assert error.code() == CODE.RESOURCE_EXHAUSTED and reason(error) == "QUEUE_TIMEOUT"
    assert "retry-after-ms" in dict(error.trailing_metadata())
    rejected = lambda: server.metric("admission_rejections_total", reason="QUEUE_TIMEOUT")
    server.wait_until(lambda: rejected() == 1, "the refusal is counted")
    # A deadline that ends first is the client's own.
    error = refusal(server.inference.GenerateUnary, request(), timeout=0.2)
    assert error.code() == CODE.DEADLINE_EXCEEDED
    server.wait_until(lambda: server.metric("num_requests_waiting") == 0, "nobody waits")
    running.cancel()
    server.wait_until(lambda: server.used_pages() == 0, "all pages free")


def test_a_request_has_a_longest_time(start):
    server = start("--max_request_time", "1s")
    error = refusal(server.inference.GenerateUnary, endless())
    assert error.code() == CODE.DEADLINE_EXCEEDED
    server.wait_until(lambda: server.used_pages() == 0, "all pages free")


def test_what_never_fits_the_cache_is_refused_at_once(start):
    server = start("--kv_device_bytes", "32MiB", "--prefix_cache_bytes", "0", "--pruning", "off")
    error = refusal(server.inference.GenerateUnary, request(long_text(5400), max_tokens=1000))
    assert error.code() == CODE.INVALID_ARGUMENT and reason(error) == "EXCEEDS_CAPACITY"
    assert server.inference.GenerateUnary(request(max_tokens=2)).text


def test_requests_that_do_not_fit_together_take_turns(start):
    server = start("--kv_device_bytes", "32MiB", "--prefix_cache_bytes", "0", "--pruning", "off",
                   "--max_queue_wait", "10m")
    answers = []
    message = request(long_text(400), max_tokens=24)
    alone = server.inference.GenerateUnary(message).text
    threads = [threading.Thread(
        target=lambda: answers.append(server.inference.GenerateUnary(message).text))
        for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [alone] * 6
    server.wait_until(lambda: server.used_pages() == 0, "all pages free")


def test_one_peer_may_not_take_everything(start):
    server = start("--max_requests_per_peer", "2")
    streams = [server.inference.Generate(endless()) for _ in range(2)]
    for stream in streams:
        next(stream)
    error = refusal(server.inference.GenerateUnary, request())
    assert error.code() == CODE.RESOURCE_EXHAUSTED and reason(error) == "QUOTA"
    for stream in streams:
        stream.cancel()


def test_large_metadata_is_refused(server):
    error = refusal(server.inference.GenerateUnary, request(), metadata=[("x-big", "a" * 20_000)])
    assert error.code() == CODE.RESOURCE_EXHAUSTED

    def answered():
        try:
            return server.inference.GenerateUnary(request(max_tokens=2)).text
        except grpc.RpcError as refused:
            # The library closes the connection behind its answer: a call may still meet the old one.
            assert refused.code() == CODE.UNAVAILABLE
            return False
    server.wait_until(answered, "an answer on a new connection")


def test_text_that_is_not_utf8_is_refused_with_a_reason(server):
    call = server.channel.unary_unary("/sliminfer.v1.Inference/GenerateUnary")
    for raw in (b"\x1a\x02\xc3\x28", b"\xff\xff\xff\xff", b"\x1a\x7fshort"):
        error = refusal(call, raw)
        assert error.code() == CODE.INVALID_ARGUMENT and reason(error) == "BAD_MESSAGE", raw


def test_text_tools_refuse_what_they_cannot_do(server):
    error = refusal(server.inference.Detokenize, pb.DetokenizeRequest(token_ids=[1, 49152]))
    assert error.code() == CODE.INVALID_ARGUMENT and "token_ids" in error.details()
    error = refusal(server.inference.Tokenize, pb.TokenizeRequest(text="x" * (2**20 + 1)))
    assert error.code() == CODE.INVALID_ARGUMENT and "text" in error.details()
    for call, message in ((server.inference.Tokenize, pb.TokenizeRequest(model="other")),
                          (server.inference.Detokenize, pb.DetokenizeRequest(model="other")),
                          (server.control.GetModelInfo, cpb.GetModelInfoRequest(model="other"))):
        error = refusal(call, message)
        assert error.code() == CODE.NOT_FOUND and reason(error) == "MODEL"
    error = refusal(server.control.Abort, cpb.AbortRequest(request_ids=["x"] * 1025))
    assert error.code() == CODE.INVALID_ARGUMENT and reason(error) == "LIMIT_REQUEST_IDS"


TOKEN = "a-token-of-more-than-128-bits"


def test_every_method_wants_the_token_except_health(start, tmp_path):
    other = "another-token-known-by-its-hash"
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\nsha256:{hashlib.sha256(other.encode()).hexdigest()}\n")
    server = start("--auth_tokens_file", str(tokens))
    calls = [(server.inference.Generate, request()), (server.inference.GenerateUnary, request()),
             (server.inference.Tokenize, pb.TokenizeRequest(text="x")),
             (server.inference.Detokenize, pb.DetokenizeRequest(token_ids=[1])),
             (server.control.GetServerInfo, cpb.GetServerInfoRequest()),
             (server.control.GetModelInfo, cpb.GetModelInfoRequest()),
             (server.control.GetLoad, cpb.GetLoadRequest()),
             (server.control.Abort, cpb.AbortRequest(request_ids=["x"]))]
    wrong = [None, "Bearer wrong-token-of-the-right-length", f"Basic {TOKEN}", TOKEN, "Bearer "]
    for call, message in calls:
        for header in wrong:
            error = refusal(call, message, metadata=[("authorization", header)] if header else None)
            assert error.code() == CODE.UNAUTHENTICATED and reason(error) == "AUTH"
            assert TOKEN not in error.details()
        for good in (TOKEN, other):
            answer = call(message, metadata=[("authorization", f"Bearer {good}")])
            assert list(answer) if hasattr(answer, "__next__") else answer is not None
    health = health_pb2_grpc.HealthStub(server.channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == 1
    assert TOKEN not in server.log() and other not in server.log()


def make_certificate(folder, name, subject="/CN=localhost"):
    key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                    "-subj", subject, "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return key, certificate


def test_tls_and_client_certificates(start, tmp_path):
    key, certificate = make_certificate(tmp_path, "server")
    client_key, client_certificate = make_certificate(tmp_path, "client", "/CN=client")
    with_certificate = grpc.ssl_channel_credentials(
        certificate.read_bytes(), client_key.read_bytes(), client_certificate.read_bytes())
    server = start("--tls_cert", str(certificate), "--tls_key", str(key), "--tls_client_ca",
                   str(client_certificate), channel_credentials=with_certificate)
    assert server.inference.GenerateUnary(request(max_tokens=2)).text
    for channel in (grpc.insecure_channel(server.address), grpc.secure_channel(
            server.address, grpc.ssl_channel_credentials(certificate.read_bytes()))):
        error = refusal(inference_pb2_grpc.InferenceStub(channel).GenerateUnary, request(),
                        timeout=60)
        assert error.code() == CODE.UNAVAILABLE
        channel.close()


def test_reflection_can_be_turned_off(start):
    server = start("--reflection", "off")
    with pytest.raises(grpc.RpcError) as error:
        ProtoReflectionDescriptorDatabase(server.channel).get_services()
    assert error.value.code() == CODE.UNIMPLEMENTED


def listening_sockets(pid):
    """Local addresses that a process listens on, from the kernel's tables."""
    own = set()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            match = re.match(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        except FileNotFoundError:
            continue
        if match:
            own.add(match.group(1))
    found = []
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{table}") as lines:
            for line in list(lines)[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in own:
                    # An IPv4 address of a socket for both families is written as IPv6.
                    found.append(fields[1].replace("0000000000000000FFFF0000", ""))
    return found


def test_only_the_two_announced_ports_listen_and_on_loopback(server):
    loopback = "0100007F"
    expected = sorted(f"{loopback}:{int(a.rsplit(':', 1)[1]):04X}"
                      for a in (server.address, server.http))
    assert sorted(listening_sockets(server.process.pid)) == expected
    names = set(ProtoReflectionDescriptorDatabase(server.channel).get_services())
    assert names == {"sliminfer.v1.Inference", "sliminfer.v1.Control", "grpc.health.v1.Health",
                     "grpc.reflection.v1alpha.ServerReflection"}
    for path in ("/", "/config", "/metrics/../etc/passwd", "/debug"):
        assert server.get(path)[0] in (400, 404), path


def test_the_log_holds_no_prompts_and_no_control_characters(start):
    server = start()
    secret = "the password of the harbour master is kelp"
    server.inference.GenerateUnary(request(secret, max_tokens=2))
    refusal(server.inference.GenerateUnary, request(secret, max_tokens=0))
    bad = request()
    bad.request_id = "first\r\nlevel=error fake=\x1b[31mline"
    refusal(server.inference.GenerateUnary, bad)
    other = request()
    other.model = "no\nsuch\x1bmodel"
    refusal(server.inference.GenerateUnary, other)
    log = server.log()
    assert secret not in log and "harbour" not in log
    assert "\x1b" not in log and "\nlevel=error fake" not in log and "\nsuch" not in log
