"""tq verify --compare and tq plan: schemes side by side, bits where they pay, and the file between them."""
import json
import os

import helpers
from helpers import COULD_NOT, DONE, USAGE, VerifyTest

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SAMPLE = os.path.join(os.path.dirname(TESTS), "docs", "samples", "smollm2-135m-instruct.safetensors")
PREFILL = os.path.join(TESTS, "prefill")


class Compare(VerifyTest):
    def compare(self, schemes, *args):
        return self.json("verify", "--kv", SAMPLE, "--compare", schemes, "--json", "--quiet", *args)

    def test_rows_are_what_verify_says_of_each(self):
        report = self.compare("k4v3,k3v3+center")
        for row, args in zip(report["schemes"], (["--k-bits", 4, "--v-bits", 3], ["--bits", 3, "--k-center"])):
            alone = self.json("verify", "--kv", SAMPLE, "--json", "--quiet", *args)
            self.assertAlmostEqual(row["bytes_per_token"], alone["bytes"]["packed"] / 256, places=6)
            self.assertEqual(row["k_scheme"], alone["schemes"]["k"])
            layers = alone["layers"]
            self.assertAlmostEqual(row["k"]["cosine_flattened_min"], min(l["k"]["cosine_flattened"] for l in layers), places=9)
            kl = [l["attention"]["kl_mean"] for l in layers]
            self.assertAlmostEqual(row["attention"]["kl_mean"], sum(kl) / len(kl), places=9)
            self.assertAlmostEqual(row["attention"]["kl_worst_layer"], max(kl), places=9)

    def test_remedies_and_other_systems_at_their_bytes(self):
        names = "k3v3,k3v3+center,tq3+qjl,fp8,q8_0,q4_0,kivi2,vllm:turboquant_4bit_nc,k2v2+outliers16:4,k4v4"
        report = self.compare(names)
        rows = {row["name"]: row for row in report["schemes"]}
        self.assertEqual(list(rows), names.split(","))
        self.assertEqual(rows["fp8"]["bytes_per_token"], 5 * 3 * 2 * 64)
        self.assertEqual(rows["q8_0"]["bytes_per_token"], 5 * 3 * 2 * 68)
        self.assertEqual(rows["k4v4"]["bytes_per_token"], 5 * 3 * 2 * 36)
        self.assertLess(rows["k3v3+center"]["attention"]["kl_mean"], rows["k3v3"]["attention"]["kl_mean"])
        self.assertGreater(rows["tq3+qjl"]["attention"]["kl_mean"], rows["k3v3"]["attention"]["kl_mean"])
        marked = [name for name, row in rows.items() if row["pareto"]]
        self.assertIn("k3v3+center", marked)
        self.assertNotIn("tq3+qjl", marked)

    def test_table_and_markdown_tell_the_same(self):
        text = self.tq("verify", "--kv", SAMPLE, "--compare", "k4v4,q4_0").stdout
        mark = self.tq("verify", "--kv", SAMPLE, "--compare", "k4v4,q4_0", "--markdown").stdout
        for word in ("k4v4", "q4_0", "0.008496"):
            self.assertIn(word, text)
            self.assertIn(word, mark)
        self.assertTrue(all(line.startswith("|") and line.endswith("|") for line in mark.splitlines()))

    def test_what_does_not_go_together(self):
        for words, args in ((["--bits", "does not go"], ["--kv", SAMPLE, "--compare", "k4v4", "--bits", 4]),
                            (["--kv or --model"], ["--synthetic", "--compare", "k4v4"]),
                            (["gates"], ["--kv", SAMPLE, "--compare", "k4v4", "--threshold", 0.9]),
                            (["scheme 'k4v9'"], ["--kv", SAMPLE, "--compare", "k4v4,k4v9"]),
                            (["q4_0", "kivi2"], ["--kv", SAMPLE, "--compare", "q5"])):
            self.refused(USAGE, words, "verify", *args)

    def test_values_count_where_there_is_no_model(self):
        rows = {row["name"]: row for row in self.compare("k8v1,k8v8,k4v4")["schemes"]}
        self.assertTrue(rows["k8v8"]["pareto"] and rows["k4v4"]["pareto"])

    def test_a_scheme_that_cannot_hold_the_rows_says_so(self):
        loud = helpers.write_safetensors(self.path("loud"), {name: helpers.tensor([1, 20, 32], seed, "F32", 3e4)
                                                             for seed, name in enumerate(("k.0", "v.0"))})
        report = self.json("verify", "--kv", loud, "--compare", "k4v4+sinks4+f16-norms,k4v4", "--json", "--quiet")
        self.assertIn("F16", report["schemes"][0]["refused"])
        self.assertIsNone(report["schemes"][1]["refused"])
        report = self.json("verify", "--kv", loud, "--compare", "k4v4+outliers99:8", "--json", "--quiet", code=COULD_NOT)
        self.assertEqual(report["exit_code"], COULD_NOT)

    def test_a_model(self):
        with open(self.path("ids.json"), "w", encoding="utf-8") as file:
            json.dump([(7 * i * i + 3 * i) % 61 + 3 for i in range(200)], file)
        report = self.json("verify", "--model", os.path.join(PREFILL, "llama-linear"), "--token-ids", "ids.json", "--tokens", 128,
                           "--compare", "k8v8,k3v3,k16v16", "--json", "--quiet")
        kl = [row["effect"]["kl"]["estimate"] for row in report["schemes"]]
        self.assertLess(kl[2], kl[0])
        self.assertLess(kl[0], kl[1])
        self.assertEqual(report["pareto_metric"], "output KL")


