"""tq verify --model: what a compressed cache, packed weights or both do to a tiny model's output, and the gates on it.

llama-linear has 64 pieces, so that even its random weights read any text with a perplexity below 200."""
import json
import math
import os
import shutil

import helpers
from helpers import COULD_NOT, DONE, GATE_FAILED, USAGE, VerifyTest, read_safetensors, write_safetensors

PREFILL = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "prefill")


class EffectTest(VerifyTest):
    model = os.path.join(PREFILL, "llama-linear")

    def setUp(self):
        super().setUp()
        with open(self.path("ids.json"), "w", encoding="utf-8") as file:
            json.dump([(7 * i * i + 3 * i) % 61 + 3 for i in range(600)], file)

    def run_model(self, *args, code=DONE, tokens=128):
        return self.verify("--model", self.model, "--token-ids", "ids.json", "--tokens", tokens, *args, code=code)

    def pack(self, to="packed", model=None):
        self.tq("pack-weights", model or self.model, "-o", to, "--bits", "4", "--group-size", "64", "--quiet")
        return to

    def changed_model(self, to="changed", **config):
        shutil.copytree(self.model, self.path(to))
        path = os.path.join(self.path(to), "config.json")
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        values.update(config)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(values, file)
        return self.path(to)

    def louder_model(self):
        """Its queries times 60, so that attention looks at single tokens, and a broken cache is noticed."""
        directory = self.changed_model("louder")
        path = os.path.join(directory, "model.safetensors")
        tensors, metadata = read_safetensors(path)
        for name, tensor in tensors.items():
            factor = 60 if "q_proj" in name else 8 if "v_proj" in name or "o_proj" in name else 1
            if factor > 1:
                tensor.data = helpers.to_bytes(tensor.dtype, [factor * x for x in tensor.values])
        write_safetensors(path, tensors, metadata)
        return directory


    def wide_model(self):
        """Its MLP is wide enough to be packed."""
        directory = self.changed_model("wide", intermediate_size=128)
        path = os.path.join(directory, "model.safetensors")
        tensors, metadata = read_safetensors(path)
        for seed, (name, tensor) in enumerate(tensors.items()):
            if ".mlp." in name:
                tensors[name] = helpers.tensor([32, 128] if "down" in name else [128, 32], seed, tensor.dtype, 0.2)
        write_safetensors(path, tensors, metadata)
        return directory


class Output(EffectTest):
    def test_layers_that_are_kept_are_listed(self):
        with open(self.path("scheme.json"), "w", encoding="utf-8") as file:
            json.dump({"layers": [{"layer": 1, "k": 16, "v": 16}]}, file)
        report = self.run_model("--bits", 4, "--scheme", "scheme.json")
        self.assertEqual(report["model_run"]["exact_layers"], [1])
        self.assertEqual(self.run_model("--bits", 4)["model_run"]["exact_layers"], [])

    def test_the_effect_is_reported_and_more_bits_have_less(self):
        kl = []
        for bits in (2, 4, 8):
            effect = self.run_model("--bits", bits)["effect"]
            self.assertEqual((effect["cache"], effect["weights"], effect["predictions"], effect["greedy"]), (True, None, 127, None))
            self.assertEqual(effect["bootstrap"]["confidence"], .95)
            mean = effect["kl"]["mean"]
            self.assertTrue(0 <= mean["low"] <= mean["estimate"] <= mean["high"])
            self.assertLessEqual(effect["kl"]["median"], effect["kl"]["p99"])
            ratio = effect["perplexity_ratio"]
            self.assertAlmostEqual(ratio["estimate"], effect["perplexity"] / effect["perplexity_reference"], places=9)
            self.assertTrue(ratio["low"] < ratio["estimate"] < ratio["high"])
            kl.append(mean["estimate"])
        self.assertGreater(kl[0], 4 * kl[1])
        self.assertGreater(kl[1], 4 * kl[2])

    def test_the_same_whatever_the_threads(self):
        runs = [self.run_model("--bits", "3", "--greedy", "5", "--threads", n) for n in (1, 3)]
        self.assertEqual(runs[0], runs[1])

    def test_windows(self):
        run = self.run_model("--window", "100", tokens=300)["model_run"]
        self.assertEqual((run["windows"], run["window"], run["stride"], run["tokens"], run["predictions"]), (3, 100, 100, 300, 297))
        report = self.run_model("--window", "100", tokens=250)
        self.assertEqual((report["model_run"]["windows"], report["model_run"]["predictions"]), (3, 247))
        self.assertEqual(report["effect"]["predictions"], 247)
        self.assertTrue(all(layer["tokens"] == 100 for layer in report["layers"]))  # the first window
        beyond = self.run_model(tokens=600)["model_run"]  # the context is 256
        self.assertEqual((beyond["windows"], beyond["window"]), (3, 256))
        table = self.tq("verify", "--model", self.model, "--token-ids", "ids.json", "--tokens", "600").stdout
        self.assertIn("3 windows of up to 256 tokens", table)
        args = ("verify", "--model", self.model, "--token-ids", "ids.json")
        self.refused(COULD_NOT, "--window 257", *args, "--window", "257")
        self.refused(COULD_NOT, "only 600 tokens", *args, "--tokens", "601")
        self.refused(USAGE, "--window", *args, "--window", "1")
        self.refused(COULD_NOT, ["measurement invalid", "126 predictions"], *args, "--tokens", "128", "--window", "64")

    def test_greedy(self):
        greedy = self.run_model("--bits", "8", "--greedy", "6")["effect"]["greedy"]
        self.assertEqual(greedy["tokens"], 6)
        few = self.run_model("--bits", "1", "--greedy", "40")["effect"]["greedy"]
        self.assertLess(few["first_divergence"], 40)
        args = ("verify", "--model", self.model, "--token-ids", "ids.json")
        self.refused(COULD_NOT, ["--greedy 129", "256 tokens"], *args, "--greedy", "129")
        self.refused(USAGE, "--greedy", *args, "--greedy", "0")
        table = self.tq(*args, "--bits", "1", "--greedy", "40").stdout
        self.assertIn("of 40 tokens the same, then another", table)
        self.assertIn("Effect on the model: K and V compressed", table)


