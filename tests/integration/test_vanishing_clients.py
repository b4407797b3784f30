"""Clients that go away or never read: whatever they held is given back."""

import concurrent.futures
import json
import random
import socket
import struct

from skein_server import GREEDY, SANITIZED, Reader, Server, expected, wait_for, MODEL

CLIENTS = 1000
AT_ONCE = 50
RECORD = expected(MODEL)["prompts"][2]


def request_bytes(path, body):
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def vanish(server, number):
    """Asks for a long answer, reads some of it or nothing, and is gone, politely or by a reset."""
    draw = random.Random(number)
    body = {"prompt": [draw.randrange(3, 333) for _ in range(draw.choice((1, 30, 600)))], "stream": draw.random() < 0.8,
            "n": draw.choice((1, 1, 3)), "temperature": 1, "max_tokens": 7000, "ignore_eos": True}
    request = request_bytes("/v1/completions", body)
    with socket.create_connection((server.host, server.port), timeout=120) as client:
        stage = draw.choice(("half a request", "nothing read", "an event read", "much read"))
        if stage == "half a request":
            client.sendall(request[:len(request) // 2])
        else:
            client.sendall(request)
        if body["stream"] and stage.endswith("read") and stage != "nothing read":
            assert client.recv(1).startswith(b"H")
            for _ in range(20 if stage == "much read" else 1):
                client.recv(4096)
        if draw.random() < 0.5:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() resets


def resident_kib(server):
    return sum(process.memory_kib("Rss") for process in server.processes() if process.role in ("coordinator", "rank"))


def test_a_thousand_clients_that_vanish(long_model):
    settings = ["--dtype", "float32", "--max-model-len", 8000, "--max-num-seqs", 16, "--kv-cache-memory-bytes", 16 << 20]
    with Server(long_model, *settings) as server:
        def wave(first, last):
            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda number: vanish(server, number), range(first, last)))
            server.assert_idle()
            wait_for(lambda: server.total("skein_http_connections") == 1, "only this connection is open")

        wave(0, CLIENTS // 4)  # the cache and buffers fill
        before = resident_kib(server)
        wave(CLIENTS // 4, CLIENTS)
        assert SANITIZED or resident_kib(server) < before + (32 << 10), "memory grows with clients that come and go"
        assert server.tokens(RECORD["tokens"]) == RECORD["greedy"]["tokens"]
        assert len(server.tokens([7] * 100, n=8, max_tokens=300)) == 300
        server.assert_idle()
        server.stop()


def test_a_client_that_never_reads(long_model):
    """It is cut off when a bounded amount waits for it, and others notice nothing meanwhile."""
    with Server(long_model, "--dtype", "float32") as server:
        with socket.create_connection((server.host, server.port)) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            # With many words to a token, so that it does not take long.
            body = GREEDY | {"prompt": [5], "stream": True, "max_tokens": 90_000, "logprobs": 20}
            deaf.sendall(request_bytes("/v1/completions", body))
            wait_for(lambda: server.total("vllm:num_requests_running") == 1, "it runs")
            before = resident_kib(server)
            assert server.tokens(RECORD["tokens"]) == RECORD["greedy"]["tokens"]
            server.assert_idle(90)
            assert SANITIZED or resident_kib(server) < before + (64 << 10)
            wait_for(lambda: server.total("skein_http_refused_total") >= 1, "it is cut off", 90)
        assert server.tokens(RECORD["tokens"]) == RECORD["greedy"]["tokens"]
        server.stop()


def test_a_choice_that_ends_gives_back_its_own(long_model):
    """n choices share a prompt's blocks; the ones that go on keep theirs."""
    with Server(long_model, "--dtype", "float32") as server:
        reader = Reader(server.stream([9] * 100, n=4, max_tokens=300, temperature=1, seed=2))
        wait_for(lambda: reader.ended, "all four end")
        assert reader.done and len(reader.tokens) == 4 * 300
        server.assert_idle()
        server.stop()
