"""What every shape of a replica on GPUs answers over HTTP, against transformers in float32."""

import pytest

from gpus import SMALL, four_gpus, one_gpu, two_gpus
from skein_server import FIXTURES, Server, expected

# As in tests/gpu/model_test.cpp, where they are justified.
WORST = 0.25
MEAN = 0.035


def agree_with_transformers(name, *shape):
    differences = []
    with Server(FIXTURES / name, *SMALL, *shape) as server:
        for record in expected(name)["prompts"]:
            greedy = record["greedy"]
            choice = server.complete(record["tokens"], logprobs=1, prompt_logprobs=0)["choices"][0]
            for token, entry, logprob in zip(record["tokens"][1:], choice["prompt_logprobs"][1:], record["logprobs"]):
                differences.append(abs(entry[str(token)]["logprob"] - logprob))
            for found, right, margin in zip(choice["token_ids"], greedy["tokens"], greedy["margins"]):
                assert found == right or margin < WORST
                if found != right:
                    break
        server.assert_idle()
        server.stop()
    assert max(differences) < WORST and sum(differences) / len(differences) < MEAN


@one_gpu
@pytest.mark.parametrize("name", ["llama3_rope", "mistral_window"])
def test_one_gpu(name):
    agree_with_transformers(name)


@two_gpus
@pytest.mark.parametrize("name", ["llama3_rope", "mistral_window"])
@pytest.mark.parametrize("flag", ["--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size"])
def test_two_gpus(flag, name):
    agree_with_transformers(name, flag, 2)


@four_gpus
@pytest.mark.parametrize("name", ["llama3_rope", "mistral_window"])
def test_four_gpus(name):
    agree_with_transformers(name, "--tensor-parallel-size", 2, "--pipeline-parallel-size", 2)
