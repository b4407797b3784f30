"""`skein bench serve` against the tiny model's server, and against servers that misbehave."""

import contextlib
import http.server
import json
import signal
import threading

import pytest

from skein_server import MODEL, READY_S, Server, Skein, FIXTURES

PERCENTILES = ["mean", "p50", "p90", "p95", "p99", "max"]


def bench(url, *flags, status=0):
    """The JSON object, and what standard error said."""
    with Skein("bench", "serve", "--url", url, "--json", *flags) as skein:
        assert skein.wait(READY_S) == status, skein.err
        return json.loads(skein.out), skein.messages()


def total(server, name):
    return server.total(f"vllm:{name}_total")


def test_counts_add_up_with_the_server(server):
    before = {name: total(server, name) for name in ("prompt_tokens", "generation_tokens")}
    result, _ = bench(server.url, "--num-prompts", 40, "--input-len", "16:48", "--output-len", "4:24",
                      "--request-rate", 200, "--seed", 5)
    assert result["model"] == MODEL and result["seed"] == 5
    assert result["input_len"] == [16, 48] and result["output_len"] == [4, 24]
    assert result["requests_sent"] == result["requests_completed"] == 40
    assert result["requests_failed"] == result["requests_short"] == 0 and result["errors"] == {}
    assert result["prompt_tokens"] == total(server, "prompt_tokens") - before["prompt_tokens"]
    assert result["output_tokens"] == total(server, "generation_tokens") - before["generation_tokens"]
    assert 16 * 40 <= result["prompt_tokens"] <= 48 * 40 and 4 * 40 <= result["output_tokens"] <= 24 * 40

    # A first event may carry several tokens, which have no time between them.
    assert 0 < result["itl_ms"]["count"] <= result["output_tokens"] - 40
    for name in ("ttft_ms", "e2e_ms", "tpot_ms", "itl_ms"):
        figures = result[name]
        assert figures["count"] == 40 or name == "itl_ms"
        assert 0 <= figures["p50"] <= figures["p90"] <= figures["p95"] <= figures["p99"] <= figures["max"]
        assert set(figures) == {*PERCENTILES, "count"}
    assert result["ttft_ms"]["max"] <= result["e2e_ms"]["max"]

    seconds = result["duration_seconds"]
    assert result["requests_per_second"] == pytest.approx(40 / seconds)
    assert result["output_tokens_per_second"] == pytest.approx(result["output_tokens"] / seconds)
    both = result["prompt_tokens"] + result["output_tokens"]
    assert result["total_tokens_per_second"] == pytest.approx(both / seconds)
    generator = result["generator"]
    assert generator["lag_ms"]["count"] == 40 and generator["held_ms"]["max"] == 0
    assert 0 < generator["request_rate_sent"] <= 210  # the last arrival is where 200 a second puts it, or late


def test_lengths_follow_from_the_seed_alone(server):
    flags = ("--num-prompts", 12, "--input-len", "8:64", "--output-len", "2:16")
    one, _ = bench(server.url, *flags, "--seed", 3)
    same, _ = bench(server.url, *flags, "--seed", 3, "--max-concurrency", 2)
    other, _ = bench(server.url, *flags, "--seed", 4)
    totals = [(r["prompt_tokens"], r["output_tokens"]) for r in (one, same, other)]
    assert totals[0] == totals[1] != totals[2]


def test_concurrency_is_bounded(server):
    result, _ = bench(server.url, "--num-prompts", 30, "--max-concurrency", 3, "--input-len", 16, "--output-len", 8)
    assert result["generator"]["concurrency_peak"] == 3
    assert result["request_rate"] == "inf" and result["max_concurrency"] == 3
    assert result["generator"]["held_ms"]["max"] > 0


def test_several_hundred_streams_at_once(server):
    result, _ = bench(server.url, "--num-prompts", 600, "--input-len", 8, "--output-len", 8)
    assert result["requests_completed"] == 600 and result["output_tokens"] == 600 * 8


def test_goodput(server):
    flags = ("--num-prompts", 10, "--input-len", 8, "--output-len", 8)
    result, _ = bench(server.url, *flags, "--goodput", "ttft:100000,itl:100000,e2e:100000")
    assert result["goodput"]["requests"] == 10 and result["goodput"]["share"] == 1
    assert result["goodput"]["requests_per_second"] == pytest.approx(result["requests_per_second"])
    result, _ = bench(server.url, *flags, "--goodput", "ttft:100000,e2e:0.001")
    assert result["requests_completed"] == 10 and result["goodput"]["requests"] == 0
    assert result["goodput"]["itl_ms"] is None
    result, _ = bench(server.url, *flags)
    assert result["goodput"] is None


@pytest.mark.parametrize("flags", [("--endpoint", "/v1/chat/completions"), ("--count-by", "usage"),
                                   ("--endpoint", "/v1/chat/completions", "--count-by", "events")], ids=" ".join)
def test_other_ways_to_ask(server, flags):
    # So many tokens do not all come in one event, however busy the machine is.
    result, _ = bench(server.url, "--num-prompts", 5, "--input-len", 20, "--output-len", 200, *flags)
    assert result["requests_completed"] == 5 and result["output_tokens"] == 1000
    assert 0 < result["itl_ms"]["count"] <= 995


def test_what_it_prints(server):
    with Skein("bench", "serve", "--url", server.url, "--num-prompts", 5, "--input-len", 8, "--output-len", 4,
               "--request-rate", 100, "--goodput", "ttft:100000") as skein:
        assert skein.wait(READY_S) == 0
        for words in ("5 completed, 0 failed", "40 in, 20 out", "time to first token", "inter-token", "end to end",
                      "5 of 5 requests (100.0 %)", "asked for 100.00 requests/s, sent "):
            assert words in skein.out


