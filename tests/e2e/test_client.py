"""The programs that people run: the client's commands, its exit codes, the benchmark."""

import json
import os
import re
import signal
import socket
import subprocess

import pytest
from conftest import BUILD, MODEL, endless, long_text

CLIENT = BUILD / "bin" / "sliminfer"
BENCH = BUILD / "bin" / "sliminfer-bench"


@pytest.fixture
def run(server):
    def call(*arguments, stdin="", address=None):
        return subprocess.run([CLIENT, "--address", address or server.address, *arguments],
                              input=stdin, capture_output=True, text=True, timeout=180)
    return call


def test_generate_prints_the_answer_and_a_closing_line(run):
    done = run("generate", "The sea was calm and the", "--temperature", "0", "--max_tokens", "8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert re.search(r"prompt \+ 8 new tokens \| first token [\d.]+ s .*length\]", done.stderr)


def test_streamed_unary_file_and_standard_input_agree(run, tmp_path):
    text = "The sea was calm and the"
    file = tmp_path / "prompt.txt"
    file.write_text(text)
    options = ("--temperature", "0", "--max_tokens", "12")
    answers = {run("generate", text, *options).stdout,
               run("generate", text, "--unary", *options).stdout,
               run("generate", "--file", str(file), *options).stdout,
               run("generate", "--file", "-", *options, stdin=text).stdout,
               run("generate", *options, stdin=text).stdout}
    assert len(answers) == 1 and answers.pop().strip()


def test_generate_json_is_one_event_a_line(run):
    done = run("--json", "generate", "Hello", "--max_tokens", "4", "--token_ids", "--progress",
               "--logprobs", "2", "--seed", "1", "--ignore_eos")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert "accepted" in events[0] and "finished" in events[-1]
    deltas = [e["delta"] for e in events if "delta" in e]
    assert sum(len(d.get("token_ids", [])) for d in deltas) == 4
    assert all(len(p["top"]) == 2 for d in deltas for p in d.get("logprobs", []))
    assert any("progress" in e for e in events)


def test_chat_keeps_the_conversation(run):
    done = run("chat", "--temperature", "0", "--max_tokens", "6", stdin="Hello\n\nAnd you?\n/reset\nHi\n")
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.strip()]) >= 3


def test_explain_writes_a_page(run, tmp_path):
    page = tmp_path / "why.html"
    done = run("generate", long_text(1800), "--chat", "--max_tokens", "2", "--pruning", "profile",
               "--explain", str(page))
    assert done.returncode == 0, done.stderr
    assert "<html" in page.read_text().lower()


def test_tokenize(run):
    ids = run("tokenize", "Hello, world!").stdout.split()
    assert ids and all(i.isdigit() for i in ids)
    assert run("tokenize", "--count", "Hello, world!").stdout.strip() == str(len(ids))
    assert json.loads(run("--json", "tokenize", "Hello, world!").stdout)["token_ids"] == \
        [int(i) for i in ids]
    pieces = [json.loads(line.split("\t")[1])
              for line in run("tokenize", "--pieces", "Hello, world!").stdout.splitlines()]
    assert "".join(pieces) == "Hello, world!"


def test_info_load_and_health(run):
    info = run("info")
    assert info.returncode == 0 and "30 layers" in info.stdout and "kernels" in info.stdout
    both = json.loads(run("--json", "info").stdout)
    assert both["model"]["num_layers"] == 30 and both["server"]["backend"] == "cpu"
    assert "accepting             yes" in run("load").stdout
    assert json.loads(run("--json", "load").stdout)["accepting"] is True
    assert run("health").stdout == "SERVING\n"
    assert run("health", "sliminfer.v1.Inference").stdout == "SERVING\n"
    unknown = run("health", "no.such.Service")
    assert unknown.returncode == 10 + 5 and "NOT_FOUND" in unknown.stderr


def test_abort_stops_a_request(server, run):
    stream = server.inference.Generate(endless(request_id="from-elsewhere"))
    next(stream)
    done = run("abort", "from-elsewhere", "nobody")
    assert done.returncode == 0 and "told 1 of 2" in done.stdout
    server.wait_until(lambda: server.used_pages() == 0, "all pages free")


