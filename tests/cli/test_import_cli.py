"""tq unpack-kv --layout: raw dumps of other systems become KV dumps, and what cannot be one is refused."""
import os
import struct

import helpers
from helpers import COULD_NOT, USAGE, CliTest, read_safetensors, tensor, write_safetensors

# x[i] = ((131 i + 17) mod 257 - 128) / 128 as fused-turboquant codes it at 4 bits, and the cosine that it then has.
VECTOR = [((131 * i + 17) % 257 - 128) / 128 for i in range(128)]
CODES = bytes.fromhex("938a2654b4475559b5d75a47ae4b56a6dd56879a2991a5bbea8cb962dd827bc4"
                      "9b87ad8ee25b976bfe67a878191a59b9285e78436ed7a636ab8ab79a83a781c6")
COSINE = 0.994736


def slot(norm=6.484375):
    return CODES + struct.pack("<f", norm)


def cosine(x, y):
    return sum(a * b for a, b in zip(x, y)) / (sum(a * a for a in x) * sum(b * b for b in y)) ** 0.5


class Import(CliTest):
    def raw(self, data, name="raw.bin"):
        with open(self.path(name), "wb") as file:
            file.write(data)
        return name

    def arguments(self, layout="ar-slot", **changed):
        options = {"dim": 128, "heads": 1, "bits": 4, **changed}
        said = ["unpack-kv", "raw.bin", "-o", "out", "--layout", layout]
        for name, value in options.items():
            if value is not None:
                said += [f"--{name}", value]
        return said

    def test_slots_become_a_dump_that_other_commands_read(self):
        self.raw(slot(1) + slot(2) + slot(3) + slot(4))
        self.tq(*self.arguments(layer=5))
        tensors, _ = read_safetensors(self.path("out"))
        self.assertEqual({n: (t.dtype, t.shape) for n, t in tensors.items()},
                         {"k.5": ("F32", [1, 2, 128]), "v.5": ("F32", [1, 2, 128])})
        for name, norms in (("k.5", (1, 2)), ("v.5", (3, 4))):
            for token, norm in enumerate(norms):
                row = tensors[name].values[128 * token:128 * token + 128]
                self.assertAlmostEqual(cosine(VECTOR, row), COSINE, delta=1e-5)
                self.assertAlmostEqual(row[0] / tensors["k.5"].values[0], norm, delta=1e-5)
        self.tq("pack-kv", "out", "-o", "x.tq3")

    def test_a_run_of_one_part_in_another_type(self):
        self.raw(CODES + struct.pack("<e", 6.484375))
        self.tq(*self.arguments("bitstream", part="v", dtype="bf16", tokens=1))
        tensors, _ = read_safetensors(self.path("out"))
        self.assertEqual([(n, t.dtype, t.shape) for n, t in tensors.items()], [("v.0", "BF16", [1, 1, 128])])
        self.assertAlmostEqual(cosine(VECTOR, tensors["v.0"].values), COSINE, delta=1e-4)

    def test_rotation_seed_and_codebook_change_what_comes_out(self):
        self.raw(slot() + slot())
        outputs = set()
        for options in ({}, {"seed": 43}, {"rotation": "rht2"}, {"rotation": "qr"}, {"codebook": "gaussian-d128-b4"}):
            self.tq(*self.arguments(**options), "--force")
            outputs.add(self.read("out"))
        self.assertEqual(len(outputs), 5)
        self.tq(*self.arguments(rotation="rht1", seed=42, codebook="beta"), "--force")
        self.assertIn(self.read("out"), outputs)

    def test_a_codebook_that_tq_printed_is_read(self):
        self.raw(slot() + slot())
        self.tq(*self.arguments())
        plain = self.read("out")
        for form in ("json", "0xsero-json"):
            self.tq("codebook", "--dim", 128, "--bits", 4, "--format", form, "-o", f"book.{form}")
            self.tq(*self.arguments(codebook=f"book.{form}"), "--force")
            self.assertTrue(plain == self.read("out"), form)

    def test_dry_run_tells_the_exact_bytes_and_writes_nothing(self):
        self.raw(slot() + slot())
        said = self.tq(*self.arguments(), "--dry-run").stdout
        self.assertFalse(os.path.exists(self.path("out")))
        done = self.tq(*self.arguments())
        for text in (said, done.stderr):
            self.assertIn(f"136 bytes -> {len(self.read('out')):,} bytes", text)
        self.assertEqual(self.tq(*self.arguments(), "--force", "--quiet").stderr, "")

    def test_usage(self):
        self.raw(slot() + slot())
        for words, args in (
                (["--dim"], self.arguments(dim=None)),
                (["--heads"], self.arguments(heads=None)),
                (["--bits"], self.arguments(bits=None)),
                (["ac-page", "vj-paged"], self.arguments("tape")),
                (["--bits"], self.arguments(bits=5)),
                (["--bits 4"], self.arguments("nibble-high", bits=3, part="k", codebook="beta")),
                (["--part"], self.arguments("bitstream")),
                (["--codebook"], self.arguments("nibble-high", part="k")),
                (["--rotation"], self.arguments("nibble-low", part="k", codebook="beta", seed=1)),
                (["--seed"], self.arguments("nibble-low", part="k", codebook="beta", rotation="qr")),
                (["beta-d128-b4"], self.arguments(codebook="beta-d64-b4")),
                (["power of two"], self.arguments(dim=96)),
                (["--rotation"], self.arguments(rotation="identity")),
                (["--tokens"], self.arguments(tokens=0)),
                (["--heads"], self.arguments(heads=0)),
                (["--layer"], self.arguments(layer=-1)),
                (["--layout"], ["unpack-kv", "raw.bin", "-o", "out", "--dim", 128])):
            with self.subTest(args=args):
                self.refused(USAGE, words, *args)

    def test_files_that_do_not_fit(self):
        for data, words in (
                (b"", ["empty"]),
                (slot(), ["68 bytes are left over at byte 0"]),
                (slot() * 2 + b"x", ["1 bytes are left over at byte 136"]),
                (slot() + slot(-1.0), ["byte 132", "head 0", "token 0", "-1"]),
                (slot(float("nan")) + slot(), ["byte 64", "nan"]),
                (slot(float("inf")) + slot(), ["byte 64", "inf"])):
            self.raw(data)
            self.refused(COULD_NOT, ["raw.bin", *words], *self.arguments())
        self.raw(slot() + slot())
        self.refused(COULD_NOT, ["raw.bin", "1 tokens"], *self.arguments(tokens=2))
        self.refused(COULD_NOT, ["no-such-file"], *self.arguments(codebook="no-such-file"))
        os.remove(self.path("raw.bin"))
        self.refused(COULD_NOT, ["raw.bin"], *self.arguments())

    def test_every_truncation_is_refused_or_a_whole_number_of_tokens(self):
        whole = slot() * 4
        for size in range(0, len(whole), 17):
            self.raw(whole[:size])
            if size == 136:
                self.tq(*self.arguments())
                os.remove(self.path("out"))
            else:
                self.refused(COULD_NOT, ["raw.bin"], *self.arguments())

    def test_without_layout_raw_bytes_are_refused_and_an_output_is_kept(self):
        self.raw(slot() + slot())
        self.refused(COULD_NOT, ["raw.bin"], "unpack-kv", "raw.bin", "-o", "out")
        write_safetensors(self.path("out"), {"k.0": tensor([1, 1, 8])})
        before = self.read("out")
        self.refused(COULD_NOT, ["out", "--force"], *self.arguments())
        self.assertEqual(before, self.read("out"))


if __name__ == "__main__":
    helpers.main()
