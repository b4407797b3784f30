#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets, small inputs that get far into a reader, to tests/fuzz/corpus/<target>/."""

import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).parent / "corpus"


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def message(**fields):
    """Protobuf by hand: f7=5 is field 7. Numbers are varints, floats 32 bits, texts and lists of numbers are packed."""
    out = b""
    for name, value in fields.items():
        key = int(name[1:]) << 3
        if isinstance(value, float):
            out += varint(key | 5) + struct.pack("<f", value)
        elif isinstance(value, int):
            out += varint(key) + varint(value)
        else:
            if isinstance(value, str):
                value = value.encode()
            elif isinstance(value, list) and value and isinstance(value[0], float):
                value = struct.pack(f"<{len(value)}f", *value)
            elif isinstance(value, list):
                value = b"".join(map(varint, value))
            out += varint(key | 2) + varint(len(value)) + value
    return out


def frames():
    def frame(body, content):
        return message(f1=4, **{f"f{body}": content}, f19="agent-node0-1", f20=5)

    double = varint(9 << 3 | 1) + struct.pack("<d", 1.5)
    job = message(f1=1, f2=2, f3="identity")
    logprob = message(f1=7, f2=-0.5, f3=1, f4=[7, 8], f5=[-0.5, -1.5])
    sampling = message(f1=0.7, f2=0.9, f3=0.1, f4=5, f5=0.5, f6=0.5, f7=1.1, f8=42, f9=16, f10=1, f11=2, f12=1,
                       f13=[2, 3], f14=[4, 5], f15=[1.0, -1.0])
    return {
        "register_replica": frame(2, message(f1=1, f2=2, f3="build", f4=3, f5=2, f6=8, f7=4096, f8=2048, f11=[7, 8],
                                             f13='[{"us": 5}]') + double),
        "replica_status": frame(3, message(f1=1, f2=2, f3=3, f4=4, f5=5, f6=6, f8=9)),
        "tokens": frame(4, message(f1=1, f2=1, f4=0, f5=[7], f6=logprob, f8=3)),
        "finished": frame(4, message(f1=1, f2=1, f4=3, f5=[7, 2], f9=1)),
        "failed": frame(4, message(f1=1, f2=1, f9=4, f10="out of room")),
        "request": frame(5, message(f1=9, f2=1, f3=[1, 2, 3], f4=3, f5=2, f6=sampling, f7="salt")),
        "cancel": frame(6, message(f1=9, f2=1)),
        "lease": frame(7, b""),
        "stop": frame(8, b""),
        "register_agent": frame(9, message(f1="node0", f2="build", f5="10.0.0.0/24", f6='{"cluster": {}}', f7=job)),
        "launch": frame(10, message(f1=1, f2=3, f3='{"model": "m"}')),
        "end_launch": frame(11, message(f1=1)),
        "launch_ended": frame(12, message(f1=1, f2=137, f3="killed")),
        "introduce": frame(13, message(f1=77)),
        "refuse_agent": frame(14, message(f1="another agent is here")),
        "agent_status": frame(15, message(f1=[3, 4], f2=1 << 34, f3=[5, 6], f4=[0, 1], f5=7)),
        "start_daemon": frame(16, message(f1=job, f2="node0", f3="orted", f4=message(f1=[0, 1], f2=1, f3=[1 << 30, 5]))),
        "daemon_started": frame(17, message(f1=1, f2="node0", f3="no")),
        "launch_ready": frame(18, message(f1=1)),
    }


def array(code, values):
    return struct.pack(f"<I{len(values)}{code}", len(values), *values)


def node_reports():
    nic = {"name": "eth0", "network": "tcp", "gbit_per_s": 100, "devices": [0]}
    gpus = {"name": "a", "cores": 4, "memory_gib": 64, "nics": [nic],
            "devices": [{"kind": "NVIDIA H200", "numa": 0, "nvlink_domain": 0, "memory_free_gib": 100.5, "count": 2}]}
    core = {"name": "a processor", "type": "cpu", "read_gb_per_s": 20, "tflops": 0.04}
    cores = {"name": "a", "cores": 4, "memory_gib": 8, "memory_free_gib": 3, "devices": [{"kind": "a processor", "count": 4}]}
    reports = {
        "gpus": {"cluster": {"cluster": "a", "nodes": [gpus]}, "findings": ["a link is down"]},
        "cores": {"cluster": {"kinds": [core], "nodes": [cores]}, "findings": []},
        "none": {"findings": ["its hardware cannot be described"]},
        "other": {"cluster": {"nodes": [gpus | {"name": "b"}]}},
        "counted": {"cluster": {"templates": [{"name": "t", "cores": 1, "memory_gib": 1}],
                                "nodes": [{"name": "n<0>", "count": 2, "template": "t"}]}},
    }
    return {name: json.dumps(report).encode() for name, report in reports.items()}


