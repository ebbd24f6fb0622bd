"""Start and stop: failures say why, SIGTERM drains, a second one ends at once."""

import signal
import socket
import subprocess
import threading
import time

import grpc
import pytest
from conftest import BUILD, MODEL, reason, request

SERVER = BUILD / "bin" / "sliminfer-server"


def endless(seconds_of_tokens=600):
    message = request(max_tokens=seconds_of_tokens)
    message.stopping.ignore_eos = True
    return message


def test_sigterm_lets_running_streams_finish(start):
    server = start("--drain_timeout", "5m")
    streams = [server.inference.Generate(endless(300)) for _ in range(8)]
    for stream in streams:
        next(stream)
    server.process.send_signal(signal.SIGTERM)
    server.wait_until(lambda: server.get("/readyz")[0] == 503 if server.process.poll() is None
                      else True, "not ready while draining")
    with pytest.raises(grpc.RpcError) as error:
        server.inference.GenerateUnary(request())
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    for stream in streams:
        events = list(stream)
        assert events[-1].finished.usage.completion_tokens == 300
    assert server.process.wait(timeout=60) == 0


def test_the_drain_ends_at_its_timeout(start):
    server = start("--drain_timeout", "1s")
    stream = server.inference.Generate(endless(8000))
    next(stream)
    begin = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.RpcError) as error:
        list(stream)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert reason(error.value) == "SHUTTING_DOWN"
    assert server.process.wait(timeout=60) == 0
    assert time.monotonic() - begin < 20  # the default is 25 s


def test_a_second_signal_ends_at_once(start):
    server = start("--drain_timeout", "10m")
    stream = server.inference.Generate(endless(8000))
    next(stream)
    server.process.send_signal(signal.SIGINT)
    server.wait_until(lambda: server.get("/readyz")[0] == 503, "draining")
    server.process.send_signal(signal.SIGINT)
    with pytest.raises(grpc.RpcError):  # long before its 8000 tokens
        list(stream)
    server.process.wait(timeout=60)


def run_server(*flags, model=MODEL):
    done = subprocess.run([SERVER, "--model", model, "--listen", "127.0.0.1:0", "--http_listen",
                           "127.0.0.1:0", *flags], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_start_failures_say_why(tmp_path):
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "cut.gguf").write_bytes(MODEL.read_bytes()[:1_000_000])
    (tmp_path / "text.gguf").write_text("this is no model")
    bad_config = tmp_path / "bad.toml"
    bad_config.write_text("no_such_option = 1\n")
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    cases = [
        (dict(model=tmp_path / "missing.gguf"), "missing.gguf"),
        (dict(model=tmp_path), str(tmp_path)),
        (dict(model=tmp_path / "empty.gguf"), "empty.gguf"),
        (dict(model=tmp_path / "cut.gguf"), "cut.gguf"),
        (dict(model=tmp_path / "text.gguf"), "text.gguf"),
        (("--no_such_flag",), "no_such_flag"),
        (("--threads", "-1"), "threads"),
        (("--threads", "nan"), "threads"),
        (("--pruning", "ratio:nan"), "pruning"),
        (("--config", bad_config), "no_such_option"),
        (("--listen", f"127.0.0.1:{port}"), str(port)),
        (("--http_listen", f"127.0.0.1:{port}"), str(port)),
        (("--listen", "0.0.0.0:0"), "wildcard"),
    ]
    for arguments, expected in cases:
        code, error = (run_server(**arguments) if isinstance(arguments, dict)
                       else run_server(*arguments))
        assert code != 0 and code > 0, (arguments, code, error)
        assert expected in error, (arguments, error)
    taken.close()


def test_backend_cuda_serves_or_says_what_is_missing():
    """Which of the two a machine gives is its GPU's affair; never the CPU in silence."""
    server = subprocess.Popen([SERVER, "--model", MODEL, "--listen", "127.0.0.1:0", "--http_listen",
                               "127.0.0.1:0", "--backend", "cuda"], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
    killer = threading.Timer(60, server.kill)
    killer.start()
    output = []
    for line in server.stdout:
        output.append(line)
        if " listening " in line:
            server.send_signal(signal.SIGTERM)
    code = server.wait(timeout=30)
    killer.cancel()
    text = "".join(output)
    assert "cuda" in text.lower(), text
    if " listening " in text:
        assert code == 0, text
        assert "backend=cuda" in text, text
    else:
        assert code > 0, text
        assert any(reason in text for reason in ("driver", "GPU", "module", "libcublasLt")), text


def test_print_config_and_version():
    done = subprocess.run([SERVER, "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip()
    done = subprocess.run([SERVER, "--model", MODEL, "--threads", "2", "--print_config"],
                          capture_output=True, text=True)
    assert done.returncode == 0 and "threads" in done.stdout
