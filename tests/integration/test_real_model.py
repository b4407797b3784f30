"""SmolLM2, quantised, as the demo runs it."""

import json
import re

import pytest

from skein_server import ROOT, SLOWER, Server, Skein

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
SHAPES = {"one rank": [], "the demo's two replicas": ["--config", ROOT / "configs/demo.yaml", "--port", 0]}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_it_knows_the_capital_of_france(smollm2, shape):
    with Server(smollm2, *shape) as server:
        ask = {"messages": QUESTION, "temperature": 0, "max_tokens": 12}
        replies = [server.post("/v1/chat/completions", ask).json for _ in range(2)]
        for reply in replies:
            assert "Paris" in reply["choices"][0]["message"]["content"]
            assert reply["choices"][0]["finish_reason"] in ("stop", "length")
        server.assert_idle()
        server.stop()


def test_float32_agrees_with_transformers(smollm2):
    records = json.loads((ROOT / "tests/oracles/smollm2_expected.json").read_text())["prompts"]
    with Server(smollm2, "--dtype", "float32", "--max-model-len", 2048) as server:
        for record in records:
            assert server.tokens(record["tokens"], max_tokens=24) == record["greedy"]["tokens"]
        server.stop()


def test_chat_command(smollm2):
    with Skein("chat", smollm2, "--prompt", QUESTION[0]["content"], "--temperature", 0, "--max-tokens", 12,
               "--stats") as run:
        assert run.wait(60 * SLOWER) == 0, run.err
        assert "Paris" in run.out and re.search(r"TTFT \d+ ms", run.out)
        run.assert_nothing_left()
