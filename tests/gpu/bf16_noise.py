"""How far transformers' own bfloat16 leaves its float32: python3 tests/gpu/bf16_noise.py [SMOLLM2.gguf]

On a GPU machine with torch and transformers (and gguf for SmolLM2). tests/gpu/model_test.cpp takes its tolerances from
what this prints.
"""

import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM

ORACLES = pathlib.Path(__file__).resolve().parents[1] / "oracles"
MODELS = ["llama_gqa", "llama_mha", "llama_mqa", "llama3_rope", "mistral_window", "qwen2_bias", "qwen3_qknorm"]


def differences(model, prompts):
    for prompt in prompts:
        ids = torch.tensor([prompt["tokens"]], device="cuda")
        with torch.no_grad():
            found = torch.log_softmax(model(ids).logits.float(), -1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        yield from (abs(a - b) for a, b in zip(found.tolist(), prompt["logprobs"], strict=True))


def report(name, model, expected):
    found = list(differences(model.to("cuda", torch.bfloat16).eval(), json.loads(expected.read_text())["prompts"]))
    print(f"{name}: worst {max(found):.4f}, mean {sum(found) / len(found):.5f}, {len(found)} positions")


if len(sys.argv) > 1:
    sys.path.insert(0, str(ORACLES))
    import gguf_model

    report("SmolLM2", gguf_model.load(sys.argv[1]), ORACLES / "smollm2_expected.json")
else:
    for name in MODELS:
        folder = ORACLES / "fixtures" / name
        report(name, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16), folder / "expected.json")
