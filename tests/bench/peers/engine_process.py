"""One engine in a process of its own, and what the machine did meanwhile."""

import json
import os
import pathlib
import select
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")


class EngineError(Exception):
    """What an engine answered instead of a figure, or how it ended."""


def machine_ticks():
    """(busy, total) processor ticks of all cores since the machine started."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields) - idle, sum(fields)


class EngineProcess:
    def __init__(self, python, program, log, timeout_seconds):
        self._log = log
        self._timeout = timeout_seconds
        file, *arguments = program.split()
        environment = dict(os.environ, PYTHONPATH=str(HERE), PYTHONUNBUFFERED="1",
                           HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
        self._child = subprocess.Popen(
            [str(python), str(HERE / file), *arguments], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=log, env=environment, start_new_session=True)

    def ask(self, **request):
        """The answer to a request, with the share of the machine that others took meanwhile."""
        before, own_before = machine_ticks(), self._cpu_ticks()
        try:
            self._child.stdin.write((json.dumps(request) + "\n").encode())
            self._child.stdin.flush()
            readable, _, _ = select.select([self._child.stdout], [], [], self._timeout)
        except BrokenPipeError:
            readable = [self._child.stdout]
        if not readable:
            self.kill()
            raise EngineError(f"no answer within {self._timeout} s")
        line = self._child.stdout.readline()
        if not line:
            raise EngineError(f"ended with status {self._child.wait()}: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"])
        after, own_after = machine_ticks(), self._cpu_ticks()
        answer["machine_ticks"] = {"busy": after[0] - before[0], "total": after[1] - before[1],
                                   "own": own_after - own_before}
        return answer

    def _cpu_ticks(self):
        """Of the process and of its children that have ended."""
        stat = pathlib.Path(f"/proc/{self._child.pid}/stat").read_text(encoding="utf-8")
        return sum(int(field) for field in stat.rsplit(")", 1)[1].split()[11:15])

    def peak_memory_bytes(self):
        status = pathlib.Path(f"/proc/{self._child.pid}/status").read_text(encoding="utf-8")
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024

    def _last_words(self):
        self._log.flush()
        lines = pathlib.Path(self._log.name).read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "nothing was printed"

    def quit(self):
        try:
            self._child.stdin.write(b'{"op": "quit"}\n')
            self._child.stdin.close()
            self._child.wait(timeout=30)
            self._child.stdout.close()
        except (OSError, subprocess.TimeoutExpired):
            self.kill()

    def kill(self):
        self._child.kill()
        self._child.wait()
