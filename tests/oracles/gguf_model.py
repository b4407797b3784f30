"""Reads a GGUF file into a float32 transformers model: dequantised, Q/K row order undone."""

import gguf
import torch
import transformers as hf
from gguf.quants import dequantize

CLASSES = {
    "llama": (hf.LlamaConfig, hf.LlamaForCausalLM),
    "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM),
    "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM),
}

BLOCK_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER_PARTS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


def to_gguf_name(name):
    """model.layers.3.self_attn.q_proj.weight -> blk.3.attn_q.weight"""
    module, kind = name.rsplit(".", 1)
    for ours, theirs in OUTER_PARTS.items():
        if module == theirs:
            return f"{ours}.{kind}"
    layer, part = module.removeprefix("model.layers.").split(".", 1)
    ours = next(ours for ours, theirs in BLOCK_PARTS.items() if theirs == part)
    return f"blk.{layer}.{ours}.{kind}"


def from_gguf_name(name):
    module, kind = name.rsplit(".", 1)
    if module in OUTER_PARTS:
        return f"{OUTER_PARTS[module]}.{kind}"
    _, layer, part = module.split(".", 2)
    return f"model.layers.{layer}.{BLOCK_PARTS[part]}.{kind}"


def interleave_rows(rows, heads):
    """Order of llama.cpp's architecture "llama": the two halves of each head, row by row."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def deinterleave_rows(rows, heads):
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def metadata(reader):
    return {key: field.contents() for key, field in reader.fields.items()}


def _config(meta, tied):
    arch = meta["general.architecture"]
    heads = meta[f"{arch}.attention.head_count"]
    hidden = meta[f"{arch}.embedding_length"]
    return CLASSES[arch][0](
        num_hidden_layers=meta[f"{arch}.block_count"],
        hidden_size=hidden,
        intermediate_size=meta[f"{arch}.feed_forward_length"],
        num_attention_heads=heads,
        num_key_value_heads=meta[f"{arch}.attention.head_count_kv"],
        head_dim=meta.get(f"{arch}.attention.key_length", hidden // heads),
        vocab_size=len(meta["tokenizer.ggml.tokens"]),
        max_position_embeddings=meta[f"{arch}.context_length"],
        # The file holds a float32; transformers would read the decimal number it stands for.
        rms_norm_eps=float(f"{meta[f'{arch}.attention.layer_norm_rms_epsilon']:.7g}"),
        rope_parameters={"rope_type": "default", "rope_theta": meta[f"{arch}.rope.freq_base"]},
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )


def _values(tensor, meta):
    """The tensor's values in transformers' order (gguf gives arrays outermost dimension first)."""
    values = dequantize(tensor.data, tensor.tensor_type)
    arch = meta["general.architecture"]
    part = tensor.name.split(".")[-2]
    if arch == "llama" and part in ("attn_q", "attn_k"):
        key = "head_count" if part == "attn_q" else "head_count_kv"
        values = deinterleave_rows(values, meta[f"{arch}.attention.{key}"])
    return torch.from_numpy(values.copy())


def load(path):
    reader = gguf.GGUFReader(path)
    meta = metadata(reader)
    tensors = {tensor.name: _values(tensor, meta) for tensor in reader.tensors}
    factors = tensors.pop("rope_freqs.weight", None)
    tied = "output.weight" not in tensors
    model = CLASSES[meta["general.architecture"]][1](_config(meta, tied)).float().eval()
    state = {from_gguf_name(name): values for name, values in tensors.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= ({"lm_head.weight"} if tied else set())
    if factors is not None:
        model.model.rotary_emb.inv_freq /= factors
    return model
