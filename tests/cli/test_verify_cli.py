"""tq verify: its report, its gates in both directions, its negative controls, its sources, and its exit codes."""
import math
import os

import helpers
from helpers import (COULD_NOT, DONE, GATE_FAILED, VerifyTest, gauss, kv_tensors, tensor, tensor_of,
                     write_safetensors)

PUBLISHED = {"model": str, "bits": int, "k_bits": int, "v_bits": int, "status": str, "validation": str,
             "threshold": float, "per_layer_cosine": list, "min_cosine": float, "versions": dict}
CONTROLS = ["zeros", "other_seed", "permuted_tokens", "one_bit"]


def near_equal(seed, tokens=32, dim=64, noise=0.02):
    """Rows that are all nearly the same vector: a dump on which permuting tokens goes unnoticed by a cosine."""
    base = gauss(seed, dim)
    return [base[i % dim] + n for i, n in enumerate(gauss(seed + 1, tokens * dim, noise))]


class Report(VerifyTest):
    def test_published_fields(self):
        dump = self.dump(metadata={"model": "org/name"})
        report = self.verify("--kv", dump, "--bits", 4)
        for name, kind in PUBLISHED.items():
            self.assertIsInstance(report[name], kind, name)
        self.assertEqual((report["model"], report["bits"], report["threshold"]), ("org/name", 4, 0.99))
        self.assertEqual((report["validation"], len(report["per_layer_cosine"])), ("VALIDATED", 2))
        self.assertLessEqual({"turboquant_vllm", "transformers", "torch", "tq"}, set(report["versions"]))
        mixed = self.verify("--kv", dump, "--k-bits", 4, "--v-bits", 3)
        self.assertEqual((mixed["bits"], mixed["k_bits"], mixed["v_bits"]), (None, 4, 3))
        self.assertAlmostEqual(mixed["threshold"], math.sqrt(1 - mixed["layers"][0]["v"]["distortion"]) - 0.005)
        self.assertTrue(mixed["threshold_is_default"])

    def test_json_alone_is_on_stdout_and_warnings_on_stderr(self):
        done = self.tq("verify", "--synthetic", "--layers", 1, "--json", "--quiet")
        self.assertTrue(done.stdout.startswith("{") and done.stdout.endswith("}\n"))
        self.assertIn("warning", done.stderr)
        self.assertIn("model", done.stderr)

    def test_table_per_layer_and_per_head(self):
        dump = self.dump(layers=2, heads=3, q_heads=3)
        text = self.tq("verify", "--kv", dump).stdout
        self.assertRegex(text, r"(?m)^ +1  +K  ")
        self.assertNotIn("1/2", text)
        self.assertIn("PASS", text.splitlines()[-1])
        text = self.tq("verify", "--kv", dump, "--per-head").stdout
        for layer in range(2):
            for head in range(3):
                for part in "KV":
                    self.assertRegex(text, rf"(?m)^ +{layer}/{head}  +{part}  ")
        text = self.tq("verify", "--kv", dump, "--threshold", 1, code=GATE_FAILED).stdout
        self.assertIn("FAIL", text.splitlines()[-1])
        text = self.tq("verify", "--kv", dump, "--threshold", -1, code=COULD_NOT).stdout
        self.assertIn("NOT MEASURED", text.splitlines()[-1])
        self.assertIn("does not notice zeros", text)

    def test_missing_queries_are_said(self):
        dump = self.dump()
        self.assertIn("attention was not measured", self.tq("verify", "--kv", dump).stdout)
        self.assertIsNone(self.verify("--kv", dump)["layers"][0]["attention"])


