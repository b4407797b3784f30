"""What every shape of a replica on GPUs answers over HTTP, against transformers in float32, or the CPU backend."""

import json

import pytest

from gpus import SMALL, agree_with_transformers, four_gpus, one_gpu, two_gpus
from skein_server import FIXTURES, Server


def serve_and_compare(name, *shape):
    with Server(FIXTURES / name, *SMALL, *shape) as server:
        agree_with_transformers(server, name)
        server.assert_idle()
        server.stop()


@one_gpu
@pytest.mark.parametrize("name", ["llama3_rope", "mistral_window"])
def test_one_gpu(name):
    serve_and_compare(name)


@two_gpus
@pytest.mark.parametrize("name", ["llama3_rope", "mistral_window"])
@pytest.mark.parametrize("flag", ["--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size"])
def test_two_gpus(flag, name):
    serve_and_compare(name, flag, 2)


@four_gpus
@pytest.mark.parametrize("name", ["llama3_rope", "mistral_window"])
@pytest.mark.parametrize("tensor, stages", [(2, 2), (4, 1), (1, 4)])
def test_four_gpus(tensor, stages, name):
    serve_and_compare(name, "--tensor-parallel-size", tensor, "--pipeline-parallel-size", stages)


@two_gpus
@pytest.mark.parametrize("degree", [2, pytest.param(4, marks=four_gpus)])
def test_values_of_sums_through_nccl(degree, tmp_path):
    """Rows of 200 bytes do not go from peer to peer: sums and logits are NCCL's."""
    config = json.loads((FIXTURES / "llama_mha" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 100, "head_dim": 16}))
    tokens = [7 * i % config["vocab_size"] for i in range(90)]
    found = []
    for shape in (["--device", "cpu", "--dtype", "float32", "--max-num-seqs", 8], [*SMALL, "--tensor-parallel-size", degree]):
        with Server(tmp_path, "--load-format", "dummy", *shape) as server:
            scored = server.complete(tokens, max_tokens=1, temperature=0, prompt_logprobs=3)["choices"][0]
            found.append(scored["prompt_logprobs"][1:])
            server.stop()
    expected, found = found
    differences = [abs(theirs[token]["logprob"] - entry["logprob"])
                   for ours, theirs in zip(expected, found) for token, entry in ours.items() if token in theirs]
    # Random weights tell tokens little apart: their log-probabilities are within a unit or so.
    assert len(differences) > 2 * len(tokens)
    assert max(differences) < 0.05 and sum(differences) / len(differences) < 0.01
