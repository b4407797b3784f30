"""Requests that ask for nonsense, over real sockets: a clear answer, and the server goes on. The tables of every field
are in the unit tests."""

import json
import socket

import pytest

from skein_server import FIXTURES, MODEL, Reader, Server, expected, wait_for

RECORD = expected(MODEL)["prompts"][2]
COMPLETIONS = "/v1/completions"


@pytest.fixture(autouse=True)
def unharmed(server):
    yield
    assert server.tokens(RECORD["tokens"]) == RECORD["greedy"]["tokens"]
    server.assert_idle()


@pytest.mark.parametrize("fields,status,param", [
    ({"model": "gpt-7"}, 404, "model"),
    ({"model": 7}, 400, "model"),
    ({"prompt": ""}, 400, "prompt"),
    ({"prompt": []}, 400, "prompt"),
    ({"prompt": [[]]}, 400, "prompt"),
    ({"prompt": None}, 400, "prompt"),
    ({"prompt": {"a": 1}}, 400, "prompt"),
    ({"prompt": [1, "a"]}, 400, "prompt"),
    ({"prompt": [0.5]}, 400, "prompt"),
    ({"prompt": [-1]}, 400, "prompt"),
    ({"prompt": [333]}, 400, "prompt"),
    ({"prompt": [1 << 70]}, 400, "prompt"),
    ({"prompt": [5] * 2048}, 400, "prompt"),
    ({"prompt": "x " * 5000}, 400, "prompt"),
    ({"max_tokens": 2048}, 400, "max_tokens"),
    ({"max_tokens": -1}, 400, "max_tokens"),
    ({"max_tokens": 1e300}, 400, "max_tokens"),
    ({"n": 0}, 400, "n"),
    ({"n": 10**9}, 400, "n"),
    ({"temperature": -0.1}, 400, "temperature"),
    ({"temperature": 1e308}, 400, "temperature"),
    ({"top_p": 0}, 400, "top_p"),
    ({"logprobs": 21}, 400, "logprobs"),
    ({"stop": 17 * ["x"]}, 400, "stop"),
    ({"stop_token_ids": [333]}, 400, "stop_token_ids"),
    ({"logit_bias": {"333": 1}}, 400, "logit_bias"),
    ({"logit_bias": {"x": 1}}, 400, "logit_bias"),
    ({"seed": "x"}, 400, "seed"),
    ({"seed": 1 << 64}, 400, "seed"),
    ({"stream": "yes"}, 400, "stream"),
    ({"best_of": 3}, 400, "best_of"),
    ({"suffix": "x"}, 400, "suffix"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format"),
], ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "")
def test_a_field(server, fields, status, param):
    reply = server.post(COMPLETIONS, {"prompt": "x", "max_tokens": 1} | fields)
    assert (reply.status, reply.error["param"]) == (status, param)
    assert set(reply.error) == {"message", "type", "param", "code"} and reply.error["message"]


def test_unknown_harmless_fields_are_ignored(server):
    assert server.tokens(RECORD["tokens"], user="someone", a_field_of_the_future=[1]) == RECORD["greedy"]["tokens"]


@pytest.mark.parametrize("body", [
    b"", b"{", b"null", b"[]", b'{"prompt": "x"} x', b'{"prompt": "x", "temperature": NaN}',
    b'{"prompt": "x", "temperature": Infinity}', b'{"prompt": "x", "temperature": 1e999}',
    b'{"prompt": "\xff\xfe"}', b'{"prompt": "\\ud800"}', b'{"prompt": "x", "prompt": "y"}', b"\x00" * 100,
    b'{"prompt": ' + b"[" * 100_000, b'{"a":' * 1000 + b"1" + b"}" * 1000,
], ids=lambda body: repr(body)[:30])
def test_a_body_that_is_no_request(server, body):
    reply = server.post(COMPLETIONS, body)
    assert reply.status == 400 and reply.error["message"], reply.body


def test_a_body_too_large(server):
    assert server.post(COMPLETIONS, b'{"prompt": "' + b"x" * (9 << 20) + b'"}').status == 413


@pytest.mark.parametrize("messages", [None, [], "x", [1], [{}], [{"role": "user"}], [{"role": "user", "content": 5}],
                                      [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]])
def test_messages_that_are_none(server, messages):
    reply = server.post("/v1/chat/completions", {"messages": messages})
    assert reply.status == 400 and reply.error["param"].startswith("messages"), reply.body


def exchange(server, *pieces):
    """Sends bytes in pieces, each in a packet of its own where the kernel agrees; everything that comes back."""
    with socket.create_connection((server.host, server.port), timeout=60) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            raw.sendall(piece)
        answer = b""
        while part := raw.recv(1 << 16):
            answer += part
        return answer


def test_two_byte_pieces_and_two_byte_chunks(server):
    body = json.dumps({"prompt": RECORD["tokens"], "temperature": 0, "max_tokens": 16, "ignore_eos": True,
                       "return_token_ids": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
    whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks = b"".join(b"2\r\n" + body[i:i + 2] + b"\r\n" for i in range(0, len(body) - 1, 2))
    chunks += b"1\r\n" + body[-1:] + b"\r\n" if len(body) % 2 else b""
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    for request in (whole, chunked):
        answer = exchange(server, *(request[i:i + 2] for i in range(0, len(request), 2)))
        assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
        assert json.dumps(RECORD["greedy"]["tokens"]).replace(" ", "").encode() in answer


@pytest.mark.parametrize("text,status", [
    (b"nonsense\r\n\r\n", 400),
    (b"GET / HTTP/9.9\r\n\r\n", 505),
    (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 431),
    (b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * 5000 + b"\r\n", 431),
    (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400),
    (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", 413),
    (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
])
def test_a_head_that_is_no_request(server, text, status):
    answer = exchange(server, text)
    found = int(answer.split(b" ", 2)[1])
    assert found == status or (status == 413 and found == 400), answer[:200]


def test_queue_overflow(long_model):
    """Two may be held, one of them waiting; the third is told at once to come back later."""
    with Server(long_model, "--max-waiting-requests", 2, "--max-num-seqs", 1) as server:
        streams = [Reader(server.stream([5], max_tokens=90_000)) for _ in range(2)]
        wait_for(lambda: server.total("skein_requests_in_flight") == 2, "both are held")
        reply = server.post(COMPLETIONS, {"prompt": "x", "max_tokens": 2})
        assert reply.status == 429 and int(reply.headers["Retry-After"]) > 0 and reply.error["message"]
        wait_for(lambda: server.total("vllm:num_requests_waiting") == 1, "one waits")
        for stream in streams:
            stream.close()
        server.assert_idle()
        assert server.post(COMPLETIONS, {"prompt": "x", "max_tokens": 2}).status == 200
        server.stop()


def test_n_above_what_a_replica_runs():
    with Server(FIXTURES / MODEL, "--max-num-seqs", 2) as server:
        reply = server.post(COMPLETIONS, {"prompt": "x", "n": 3, "max_tokens": 2})
        assert reply.status == 400 and "max-num-seqs" in reply.error["message"]
        assert len(server.complete("x", n=2)["choices"]) == 2
        server.stop()