class Gates(VerifyTest):
    CODEC = {"threshold": "cosine_flattened", "min-token-cosine": "cosine_min", "max-rel-mse-ratio": "mse_ratio"}
    ATTENTION = {"max-attention-kl": "kl_mean", "min-attention-top1": "top1_agreement"}

    def worst(self, report, name):
        """(value, layer, part) that a gate is about, from the numbers of the layers."""
        if name in self.CODEC:
            found = [(x[part][self.CODEC[name]], x["layer"], part) for x in report["layers"] for part in "kv"]
        else:
            found = [(x["attention"][self.ATTENTION[name]], x["layer"], "k") for x in report["layers"]]
        return max(found) if name.startswith("max") else min(found)

    def both_sides(self, name, *args):
        """A gate passes at exactly the measured value, and fails one unit of the last place beyond."""
        def gate(limit, code):
            others = [] if name == "threshold" else ["--threshold", 0.9]
            report = self.verify(*args, *others, f"--{name}={limit!r}", code=code)
            found = next(g for g in report["gates"] if g["name"] == name)
            self.assertEqual((found["value"], found["worst_layer"], found["worst_part"]), self.worst(report, name))
            self.assertEqual((found["limit"], found["sensitive"]), (limit, True))
            return found
        value = self.worst(self.verify(*args, "--threshold", 0.9), name)[0]
        self.assertTrue(gate(value, DONE)["passed"])
        up = name.startswith("min") or name == "threshold"
        self.assertFalse(gate(math.nextafter(value, math.inf if up else -math.inf), GATE_FAILED)["passed"])

    def test_each_gate_on_both_sides_of_its_limit(self):
        dump = self.dump(layers=3, heads=2, tokens=32, dim=64, q_heads=4)
        for name in (*self.CODEC, *self.ATTENTION):
            for bits in ((4, 3), (3, 4)):
                with self.subTest(name=name, bits=bits):
                    self.both_sides(name, "--kv", dump, "--k-bits", bits[0], "--v-bits", bits[1])

    def test_one_failed_gate_of_many_fails(self):
        dump = self.dump(layers=1, q_heads=2)
        passing = ["--threshold", 0.9, "--min-token-cosine", 0.9, "--max-rel-mse-ratio", 2, "--max-attention-kl", 0.05,
                   "--min-attention-top1", 0.8]
        self.verify("--kv", dump, *passing)
        for place, limit in ((1, 1), (3, 1), (5, 0), (7, 0), (9, 1)):
            failing = passing[:place] + [limit] + passing[place + 1:]
            gates = self.verify("--kv", dump, *failing, code=GATE_FAILED)["gates"]
            self.assertEqual([g["passed"] for g in gates].count(False), 1, failing)

    def test_default_threshold(self):
        dump = self.dump(layers=1, heads=4, tokens=64)
        for k_bits, v_bits in ((4, 4), (8, 8), (4, 3), (3, 4), (2, 8), (1, 1)):
            report = self.verify("--kv", dump, "--k-bits", k_bits, "--v-bits", v_bits)
            narrow = min((report["layers"][0][part] for part in "kv"), key=lambda x: x["bits"])
            expected = 0.99 if min(k_bits, v_bits) >= 4 else math.sqrt(1 - narrow["distortion"]) - 0.005
            self.assertAlmostEqual(report["threshold"], expected, msg=(k_bits, v_bits))


