"""The Hugging Face variants, chosen so that a fault of each kind has somewhere to show."""

import dataclasses

import torch
import transformers as hf


@dataclasses.dataclass
class Variant:
    name: str
    model: type
    config: object
    dtype: torch.dtype
    seed: int
    # Writes config.json with rope_theta, rope_scaling and torch_dtype, as published models have.
    old_config: bool = False
    # Bytes per shard; None writes a single model.safetensors.
    shard: str | None = None
    # Extra keys of generation_config.json and config.json.
    generation: dict = dataclasses.field(default_factory=dict)
    config_extra: dict = dataclasses.field(default_factory=dict)


def sizes(layers, hidden, heads, kv_heads, head_dim, intermediate, vocab):
    return dict(
        num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head_dim, intermediate_size=intermediate,
        vocab_size=vocab, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2,
    )


def rope(theta, **scaling):
    return {"rope_type": "default", "rope_theta": theta, **scaling}


LLAMA3_SCALING = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=256,
)


def all_variants():
    return [
        Variant(
            "llama_mha", hf.LlamaForCausalLM,
            hf.LlamaConfig(**sizes(4, 64, 4, 4, 16, 84, 320), rms_norm_eps=1e-5,
                           rope_parameters=rope(10000.0)),
            torch.float16, 11, old_config=True),
        Variant(
            "llama_gqa", hf.LlamaForCausalLM,
            hf.LlamaConfig(**sizes(4, 96, 6, 2, 16, 104, 333), rms_norm_eps=1e-5,
                           rope_parameters=rope(10000.0)),
            torch.bfloat16, 12, shard="300KB"),
        Variant(
            "llama_mqa", hf.LlamaForCausalLM,
            hf.LlamaConfig(**sizes(4, 64, 4, 1, 16, 70, 320), rms_norm_eps=1e-6,
                           rope_parameters=rope(10000.0)),
            torch.float32, 13),
        Variant(
            "llama3_rope", hf.LlamaForCausalLM,
            hf.LlamaConfig(**sizes(4, 64, 4, 2, 32, 88, 352), rms_norm_eps=1e-5,
                           rope_parameters=rope(50000.0, **LLAMA3_SCALING),
                           tie_word_embeddings=True),
            torch.bfloat16, 14, old_config=True),
        Variant(
            "mistral_window", hf.MistralForCausalLM,
            hf.MistralConfig(**sizes(4, 64, 4, 2, 16, 72, 400), rms_norm_eps=1e-5,
                             rope_parameters=rope(10000.0), sliding_window=64),
            torch.float16, 15, old_config=True),
        Variant(
            "qwen2_bias", hf.Qwen2ForCausalLM,
            hf.Qwen2Config(**sizes(4, 64, 4, 2, 16, 76, 416), rms_norm_eps=1e-6,
                           rope_parameters=rope(1000000.0), tie_word_embeddings=True),
            torch.bfloat16, 16, old_config=True,
            # A window that is switched off, as in Qwen's own files: it must be ignored.
            config_extra=dict(sliding_window=32, use_sliding_window=False, max_window_layers=4)),
        Variant(
            "qwen3_qknorm", hf.Qwen3ForCausalLM,
            hf.Qwen3Config(**sizes(4, 64, 4, 2, 32, 80, 320), rms_norm_eps=1e-6,
                           rope_parameters=rope(1000000.0), tie_word_embeddings=False),
            torch.bfloat16, 17,
            generation=dict(do_sample=True, temperature=0.6, top_k=20, top_p=0.95)),
        Variant(
            "llama_biases", hf.LlamaForCausalLM,
            hf.LlamaConfig(**sizes(4, 80, 5, 5, 16, 72, 330), rms_norm_eps=1e-3,
                           rope_parameters=rope(10000.0), attention_bias=True, mlp_bias=True),
            torch.float16, 18),
    ]