class Plan(VerifyTest):
    def test_a_plan_is_a_scheme_that_verify_and_pack_take(self):
        report = self.json("plan", "--kv", SAMPLE, "--bytes-per-token", 900, "-o", "plan.json", "--json", "--quiet")
        with open(self.path("plan.json"), encoding="utf-8") as file:
            self.assertEqual(json.load(file), report["scheme"])
        self.assertLessEqual(report["planned"]["bytes_per_token"], 900)
        self.assertLess(report["planned"]["cost"], report["uniform"]["cost"])
        alone = self.json("verify", "--kv", SAMPLE, "--scheme", "plan.json", "--threshold", 0.9, "--json", "--quiet")
        self.assertEqual(alone["bytes"]["packed"], round(256 * report["planned"]["bytes_per_token"]))
        self.tq("pack-kv", SAMPLE, "-o", "x.tq3", "--scheme", "plan.json")
        packed = self.json("inspect", "x.tq3", "--json")
        self.assertEqual(sum(t["bytes"] for t in packed["tensors"]), alone["bytes"]["packed"])
        bits = {(t["layer"], t["part"]): int(t["scheme"].split("bits=")[1].split()[0]) for t in packed["tensors"]}
        for layer in report["layers"]:
            self.assertEqual((bits[layer["layer"], "k"], bits[layer["layer"], "v"]), (layer["k_bits"], layer["v_bits"]))

    def test_the_limit_is_met_with_the_fewest_bytes_that_are_found(self):
        loose, strict = (self.json("plan", "--kv", SAMPLE, "--max-kld", x, "--json", "--quiet") for x in (0.2, 0.02))
        self.assertLessEqual(loose["predicted"], 0.2)
        self.assertLessEqual(strict["predicted"], 0.02)
        self.assertLess(loose["planned"]["bytes_per_token"], strict["planned"]["bytes_per_token"])

    def test_the_file_keeps_what_the_plan_was_made_with(self):
        report = self.json("plan", "--kv", SAMPLE, "--bytes-per-token", 1000, "--k-center", "--effort", 1, "--sink-tokens", 4,
                           "-o", "plan.json", "--json", "--quiet")
        self.assertEqual(report["scheme"]["with"], "least-squares+effort1+center+sinks4")
        alone = self.json("verify", "--kv", SAMPLE, "--scheme", "plan.json", "--threshold", 0.9, "--json", "--quiet")
        self.assertEqual(alone["bytes"]["packed"], round(256 * report["planned"]["bytes_per_token"]))

    def test_what_cannot_be(self):
        for option in (["--bits", 3], ["--scheme", "x"], ["--boundary-layers", 1], ["--outlier-channels", "16:4"]):
            self.refused(USAGE, [option[0], "plan"], "plan", "--kv", SAMPLE, "--bytes-per-token", 900, *option)
        one = helpers.write_safetensors(self.path("one"), {name: helpers.tensor([1, 1, 32], seed) for seed, name in enumerate(("k.0", "v.0", "q.0"))})
        self.refused(COULD_NOT, ["layer 0", "more tokens"], "plan", "--kv", one, "--bytes-per-token", 900, "--quiet")
        self.refused(USAGE, ["exactly one source"], "plan", "--bytes-per-token", 900)
        self.refused(USAGE, ["exactly one limit"], "plan", "--kv", SAMPLE)
        self.refused(USAGE, ["exactly one limit"], "plan", "--kv", SAMPLE, "--bytes-per-token", 900, "--max-kld", 1)
        self.refused(COULD_NOT, ["600", "2 bits everywhere"], "plan", "--kv", SAMPLE, "--bytes-per-token", 599, "--quiet")
        self.refused(COULD_NOT, ["queries"], "plan", "--kv", self.dump(layers=1, dim=16), "--bytes-per-token", 599, "--quiet")
        with open(self.path("there.json"), "w", encoding="utf-8") as file:
            file.write("mine")
        self.refused(COULD_NOT, ["there.json"], "plan", "--kv", SAMPLE, "--bytes-per-token", 900, "-o", "there.json", "--quiet")
        with open(self.path("there.json"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "mine")


if __name__ == "__main__":
    helpers.main()