class Controls(VerifyTest):
    """A gate that a negative control passes was not measured: exit 3, unless a gate failed."""

    def blind(self, *args, code=COULD_NOT):
        """{gate: the (part, control) pairs that pass it}"""
        report = self.verify(*args, code=code)
        found = {g["name"]: {(c["part"], c["control"]) for c in g["controls"] if c["passed"]} for g in report["gates"]
                 if g["name"] != "codebook-bound"}
        for gate in [g for g in report["gates"] if g["name"] in found]:
            self.assertEqual(gate["sensitive"], not found[gate["name"]])
        self.assertEqual(report["validation"] == "VALIDATED", not any(found.values()))
        for name, pairs in found.items():
            for _, control in pairs:
                self.assertTrue(any(f"--{name}" in w and control in w for w in report["warnings"]), (name, control))
        return found

    def test_which_controls_run(self):
        for tokens, bits, limit, expected in ((16, 2, 0.9, CONTROLS), (15, 2, 0.9, ["zeros", "other_seed", "one_bit"]),
                                              (16, 1, 0.7, CONTROLS[:3]), (1, 1, 0.7, CONTROLS[:2])):
            dump = self.dump("d", layers=1, tokens=tokens)
            report = self.verify("--kv", dump, "--bits", bits, "--threshold", limit)
            for part in "kv":
                self.assertEqual(list(report["layers"][0][part]["controls"]), expected)
                self.assertEqual([c["control"] for c in report["gates"][0]["controls"] if c["part"] == part], expected)

    def test_a_low_threshold_is_blind_to_everything(self):
        every = {(part, control) for part in "kv" for control in CONTROLS}
        dump = self.dump(layers=1)
        self.assertEqual(self.blind("--kv", dump, "--threshold", -1), {"threshold": every})
        self.assertEqual(self.blind("--kv", dump, "--min-token-cosine", -1)["min-token-cosine"], every)

    def test_one_bit(self):
        dump = self.dump(layers=1)
        pair = {("k", "one_bit"), ("v", "one_bit")}
        self.assertEqual(self.blind("--kv", dump, "--threshold", 0.75), {"threshold": pair})
        ratio = 0.5 / self.verify("--kv", dump)["layers"][0]["k"]["distortion"]  # zeros have a relative MSE of 1
        self.assertEqual(self.blind("--kv", dump, "--max-rel-mse-ratio", ratio)["max-rel-mse-ratio"], pair)

    def test_zeros(self):
        dump = self.dump(layers=1, heads=4)
        ratio = 1.01 / self.verify("--kv", dump, "--bits", 1)["layers"][0]["k"]["distortion"]
        self.assertEqual(self.blind("--kv", dump, "--bits", 1, "--max-rel-mse-ratio", ratio),
                         {"threshold": set(), "max-rel-mse-ratio": {("k", "zeros"), ("v", "zeros")}})

    def test_permuted_tokens(self):
        for name in ("k.0", "v.0"):
            tensors = kv_tensors(layers=1, heads=1, tokens=32, dim=64)
            tensors[name] = tensor_of([1, 32, 64], near_equal(3))
            dump = write_safetensors(self.path("dump"), tensors)
            pair = (name[0], "permuted_tokens")
            self.assertEqual(self.blind("--kv", dump, "--bits", 8), {"threshold": {pair}})
            found = self.blind("--kv", dump, "--bits", 8, "--min-token-cosine", 0.99)
            self.assertEqual(found["min-token-cosine"], {pair})
            self.blind("--kv", dump, "--bits", 8, "--threshold", 0.9999, code=DONE)  # strict enough to see it

    def test_another_seed(self):
        """With few values, some seed of the 40 decodes to something that looks a little like the rows."""
        dump = self.dump(layers=1, heads=1, tokens=1, dim=8)
        for seed in range(40):
            report = self.json("verify", "--kv", dump, "--bits", 1, "--json", "--threshold", 1, "--k-seed", seed,
                               code=GATE_FAILED)["layers"][0]
            look = report["k"]["controls"]["other_seed"]["cosine_flattened"]
            if look > 0.3 > report["v"]["controls"]["other_seed"]["cosine_flattened"]:
                break
        limit = min(look, report["k"]["cosine_flattened"], report["v"]["cosine_flattened"]) - 0.01
        self.assertEqual(self.blind("--kv", dump, "--bits", 1, "--threshold", limit, "--k-seed", seed),
                         {"threshold": {("k", "other_seed")}})

    def test_rows_of_zeros_measure_nothing(self):
        tensors = kv_tensors(layers=1, heads=1, tokens=32, dim=64)
        tensors["k.0"] = tensor_of([1, 32, 64], [0.0] * 2048)
        found = self.blind("--kv", write_safetensors(self.path("dump"), tensors))
        self.assertEqual(found, {"threshold": {("k", control) for control in CONTROLS}})

    def test_attention_gates(self):
        dump = self.dump(layers=1, q_heads=2)
        every = {("k", control) for control in CONTROLS}
        for option in (["--max-attention-kl", 1e9], ["--min-attention-top1", 0]):
            found = self.blind("--kv", dump, *option)
            self.assertEqual(found, {"threshold": set(), option[0].strip("-"): every})

    def test_a_failed_gate_wins_over_a_blind_one(self):
        dump = self.dump(layers=1, q_heads=2)
        found = self.blind("--kv", dump, "--threshold", -1, "--min-token-cosine", 1, code=GATE_FAILED)
        self.assertTrue(found["threshold"])
        self.blind("--kv", dump, "--threshold", 1, "--max-attention-kl", 1e9, code=GATE_FAILED)