def placements():
    cluster = {
        "cluster": "two", "fabric": {"latency_us": 2, "rack_latency_us": 1, "oversubscription": 2},
        "kinds": [{"name": "a card", "memory_gib": 80, "read_gb_per_s": 3000, "tflops": 800, "nvlink_gb_per_s": 450,
                   "nvlinks": 18, "pcie_gb_per_s": 50, "source": "a guess"}],
        "templates": [{"name": "t", "cores": 8, "memory_gib": 64, "devices": [{"kind": "a card", "count": 2, "nvlink_domain": 0}],
                       "nics": [{"name": "mlx5_<0>", "count": 2, "network": "infiniband", "gbit_per_s": 400, "rail": "<0>"}]}],
        "nodes": [{"name": "n<0>", "count": 2, "template": "t", "rack": "r<0/2>"}],
    }
    plan = {
        "version": 2,
        "cluster": {"name": "two", "nodes": [{"name": name, "devices": ["a card"] * 2, "hardware": {"NVLink": "GPUs 0 1"}}
                                             for name in "ab"]},
        "models": [{"name": "m"}],
        "replicas": [{"model": 0, "tensor_parallel_size": 2, "pipeline_parallel_size": 2, "kv_blocks": 9,
                      "stages": [{"layers": 3}, {"layers": 2}],
                      "ranks": [{"node": node, "device": device} for node in "ab" for device in (0, 1)]}],
    }
    calibrations = CORPUS.parents[2] / "configs/calibration"
    # The target's first byte chooses the reader.
    return {"cluster": b"\0" + json.dumps(cluster).encode(), "plan": b"\2" + json.dumps(plan).encode(),
            "calibration": b"\1" + (calibrations / "h200.yaml").read_bytes()}


def step_plans():
    sampling = struct.pack("<fffifffiiiQ", 0.7, 0.9, 0.0, 5, 0.0, 0.0, 1.0, 3, 0, 2, 42)
    sampling += array("i", [4]) + array("f", [1.5]) + array("i", [2])
    admission = struct.pack("<i", 0) + array("i", [1, 2, 3]) + sampling
    head = struct.pack("<IQiB", 0x50530001, 1, 0, 0)
    full = head + struct.pack("<I", 1) + admission
    full += struct.pack("<Iiii", 1, 0, 0, 0) + array("i", [5, 6])
    full += struct.pack("<Iiii", 1, 0, 5, 6)
    full += struct.pack("<Iiii", 1, 0, 0, 3)
    full += array("i", [2]) + struct.pack("<Iiii", 1, 0, 2, 0)
    decode = head + struct.pack("<III", 0, 0, 0) + struct.pack("<Iiii", 1, 0, -1, 1) + array("i", [0])
    decode += struct.pack("<Iiii", 1, 0, 3, 0)
    stop = struct.pack("<IQiB", 0x50530001, 2, 0, 1) + struct.pack("<6I", *[0] * 6)
    result = struct.pack("<IQI", 0x52530001, 1, 1) + struct.pack("<ifi", 7, -0.5, 1)
    result += array("i", [7, 8]) + array("f", [-0.5, -1.5])
    return {"full": full, "decode": decode, "stop": stop, "result": result}


def gguf_files():
    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    def entry(key, kind, value):
        return text(key) + struct.pack("<I", kind) + value

    def strings(values):
        return struct.pack("<IQ", 8, len(values)) + b"".join(map(text, values))

    entries = [
        entry("general.architecture", 8, text("llama")),
        entry("general.alignment", 4, struct.pack("<I", 32)),
        entry("llama.block_count", 4, struct.pack("<I", 1)),
        entry("llama.embedding_length", 4, struct.pack("<I", 32)),
        entry("llama.feed_forward_length", 4, struct.pack("<I", 64)),
        entry("llama.context_length", 4, struct.pack("<I", 128)),
        entry("llama.attention.head_count", 4, struct.pack("<I", 2)),
        entry("llama.attention.head_count_kv", 4, struct.pack("<I", 1)),
        entry("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
        entry("llama.rope.freq_base", 6, struct.pack("<f", 10000.0)),
        entry("tokenizer.ggml.model", 8, text("gpt2")),
        entry("tokenizer.ggml.tokens", 9, strings(["a", "b", "ab", "<|end|>"])),
        entry("tokenizer.ggml.merges", 9, strings(["a b"])),
        entry("tokenizer.ggml.token_type", 9, struct.pack("<IQ4i", 5, 4, 1, 1, 1, 3)),
        entry("general.quantized", 7, b"\x01"),
    ]
    tensors = [("token_embd.weight", (32, 4), 8, 0, 136), ("output_norm.weight", (32,), 0, 160, 128)]
    infos = b""
    for name, shape, kind, offset, _ in tensors:
        infos += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries) + infos
    whole = head + b"\0" * (-len(head) % 32) + b"\0" * 288
    return {"llama": whole, "truncated": head[: len(head) // 2], "empty": b"GGUF" + struct.pack("<IQQ", 3, 0, 0)}


def safetensors_files():
    def file(header, size):
        encoded = json.dumps(header).encode()
        return struct.pack("<Q", len(encoded)) + encoded + b"\0" * size

    two = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "b": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]},
    }
    hole = {"a": {"dtype": "F16", "shape": [2], "data_offsets": [4, 8]}}
    index = {"metadata": {"total_size": 22}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": True,
        "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                            "high_freq_factor": 4.0, "original_max_position_embeddings": 128},
    }
    # The target's first byte chooses the reader.
    return {
        "two": b"\0" + file(two, 22), "hole": b"\0" + file(hole, 8), "lies": b"\0" + struct.pack("<Q", 1 << 40) + b"{}",
        "index": b"\1" + json.dumps(index).encode(), "config": b"\2" + json.dumps(config).encode(),
    }


