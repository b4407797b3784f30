"""A small byte-level BPE vocabulary: three control tokens, all bytes, and learned merges."""

import collections
import re

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
EOS, BOS = 2, 1

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

TEXT = """
A flock of geese in flight is a skein. The leader cuts the air and the others follow in its wake,
each a little to the side of the one ahead, so that no bird works alone. When the leader tires it
falls back, another takes its place, and the flock goes on. They call to each other all the while,
and those behind set the pace for those in front. On the ground a flock is only a gaggle: the same
birds, the same strength, and none of the order. What makes the difference is that every one of
them keeps its place and knows which place that is. The weather changes, the wind turns, a bird is
lost, and the line closes again. They have flown the same way for ten thousand years, over the
same rivers and between the same hills, and there is nothing in it that a child could not draw.
def count(birds): return sum(1 for bird in birds if bird.flies and not bird.lost)
"""


def byte_symbols():
    """GPT-2's printable character for each of the 256 bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    extra = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(extra)) for byte in range(256)]


def _merge(word, pair):
    merged, at = [], 0
    while at < len(word):
        if word[at : at + 2] == pair:
            merged.append(pair[0] + pair[1])
            at += 2
        else:
            merged.append(word[at])
            at += 1
    return tuple(merged)


def learn(size):
    """(tokens, merges) of a vocabulary of exactly size tokens; ties are broken by spelling."""
    symbols = byte_symbols()
    words = collections.Counter(re.findall(r" ?[A-Za-z]+|\s+|[^A-Za-z\s]+", TEXT))
    words = {tuple(symbols[b] for b in word.encode()): n for word, n in words.items()}
    tokens, merges = CONTROL + symbols, []
    while len(tokens) < size:
        pairs = collections.Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        tokens.append(best[0] + best[1])
        words = {_merge(word, best): count for word, count in words.items()}
    assert len(set(tokens)) == size
    return tokens, merges


def hugging_face_files(size):
    """tokenizer.json and tokenizer_config.json of the vocabulary, as values to be dumped."""
    tokens, merges = learn(size)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    control = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for i, token in enumerate(CONTROL)
    ]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": control,
        "normalizer": None, "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": None, "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
            "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [list(pair) for pair in merges],
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": CONTROL[BOS],
        "eos_token": CONTROL[EOS], "add_bos_token": False, "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False, "model_max_length": 2048,
    }
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": config}
