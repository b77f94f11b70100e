"""tq codebook: its numbers against an own integration of the densities, its formats, and the frozen set."""
import math
import os
import re
import shutil
import struct
import subprocess

import helpers
from helpers import COULD_NOT, USAGE, CliTest

FROZEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "codebooks")
FIELDS = ["density", "dim", "bits", "levels", "edges", "distortion", "entropy_bits", "theorem_bound", "shannon_ratio"]


def beta_density(dim):
    log_scale = math.lgamma(dim / 2) - math.lgamma((dim - 1) / 2) - 0.5 * math.log(math.pi)
    return lambda t: math.exp(log_scale + 0.5 * (dim - 3) * math.log1p(-t * t)) if abs(t) < 1 else 0.0


def gaussian_density(dim):
    return lambda t: math.sqrt(dim / (2 * math.pi)) * math.exp(-0.5 * dim * t * t)


def simpson(f, low, high, steps=400):
    width = (high - low) / steps
    inner = sum((4 if i % 2 else 2) * f(low + i * width) for i in range(1, steps))
    return width / 3 * (f(low) + inner + f(high))


def float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


class Numbers(CliTest):
    def book(self, density, dim, bits):
        return self.json("codebook", "--density", density, "--dim", dim, "--bits", bits, "--format", "json")

    def test_fields(self):
        book = self.book("beta", 128, 3)
        self.assertEqual(list(book)[:len(FIELDS)], FIELDS)
        self.assertEqual((book["density"], book["dim"], book["bits"]), ("beta", 128, 3))

    def test_beta_is_the_default_density(self):
        default = self.json("codebook", "--dim", 128, "--bits", 3, "--format", "json")
        self.assertEqual(default, self.book("beta", 128, 3))
        self.assertNotEqual(self.book("gaussian", 128, 3)["levels"], self.book("beta", 128, 3)["levels"])

    def test_levels_are_centroids_and_edges_midpoints(self):
        for density, dim, bits in (("beta", 128, 3), ("beta", 9, 2), ("beta", 64, 4), ("beta", 1000, 5),
                                   ("gaussian", 128, 4), ("gaussian", 1, 3)):
            book = self.book(density, dim, bits)
            f = (beta_density if density == "beta" else gaussian_density)(dim)
            levels, edges = book["levels"], book["edges"]
            self.assertEqual((len(levels), len(edges)), (2**bits, 2**bits - 1))
            end = min(1.0, 12 / math.sqrt(dim)) if density == "beta" else 12 / math.sqrt(dim)
            cells = list(zip([-end] + edges, edges + [end]))
            masses = [simpson(f, *cell) for cell in cells]
            distortion = 0.0
            for level, mass, cell in zip(levels, masses, cells):
                centroid = simpson(lambda t: t * f(t), *cell) / mass
                self.assertAlmostEqual(level, centroid, delta=2e-6 / math.sqrt(dim), msg=(density, dim, bits))
                distortion += dim * simpson(lambda t, level=level: (t - level) ** 2 * f(t), *cell)
            for i, edge in enumerate(edges):
                self.assertAlmostEqual(edge, 0.5 * (levels[i] + levels[i + 1]), delta=1e-15)
            self.assertAlmostEqual(sum(masses), 1, delta=1e-6)
            self.assertAlmostEqual(book["distortion"] / distortion, 1, delta=1e-5, msg=(density, dim, bits))
            self.assertAlmostEqual(book["entropy_bits"], -sum(p * math.log2(p) for p in masses), delta=1e-5)
            self.assertAlmostEqual(book["theorem_bound"], math.sqrt(3) * math.pi / 2 / 4**bits, delta=1e-15)
            self.assertAlmostEqual(book["shannon_ratio"], book["distortion"] * 4**bits, delta=1e-12)

    def test_the_one_bit_gaussian_is_known_in_closed_form(self):
        book = self.book("gaussian", 1, 1)
        self.assertEqual(book["edges"], [0.0])
        self.assertAlmostEqual(book["levels"][1], math.sqrt(2 / math.pi), delta=1e-14)
        self.assertAlmostEqual(book["distortion"], 1 - 2 / math.pi, delta=1e-14)
        self.assertAlmostEqual(book["entropy_bits"], 1, delta=1e-14)

    def test_limits_of_dim_and_bits(self):
        for density in ("beta", "gaussian"):
            for dim in (8, 1024):
                for bits in (1, 8):
                    book = self.book(density, dim, bits)
                    self.assertEqual(len(book["levels"]), 2**bits)
                    self.assertEqual(book["levels"], sorted(book["levels"]))
                    self.assertEqual(book["levels"], [-x for x in reversed(book["levels"])])
                    self.assertLess(book["distortion"], book["theorem_bound"])
                    self.assertGreaterEqual(book["shannon_ratio"], 1)
        self.refused(USAGE, ["7", "8..1024"], "codebook", "--dim", 7, "--bits", 3)
        self.refused(USAGE, ["1", "8..1024"], "codebook", "--dim", 1, "--bits", 3)
        self.refused(USAGE, ["7", "8..1024"], "codebook", "--dim", 7, "--bits", 3, "--density", "gaussian")