class Gates(EffectTest):
    def gate(self, report, name):
        found, = [gate for gate in report["gates"] if gate["name"] == name]
        return found

    def test_the_end_of_the_interval_is_judged(self):
        self.model = self.louder_model()
        args = ("--allow-random", "--bits", "8")
        effect = self.run_model(*args)["effect"]
        for name, part, end, better, code in (
                ("max-kld", effect["kl"]["mean"], "high", -1, DONE),
                ("max-ppl-ratio", effect["perplexity_ratio"], "high", -1, COULD_NOT),  # random weights: broken is no worse
                ("min-token-top1", effect["top1_agreement"], "low", 1, DONE)):
            with self.subTest(name):
                between = (part["estimate"] + part[end]) / 2  # the estimate passes, and its interval does not
                report = self.run_model(*args, "--" + name, repr(between), code=GATE_FAILED)
                gate = self.gate(report, name)
                self.assertEqual((gate["value"], gate["bound"], gate["worst_layer"]), (part["estimate"], part[end], None))
                self.assertFalse(gate["passed"])
                self.assertEqual(gate["passes_if"], "bound >= limit" if better > 0 else "bound <= limit")
                self.assertEqual({(c["part"], c["control"]) for c in gate["controls"]}, {("kv", "other_seed"), ("kv", "one_bit")})
                passed = self.gate(self.run_model(*args, "--" + name, repr(part[end]), code=code), name)
                self.assertTrue(passed["passed"])
                self.assertEqual(any(c["passed"] for c in passed["controls"]), code == COULD_NOT)

    def test_a_gate_that_a_control_passes_is_no_pass(self):
        report = self.run_model("--max-kld", "50", code=COULD_NOT)
        self.assertFalse(self.gate(report, "max-kld")["sensitive"])
        self.assertTrue(any("--max-kld 50" in warning for warning in report["warnings"]))
        self.run_model("--max-ppl-ratio", "1e9", code=COULD_NOT)
        self.run_model("--min-token-top1", "0", code=COULD_NOT)

    def test_controls_that_cannot_apply(self):
        parts = lambda *args: [c["control"] for c in self.gate(self.run_model(*args, "--max-kld", "0", code=GATE_FAILED), "max-kld")["controls"]]
        self.assertEqual(parts("--bits", "1"), ["other_seed"])
        self.assertEqual(parts("--bits", "4", "--rotation", "identity"), ["zeros", "one_bit"])

    def test_only_with_a_model(self):
        for option in ("--max-kld", "--max-ppl-ratio", "--min-token-top1", "--greedy", "--window", "--with-weights"):
            self.refused(USAGE, [option, "--model"], "verify", "--synthetic", option, "0.5" if option[2] == "m" else "4")
        for option, bad in (("--max-kld", "-1"), ("--max-kld", "nan"), ("--max-ppl-ratio", "x"), ("--min-token-top1", "1.1")):
            self.refused(USAGE, option, "verify", "--model", self.model, option, bad)

    def test_an_implausible_reference_comes_before_any_verdict(self):
        self.model = os.path.join(PREFILL, "llama")
        self.refused(COULD_NOT, ["measurement invalid", "perplexity"], "verify", "--model", self.model, "--token-ids", "ids.json",
                     "--max-kld", "0")


