"""Runs a causal language model of transformers in float32 and records what it expects."""

import contextlib
import json

import torch
import transformers

GREEDY_TOKENS = 16
TOP = 5
# A greedy step counts as reproducible only if the best token leads by more than this.
MIN_MARGIN = 0.02
# A continuation of fewer different tokens than this proves little.
MIN_DISTINCT = 4

torch.set_num_threads(2)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def rounded(values):
    return [float(f"{value:.7g}") for value in values]


@torch.no_grad()
def all_logprobs(model, tokens):
    """Log-probabilities (float64) after every prefix of tokens: shape [len(tokens), vocab]."""
    logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    return torch.log_softmax(logits.double(), dim=-1)


@torch.no_grad()
def greedy(model, tokens, count=GREEDY_TOKENS):
    """Greedy continuation that ignores end tokens: (tokens, logprobs, margins to the second)."""
    chosen, logprobs, margins = [], [], []
    cache = transformers.DynamicCache(config=model.config)
    step = torch.tensor([tokens])
    for _ in range(count):
        logits = model(step, past_key_values=cache, use_cache=True).logits[0, -1]
        best = torch.log_softmax(logits.double(), dim=-1).topk(2)
        chosen.append(int(best.indices[0]))
        logprobs.append(float(best.values[0]))
        margins.append(float(best.values[0] - best.values[1]))
        step = torch.tensor([[chosen[-1]]])
    return chosen, logprobs, margins


def next_token_logprobs(logprobs, tokens):
    following = torch.tensor(tokens[1:], dtype=torch.long)
    return logprobs[:-1].gather(1, following[:, None])[:, 0]


def record_prompt(model, tokens, every, count=GREEDY_TOKENS):
    """The JSON record of one prompt; README.md has the schema."""
    logprobs = all_logprobs(model, tokens)
    positions = sorted({*range(0, len(tokens), every), len(tokens) - 1})
    top = logprobs[positions].topk(TOP, dim=-1)
    chosen, chosen_logprobs, margins = greedy(model, tokens, count)
    check_against_one_pass(model, tokens, chosen, chosen_logprobs)
    return {
        "tokens": tokens,
        "logprobs": rounded(next_token_logprobs(logprobs, tokens).tolist()),
        "top_positions": positions,
        "top_ids": top.indices.tolist(),
        "top_logprobs": [rounded(row) for row in top.values.tolist()],
        "greedy": {
            "tokens": chosen,
            "logprobs": rounded(chosen_logprobs),
            "margins": rounded(margins),
        },
    }


def check_against_one_pass(model, tokens, chosen, chosen_logprobs):
    """The cached decode must say what a single pass over the whole text says."""
    whole = tokens + chosen
    one_pass = next_token_logprobs(all_logprobs(model, whole), whole)[len(tokens) - 1 :]
    gap = (one_pass - torch.tensor(chosen_logprobs, dtype=torch.float64)).abs().max()
    assert gap < 2e-4, f"cached and uncached runs differ by {gap:.2e}"


def top_probability(model, prompts):
    """Mean over all positions of all prompts of the likeliest token's probability."""
    best = [all_logprobs(model, tokens).max(dim=-1).values.exp() for tokens in prompts]
    return float(torch.cat(best).mean())


def max_change(model, prompts, baseline):
    """Largest change of any next-token or top-token log-probability against the baseline."""
    worst = 0.0
    for tokens, expected in zip(prompts, baseline):
        actual = all_logprobs(model, tokens)
        best = expected.argmax(dim=-1)[:, None]
        gaps = [(actual - expected).gather(1, best).abs().max()]
        if len(tokens) > 1:
            after = next_token_logprobs(actual, tokens) - next_token_logprobs(expected, tokens)
            gaps.append(after.abs().max())
        worst = max(worst, float(torch.stack(gaps).max()))
    return worst


class _Float64Rotary(torch.nn.Module):
    """Rotary tables with angles in float64 instead of transformers' float32."""

    def __init__(self, rotary):
        super().__init__()
        self.inv_freq = rotary.inv_freq.double()
        self.scaling = rotary.attention_scaling

    def forward(self, x, position_ids):
        angles = position_ids[..., None].double() * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * self.scaling, angles.sin() * self.scaling


def _norm_forward(self, hidden):
    variance = hidden.pow(2).mean(-1, keepdim=True)
    return self.weight * (hidden * torch.rsqrt(variance + self.variance_epsilon))


@contextlib.contextmanager
def float64(model, rotary_too):
    """The model in float64, with transformers' fixed casts to float32 taken out."""
    softmax = torch.nn.functional.softmax
    norms = {type(m) for m in model.modules() if type(m).__name__.endswith("RMSNorm")}
    saved = {cls: cls.forward for cls in norms}
    inv_freq = model.model.rotary_emb.inv_freq.clone()
    rotary = model.model.rotary_emb
    model.double()
    torch.nn.functional.softmax = lambda x, dim, dtype=None: softmax(x, dim=dim)
    for cls in norms:
        cls.forward = _norm_forward
    if rotary_too:
        model.model.rotary_emb = _Float64Rotary(rotary)
    try:
        yield model
    finally:
        model.model.rotary_emb = rotary
        model.float()
        rotary.inv_freq = inv_freq
        torch.nn.functional.softmax = softmax
        for cls, forward in saved.items():
            cls.forward = forward


def float32_noise(model, prompts):
    """How far float32 is from float64: what no float32 implementation can be blamed for."""
    baseline = [all_logprobs(model, tokens) for tokens in prompts]
    noise = {}
    for key, rotary_too in (("float64", False), ("float64_and_rotary", True)):
        with float64(model, rotary_too):
            noise[key] = float(f"{max_change(model, prompts, baseline):.2g}")
    return noise


def random_prompt(model, length, seed):
    """Random ids whose greedy continuation has no near tie and is no mere repetition."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(200):
        shape = (length,)
        tokens = torch.randint(model.config.vocab_size, shape, generator=generator).tolist()
        chosen, _, margins = greedy(model, tokens)
        if min(margins) > MIN_MARGIN and len(set(chosen)) >= MIN_DISTINCT:
            return tokens
    raise RuntimeError(f"no prompt of {length} tokens has a usable greedy continuation")


def versions():
    return {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, separators=(",", ":"), ensure_ascii=False)
        file.write("\n")
