#!/usr/bin/env python3
"""Makes the tiny GGUF files, one folder each with model.gguf: make_gguf.py OUT [VARIANT...]"""

import dataclasses
import os
import shutil
import sys

import gguf
import torch
import transformers as hf
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize

import faults
import gguf_model
import make_checkpoints
import oracle
import variants
import vocabulary
import weights

LENGTHS = (1, 2, 7, 33, 130)
FILE_TYPE = {Type.F32: 0, Type.F16: 1, Type.Q4_0: 2, Type.Q4_1: 3, Type.Q8_0: 7, Type.BF16: 32}


@dataclasses.dataclass
class Variant:
    name: str
    arch: str
    config: object
    type: Type
    seed: int
    # Type of token_embd where it is another one, as in files that tie a good embedding.
    embedding: Type | None = None
    lengths: tuple = LENGTHS


def _config(config_class, sizes, theta, **more):
    return config_class(**sizes, rms_norm_eps=1e-5,
                        rope_parameters=variants.rope(theta), **more)


def all_variants():
    sizes = variants.sizes
    # Rows of every product are whole blocks of 32 for one, two, three and four ranks.
    blocks = sizes(4, 64, 4, 2, 32, 128, 272)
    llama = [
        Variant(f"gguf_llama_{kind.name.lower()}", "llama",
                _config(hf.LlamaConfig, sizes(4, 64, 4, 2, 16, 72, 272), 10000.0), kind, 31)
        for kind in (Type.F32, Type.F16, Type.BF16)
    ]
    quantized = [
        Variant(f"gguf_llama_{kind.name.lower()}", "llama",
                _config(hf.LlamaConfig, blocks, 10000.0), kind, 32)
        for kind in (Type.Q8_0, Type.Q4_0, Type.Q4_1)
    ]
    return llama + quantized + [
        Variant("gguf_llama3_rope", "llama",
                hf.LlamaConfig(**blocks, rms_norm_eps=1e-5, tie_word_embeddings=True,
                               rope_parameters=variants.rope(50000.0, **variants.LLAMA3_SCALING)),
                Type.Q4_1, 33, embedding=Type.Q8_0, lengths=(1, 33, 600)),
        Variant("gguf_qwen2", "qwen2",
                _config(hf.Qwen2Config, {**blocks, "head_dim": 16}, 1000000.0,
                        tie_word_embeddings=True),
                Type.Q8_0, 34),
        Variant("gguf_qwen3", "qwen3", _config(hf.Qwen3Config, blocks, 1000000.0),
                Type.Q4_0, 35, embedding=Type.Q8_0),
    ]


def add_metadata(writer, variant):
    config = variant.config
    writer.add_type("model")
    writer.add_name(f"Skein oracle {variant.name}")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = config.head_dim
    if head_dim * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if variant.arch == "llama":
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(head_dim)
    writer.add_file_type(FILE_TYPE[variant.type])
    if variant.type not in (Type.F32, Type.F16, Type.BF16):
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def add_tokenizer(writer, size):
    tokens, merges = vocabulary.learn(size)
    control = len(vocabulary.CONTROL)
    types = [gguf.TokenType.CONTROL] * control + [gguf.TokenType.NORMAL] * (size - control)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(vocabulary.BOS)
    writer.add_eos_token_id(vocabulary.EOS)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(vocabulary.CHAT_TEMPLATE)


def tensor_type(variant, name, values):
    if values.ndim == 1:
        return Type.F32
    if name == "token_embd.weight" and variant.embedding is not None:
        return variant.embedding
    return variant.type


def add_tensors(writer, variant, model):
    heads = {"q_proj": variant.config.num_attention_heads,
             "k_proj": variant.config.num_key_value_heads}
    if variant.config.rope_parameters["rope_type"] == "llama3":
        rotary = model.model.rotary_emb
        plain = rotary.compute_default_rope_parameters(variant.config)[0]
        writer.add_tensor("rope_freqs.weight", (plain / rotary.inv_freq).numpy())
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        part = name.split(".")[-2]
        if variant.arch == "llama" and part in heads:
            values = gguf_model.interleave_rows(values, heads[part])
        ours = gguf_model.to_gguf_name(name)
        kind = tensor_type(variant, ours, values)
        writer.add_tensor(ours, quantize(values, kind), raw_dtype=kind)


def save(variant, model, folder):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    path = os.path.join(folder, "model.gguf")
    writer = gguf.GGUFWriter(path, variant.arch)
    add_metadata(writer, variant)
    add_tokenizer(writer, variant.config.vocab_size)
    add_tensors(writer, variant, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def check_reading(variant, original, read):
    """The file read back is the model that was written, up to its quantisation."""
    limit = {Type.F32: 0.0, Type.F16: 1e-3, Type.BF16: 5e-3, Type.Q8_0: 0.02}.get(variant.type, 0.2)
    written = dict(original.named_parameters())
    for name, values in read.named_parameters():
        scale = written[name].abs().max()
        gap = (values - written[name]).abs().max() / scale
        assert gap <= limit, f"{variant.name}: {name} differs by {gap:.1e} of its largest value"
    gap = (read.model.rotary_emb.inv_freq / original.model.rotary_emb.inv_freq - 1).abs().max()
    assert gap < 1e-6, f"{variant.name}: rotary frequencies differ"


def check_against_transformers(variant, folder, read, prompts):
    """transformers' own GGUF reader reads the same model, where it knows the file's features."""
    if variant.arch == "qwen3" or variant.config.rope_parameters["rope_type"] != "default":
        return  # It ignores key_length and rope_freqs.weight.
    other = hf.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="model.gguf", dtype=torch.float32, attn_implementation="eager").eval()
    baseline = [oracle.all_logprobs(read, tokens) for tokens in prompts]
    gap = oracle.max_change(other, prompts, baseline)
    assert gap < 1e-4, f"{folder}: transformers' GGUF reader differs by {gap:.1e}"


def expect(variant, folder, model, path):
    read = gguf_model.load(path)
    check_reading(variant, model, read)
    prompts = [oracle.random_prompt(read, n, variant.seed * 10000 + n) for n in variant.lengths]
    likeliest = oracle.top_probability(read, prompts)
    assert likeliest >= 0.2, f"{variant.name}: the likeliest token has {likeliest:.2f} on average"
    check_against_transformers(variant, folder, read, prompts)
    return {
        "format": 1,
        "name": variant.name,
        "made_with": oracle.versions(),
        "weights": variant.type.name,
        "mean_top_probability": round(likeliest, 3),
        "float32_noise": oracle.float32_noise(read, prompts),
        "faults": faults.changes(read, prompts),
        "prompts": [oracle.record_prompt(read, p, 1 if len(p) <= 33 else 10) for p in prompts],
    }


def main(out, names):
    for variant in all_variants():
        if names and variant.name not in names:
            continue
        folder = os.path.join(out, variant.name)
        model_class = gguf_model.CLASSES[variant.arch][1]
        model = weights.make(variant.config, model_class, variant.seed)
        path = save(variant, model, folder)
        expected = expect(variant, folder, model, path)
        oracle.write_json(os.path.join(folder, "expected.json"), expected)
        make_checkpoints.report(variant.name, expected)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: make_gguf.py OUT [VARIANT...]")
    main(sys.argv[1], sys.argv[2:])