class CouldNot(VerifyTest):
    def test_attention_gates_need_queries_in_every_layer(self):
        tensors = {n: t for n, t in kv_tensors(layers=2, q_heads=2).items() if n != "q.1"}
        dump = write_safetensors(self.path("dump"), tensors)
        for option in (["--max-attention-kl", 1], ["--min-attention-top1", 0.5]):
            self.refused(COULD_NOT, ["dump", "layer 1", option[0], "q.1"], "verify", "--kv", dump, *option)

    def test_attention_that_compares_nothing_is_not_measured(self):
        """Queries that see one key have no softmax to compare: no gate has failed, and none was passed."""
        single = self.dump("single", layers=1, tokens=1, q_heads=2)
        window = self.dump("window", {"sliding_window.1": "1"}, layers=2, q_heads=2)
        for dump in (single, window):
            self.verify("--kv", dump)
            for option in (["--max-attention-kl", 1], ["--min-attention-top1", 0.5]):
                with self.subTest(dump=os.path.basename(dump), option=option):
                    done = self.tq("verify", "--kv", dump, *option, code=COULD_NOT)
                    self.assertIn(option[0], done.stdout + done.stderr)

    def test_values_that_are_not_finite_are_named(self):
        for name, value, word in (("k.0", math.nan, "NaN"), ("v.1", math.inf, "infinite"),
                                  ("q.1", -math.inf, "infinite")):
            tensors = kv_tensors(layers=2, heads=2, tokens=20, dim=16, q_heads=2)
            values = list(tensors[name].values)
            values[(1 * 20 + 13) * 16 + 5] = value
            dump = write_safetensors(self.path("dump"), {**tensors, name: tensor_of([2, 20, 16], values)})
            for threads in (1, 4):
                self.refused(COULD_NOT, ["dump", name, "head 1", "token 13", "channel 5", word],
                             "verify", "--kv", dump, "--threads", threads)

    def test_a_norm_that_overflows_is_named(self):
        tensors = {"k.0": tensor([2, 3, 16]), "v.0": tensor_of([2, 3, 16], [1.0] * 64 + [3e38] * 16 + [1.0] * 16)}
        dump = write_safetensors(self.path("dump"), tensors)
        self.refused(COULD_NOT, ["dump", "v.0", "head 1", "token 1", "norm", "overflow"], "verify", "--kv", dump)


