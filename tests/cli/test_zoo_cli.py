"""A zoo of broken schemes, as published systems have shipped them: each is caught by a named gate or check.

Every animal is a .tq3 file with correct hashes in which one thing is wrong. The table is in docs/verification.md."""
import math
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import helpers
from helpers import COULD_NOT, DONE, CliTest
from make_golden import Parts

GATE_FAILED = 1
EQUAL_PROBABILITY_3 = [-1.6468, -.8935, -.4878, -.1574, .1574, .4878, .8935, 1.6468]


def floats(data):
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def pack_floats(values):
    return struct.pack(f"<{len(values)}f", *values)


class Zoo(CliTest):
    def animal(self, name, edit, *pack, **shape):
        """Packs a dump, breaks the file with edit(parts), and writes it as NAME.tq3."""
        dump = self.dump(f"{name}.safetensors", **{"layers": 1, "heads": 2, "tokens": 64, "dim": 128, **shape})
        self.tq("pack-kv", dump, "-o", "good.tq3", "--force", *pack)
        self.assertEqual(self.failed_gates("good.tq3", dump, DONE), set())
        parts = Parts(self.path("good.tq3"))
        edit(parts)
        parts.rehash()
        with open(self.path(f"{name}.tq3"), "wb") as file:
            file.write(parts.to_bytes())
        return f"{name}.tq3", dump

    def failed_gates(self, packed, dump, code):
        report = self.json("verify", "--json", "--quiet", "--packed", packed, "--against", dump, code=code)
        return {gate["name"] for gate in report["gates"] if not gate["passed"]}

    def caught_by(self, gate, packed, dump):
        self.assertIn(gate, self.failed_gates(packed, dump, GATE_FAILED))

    def check_levels(self, levels, code):
        with open(self.path("levels.txt"), "w") as file:
            file.write(" ".join(map(repr, levels)))
        return self.tq("codebook", "--check", "levels.txt", "--dim", 128, code=code).stdout

    def replace_levels(self, change):
        def edit(parts):
            for name, entry in parts.tensors.items():
                if name.startswith("codebook."):
                    entry[2] = pack_floats(change(floats(entry[2])))
        return edit

    def test_levels_scaled_by_061(self):
        self.caught_by("codebook-bound", *self.animal("scaled", self.replace_levels(lambda l: [0.61 * x for x in l]), "--bits", 3))
        levels = self.json("codebook", "--dim", 128, "--bits", 3, "--format", "json")["levels"]
        self.check_levels(levels, DONE)
        self.assertIn("0.61", self.check_levels([0.61 * x for x in levels], GATE_FAILED))

    def test_equal_probability_codebook(self):
        levels = [x / math.sqrt(128) for x in EQUAL_PROBABILITY_3]
        self.caught_by("codebook-bound", *self.animal("equal", self.replace_levels(lambda l: levels), "--bits", 3))
        self.check_levels(levels, GATE_FAILED)

    def test_wrong_seed(self):
        for part in "kv":
            edit = lambda parts: parts.replace(f"{part}.0.scheme", "seed=42", "seed=43")
            self.caught_by("threshold", *self.animal("seed", edit, "--bits", 4))

    def test_swapped_nibbles(self):
        def edit(parts):
            parts.tensors["k.0.codes"][2] = bytes((b >> 4) | (b & 15) << 4 for b in parts.tensors["k.0.codes"][2])
        self.caught_by("threshold", *self.animal("nibbles", edit, "--bits", 4))

    def test_truncated_rotation_at_dim_96(self):
        def edit(parts):
            name = next(name for name in parts.tensors if name.startswith("rotation."))
            sylvester = [[(-1) ** bin(i & j).count("1") / math.sqrt(128) for j in range(96)] for i in range(96)]
            parts.tensors[name][2] = pack_floats([x for row in sylvester for x in row])
        packed, dump = self.animal("truncated", edit, "--rotation", "qr", dim=96)
        self.refused(COULD_NOT, [packed, "not orthogonal"], "verify", "--packed", packed, "--against", dump)

    def test_sketch_eleven_times_too_small(self):
        def edit(parts):
            entry = parts.tensors["k.0.residual_norms"]
            entry[2] = pack_floats([x / math.sqrt(128) for x in floats(entry[2])])
        self.caught_by("qjl-slope", *self.animal("sketch", edit, "--qjl-keys", "--k-bits", 3, "--v-bits", 4))


if __name__ == "__main__":
    helpers.main()
