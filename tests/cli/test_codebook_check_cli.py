"""tq codebook --check, --id and --format 0xsero-json: foreign codebooks, judged, named and written."""
import json
import math
import os
import re
import struct

import helpers
from helpers import COULD_NOT, DONE, GATE_FAILED, USAGE, CliTest

FROZEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "codebooks")
FIELDS = ["file", "format", "density", "dim", "bits", "distortion", "claimed_distortion", "midpoint_distortion",
          "optimal_distortion", "ratio_to_optimum", "bits_lost", "theorem_bound", "ratio_to_bound", "within_bound",
          "symmetric", "asymmetry", "edges_given", "edges_are_midpoints", "edge_deviation", "fixed_point",
          "centroid_violation", "empty_cells", "best_scale", "best_scale_distortion", "scaled_optimum", "recognized",
          "verdicts", "exit_code"]
VJ_128_3 = (.021663449704647064, .06682200729846954, .11878585070371628, .1902068555355072)


def normal_density(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def normal_beyond(x):
    return math.erfc(x / math.sqrt(2)) / 2


def normal_mean(low, high):
    return (normal_density(low) - normal_density(high)) / (normal_beyond(low) - normal_beyond(high))


def normal_quantile(p):
    low, high = -40.0, 40.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if normal_beyond(middle) > 1 - p else (low, middle)
    return low


def lloyd(edges, sweeps):
    """Levels after `sweeps` of Lloyd's iteration on N(0, 1); the outermost edges stay."""
    for _ in range(sweeps):
        levels = [normal_mean(a, b) for a, b in zip(edges, edges[1:])]
        edges = [edges[0]] + [(a + b) / 2 for a, b in zip(levels, levels[1:])] + [edges[-1]]
    return levels


def quantile_edges(bits):
    return [-40.0] + [normal_quantile(i / 2**bits) for i in range(1, 2**bits)] + [40.0]


class CheckTest(CliTest):
    def write(self, text, name="table"):
        with open(self.path(name), "w") as file:
            file.write(text if isinstance(text, str) else json.dumps(text))
        return name

    def check(self, text, *args, code=DONE):
        """The JSON judgment of a file with this text, or of a list or an object as JSON."""
        report = self.json("codebook", "--check", self.write(text), *args, "--json", code=code)
        self.assertEqual(list(report), FIELDS)
        self.assertEqual(report["exit_code"], code)
        self.assertEqual(report["within_bound"], code == DONE)
        self.assertTrue(report["verdicts"])
        return report

    def book(self, bits, density="beta", dim=128):
        return self.json("codebook", "--density", density, "--dim", dim, "--bits", bits, "--format", "json")


class Published(CheckTest):
    """Sets computed here by their definitions, in units of sigma."""

    def judge(self, levels, code=DONE):
        return self.check(" ".join(map(repr, levels)), "--dim", 128, "--scale", "sigma", code=code)

    def test_100_sweeps(self):
        for bits, distortion, code in ((3, .03398, DONE), (4, .00932, DONE), (5, .00271, GATE_FAILED)):
            report = self.judge(lloyd(quantile_edges(bits), 100), code)
            self.assertAlmostEqual(report["distortion"], distortion, delta=5.1e-6)
            self.assertIn("vj", report["recognized"])
            self.assertFalse(report["fixed_point"])
        self.assertAlmostEqual(report["theorem_bound"], .00266, delta=5.1e-6)
        self.assertGreater(report["ratio_to_bound"], 1.01)

    def test_cut_at_3_sigma(self):
        # 200 sweeps from an even grid, not quite converged: 3.7 % and 16 % worse than the optimum.
        for bits, distortion, ratio, code in ((4, .00966, 1.037, DONE), (5, .00284, 1.158, GATE_FAILED)):
            edges = [-3 + 6 * i / 2**bits for i in range(2**bits + 1)]
            report = self.judge(lloyd(edges, 200), code)
            self.assertAlmostEqual(report["distortion"], distortion, delta=5.1e-6)
            self.assertAlmostEqual(report["ratio_to_optimum"], ratio, delta=2e-3)
            self.assertAlmostEqual(report["bits_lost"], math.log2(report["ratio_to_optimum"]) / 2, delta=1e-12)
        report = self.judge(lloyd([-3 + 6 * i / 16 for i in range(17)], 3000))
        self.assertEqual(report["recognized"], ["gaussian-3-sigma"])

    def test_equally_probable_cells(self):
        # The Gaussian's: within 2 % of what the Beta's give, .04922 and .01948 (tests/test_judge.cpp).
        for bits, distortion in ((3, .04922), (4, .01948)):
            report = self.judge(lloyd(quantile_edges(bits), 1), GATE_FAILED)
            self.assertAlmostEqual(report["distortion"] / distortion, 1, delta=.02)
            self.assertRegex(report["verdicts"][0], "EXCEEDS Theorem 1's bound")

    def test_the_fixed_point(self):
        report = self.judge(lloyd(quantile_edges(2), 3000))
        self.assertEqual(report["recognized"], ["gaussian"])
        self.assertFalse(report["fixed_point"], "it is one of the Gaussian, and not on the sphere")
        report = self.check("-1.51041761 -0.45278 0.45278 1.51041761", "--dim", 128, "--scale", "sigma", "--density",
                            "gaussian")
        self.assertTrue(report["fixed_point"])
        self.assertAlmostEqual(report["ratio_to_optimum"], 1, delta=1e-9)


class Forms(CheckTest):
    def test_ours_and_theirs_read_back_as_optimal(self):
        for name, format_name in (("json", "tq-json"), ("0xsero-json", "0xsero-json")):
            for bits in (1, 3, 8):
                self.tq("codebook", "--dim", 96, "--bits", bits, "--format", name, "-o", "book", "--force")
                report = self.json("codebook", "--check", "book", "--json")
                self.assertEqual((report["format"], report["dim"], report["bits"]), (format_name, 96, bits))
                self.assertAlmostEqual(report["ratio_to_optimum"], 1, delta=1e-12)
                self.assertAlmostEqual(report["best_scale"], 1, delta=1e-6)
                self.assertAlmostEqual(report["claimed_distortion"] / report["distortion"], 1, delta=1e-12)
                self.assertEqual((report["symmetric"], report["fixed_point"], report["edges_given"],
                                  report["edges_are_midpoints"]), (True, True, True, True))
                self.assertIn("beta", report["recognized"])

    def test_a_gaussian_book_keeps_its_density_unless_told(self):
        book = self.book(4, "gaussian")
        own = self.check(book)
        self.assertEqual((own["density"], own["fixed_point"]), ("gaussian", True))
        sphere = self.check(book, "--density", "beta")
        self.assertEqual((sphere["density"], sphere["fixed_point"]), ("beta", False))
        self.assertIsNone(sphere["claimed_distortion"])
        self.assertAlmostEqual(sphere["ratio_to_optimum"], 1.00108, delta=5.1e-6)
        self.assertEqual(sphere["recognized"], ["gaussian"])

    def test_lists_and_arrays(self):
        levels = self.book(3)["levels"]
        for text in (" ".join(map(repr, levels)), ",".join(map(repr, levels)), "\n".join(map(repr, levels)) + "\n",
                     json.dumps(levels)):
            report = self.check(text, "--dim", 128)
            self.assertEqual(report["format"], "list")
            self.assertAlmostEqual(report["ratio_to_optimum"], 1, delta=1e-12)
            self.assertEqual((report["edges_given"], report["edges_are_midpoints"], report["edge_deviation"],
                              report["claimed_distortion"]), (False, None, None, None))
        in_sigma = [x * math.sqrt(128) for x in levels]
        right = self.check(in_sigma, "--dim", 128, "--scale", "sigma")
        self.assertAlmostEqual(right["ratio_to_optimum"], 1, delta=1e-12)
        wrong = self.check(in_sigma, "--dim", 128, "--scale", "unit", code=GATE_FAILED)
        self.assertTrue(wrong["scaled_optimum"])
        self.assertAlmostEqual(wrong["best_scale"] * math.sqrt(128), 1, delta=1e-6)

    def test_lines_say_what_the_json_says(self):
        self.write([0.61 * x for x in self.book(3)["levels"]])
        report = self.json("codebook", "--check", "table", "--dim", 128, "--json", code=GATE_FAILED)
        text = self.tq("codebook", "--check", "table", "--dim", 128, code=GATE_FAILED).stdout
        for line in report["verdicts"]:
            self.assertIn("\n" + line + "\n", text)
        numbers = [float(x) for x in re.findall(r"(?m) (\d[\d.e+-]*)(?: bits)?$", text)]
        for name in ("distortion", "optimal_distortion", "ratio_to_optimum", "bits_lost", "theorem_bound",
                     "ratio_to_bound", "best_scale", "best_scale_distortion"):
            self.assertTrue(any(math.isclose(x, report[name], rel_tol=1e-5) for x in numbers), (name, text))


    def test_a_byte_order_mark_is_no_number(self):
        self.assertEqual(self.check("\ufeff-0.05 0.05", "--dim", 128)["format"], "list")


class Faults(CheckTest):
    def test_a_scaled_table_with_scaled_boundaries(self):
        theirs = self.json("codebook", "--dim", 128, "--bits", 3, "--format", "0xsero-json")
        for key in ("centroids", "boundaries"):
            theirs[key] = [0.61 * x for x in theirs[key]]
        report = self.check(theirs, code=GATE_FAILED)
        self.assertTrue(report["scaled_optimum"])
        self.assertAlmostEqual(report["best_scale"], 1 / 0.61, delta=1e-3)

    def test_a_scale_of_061_is_found_and_named(self):
        report = self.check([0.61 * x for x in self.book(4)["levels"]], "--dim", 128, code=GATE_FAILED)
        self.assertTrue(report["scaled_optimum"])
        self.assertAlmostEqual(report["best_scale"], 1 / 0.61, delta=1e-6)
        self.assertAlmostEqual(report["best_scale_distortion"] / report["optimal_distortion"], 1, delta=1e-9)
        self.assertIn("these are an optimal set's levels times 0.610: multiply them by 1.639", report["verdicts"])

    def test_an_asymmetric_set(self):
        levels = self.book(3)["levels"]
        levels[6] += 0.01 / math.sqrt(128)
        report = self.check(levels, "--dim", 128)
        self.assertEqual((report["symmetric"], report["fixed_point"], report["recognized"]), (False, False, []))
        self.assertAlmostEqual(report["asymmetry"], 0.01, delta=1e-9)
        self.assertGreater(report["ratio_to_optimum"], 1 + 1e-7)
        self.assertLess(report["ratio_to_optimum"], 1.001)

    def test_boundaries_that_are_no_midpoints(self):
        self.tq("codebook", "--dim", 128, "--bits", 3, "--format", "0xsero-json", "-o", "theirs")
        theirs = json.loads(self.read("theirs"))
        theirs["boundaries"][3] -= 0.1 / math.sqrt(128)
        report = self.check(theirs)
        self.assertEqual((report["edges_given"], report["edges_are_midpoints"], report["fixed_point"]),
                         (True, False, False))
        self.assertAlmostEqual(report["edge_deviation"], 0.1, delta=1e-9)
        self.assertAlmostEqual(report["midpoint_distortion"] / report["optimal_distortion"], 1, delta=1e-12)
        # Moving an edge by e costs gap * e^2 * density there, to first order.
        gap = (theirs["centroids"][3] - theirs["centroids"][2]) * math.sqrt(128)
        cost = gap * 0.1**2 * normal_density(0.55)
        self.assertAlmostEqual((report["distortion"] - report["midpoint_distortion"]) / cost, 1, delta=0.1)
        self.assertTrue(any("not the midpoints" in line for line in report["verdicts"]))
        self.assertTrue(any("the file states" in line for line in report["verdicts"]))

    def test_codes_that_never_occur(self):
        report = self.check("-2 0 2 3", "--dim", 64, code=GATE_FAILED)
        self.assertEqual(report["empty_cells"], 3)
        self.assertAlmostEqual(report["distortion"], 1, delta=1e-9)

    def test_what_is_no_table_could_not_be_judged(self):
        levels = self.book(3)["levels"]
        swapped = [levels[0], levels[2], levels[1], *levels[3:]]
        for words, text in ((["ascend", "level 2"], json.dumps(swapped)), (["nan", "level 1"], "0.1 nan"),
                            (["JSON"], "[0.1, NaN]"), (["inf"], "0.1 inf"), (["7 levels"], json.dumps(levels[1:])),
                            (["1 levels"], "0.5"), (["empty"], ""), (["cat"], "0.1 cat"), (["512 levels"], "0 " * 512),
                            (["neither"], "{}"), (["overflow"], "[1, 1e999]"), (["JSON"], "\ufeff[1, 2]"[1:] + ",")):
            self.write(text)
            for more in ((), ("--json",)):
                with self.subTest(text=text[:40], more=more):
                    self.refused(COULD_NOT, ["table: ", *words], "codebook", "--check", "table", "--dim", 128, *more)
        self.write(struct.pack("<8f", *levels).decode("latin-1"))
        self.refused(COULD_NOT, ["table: "], "codebook", "--check", "table", "--dim", 128)

    def test_files_that_cannot_be_read(self):
        self.refused(COULD_NOT, ["missing"], "codebook", "--check", "missing", "--dim", 128)
        self.refused(COULD_NOT, ["directory"], "codebook", "--check", ".", "--dim", 128)
        with open(self.path("large"), "w") as file:
            file.write("0 " * 600000)
        self.refused(COULD_NOT, ["large", "1048576"], "codebook", "--check", "large", "--dim", 128)

    def test_a_dim_that_is_unknown_or_another(self):
        self.write("-0.1 0.1")
        self.refused(COULD_NOT, ["--dim"], "codebook", "--check", "table")
        self.refused(COULD_NOT, ["8..1024"], "codebook", "--check", "table", "--dim", 7)
        self.refused(COULD_NOT, ["8..1024"], "codebook", "--check", "table", "--dim", 1)
        self.write(self.book(2, dim=64))
        self.refused(COULD_NOT, ["64", "128"], "codebook", "--check", "table", "--dim", 128)
        self.refused(COULD_NOT, ["--scale"], "codebook", "--check", "table", "--scale", "sigma")
        self.check(self.book(2, dim=64), "--dim", 64)

    def test_options_that_do_not_go_together(self):
        for words, args in ((["--check"], ["--check", "x", "--bits", 3]),
                            (["--check"], ["--check", "x", "--format", "c"]),
                            (["--check"], ["--check", "x", "--all"]), (["--check"], ["--check", "x", "-o", "y"]),
                            (["--check"], ["--check", "x", "--id", "beta-d128-b3"]), (["--check"], ["--json"]),
                            (["--check"], ["--scale", "sigma"]),
                            (["sigma", "unit"], ["--check", "x", "--scale", "one"]),
                            (["--id"], ["--id", "beta-d128-b3", "--dim", 128]), (["--id"], ["--id", "x", "--bits", 3]),
                            (["--id"], ["--id", "beta-d128-b3", "--density", "beta"]),
                            (["--id"], ["--id", "x", "--all"]),
                            (["vj-d128-b5", "--id"], ["--id", "vj-d128-b5"]), (["--id"], ["--id", "nonsense"]),
                            (["8..1024"], ["--id", "beta-d7-b3"]), (["1..8"], ["--id", "beta-d64-b9"])):
            with self.subTest(args=args):
                self.refused(USAGE, words, "codebook", *args)


class Ids(CheckTest):
    def test_an_id_prints_what_dim_and_bits_print(self):
        for name in ("table", "json", "c", "0xsero-json"):
            solved = self.tq("codebook", "--density", "gaussian", "--dim", 100, "--bits", 3, "--format", name)
            self.assertEqual(self.tq("codebook", "--id", "gaussian-d100-b3", "--format", name).stdout, solved.stdout)

    def test_compatibility_tables_in_every_form(self):
        book = self.json("codebook", "--id", "vj-d128-b3", "--format", "json")
        self.assertEqual(book["levels"], [-x for x in reversed(VJ_128_3)] + list(VJ_128_3))
        self.assertEqual((book["id"], book["density"], book["dim"], book["bits"]), ("vj-d128-b3", "beta", 128, 3))
        self.assertAlmostEqual(book["distortion"], .03398, delta=5.1e-6)
        self.assertAlmostEqual(book["sphere_distortion"] / book["distortion"], 1, delta=1e-13)
        self.assertAlmostEqual(book["ratio_to_optimum"], 1.00039, delta=5.1e-6)
        self.assertAlmostEqual(book["bits_lost"], math.log2(book["ratio_to_optimum"]) / 2, delta=1e-12)

        text = self.tq("codebook", "--id", "vj-d128-b3").stdout
        self.assertIn("1.000387", text)
        text = self.tq("codebook", "--id", "vj-d128-b3", "--format", "c").stdout
        self.assertIn("tq_vj_d128_b3_levels[8]", text)
        numbers = [float.fromhex(x) for x in re.findall(r"(?m)^ +(-?0x[0-9a-fp.+-]+)f,", text)]
        self.assertEqual(numbers[:8], book["levels"])
        theirs = self.json("codebook", "--id", "vj-d128-b3", "--format", "0xsero-json")
        self.assertEqual(theirs["centroids"], book["levels"])
        self.assertEqual(theirs["boundaries"], [-1.0, *book["edges"], 1.0])

    def test_every_compatibility_table_is_frozen_and_recognized(self):
        for dim in (64, 128, 256):
            with open(os.path.join(FROZEN, f"vj_d{dim}.inc")) as file:
                frozen = [float.fromhex(x) for x in re.findall(r"0x[0-9a-f.]+p[+-]?\d+", file.read())]
            printed = []
            for bits in (2, 3, 4):
                book = self.json("codebook", "--id", f"vj-d{dim}-b{bits}", "--format", "json")
                printed += book["levels"][2**(bits - 1):]
                self.assertIn("vj", self.check(book)["recognized"])
            self.assertEqual(printed, frozen)


class Theirs(CheckTest):
    def test_keys_in_their_order_and_numbers_that_agree(self):
        for dim, bits in ((128, 3), (64, 1), (576, 8)):
            theirs = self.json("codebook", "--dim", dim, "--bits", bits, "--format", "0xsero-json")
            self.assertEqual(list(theirs), ["centroids", "boundaries", "mse_per_coord", "mse_total", "d", "bits"])
            book = self.book(bits, dim=dim)
            self.assertEqual((theirs["d"], theirs["bits"], theirs["centroids"]), (dim, bits, book["levels"]))
            self.assertEqual(theirs["boundaries"], [-1.0, *book["edges"], 1.0])
            self.assertEqual(theirs["mse_total"], book["distortion"])
            self.assertAlmostEqual(theirs["mse_per_coord"] * dim / theirs["mse_total"], 1, delta=1e-15)

    def test_levels_beyond_1_do_not_fit_the_form(self):
        self.refused(USAGE, ["0xsero-json", "gaussian-d8-b8"], "codebook", "--id", "gaussian-d8-b8", "--format",
                     "0xsero-json")


if __name__ == "__main__":
    helpers.main()
