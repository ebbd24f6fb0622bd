"""The scripts that a new user runs: quickstart and the model's download."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest
from conftest import MODEL, ROOT

QUICKSTART = ROOT / "deploy" / "quickstart.sh"
LIMIT = 180  # seconds; nothing takes this long, only a hang does


def children(session):
    """Processes of a session that are still there."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.fixture
def start():
    """Starts quickstart in a session of its own, with no way to the network's package index."""
    started = []

    def make(*arguments):
        # A shell cannot trap what it was started to ignore, as under nohup or behind an &.
        started.append(subprocess.Popen(
            ["env", "--default-signal=INT,HUP,TERM", QUICKSTART, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "PIP_NO_INDEX": "1"}))
        return started[-1]
    yield make
    for process in started:  # nothing is left, unless the test failed
        for pid in children(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def wait_for(process, text, seconds=120):
    seen = ""
    deadline = time.monotonic() + seconds
    while text not in seen:
        assert time.monotonic() < deadline, seen
        line = process.stdout.readline()
        assert line, seen
        seen += line
    return seen


def no_leftovers(process):
    deadline = time.monotonic() + 60
    while children(process.pid):
        assert time.monotonic() < deadline, children(process.pid)
        time.sleep(0.05)


def test_a_second_quickstart_reuses_everything_without_network(start):
    begin = time.monotonic()
    process = start("--once")
    output, _ = process.communicate(timeout=LIMIT)
    print(f"quickstart --once: {time.monotonic() - begin:.1f} s")
    assert process.returncode == 0, output
    assert "58213" in output, output
    assert "installing" not in output and "fetching" not in output
    assert re.search(r"gRPC +127\.0\.0\.1:\d+", output)
    assert re.search(r"metrics +http://127\.0\.0\.1:\d+/metrics", output)
    assert "no work to do" in (ROOT / "build/quickstart.log").read_text()
    no_leftovers(process)


@pytest.mark.parametrize("name,code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_every_way_out_takes_the_server_along(start, name, code):
    process = start()
    wait_for(process, "serving until Ctrl-C")
    if name == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    else:
        process.send_signal(getattr(signal, name))
    process.communicate(timeout=LIMIT)
    assert process.returncode == code
    no_leftovers(process)


def test_ctrl_c_lets_an_answer_that_is_under_way_finish(start):
    process = start("--", "--drain_timeout", "5m")
    output = wait_for(process, "serving until Ctrl-C")
    address = re.search(r"gRPC +(\S+)", output).group(1)
    client = subprocess.Popen(
        [ROOT / "build/bin/sliminfer", "--address", address, "generate", "--ignore_eos",
         "--max_tokens", "150", "The sea"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert client.stdout.read(1)
    os.killpg(process.pid, signal.SIGINT)
    _, log = client.communicate(timeout=LIMIT)
    assert client.returncode == 0, log
    assert b"150 new tokens" in log, log
    process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    no_leftovers(process)


def test_taken_ports_are_said_and_avoided(start):
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind(("127.0.0.1", 9464))
        holder.listen()
    except OSError:
        pass  # taken by somebody else, which serves as well
    process = start("--once")
    output, _ = process.communicate(timeout=LIMIT)
    holder.close()
    assert process.returncode == 0, output
    assert "is taken" in output
    assert "127.0.0.1:9464/metrics" not in output


def test_a_server_that_does_not_start_is_explained(start):
    process = start("--once", "--", "--threads", "-3")
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert "threads" in output and "did not become ready" in output
    no_leftovers(process)


def test_help_and_wrong_arguments():
    done = subprocess.run([QUICKSTART, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--once" in done.stdout
    done = subprocess.run([QUICKSTART, "--twice"], capture_output=True, text=True)
    assert done.returncode == 2 and "--twice" in done.stderr


@pytest.fixture
def fetch(tmp_path):
    """fetch_model.sh in a tree of its own, without a package index."""
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy/fetch_model.sh", tmp_path / "deploy")

    def run():
        return subprocess.run(
            [tmp_path / "deploy/fetch_model.sh"], capture_output=True, text=True,
            env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""})
    return run, tmp_path / "models" / MODEL.name


def test_fetch_without_network_says_so_and_leaves_nothing(fetch):
    run, target = fetch
    done = run()
    assert done.returncode == 1 and "network" in done.stderr
    assert list(target.parent.iterdir()) == []


def test_fetch_keeps_a_good_file_and_remembers_the_check(fetch):
    run, target = fetch
    target.parent.mkdir()
    shutil.copy(MODEL, target)
    assert run().returncode == 0
    stamp = target.with_name(target.name + ".checked")
    assert stamp.exists()
    assert run().returncode == 0


def test_fetch_does_not_trust_a_damaged_file(fetch):
    run, target = fetch
    target.parent.mkdir()
    shutil.copy(MODEL, target)
    assert run().returncode == 0
    with open(target, "r+b") as file:  # same size, other bytes, other time
        file.seek(50_000_000)
        file.write(b"\xff\x00\xff\x00")
    os.utime(target, (1, 1))
    done = run()
    assert done.returncode == 1 and "wrong SHA-256" in done.stderr
