"""Cancelling frees everything and disturbs nobody; deadlines hold everywhere."""

import threading
import time

import grpc
import pytest
from conftest import long_text, reason, request
from sliminfer.v1 import control_pb2 as cpb


def test_cancel_in_prefill_returns_every_page(server):
    assert server.used_pages() == 0
    message = request(long_text(5400), max_tokens=4)
    message.response.progress = True
    stream = server.inference.Generate(message)
    for event in stream:
        if event.WhichOneof("event") == "progress":
            break
    assert server.used_pages() > 0
    before = server.metric("request_cancellations_total") or 0
    begin = time.monotonic()
    stream.cancel()
    server.wait_until(lambda: server.used_pages() == 0, "pages back after a cancel in prefill")
    print(f"pages back after {time.monotonic() - begin:.3f} s")
    server.wait_until(lambda: server.metric("request_cancellations_total") == before + 1, "count")


def test_cancel_in_decode_returns_every_page(server):
    message = request(max_tokens=4000)
    message.stopping.ignore_eos = True
    stream = server.inference.Generate(message)
    deltas = 0
    for event in stream:
        deltas += event.WhichOneof("event") == "delta"
        if deltas == 5:
            break
    stream.cancel()
    server.wait_until(lambda: server.used_pages() == 0, "pages back after a cancel in decode")
    tokens = server.metric("generation_tokens_total")
    time.sleep(0.3)
    assert server.metric("generation_tokens_total") == tokens
    assert server.control.GetLoad(cpb.GetLoadRequest()).running_requests == 0


def test_cancel_while_queued(start):
    narrow = start("--max_running", "1", "--max_queue_wait", "10m")
    running = request(max_tokens=4000)
    running.stopping.ignore_eos = True
    first = narrow.inference.Generate(running)
    assert next(first).WhichOneof("event") == "accepted"
    second = narrow.inference.Generate(request(max_tokens=4))
    assert next(second).accepted.queue_position == 0
    narrow.wait_until(lambda: narrow.metric("num_requests_waiting") == 1, "one waits")
    second.cancel()
    narrow.wait_until(lambda: narrow.metric("num_requests_waiting") == 0, "nobody waits")
    # The running stream is not touched.
    assert next(first) is not None
    first.cancel()
    narrow.wait_until(lambda: narrow.used_pages() == 0, "all pages free")


def test_cancelled_neighbours_change_no_answer(server):
    message = request(long_text(200), max_tokens=40)
    alone = server.inference.GenerateUnary(message).text
    stop = threading.Event()

    def disturb():
        while not stop.is_set():
            other = server.inference.Generate(request(long_text(160), max_tokens=50))
            next(other)
            other.cancel()
            time.sleep(0.01)  # or the cancels alone keep the machine busy

    before = server.metric("request_cancellations_total") or 0
    threads = [threading.Thread(target=disturb) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            assert server.inference.GenerateUnary(message).text == alone
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    server.wait_until(lambda: server.used_pages() == 0, "all pages free")
    server.wait_until(lambda: server.metric("request_cancellations_total") >= before + 4,
                      "there were cancels")


def test_abort_by_id(server):
    message = request(max_tokens=4000)
    message.stopping.ignore_eos = True
    message.request_id = "to-abort"
    stream = server.inference.Generate(message)
    next(stream)
    reply = server.control.Abort(cpb.AbortRequest(request_ids=["to-abort", "unknown"]))
    assert list(reply.aborted_request_ids) == ["to-abort"]
    with pytest.raises(grpc.RpcError) as error:
        for _ in stream:
            pass
    assert error.value.code() == grpc.StatusCode.CANCELLED
    server.wait_until(lambda: server.used_pages() == 0, "all pages free")


def test_a_duplicate_id_in_flight_is_refused(server):
    message = request(max_tokens=2000)
    message.stopping.ignore_eos = True
    message.request_id = "twice"
    stream = server.inference.Generate(message)
    next(stream)
    with pytest.raises(grpc.RpcError) as error:
        list(server.inference.Generate(message))
    assert error.value.code() == grpc.StatusCode.ALREADY_EXISTS
    stream.cancel()


@pytest.mark.parametrize("words,tokens,seconds", [(8, 4000, 0.5), (5400, 4, 0.4), (8, 4, 1e-6)])
def test_deadlines_in_decode_in_prefill_and_at_once(server, words, tokens, seconds):
    message = request(long_text(words), max_tokens=tokens)
    message.stopping.ignore_eos = True
    with pytest.raises(grpc.RpcError) as error:
        list(server.inference.Generate(message, timeout=seconds))
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    server.wait_until(lambda: server.used_pages() == 0, "all pages free")


def test_a_full_queue_says_when_to_come_back(start):
    narrow = start("--max_running", "1", "--max_queued_requests", "2", "--max_queue_wait", "10m")
    message = request(max_tokens=4000)
    message.stopping.ignore_eos = True
    streams = [narrow.inference.Generate(message)]
    # The first leaves the queue before the two that fill it come.
    narrow.wait_until(lambda: narrow.metric("num_requests_running") == 1, "one runs")
    streams += [narrow.inference.Generate(message) for _ in range(2)]
    for stream in streams:
        next(stream)
    with pytest.raises(grpc.RpcError) as error:
        list(narrow.inference.Generate(message))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason(error.value) == "OVERLOAD"
    assert int(dict(error.value.trailing_metadata())["retry-after-ms"]) > 0
    for stream in streams:
        stream.cancel()


def test_a_slow_reader_does_not_slow_the_others(server):
    slow = request(max_tokens=3000)
    slow.stopping.ignore_eos = True
    slow.response.logprobs = 20  # large messages fill the connection's window
    channel = grpc.insecure_channel(server.address, options=[("grpc.http2.lookahead_bytes", 1024)])
    from sliminfer.v1 import inference_pb2_grpc
    stream = inference_pb2_grpc.InferenceStub(channel).Generate(slow)
    next(stream)  # and no more reads
    for _ in range(5):
        answer = server.inference.GenerateUnary(request(max_tokens=16))
        assert answer.finished.usage.completion_tokens == 16
    stream.cancel()
    channel.close()
    server.wait_until(lambda: server.used_pages() == 0, "all pages free")