def tokenizers():
    pieces = {"a": 0, "b": 1, "ab": 2, "\u0120": 3, "<|end|>": 4}
    added = [{"id": 4, "content": "<|end|>", "special": True, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False}]
    split = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+"
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    bytes_model = {
        "version": "1.0", "added_tokens": added, "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}, byte_level]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [], "special_tokens": {}},
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": pieces, "merges": ["a b"], "byte_fallback": False, "ignore_merges": True},
    }
    fallback = {
        "version": "1.0", "added_tokens": [], "pre_tokenizer": None, "post_processor": None,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "vocab": {"<unk>": 0, "<0x41>": 1, "\u2581": 2, "a": 3, "\u2581a": 4},
                  "merges": [["\u2581", "a"]], "byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True},
    }
    return {"byte_level": json.dumps(bytes_model).encode(), "byte_fallback": json.dumps(fallback).encode()}


def templates():
    chatml = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
              "'<|im_end|>' + '\n'}}{% endfor %}"
              "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
    features = ("{%- macro show(x, y=1) -%}{{ x | trim | upper }}{{ y }}{%- endmacro -%}\n"
                "{%- set ns = namespace(found=false) -%}{% set parts = [1, 'a', {'k': none}] %}\n"
                "{% for m in messages[1:] if m.role != 'system' %}{% set ns.found = true %}{{ loop.index0 }}"
                "{{ show(m.content, loop.last) }}{% else %}{{ raise_exception('no messages') }}{% endfor %}\n"
                "{% if tools is defined and not ns.found %}{{ tools | tojson(indent=2) }}{% elif parts[-1].k is none %}"
                "{{ 'a' ~ 1 ~ ('x' if true else 'y') }}{% endif %}{# done #}{{ messages | length }}")
    nested = "{{ " + "(" * 40 + "1" + ")" * 40 + " }}"
    return {"chatml": chatml.encode(), "features": features.encode(), "nested": nested.encode()}


def http_requests():
    body = b'{"model":"m","prompt":"a"}'
    post = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    chunks = b"5;x=y\r\n{\"a\":\r\n2\r\n1}\r\n0\r\nTrailer: t\r\n\r\n"
    return {
        "get": b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\n\r\n",
        "post": post + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        "chunked": post + b"Transfer-Encoding: chunked\r\n\r\n" + chunks,
        "expect": post + b"Expect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        "pipelined": b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n" * 2,
        "smuggled": post + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    }


def api_bodies():
    sampling = {"max_tokens": 16, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.05, "seed": 7, "n": 2,
                "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1, "stop": ["\n", "x"],
                "logit_bias": {"5": 1.5}, "stop_token_ids": [2], "ignore_eos": True, "min_tokens": 1}
    completion = {"model": "m", "prompt": [[1, 2, 3], [4]], "echo": True, "logprobs": 3, "stream": True,
                  "stream_options": {"include_usage": True}, **sampling}
    chat = {"model": "m", "messages": [
        {"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "h\u00e9"}]}],
        "max_completion_tokens": 8, "logprobs": True, "top_logprobs": 20, "stop": "x"}
    bodies = {
        "completion": completion, "chat": chat, "plain": {"model": "m", "prompt": "a"},
        "refused": {"model": "m", "prompt": "a", "response_format": {"type": "json_object"}},
        "tokenize": {"model": "m", "prompt": "a", "add_special_tokens": False},
        "detokenize": {"model": "m", "tokens": [1, 2]},
        "huge": {"model": "m", "prompt": "a", "n": 10 ** 20, "temperature": 1e300},
    }
    return {name: json.dumps(body).encode() for name, body in bodies.items()} | {"deep": b"[" * 200 + b"]" * 200}


def main():
    seeds = {
        "frame_fuzz": frames(), "node_report_fuzz": node_reports(), "step_plan_fuzz": step_plans(), "gguf_fuzz": gguf_files(),
        "placement_fuzz": placements(), "safetensors_fuzz": safetensors_files(), "tokenizer_fuzz": tokenizers(),
        "template_fuzz": templates(), "http_fuzz": http_requests(), "api_fuzz": api_bodies(),
    }
    for target, files in seeds.items():
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (CORPUS / target / name).write_bytes(content)


if __name__ == "__main__":
    main()
