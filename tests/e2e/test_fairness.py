"""One long prompt does not block everyone: the figures are printed, the bounds are generous, because
machines that run tests are shared. The exact figure is sliminfer-bench serve --fairness."""

import statistics
import threading
import time

import grpc
import pytest
from conftest import endless, long_text, pb, request


def long_prompt(server, tokens):
    ids = server.inference.Tokenize(pb.TokenizeRequest(text=long_text(9000))).token_ids
    message = pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids[:tokens]))
    message.sampling.temperature = 0
    message.stopping.max_tokens = 1
    message.response.progress = True
    return message


def first_token_seconds(server):
    begin = time.monotonic()
    server.inference.GenerateUnary(request("One line.", max_tokens=1))
    return time.monotonic() - begin


def test_short_requests_and_running_streams_during_an_8000_token_prefill(server):
    unloaded = statistics.median(first_token_seconds(server) for _ in range(7))
    token_times = []

    def read(stream):
        with pytest.raises(grpc.RpcError) as error:
            for event in stream:
                if event.WhichOneof("event") == "delta":
                    token_times.append(time.monotonic())
        endings.append(error.value.code())

    endings = []
    streaming = server.inference.Generate(endless())
    reader = threading.Thread(target=read, args=(streaming,))
    reader.start()
    server.wait_until(lambda: len(token_times) > 5, "the background stream has begun")

    begin = time.monotonic()
    marks, loaded = [], []
    for event in server.inference.Generate(long_prompt(server, 8000)):
        if event.WhichOneof("event") == "progress":
            marks.append(time.monotonic())
            if len(marks) % 4 == 2:
                loaded.append(first_token_seconds(server))
    end = time.monotonic()
    streaming.cancel()
    reader.join()
    assert endings == [grpc.StatusCode.CANCELLED]

    whole = event.finished.timing.prefill_seconds
    during = [t for t in token_times if begin <= t <= end]
    gaps = [b - a for a, b in zip(during, during[1:])]
    units = [b - a for a, b in zip(marks, marks[1:])]
    print(f"prefill of 8000 tokens {whole:.2f} s in {len(marks)} units, median unit "
          f"{statistics.median(units):.3f} s; short request: unloaded {unloaded:.3f} s, loaded "
          f"median {statistics.median(loaded):.3f} s, longest {max(loaded):.3f} s "
          f"({len(loaded)} requests); running stream: {len(during)} tokens meanwhile, longest gap "
          f"{max(gaps):.3f} s")
    assert event.finished.usage.prompt_tokens == 8000
    assert len(loaded) >= 3 and len(during) > len(marks) / 2
    assert max(loaded) < whole / 3
    assert max(gaps) < whole / 3
    server.wait_until(lambda: server.used_pages() == 0, "all pages free")


def test_two_long_prompts_share(server):
    """The one that came second does not wait for the first to end."""
    message = long_prompt(server, 2500)
    progress = {}

    def run(name):
        for event in server.inference.Generate(message):
            if event.WhichOneof("event") == "progress":
                progress.setdefault(name, []).append(time.monotonic())

    threads = [threading.Thread(target=run, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress["second"][0] < progress["first"][-1]
    assert progress["first"][0] < progress["second"][-1]
