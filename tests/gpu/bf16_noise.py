"""How far transformers' own bfloat16 leaves its float32 on the oracle models: python3 tests/gpu/bf16_noise.py

On a GPU machine with torch and transformers. tests/gpu/model_test.cpp takes its tolerance from what this prints.
"""

import json
import pathlib

import torch
from transformers import AutoModelForCausalLM

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "oracles/fixtures"
MODELS = ["llama_gqa", "llama_mha", "llama_mqa", "llama3_rope", "mistral_window", "qwen2_bias", "qwen3_qknorm"]


def differences(model, prompts):
    for prompt in prompts:
        ids = torch.tensor([prompt["tokens"]], device="cuda")
        with torch.no_grad():
            found = torch.log_softmax(model(ids).logits.float(), -1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        yield from (abs(a - b) for a, b in zip(found.tolist(), prompt["logprobs"], strict=True))


for name in MODELS:
    model = AutoModelForCausalLM.from_pretrained(FIXTURES / name, dtype=torch.bfloat16).to("cuda").eval()
    found = list(differences(model, json.loads((FIXTURES / name / "expected.json").read_text())["prompts"]))
    print(f"{name}: worst {max(found):.4f}, mean {sum(found) / len(found):.5f}, {len(found)} positions")