class Formats(CliTest):
    def test_table_shows_the_same_numbers(self):
        for bits in (1, 3, 8):
            book = self.json("codebook", "--dim", 128, "--bits", bits, "--format", "json")
            text = self.tq("codebook", "--dim", 128, "--bits", bits, "--format", "table").stdout
            self.assertEqual(text, self.tq("codebook", "--dim", 128, "--bits", bits).stdout)
            rows = [line.split() for line in text.splitlines() if re.match(r" *\d+ +-?0\.\d", line)]
            self.assertEqual(len(rows), 2**bits)
            for code, (row, level) in enumerate(zip(rows, book["levels"])):
                self.assertEqual(int(row[0]), code)
                self.assertAlmostEqual(float(row[1]), level, delta=1e-11)
                if code < len(book["edges"]):
                    self.assertAlmostEqual(float(row[3]), book["edges"][code], delta=1e-11)
            for name in ("distortion", "entropy_bits", "theorem_bound", "shannon_ratio"):
                numbers = [float(x) for x in re.findall(r"(?m) (\d[\d.e+-]*)(?: bits)?$", text)]
                self.assertTrue(any(math.isclose(x, book[name], rel_tol=1e-6) for x in numbers), (name, numbers))

    def test_c_arrays_are_the_float32_levels_and_their_midpoints(self):
        for dim, bits in ((128, 3), (64, 4), (1000, 8)):
            text = self.tq("codebook", "--dim", dim, "--bits", bits, "--format", "c").stdout
            book = self.json("codebook", "--dim", dim, "--bits", bits, "--format", "json")
            numbers = [float.fromhex(x) for x in re.findall(r"(?m)^ +(-?0x[0-9a-fp.+-]+)f,", text)]
            levels, edges = numbers[:2**bits], numbers[2**bits:]
            self.assertEqual(levels, [float32(x) for x in book["levels"]])
            self.assertEqual(edges, [float32(0.5 * (a + b)) for a, b in zip(levels, levels[1:])])

    @helpers.unittest.skipUnless(shutil.which("cc"), "no C compiler")
    def test_c_arrays_compile(self):
        self.tq("codebook", "--dim", 128, "--bits", 3, "--format", "c", "-o", "table.h")
        with open(self.path("main.c"), "w") as file:
            file.write('#include "table.h"\n#include <stdio.h>\n'
                       "int main(void) {\n"
                       '  printf("%.9g %.9g", tq_beta_d128_b3_levels[0], tq_beta_d128_b3_edges[6]);\n'
                       "  return 0;\n}\n")
        subprocess.run(["cc", "-std=c99", "-Wall", "-Werror", "main.c", "-o", "main"], cwd=self.dir, check=True)
        printed = subprocess.check_output(["./main"], cwd=self.dir).decode().split()
        book = self.json("codebook", "--dim", 128, "--bits", 3, "--format", "json")
        self.assertAlmostEqual(float(printed[0]), book["levels"][0], delta=1e-8)
        self.assertAlmostEqual(float(printed[1]), book["edges"][6], delta=1e-8)

    def test_output_file_holds_what_stdout_would(self):
        for name in ("table", "json", "c"):
            args = ["codebook", "--dim", 96, "--bits", 2, "--format", name]
            self.assertEqual(self.tq(*args, "-o", name).stdout, "")
            self.assertEqual(self.read(name).decode(), self.tq(*args).stdout)

    def test_two_runs_give_the_same_bytes(self):
        args = ["codebook", "--dim", 1000, "--bits", 8, "--format", "json"]
        self.assertEqual(self.tq(*args).stdout, self.tq(*args).stdout)


