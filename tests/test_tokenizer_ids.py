"""The ids of tests/tokenizer/expected.json, which Hugging Face's library gave, against those of tq.

    test_tokenizer_ids.py PATH_TO_ENCODE_LINES

expected.json and the tokenizers come from tests/tokenizer/make_tokenizers.py.
"""
import json
import subprocess
import sys
import unittest
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "tokenizer"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
ENCODER = None


def encode_all(name, *options):
    lines = "".join(json.dumps(text) + "\n" for text in EXPECTED["strings"])
    done = subprocess.run([ENCODER, FOLDER / name, *options], input=lines, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]


class Ids(unittest.TestCase):
    maxDiff = 2000

    def test_there_is_enough_to_compare(self):
        self.assertGreaterEqual(len(set(EXPECTED["strings"])), 200)
        self.assertEqual({path.parent.name for path in FOLDER.glob("*/tokenizer.json")}, set(EXPECTED["ids"]))
        self.assertGreaterEqual(len({json.dumps(ids) for ids in EXPECTED["ids"].values()}), 15)

    def test_ids_with_and_without_special_tokens(self):
        for name, expected in EXPECTED["ids"].items():
            before, after = EXPECTED["frames"][name]
            with_special, without = encode_all(name), encode_all(name, "--no-special")
            self.assertEqual((len(with_special), len(without)), (len(expected), len(expected)))
            for text, wanted, ours, bare in zip(EXPECTED["strings"], expected, with_special, without):
                with self.subTest(tokenizer=name, text=text):
                    self.assertEqual(ours, wanted)
                    self.assertEqual(bare, wanted[before:len(wanted) - after])


if __name__ == "__main__":
    ENCODER = sys.argv.pop(1)
    unittest.main()