@pytest.mark.parametrize("arguments,code,expected", [
    ((), 2, "subcommand"),
    (("generate", "x", "--no_such_option"), 2, "no_such_option"),
    (("generate", "x", "--temperature", "warm"), 2, "temperature"),
    (("generate", "x", "--temperature", "3"), 13, "temperature"),
    (("generate", "x", "--pruning", "ratio:nan"), 2, "ratio"),
    (("generate", "x", "--logit_bias", "5"), 2, "ID=BIAS"),
    (("generate", "--file", "/no/such/file"), 1, "/no/such/file"),
    (("generate", "--file", "/tmp"), 1, "/tmp"),
    (("generate",), 1, "empty"),
    (("generate", "x", "--model", "other"), 15, "other"),
    (("--timeout", "0.05", "generate", "x", "--max_tokens", "8000", "--ignore_eos"), 14,
     "DEADLINE_EXCEEDED"),
    (("--token", "short", "abort"), 2, "ids"),
])
def test_errors_have_an_exit_code_and_a_text(run, arguments, code, expected):
    done = run(*arguments)
    assert done.returncode == code, (done.returncode, done.stderr)
    assert expected in done.stderr + done.stdout


def test_errors_as_json(run):
    done = run("--json", "generate", "x", "--top_p", "2")
    error = json.loads(done.stdout.splitlines()[-1])["error"]
    assert error["code"] == "INVALID_ARGUMENT" and error["reason"] == "BAD_FIELD"


def test_nobody_at_the_address(run):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    done = run("--timeout", "60", "generate", "x", address=address)
    assert done.returncode == 24  # not 14: it does not wait for the deadline
    assert address in done.stderr and "no server answers" in done.stderr


def test_ctrl_c_stops_the_request_on_the_server_too(server):
    client = subprocess.Popen(
        [CLIENT, "--address", server.address, "generate", "Once", "--max_tokens", "8000",
         "--ignore_eos"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert os.read(client.stdout.fileno(), 1)
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=60)
    assert client.returncode == 130
    server.wait_until(lambda: server.used_pages() == 0, "all pages free")


def test_a_closed_pipe_stops_the_request(server):
    client = subprocess.Popen(
        [CLIENT, "--address", server.address, "generate", "Once", "--max_tokens", "8000",
         "--ignore_eos"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert os.read(client.stdout.fileno(), 1)
    client.stdout.close()
    assert client.wait(timeout=60) != 0
    server.wait_until(lambda: server.used_pages() == 0, "all pages free")


def test_bench_serve(server, tmp_path):
    out = tmp_path / "serve.json"
    done = subprocess.run(
        [BENCH, "--json", str(out), "serve", "--address", server.address, "--rates", "4",
         "--duration", "2", "--mix", "32:1", "--max_new_tokens", "4"],
        capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["machine"]["isa"] and result["machine"]["threads"] > 0
    row, = result["rows"]
    assert row["completed"] > 0 and row["rejected"] == 0
    for name in ("rate", "ttft_seconds_p50", "ttft_seconds_p99", "inter_token_seconds_p50",
                 "inter_token_seconds_p99", "tokens_per_second"):
        assert row[name] > 0, name


def test_bench_prefill_and_decode(tmp_path):
    out = tmp_path / "rows.json"
    rooflines = []
    for arguments, fields in (
            (("prefill", "--lengths", "256", "--pruning", "off", "--runs", "1"),
             ("length", "ttft_seconds_median", "ttft_seconds_p95", "tokens_per_second")),
            (("decode", "--contexts", "16", "--streams", "1", "--max_new_tokens", "8"),
             ("context", "streams", "tokens_per_second", "seconds_per_token_median"))):
        done = subprocess.run([BENCH, "--json", str(out), *arguments, "--model", str(MODEL)],
                              capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        result = json.loads(out.read_text())
        row = result["rows"][0]
        assert all(row[name] > 0 for name in fields), row
        assert "roofline" in done.stdout
        rooflines.append(row["roofline"])
    prefill, decode = rooflines
    # 29 layers of 256 rows; the last one computes K and V of all rows and the rest of one.
    assert prefill["linear_operations"] == 29 * 256 * 7077888 + 256 * 442368 + 6635520
    assert prefill["attention_operations"] == 29 * 2 * 576 * 256 * 257 + 4 * 576 * 256
    # The measured steps see 19 to 26 tokens: 3 heads of 64 bytes and a scale, twice, or bf16.
    assert decode["kv_bytes"] in [22.5 * 30 * token for token in (2 * 3 * (64 + 4), 2 * 192 * 2)]
    assert 0.9e8 < decode["weight_bytes"] < 1.0e8
    if result["machine"]["isa"] != "portable":  # which has no probe
        assert prefill["peak_arithmetic"] == "int8"
        # A probe on a machine that runs other tests too may miss the peak.
        assert 0 < prefill["share_of_peak"] < 1.5
        assert 0 < decode["share_of_read"] < 1.5


@pytest.mark.parametrize("arguments", [
    (), ("prefill", "--lengths", "x"), ("serve", "--rates", "-1"), ("decode", "--no_such")])
def test_bench_refuses_a_wrong_command_line(arguments):
    assert subprocess.run([BENCH, *arguments], capture_output=True).returncode == 2
