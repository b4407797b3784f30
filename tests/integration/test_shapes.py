"""The same answers from every shape of replica, alone and together with others."""

import concurrent.futures
import random

import pytest

from skein_server import FIXTURES, MODEL, Server, expected, streamed, wait_for

SHAPES = {"tp2": (2, 1, 1), "pp2": (1, 2, 1), "tp2 x pp2": (2, 2, 1), "tp3": (3, 1, 1), "pp3": (1, 3, 1),
          "two replicas": (1, 1, 2)}
THREADS = 32


def flags(tensor, pipeline, data):
    return ["--tensor-parallel-size", tensor, "--pipeline-parallel-size", pipeline, "--data-parallel-size", data]


def ask_together(server, requests):
    """Answers in order of requests, each a dict of fields; every other one streamed."""
    def ask(number):
        body = requests[number]
        if number % 2:
            with server.stream(**body) as stream:
                _, tokens, reason, error = streamed(stream)
                assert stream.done and error is None and reason == "length"
                return tokens
        return server.tokens(**body)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(ask, range(len(requests))))


def requests_of_all_kinds():
    """Prompts of the oracle and random ones, long and short, sampled and greedy, many more than threads."""
    draw = random.Random(4)
    requests = [{"prompt": record["tokens"], "max_tokens": 16} for record in expected(MODEL)["prompts"]]
    for number in range(60):
        prompt = [draw.randrange(3, 333) for _ in range(draw.choice((1, 5, 40, 300)))]
        requests.append({"prompt": prompt, "max_tokens": draw.choice((1, 10, 60)), "seed": number,
                         "temperature": draw.choice((0, 1.0))})
    draw.shuffle(requests)
    return requests


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_greedy_tokens_of_every_shape(shape):
    with Server(FIXTURES / MODEL, "--dtype", "float32", *flags(*shape)) as server:
        assert len(server.processes("rank")) == shape[0] * shape[1] * shape[2]
        for record in expected(MODEL)["prompts"]:
            assert server.tokens(record["tokens"]) == record["greedy"]["tokens"]
        server.assert_idle()
        server.stop()


def test_other_families_from_a_gguf_file_and_with_a_window():
    for name, path in [("gguf_qwen3", FIXTURES / "gguf_qwen3/model.gguf"), ("mistral_window", FIXTURES / "mistral_window")]:
        with Server(path, "--dtype", "float32", "--tensor-parallel-size", 2) as server:
            for record in expected(name)["prompts"]:
                assert server.tokens(record["tokens"]) == record["greedy"]["tokens"], name
            server.stop()


def test_alone_and_among_others_the_same(server):
    requests = requests_of_all_kinds()
    alone = [server.tokens(**request) for request in requests]
    assert ask_together(server, requests) == alone
    assert ask_together(server, requests[::-1]) == alone[::-1]


def steps(server):
    """By replica, as it last said."""
    return {key[1]: value for key, value in server.metrics().items() if key[0] == "skein_replica_steps_total"}


@pytest.mark.parametrize("shape", [(1, 2, 1), (2, 1, 2)], ids=["pp2", "two of tp2"])
def test_among_others_on_parallel_replicas(shape):
    requests = requests_of_all_kinds()
    with Server(FIXTURES / MODEL, "--dtype", "float32", *flags(*shape)) as server:
        alone = [server.tokens(**request) for request in requests]
        # One after the other they find the replicas equal, and take turns.
        wait_for(lambda: all(count > 0 for count in steps(server).values()), "each replica took part")
        server.assert_idle()
        before = steps(server)
        assert ask_together(server, requests) == alone
        wait_for(lambda: all(now > before[replica] for replica, now in steps(server).items()), "each takes part again")
        assert len(before) == shape[2]
        server.assert_idle()
        server.stop()


def test_preempted_and_the_same():
    """A KV cache far smaller than what runs: sequences are put back and computed again."""
    requests = [{"prompt": [5 + number] * 40, "max_tokens": 200, "seed": number, "temperature": 1.0} for number in range(24)]
    small = ["--max-model-len", 256, "--kv-cache-memory-bytes", 2 << 20, "--no-prefix-caching"]
    with Server(FIXTURES / MODEL, "--dtype", "float32", *small) as server:
        alone = [server.tokens(**request) for request in requests]
        assert server.total("vllm:num_preemptions_total") == 0
        assert ask_together(server, requests) == alone
        server.assert_idle()
        assert server.total("vllm:num_preemptions_total") > 0
        server.stop()


def test_from_the_prefix_cache_the_same(server):
    prompt = [7 + number % 300 for number in range(500)]
    first = server.complete(prompt)
    again = server.complete(prompt)
    assert first["choices"][0]["token_ids"] == again["choices"][0]["token_ids"]
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= 480
    salted = server.complete(prompt, cache_salt="another user")
    assert salted["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
