#!/usr/bin/env python3
"""Random strings through tq and through Hugging Face's library; every difference is printed.

    compare_tokenizers.py PATH_TO_ENCODE_LINES [--count 2000] [--seed 1] [DIR ...]

DIR holds a tokenizer.json; without one, the tokenizers of this directory and that in TQ_TEST_TOKENIZER, if set. Skipped
(exit 77) where Python has no package `tokenizers`. Left out are characters that Unicode assigned after version 14, and those
that the library's normalizers do not know as they are in version 14 (their tables are those of Unicode 9).
"""
import argparse
import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

try:
    from tokenizers import Tokenizer, normalizers
except ImportError:
    print("SKIPPED: the Python package tokenizers is not installed")
    sys.exit(77)

sys.path.insert(0, str(Path(__file__).resolve().parent))
import strings

HERE = Path(__file__).resolve().parent
assert tuple(map(int, unicodedata.unidata_version.split("."))) <= (14, 0, 0), "needs the characters of Unicode 14 or older"


def is_stale(character):
    """True for what the library's tables of Unicode do not know: as a mark, its combining class, its decomposition."""
    if (normalizers.StripAccents().normalize_str(character) == "") != (unicodedata.category(character)[0] == "M"):
        return True
    return any(getattr(normalizers, form)().normalize_str(text) != unicodedata.normalize(form, text)
               for text in (character, character + "\u0334") for form in ("NFC", "NFKD"))


ASSIGNED = [chr(p) for p in range(0x110000) if unicodedata.category(chr(p)) not in ("Cn", "Cs", "Co")]
STALE = {character for character in ASSIGNED if is_stale(character)}
ASSIGNED = [character for character in ASSIGNED if character not in STALE] + ["\ue000", "\U000f0000"]
SPACES = [c for c in ASSIGNED if c.isspace()] + ["\u180e", "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff"]
MARKS = [c for c in ASSIGNED if unicodedata.category(c)[0] == "M"]
BY_CATEGORY = {}
for character in ASSIGNED:
    BY_CATEGORY.setdefault(unicodedata.category(character), []).append(character)
CATEGORIES = sorted(BY_CATEGORY)


def fragment(generator, tokens):
    kind = generator.randrange(12)
    if kind == 0:
        return generator.choice(tokens or [""])
    if kind == 1:
        text = generator.choice(strings.ALL)
        at = generator.randrange(len(text) + 1)
        return text[at:at + generator.randrange(20)]
    if kind == 2:
        return "".join(generator.choice(" \n\t\r  ") for _ in range(generator.randrange(1, 6)))
    if kind == 3:
        return generator.choice(SPACES) * generator.randrange(1, 4)
    if kind == 4:
        return "".join(generator.choice(MARKS) for _ in range(generator.randrange(1, 4)))
    if kind == 5:
        return generator.choice(["'s", "'T", "'re", "'LL", "'", "\u2019s", "''", "▁", "Ġ", "<", ">", "|", "[", "]"])
    if kind == 6:
        return "".join(generator.choice("0123456789") for _ in range(generator.randrange(1, 8)))
    if kind == 7:
        return "".join(chr(generator.randrange(0x20, 0x7f)) for _ in range(generator.randrange(1, 10)))
    if kind == 8:
        return "".join(generator.choice("abcdefghijklmnopqrstuvwxyzABCDE") for _ in range(generator.randrange(1, 10)))
    if kind == 9:
        return generator.choice(ASSIGNED)
    if kind == 10:
        block = generator.randrange(len(ASSIGNED) - 40)
        return "".join(ASSIGNED[block + generator.randrange(40)] for _ in range(generator.randrange(1, 6)))
    return generator.choice(BY_CATEGORY[generator.choice(CATEGORIES)])


def compare(encoder, folder, texts):
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    different = 0
    for options in ([], ["--no-special"]):
        done = subprocess.run([encoder, str(folder), *options], input="".join(json.dumps(t) + "\n" for t in texts), text=True,
                              stdout=subprocess.PIPE, check=True)
        for text, line in zip(texts, done.stdout.splitlines(), strict=True):
            ours, theirs = [int(x) for x in line.split()], reference.encode(text, add_special_tokens=not options).ids
            if ours != theirs:
                different += 1
                if different <= 5:
                    print(f"  {text!r}\n    tq   {[reference.id_to_token(i) for i in ours]}\n"
                          f"    them {[reference.id_to_token(i) for i in theirs]}")
    print(f"{folder.name:24} {2 * len(texts)} encodings, {different} different")
    return different


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("encoder")
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folders = options.folders or sorted(path.parent for path in HERE.glob("*/tokenizer.json"))
    if not options.folders and os.environ.get("TQ_TEST_TOKENIZER"):
        folders.append(Path(os.environ["TQ_TEST_TOKENIZER"]))
    different = 0
    for folder in folders:
        state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        tokens = [token["content"] for token in state["added_tokens"]]
        generator = random.Random(options.seed)
        texts = strings.ALL + ["".join(fragment(generator, tokens) for _ in range(generator.randrange(1, 10)))
                               for _ in range(options.count)]
        different += compare(options.encoder, folder, texts)
    print(f"{len(STALE)} characters left out")
    print("all equal" if different == 0 else f"{different} different")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
