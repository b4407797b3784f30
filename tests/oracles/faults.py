"""Planted faults: proof that the recorded numbers would notice each of them."""

import contextlib
import copy
import sys

import torch

import oracle

# The smallest change of a log-probability that a fault must cause.
MIN_CHANGE = 0.03


@contextlib.contextmanager
def _query_rotation(model, change):
    """Replaces the rotation of queries and keys in the model's own module."""
    module = sys.modules[type(model).__module__]
    original = module.apply_rotary_pos_emb
    module.apply_rotary_pos_emb = lambda q, k, cos, sin, *rest, **named: change(
        original, q, k, cos, sin)
    try:
        yield
    finally:
        module.apply_rotary_pos_emb = original


def _shift_query(inv_freq):
    step = torch.cat((inv_freq, inv_freq))

    def change(original, q, k, cos, sin):
        later_cos = cos * step.cos() - sin * step.sin()
        later_sin = sin * step.cos() + cos * step.sin()
        return original(q, k, later_cos, later_sin)[0], original(q, k, cos, sin)[1]

    return change


def _interleave(original, q, k, cos, sin):
    def split(x):
        return torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1)

    return original(split(q), split(k), cos, sin)


def _each(model, part, action):
    for name, module in model.named_modules():
        if name.endswith(part):
            action(module)


def _scale_epsilon(model):
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon *= 10.0


def _drop_bias(part):
    return lambda model: _each(model, part, lambda module: module.bias.data.zero_())


def _plain_norm(part):
    return lambda model: _each(model, part, lambda module: module.weight.data.fill_(1.0))


def _no_norm(part):
    def action(model):
        _each(model, part, lambda module: setattr(module, "forward", lambda x: x))

    return action


def _rebuilt(model, **changes):
    """The same weights under another config."""
    config = copy.deepcopy(model.config)
    for key, value in changes.items():
        setattr(config, key, value)
    other = type(model)(config).float().eval()
    other.load_state_dict(model.state_dict())
    return other


def _swap_kv_heads(model):
    """Query head h reads KV head h % kv_heads instead of h // group."""
    config = model.config
    group = config.num_attention_heads // config.num_key_value_heads
    order = [kv * group + g for g in range(group) for kv in range(config.num_key_value_heads)]

    def action(attention):
        q, o = attention.q_proj, attention.o_proj
        heads = q.weight.data.view(len(order), attention.head_dim, -1)
        q.weight.data = heads[order].reshape(q.weight.shape)
        if q.bias is not None:
            q.bias.data = q.bias.data.view(len(order), -1)[order].reshape(-1)
        columns = o.weight.data.view(config.hidden_size, len(order), -1)
        o.weight.data = columns[:, order].reshape(o.weight.shape)

    _each(model, "self_attn", action)


def _edits(model):
    """Faults that change a copy of the model in place: name -> action."""
    config = model.config
    edits = {"epsilon_times_10": _scale_epsilon}
    if config.num_key_value_heads not in (1, config.num_attention_heads):
        edits["kv_heads_interleaved"] = _swap_kv_heads
    names = [name for name, _ in model.named_parameters()]
    for part in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        if any(name.endswith(part + ".bias") for name in names):
            edits[f"no_{part}_bias"] = _drop_bias(part)
    for part in ("q_norm", "k_norm"):
        if any(name.endswith(part + ".weight") for name in names):
            edits[f"{part}_weight_ignored"] = _plain_norm(part)
            edits[f"no_{part}"] = _no_norm(part)
    return edits


def _configs(model):
    """Faults that are another config: name -> changed keys."""
    rope = model.config.rope_parameters
    wrong = {"rope_type": "default", "rope_theta": rope["rope_theta"]}
    configs = {"rope_theta_halved": {"rope_parameters": {**rope, "rope_theta":
                                                         rope["rope_theta"] / 2}}}
    if rope["rope_type"] == "llama3":
        linear = {**wrong, "rope_type": "linear", "factor": rope["factor"]}
        configs["rope_scaling_ignored"] = {"rope_parameters": wrong}
        configs["rope_scaling_linear"] = {"rope_parameters": linear}
    if not torch.equal(_rebuilt(model).model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq):
        configs["rope_freqs_ignored"] = {}  # Factors that come from a GGUF file, not the config.
    window = getattr(model.config, "sliding_window", None)
    if window:
        configs["window_ignored"] = {"sliding_window": None}
        configs["window_one_longer"] = {"sliding_window": window + 1}
        configs["window_one_shorter"] = {"sliding_window": window - 1}
    return configs


def changes(model, prompts):
    """Largest log-probability change by fault; every one is at least MIN_CHANGE."""
    baseline = [oracle.all_logprobs(model, tokens) for tokens in prompts]
    found = {}
    rotations = {"query_position_off_by_one": _shift_query(model.model.rotary_emb.inv_freq),
                 "rotary_interleaved": _interleave}
    for name, rotation in rotations.items():
        with _query_rotation(model, rotation):
            found[name] = oracle.max_change(model, prompts, baseline)
    for name, action in _edits(model).items():
        broken = copy.deepcopy(model)
        action(broken)
        found[name] = oracle.max_change(broken, prompts, baseline)
    for name, keys in _configs(model).items():
        found[name] = oracle.max_change(_rebuilt(model, **keys), prompts, baseline)
    for name, change in found.items():
        assert change >= MIN_CHANGE, f"fault {name} changes log-probabilities by {change:.1e} only"
    return {name: float(f"{change:.2g}") for name, change in found.items()}
