#!/usr/bin/env python3
"""Makes the tiny Hugging Face checkpoints: make_checkpoints.py OUT [VARIANT...]"""

import json
import os
import shutil
import sys

import torch
import transformers

import faults
import oracle
import variants
import vocabulary
import weights

LENGTHS = (1, 2, 7, 33, 130, 1000)


def old_form(config):
    """The config with the keys that checkpoints written before transformers 5 have."""
    rope = config.pop("rope_parameters")
    config.pop("layer_types", None)
    if config["head_dim"] * config["num_attention_heads"] == config["hidden_size"]:
        del config["head_dim"]
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    return config


def save(variant, model, folder):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    model.to(variant.dtype)
    limits = {} if variant.shard is None else {"max_shard_size": variant.shard}
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=vocabulary.BOS, eos_token_id=vocabulary.EOS, **variant.generation)
    model.save_pretrained(folder, **limits)
    for entry in os.scandir(folder):
        os.chmod(entry.path, 0o644)
    path = os.path.join(folder, "config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    if variant.old_config:
        config = old_form(config)
    config.update(variant.config_extra)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
        file.write("\n")
    for name, value in vocabulary.hugging_face_files(config["vocab_size"]).items():
        oracle.write_json(os.path.join(folder, name), value)


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()


def check_tokenizer(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "The flock flies on.\nĝ 鳥 <|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def expect(variant, folder):
    """Everything that expected.json says of a checkpoint, from the saved files alone."""
    model = load(folder)
    check_tokenizer(folder)
    prompts = [oracle.random_prompt(model, n, variant.seed * 10000 + n) for n in LENGTHS]
    likeliest = oracle.top_probability(model, prompts)
    assert likeliest >= 0.2, f"{variant.name}: the likeliest token has {likeliest:.2f} on average"
    records = [oracle.record_prompt(model, p, 1 if len(p) <= 33 else 10) for p in prompts]
    return {
        "format": 1,
        "name": variant.name,
        "made_with": oracle.versions(),
        "weights": str(variant.dtype).removeprefix("torch."),
        "mean_top_probability": round(likeliest, 3),
        "float32_noise": oracle.float32_noise(model, prompts),
        "faults": faults.changes(model, prompts),
        "prompts": records,
    }


def report(name, expected):
    margins = [min(p["greedy"]["margins"]) for p in expected["prompts"]]
    print(f"{name}: top {expected['mean_top_probability']}, noise {expected['float32_noise']}, "
          f"least margin {min(margins):.3f}\n  faults {expected['faults']}", flush=True)


def main(out, names):
    for variant in variants.all_variants():
        if names and variant.name not in names:
            continue
        folder = os.path.join(out, variant.name)
        save(variant, weights.make(variant.config, variant.model, variant.seed), folder)
        expected = expect(variant, folder)
        oracle.write_json(os.path.join(folder, "expected.json"), expected)
        report(variant.name, expected)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: make_checkpoints.py OUT [VARIANT...]")
    main(sys.argv[1], sys.argv[2:])
