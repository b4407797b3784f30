"""Compares skein_tokenize with Hugging Face tokenizers, line by line.

    compare.py SKEIN_TOKENIZE TOKENIZER [--reference TOKENIZER_JSON] [--config CONFIG] [--lines N] [--seed S]

TOKENIZER is a tokenizer.json, or a .gguf with the tokenizer.json that it should equal as --reference.
Needs `tokenizers`.
"""

import argparse
import json
import random
import subprocess
import sys

from tokenizers import Tokenizer

import lines as line_source


def special_texts(path):
    with open(path, encoding="utf-8") as file:
        return [token["content"] for token in json.load(file)["added_tokens"]][:200]


def skein(program, arguments, given):
    """What skein_tokenize answers for each text or list of ids."""
    given = "".join(json.dumps(line) + "\n" for line in given)
    done = subprocess.run(
        [program, *arguments], input=given, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr.strip()}")
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


def random_ids(tokenizer, count, seed):
    """Lists of ids as a bad model would write them: bytes in any order, special tokens, ids that do not exist."""
    rng = random.Random(seed)
    size = tokenizer.get_vocab_size()
    short = [i for i in range(size) if len(tokenizer.id_to_token(i) or "") in (1, 6)]
    pools = [range(size), short or range(size), range(min(size, 300)), [size + 5, 0, 1, 2]]
    return [[rng.choice(rng.choice(pools)) for _ in range(rng.randint(1, 20))] for _ in range(count)]


def reference_answer(tokenizer, given):
    ids = tokenizer.encode(given).ids if isinstance(given, str) else given
    answer = {
        "text": tokenizer.decode(ids, skip_special_tokens=True),
        "all": tokenizer.decode(ids, skip_special_tokens=False),
    }
    if isinstance(given, str):
        answer |= {"ids": ids, "bare": tokenizer.encode(given, add_special_tokens=False).ids}
    return answer


def differences(program, path, reference=None, config=None, count=10_000, seed=20261122):
    """(number of lines, [(line, field, ours, theirs), ...]): `count` texts, then a fifth as many lists of ids."""
    reference = str(reference or path)
    tokenizer = Tokenizer.from_file(reference)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    given = line_source.generate(count, seed, special_texts(reference)) + random_ids(
        tokenizer, count // 5, seed
    )
    answers = skein(program, [str(path)] + ([str(config)] if config else []), given)
    assert len(answers) == len(given)
    found = []
    for line, ours in zip(given, answers):
        theirs = reference_answer(tokenizer, line)
        found += [
            (line, field, ours[field], theirs[field]) for field in theirs if ours[field] != theirs[field]
        ]
    return len(given), found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("tokenizer")
    parser.add_argument("--reference")
    parser.add_argument("--config")
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=20261122)
    options = parser.parse_args()
    count, found = differences(
        options.program, options.tokenizer, options.reference, options.config, options.lines, options.seed
    )
    for line, field, ours, theirs in found[:10]:
        print(f"{field} of {line!r}:\n  ours   {ours}\n  theirs {theirs}")
    print(f"{options.tokenizer}: {count} lines, {len({str(line) for line, *_ in found})} differ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
