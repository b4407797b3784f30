"""Trains small tokenizers of each kind that Skein reads and records what Hugging Face makes of some lines.

    make_tiny.py FOLDER      (writes <name>.json, <name>.expected.json, and lines.json for all)

Needs `tokenizers` (tests/requirements.txt). Training is deterministic for one version of it.
"""

import json
import pathlib
import sys

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

import lines

VOCABULARY = 1000
RECORDED = 300

LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = f"{LETTERS}|" + r"\p{N}{1,3}" + f"|{OTHERS}"
QWEN2 = f"{LETTERS}|" + r"\p{N}" + f"|{OTHERS}"
CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def split_then_bytes(pattern):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def byte_level(pre_tokenizer, specials, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return tokenizer, trainer


def template(begin, end=None):
    tokens = [(begin, 0)] + ([(end, 1)] if end else [])
    return lambda tokenizer: processors.TemplateProcessing(
        single=f"{begin} $A" + (f" {end}" if end else ""),
        special_tokens=[(token, tokenizer.token_to_id(token)) for token, _ in tokens],
    )


def gpt2(text):
    tokenizer, trainer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), CHAT[:1])
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    # Every flag of added tokens.
    tokenizer.add_tokens(
        [
            AddedToken("[LEFT]", lstrip=True),
            AddedToken("[RIGHT]", rstrip=True, normalized=False),
            AddedToken("[WORD]", single_word=True),
            AddedToken("Norm", normalized=True),
            AddedToken("  \n", normalized=False),
        ]
    )
    return tokenizer


def gpt2_prefix_digits(text):
    pre = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    tokenizer, trainer = byte_level(pre, CHAT)
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer


def llama3(text):
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    tokenizer, trainer = byte_level(split_then_bytes(LLAMA3), specials, ignore_merges=True)
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), template(specials[0])(tokenizer)]
    )
    data = json.loads(tokenizer.to_str())
    # Tokens that no merge leads to: only ignore_merges finds them.
    for word in ["Ġformation", "Skein", "å®"]:
        data["model"]["vocab"].setdefault(word, len(data["model"]["vocab"]))
    return Tokenizer.from_str(json.dumps(data))


def qwen2(text):
    tokenizer, trainer = byte_level(split_then_bytes(QWEN2), CHAT)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("é", normalized=True)])
    return tokenizer


def fallback_model(text, tokenizer):
    """Turns the trainer's vocabulary into one with the 256 byte tokens in front."""
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)],
        limit_alphabet=120,
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if not token["content"].startswith("<0x")]
    return data


def llama2(text):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # for training only
    data = fallback_model(text, tokenizer)
    tokenizer = Tokenizer.from_str(json.dumps(data | {"pre_tokenizer": None}))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = template("<s>")(tokenizer)
    return tokenizer


def mistral(text):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=True)
    data = fallback_model(text, tokenizer)
    data["pre_tokenizer"]["split"] = False
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace("▁", prepend_scheme="first")]
    )
    tokenizer.post_processor = template("<s>", "</s>")(tokenizer)
    return tokenizer


def unknowns(text):
    """No bytes at all: unknown characters become one token each, and text is folded first."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>"], limit_alphabet=90, show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    return tokenizer


def behaviours(text):
    """Each behaviour of Split, inverted and not, and the pre-tokenizers without settings."""
    split = pre_tokenizers.Split
    pre = pre_tokenizers.Sequence(
        [
            split(Regex(r"[\r\n]+"), "merged_with_previous"),
            split(Regex("[一-龥]"), "contiguous"),
            split(Regex(r"\p{N}{1,3}"), "isolated"),
            split(".", "merged_with_next"),
            split(Regex(r"[a-z]+|\s"), "merged_with_next", invert=True),
            split(Regex(r"\t*"), "removed"),
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer, trainer = byte_level(pre, CHAT)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"o+"), "0o"), normalizers.Strip(True, False)]
    )
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer


KINDS = [gpt2, gpt2_prefix_digits, llama3, qwen2, llama2, mistral, unknowns, behaviours]


def compact(tokenizer):
    data = json.loads(tokenizer.to_str())
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def rows(values):
    return "[\n" + ",\n".join(json.dumps(value, separators=(",", ":")) for value in values) + "\n]\n"


def record(tokenizer, text):
    """The ids, and these decoded without special tokens and with them; null where that is the text itself."""
    ids = tokenizer.encode(text).ids
    decoded = [tokenizer.decode(ids, skip_special_tokens=skip) for skip in (True, False)]
    return [ids] + [None if d == text else d for d in decoded]


def main(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    corpus = lines.generate(4000, seed=1)
    short = [line for line in lines.generate(6 * RECORDED, seed=2) if len(line) < 48][:RECORDED]
    (folder / "lines.json").write_text(rows(short), encoding="utf-8")
    for kind in KINDS:
        text = compact(kind(corpus))
        tokenizer = Tokenizer.from_str(text)
        (folder / f"{kind.__name__}.json").write_text(text + "\n", encoding="utf-8")
        (folder / f"{kind.__name__}.expected.json").write_text(
            rows(record(tokenizer, line) for line in short), encoding="utf-8"
        )


if __name__ == "__main__":
    main(sys.argv[1])
