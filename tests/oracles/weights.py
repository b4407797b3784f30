"""Random weights that make a tiny model behave like a trained one where it matters to a test.

Attention is peaked (so positions matter), the residual stream is small (so the epsilon of the
norms matters), norm weights and biases are far from one and zero, and the output layer is scaled
until the likeliest token has the wanted probability.
"""

import torch

import oracle

RESIDUAL = 0.06
TOP_PROBABILITY = 0.3


def _spread(name, shape, tied):
    """Standard deviation of a random tensor, by its role in the model."""
    fan_in = shape[-1] ** 0.5
    if "embed_tokens" in name:
        # Tied and as large as the layers' outputs, it would make every token predict itself.
        return 0.3 * RESIDUAL if tied else RESIDUAL
    if name.endswith(("q_proj.bias", "k_proj.bias")):
        return 0.5
    if name.endswith(("o_proj.bias", "down_proj.bias")):
        return 0.5 * RESIDUAL
    if name.endswith(".bias"):
        return 0.4
    if "q_proj" in name or "k_proj" in name:
        return 1.0 / fan_in
    if "o_proj" in name:
        return 1.5 * RESIDUAL / fan_in
    if "down_proj" in name:
        return 2.0 * RESIDUAL / fan_in
    return 1.2 / fan_in


@torch.no_grad()
def randomize(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("norm.weight"):
            tensor.copy_(1.0 + 0.25 * noise)
        else:
            spread = _spread(name, tensor.shape, model.config.tie_word_embeddings)
            tensor.copy_(noise * spread)


@torch.no_grad()
def sharpen(model, seed):
    """Scales the output layer (the last norm where it is tied) to the wanted probability."""
    scaled = model.lm_head if not model.config.tie_word_embeddings else model.model.norm
    original = scaled.weight.clone()
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(model.config.vocab_size, (200,), generator=generator).tolist()
    low, high = 0.01, 1000.0
    for _ in range(30):
        middle = (low * high) ** 0.5
        scaled.weight.copy_(original * middle)
        if oracle.top_probability(model, [prompt]) < TOP_PROBABILITY:
            low = middle
        else:
            high = middle


def make(config, model_class, seed):
    """A float32 model of the class with random weights."""
    config._attn_implementation = "eager"
    model = model_class(config).float().eval()
    randomize(model, seed)
    sharpen(model, seed + 1)
    return model