class Packed(VerifyTest):
    def test_measures_what_is_in_the_file(self):
        dump = self.dump(layers=2, heads=2, tokens=32, dim=64, v_dim=80, q_heads=4)
        for scheme in ([], ["--k-bits", 4, "--v-bits", 3], ["--bits", 3, "--k-seed", 7, "--v-seed", 0],
                       ["--rotation", "qr"]):
            self.tq("pack-kv", dump, "-o", "x.tq3", "--force", *scheme)
            packed = self.verify("--packed", "x.tq3", "--against", dump)
            direct = self.verify("--kv", dump, *scheme)
            self.assertEqual((packed["source"]["kind"], direct["source"]["kind"]), ("packed", "kv"))
            self.assertEqual(packed["source"]["packed"], "x.tq3")
            for name in ("layers", "gates", "k_bits", "v_bits", "schemes", "bytes", "threshold", "min_cosine"):
                self.assertEqual(packed[name], direct[name], (scheme, name))

    def test_the_file_of_other_rows_fails(self):
        dump = self.dump("dump", layers=1, seed=1)
        self.tq("pack-kv", self.dump("other", layers=1, seed=2), "-o", "x.tq3")
        report = self.verify("--packed", "x.tq3", "--against", dump, code=GATE_FAILED)
        self.assertLess(abs(report["min_cosine"]), 0.2)

    def test_files_that_do_not_belong_together(self):
        self.tq("pack-kv", self.dump("dump", layers=2, heads=2, tokens=8, dim=16, v_dim=24), "-o", "x.tq3")
        base = {"layers": 2, "heads": 2, "tokens": 8, "dim": 16, "v_dim": 24}
        for words, change in ((["2 layers", "has 1"], {"layers": 1}), (["layer 0"], {"heads": 1}),
                              (["9"], {"tokens": 9}), (["32"], {"dim": 32}), (["24", "40"], {"v_dim": 40})):
            other = self.dump("other", **{**base, **change})
            with self.subTest(change):
                self.refused(COULD_NOT, ["x.tq3", "other", *words], "verify", "--packed", "x.tq3", "--against", other)
        renamed = {n.replace(".1", ".2"): t for n, t in kv_tensors(**base).items()}
        self.refused(COULD_NOT, ["layer 1", "layer 2"], "verify", "--packed", "x.tq3",
                     "--against", write_safetensors(self.path("other"), renamed))
        for args in (["--packed", "missing", "--against", "dump"], ["--packed", "x.tq3", "--against", "missing"]):
            self.refused(COULD_NOT, ["missing"], "verify", *args)
        self.refused(COULD_NOT, ["dump"], "verify", "--packed", "dump", "--against", "dump")

    def test_a_type_of_other_width_may_stand_against_it(self):
        tensors = kv_tensors(layers=1)
        wide = {n: tensor_of(t.shape, t.values) for n, t in tensors.items()}
        self.tq("pack-kv", write_safetensors(self.path("narrow"), tensors), "-o", "x.tq3")
        self.verify("--packed", "x.tq3", "--against", write_safetensors(self.path("wide"), wide))


class Synthetic(VerifyTest):
    def test_every_width_passes_its_own_defaults(self):
        for bits in range(1, 9):
            report = self.verify("--synthetic", "--layers", 1, "--bits", bits)
            self.assertEqual({g["name"]: g["limit"] for g in report["gates"]}["max-rel-mse-ratio"], 1.1)
            self.assertTrue(0.97 < report["layers"][0]["k"]["mse_ratio"] < 1.03, bits)

    def test_says_that_it_is_about_no_model(self):
        report = self.verify("--synthetic", "--layers", 1)
        self.assertEqual((report["source"]["kind"], report["source"]["model_independent"]), ("synthetic", True))
        self.assertEqual((report["validation"], report["source"]["path"]), ("UNVALIDATED", None))
        self.assertTrue(any("model" in w for w in report["warnings"]))

    def test_shape_and_seed(self):
        shape = ["--dim", 96, "--tokens", 50, "--heads", 3, "--layers", 2]
        report = self.verify("--synthetic", *shape)
        self.assertEqual([(x["kv_heads"], x["tokens"], x["k"]["dim"]) for x in report["layers"]], [(3, 50, 96)] * 2)
        self.assertEqual(report, self.verify("--synthetic", *shape, "--seed", 1))
        self.assertNotEqual(report["layers"], self.verify("--synthetic", *shape, "--seed", 2)["layers"])
        heads = [h[p]["relative_mse"] for x in report["layers"] for h in x["heads"] for p in "kv"]
        self.assertEqual(len(set(heads)), 12, "each head and part has rows of its own")

    def test_limits_of_the_shape(self):
        loose = ["--threshold", 0.9, "--max-rel-mse-ratio", 9]
        self.verify("--synthetic", "--dim", 8, "--tokens", 16, "--heads", 1, "--layers", 1, *loose)
        self.verify("--synthetic", "--dim", 1024, "--tokens", 16, "--heads", 1, "--layers", 1, *loose)
        # Of 1024 layers with two short rows each, some are blind to a control.
        self.verify("--synthetic", "--dim", 8, "--tokens", 2, "--heads", 1, "--layers", 1024, "--seed", 2**32 - 1,
                    "--threshold", 0.9, "--max-rel-mse-ratio", 20, code=COULD_NOT)


if __name__ == "__main__":
    helpers.main()