class Weights(EffectTest):
    def setUp(self):
        super().setUp()
        self.model = self.wide_model()

    def test_weights_alone(self):
        report = self.run_model("--with-weights", self.pack(), "--greedy", "3")
        for field in ("bits", "k_bits", "v_bits", "threshold", "min_cosine", "schemes", "bytes"):
            self.assertIsNone(report[field], field)
        self.assertEqual((report["layers"], report["gates"]), ([], []))
        effect = report["effect"]
        self.assertFalse(effect["cache"])
        self.assertGreater(effect["kl"]["mean"]["estimate"], 0)
        self.assertEqual(effect["weights"]["path"], "packed")
        self.assertLess(effect["weights"]["bytes"], effect["weights"]["reference_bytes"])
        table = self.tq("verify", "--model", self.model, "--token-ids", "ids.json", "--with-weights", "packed").stdout
        self.assertIn("the weights of packed", table)
        self.assertIn("no gate was asked for", table)
        self.assertNotIn("rel.MSE", table)

    def test_it_is_the_effect_of_the_unpacked_model(self):
        """Against the same numbers from a directory that tq unpack-weights wrote: nothing depends on how weights are stored."""
        self.tq("unpack-weights", self.pack(), "-o", "plain", "--quiet")
        by_packed = self.run_model("--with-weights", "packed")["effect"]
        by_plain = self.verify("--model", self.path("plain"), "--token-ids", "ids.json", "--tokens", "128")["model_run"]["perplexity"]
        self.assertAlmostEqual(by_packed["perplexity"] / by_plain, 1, delta=2e-2)  # BF16 or F32 rounding of the unpacked weights
        self.assertNotAlmostEqual(by_packed["perplexity"], by_packed["perplexity_reference"], places=4)

    def test_weights_and_cache_stack(self):
        weights = self.run_model("--with-weights", self.pack())["effect"]
        cache = self.run_model("--bits", "2")["effect"]
        both = self.run_model("--with-weights", "packed", "--bits", "2")
        self.assertTrue(both["effect"]["cache"])
        self.assertEqual(both["k_bits"], 2)
        self.assertEqual(both["effect"]["weights"]["path"], "packed")
        kl = [x["kl"]["mean"]["estimate"] for x in (weights, cache, both["effect"])]
        self.assertGreater(kl[2], max(kl[:2]))

    def test_gates_and_their_controls(self):
        self.pack()
        report = self.run_model("--with-weights", "packed", "--max-kld", "0", code=GATE_FAILED)
        gate, = report["gates"]
        self.assertEqual([(c["part"], c["control"]) for c in gate["controls"]], [("weights", "other_seed")])
        self.assertGreater(gate["controls"][0]["value"], 3 * gate["value"])
        between = math.sqrt(gate["bound"] * gate["controls"][0]["value"])
        self.run_model("--with-weights", "packed", "--max-kld", between)
        self.run_model("--with-weights", "packed", "--max-kld", 2 * gate["controls"][0]["value"], code=COULD_NOT)
        stacked = self.run_model("--with-weights", "packed", "--bits", "4", "--max-kld", "0", code=GATE_FAILED)["gates"][-1]
        self.assertEqual({c["part"] for c in stacked["controls"]}, {"kv", "weights"})

    def test_what_does_not_go_together(self):
        self.pack()
        args = ("verify", "--model", self.model, "--token-ids", "ids.json", "--with-weights")
        for option in (["--threshold", "0.9"], ["--max-attention-kl", "1"], ["--max-rel-mse-ratio", "1"], ["--per-head"]):
            self.refused(USAGE, "--with-weights", *args, "packed", *option)
        self.refused(COULD_NOT, ["native TQ3", "tq_config.json"], *args, self.model)
        self.refused(COULD_NOT, "absent", *args, "absent")
        self.pack("short", self.changed_model(max_position_embeddings=32))
        self.refused(COULD_NOT, ["not the same model", "context"], *args, "short")
        for name in ("a", "b"):
            shutil.copytree(self.path("packed") if name == "b" else self.model, self.path(name))
            with open(os.path.join(self.path(name), "tokenizer.json"), "w", encoding="utf-8") as file:
                file.write('{"version": "' + name + '"}')
        self.refused(COULD_NOT, ["not the same model", "tokenizer.json"], "verify", "--model", self.path("a"), "--token-ids",
                     "ids.json", "--with-weights", "b")


if __name__ == "__main__":
    helpers.main()