def test_a_key_is_sent(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("the-right-key\n")
    keys.chmod(0o600)
    with Server(FIXTURES / MODEL, "--api-key-file", keys) as server:
        flags = ("--num-prompts", 2, "--input-len", 8, "--output-len", 2)
        result, _ = bench(server.url, *flags, "--api-key-file", keys)
        assert result["requests_completed"] == 2
        result, messages = bench(server.url, *flags, "--model", MODEL, status=1)
        assert result["errors"]["http_401"]["count"] == 2 and len(messages) == 1
        server.stop()


# ---- what goes wrong

@pytest.mark.parametrize("flags", [(), ("--model", "x")])
def test_server_that_is_not_there(flags):
    with Skein("bench", "serve", "--url", "http://127.0.0.1:1", *flags) as skein:
        assert skein.wait() == 1 and skein.out == ""
        assert skein.messages() == ["skein: no answer from 127.0.0.1:1: Connection refused"]


@pytest.mark.parametrize("flags, words", [
    ((), "--url"), (("--url", "here"), "http://host:port"), (("--url", "http://a:1", "--request-rate", 0), "--request-rate"),
    (("--url", "http://a:1", "--input-len", "9:3"), "--input-len"), (("--url", "http://a:1", "--goodput", "ttf:3"), "--goodput"),
    (("--url", "http://a:1", "more"), "usage")])
def test_arguments_that_make_no_sense(flags, words):
    with Skein("bench", "serve", *flags) as skein:
        assert skein.wait() == 2
        assert len(skein.messages()) == 1 and words in skein.messages()[0]


def test_benches_have_names():
    with Skein("bench", "serv") as skein:
        assert skein.wait() == 2 and "did you mean serve?" in skein.err
    with Skein("bench", "serve", "--help") as skein:
        assert skein.wait() == 0 and "--goodput" in skein.out and "--tensor-parallel-size" not in skein.out


def test_requests_that_the_server_refuses(server):
    result, messages = bench(server.url, "--num-prompts", 3, "--input-len", 100000, status=1)
    assert result["errors"]["http_400"]["count"] == result["requests_failed"] == 3
    assert result["ttft_ms"] is None
    assert len(messages) == 1 and "context" in messages[0]


def event(text):
    return b"data: " + json.dumps({"choices": [{"text": text, "token_ids": [1]}]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
# What each sends behind its headers, and the kind of error that it counts as.
MISBEHAVIOURS = {
    "cut": event("a"),
    "malformed": event("a") + b"data: {no json\n\n" + DONE,
    "error_event": event("a") + b'data: {"error": {"message": "a rank was lost"}}\n\n',
    "empty": DONE,
}


class Misbehaving(http.server.BaseHTTPRequestHandler):
    """Answers every completion in the way that its server's `answer` says."""

    def do_GET(self):
        body = json.dumps({"data": [{"id": "fake"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", len(body))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.answer(self)

    def stream(self, body, content_type="text/event-stream"):
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def misbehaving(answer):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving) as fake:
        fake.answer = answer
        thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{fake.server_port}"
        finally:
            fake.shutdown()
            thread.join()


@pytest.mark.parametrize("kind", MISBEHAVIOURS)
def test_streams_that_go_wrong(kind):
    with misbehaving(lambda request: request.stream(MISBEHAVIOURS[kind])) as url:
        result, messages = bench(url, "--num-prompts", 4, status=1)
    assert {name: error["count"] for name, error in result["errors"].items()} == {kind: 4}
    assert result["requests_failed"] == 4 and result["requests_completed"] == 0
    assert messages == ["skein: no request completed: " + result["errors"][kind]["example"]]


def test_an_answer_that_is_no_stream():
    with misbehaving(lambda request: request.stream(b"<html>", "text/html")) as url:
        result, _ = bench(url, "--num-prompts", 1, status=1)
    assert "text/html where an event stream was asked for" in result["errors"]["malformed"]["example"]


def test_refusals_are_counted_and_the_others_measured():
    turns = iter(range(1000))

    def answer(request):
        turn = next(turns)
        if turn % 2 == 0:
            return request.stream(event("a") + event("b") + DONE)
        request.send_response(429 if turn % 4 == 1 else 503)
        request.send_header("Retry-After", 7)
        request.send_header("Content-Length", 0)
        request.end_headers()

    with misbehaving(answer) as url:
        result, messages = bench(url, "--num-prompts", 20, "--max-concurrency", 1, "--goodput", "ttft:100000")
    assert {name: error["count"] for name, error in result["errors"].items()} == {"http_429": 5, "http_503": 5}
    assert result["retry_after_answers"] == 10 and result["retry_after_seconds_max"] == 7
    assert result["requests_completed"] == 10 and result["output_tokens"] == 20
    assert result["requests_short"] == 10  # 128 tokens were asked for
    assert result["goodput"]["share"] == 0.5  # of all that were sent
    assert messages == []


def test_an_interrupt_ends_it_with_what_was_measured():
    asked, go_on = threading.Event(), threading.Event()
    turns = iter(range(1000))

    def answer(request):
        if next(turns) < 3:
            return request.stream(event("a") + DONE)
        asked.set()
        go_on.wait(READY_S)

    with misbehaving(answer) as url, Skein("bench", "serve", "--url", url, "--json", "--max-concurrency", 1) as skein:
        assert asked.wait(READY_S)
        skein.process.send_signal(signal.SIGINT)
        assert skein.wait() == 1
        go_on.set()
        result = json.loads(skein.out)
        assert result["interrupted"] is True and result["requests_completed"] == 3
        assert "interrupted" in skein.messages()[0]