class Output(CliTest):
    ARGS = ("codebook", "--dim", 8, "--bits", 1)

    def test_existing_output_needs_force(self):
        with open(self.path("book"), "w") as file:
            file.write("mine")
        self.refused(COULD_NOT, ["book", "--force"], *self.ARGS, "-o", "book")
        self.assertEqual(self.read("book"), b"mine")
        self.tq(*self.ARGS, "-o", "book", "--force")
        self.assertIn(b"beta-d8-b1", self.read("book"))

    def test_unwritable_output(self):
        open(self.path("file"), "w").close()
        for path in (".", "missing/book", "file/book", "/dev/full"):
            self.refused(COULD_NOT, [path], *self.ARGS, "-o", path)


class FrozenSet(CliTest):
    def test_all_regenerates_the_frozen_set_byte_for_byte(self):
        expected = sorted(name for name in os.listdir(FROZEN) if name.endswith(".inc"))
        self.assertIn(f"{len(expected)} ", self.tq("codebook", "--all", "-o", "deep/set").stdout)
        self.assertIn(f"{len(expected)} files", self.tq("codebook", "--help").stdout)
        self.assertEqual(sorted(os.listdir(self.path("deep/set"))), expected)
        for name in expected:
            with open(os.path.join(FROZEN, name), "rb") as file:
                self.assertEqual(self.read(os.path.join("deep/set", name)), file.read(), name)

    def test_frozen_levels_are_those_of_json(self):
        numbers = re.findall(r"-?0x[0-9a-f.]+p[+-]?\d+", self.frozen("beta_d128.inc"))
        found = {float.fromhex(x) for x in numbers}
        for bits in range(1, 9):
            book = self.json("codebook", "--dim", 128, "--bits", bits, "--format", "json")
            for level in book["levels"][2**(bits - 1):]:
                self.assertIn(float32(level), found)

    def frozen(self, name):
        with open(os.path.join(FROZEN, name)) as file:
            return file.read()

    def test_existing_files_need_force_and_nothing_is_half_done(self):
        os.mkdir(self.path("set"))
        with open(self.path("set/beta_d576.inc"), "w") as file:
            file.write("mine")
        self.refused(COULD_NOT, ["set/beta_d576.inc", "--force"], "codebook", "--all", "-o", "set")
        self.assertEqual(os.listdir(self.path("set")), ["beta_d576.inc"])
        self.assertEqual(self.read("set/beta_d576.inc"), b"mine")
        self.tq("codebook", "--all", "-o", "set", "--force")
        self.assertEqual(self.read("set/beta_d576.inc").decode(), self.frozen("beta_d576.inc"))
        self.assertGreaterEqual(len(os.listdir(self.path("set"))), 17)

    def test_a_directory_that_cannot_be(self):
        open(self.path("file"), "w").close()
        self.refused(COULD_NOT, ["file"], "codebook", "--all", "-o", "file")
        self.refused(COULD_NOT, ["file/set"], "codebook", "--all", "-o", "file/set")


if __name__ == "__main__":
    helpers.main()
