"""tq capture and tq verify --model on the tiny models of tests/prefill, whose expected tensors transformers computed."""
import json
import math
import os
import shutil
import struct

import helpers
from helpers import COULD_NOT, DONE, GATE_FAILED, USAGE, Tensor, VerifyTest, read_safetensors, write_safetensors

PREFILL = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "prefill")


def fixture(name):
    return os.path.join(PREFILL, name)


def expected(name):
    helpers.ELEMENT_BYTES.setdefault("I32", 4)
    tensors, _ = read_safetensors(os.path.join(fixture(name), "expected.safetensors"))
    ids = tensors.pop("input_ids").data
    return tensors, list(struct.unpack(f"<{len(ids) // 4}i", ids))


def worst_error(got, wanted):
    """The largest difference over the RMS of what is wanted."""
    rms = math.sqrt(math.fsum(x * x for x in wanted) / len(wanted))
    return max(abs(a - b) for a, b in zip(got, wanted)) / rms


class ModelTest(VerifyTest):
    def ids(self, ids, name="ids.json"):
        with open(self.path(name), "w", encoding="utf-8") as file:
            json.dump(ids, file)
        return self.path(name)

    def model(self, name, **config):
        """A copy of a fixture whose config.json is changed; None takes a key out."""
        directory = self.path("model")
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(fixture(name), directory)
        path = os.path.join(directory, "config.json")
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        for key, value in config.items():
            values.pop(key, None)
            if value is not None:
                values[key] = value
        with open(path, "w", encoding="utf-8") as file:
            json.dump(values, file)
        return directory

    def capture(self, name, *args, directory=None):
        tensors, ids = expected(name)
        self.tq("capture", "--model", directory or fixture(name), "--token-ids", self.ids(ids), "-o", "dump.safetensors",
                "--quiet", *args)
        got, metadata = read_safetensors(self.path("dump.safetensors"))
        return tensors, got, metadata


class Capture(ModelTest):
    def test_the_dump_is_what_transformers_saw(self):
        for name in ("llama", "qwen3-moe", "phi3", "gemma3-nested", "deepseek-v3", "gpt-oss", "qwen2-swa"):
            with self.subTest(name):
                wanted, got, metadata = self.capture(name, "--force")
                self.assertEqual(set(got), set(wanted) - {"logits"})
                for key, tensor in got.items():
                    self.assertEqual(tensor.shape, wanted[key].shape)
                    self.assertLess(worst_error(tensor.values, wanted[key].values), 1e-4, key)
                self.assertEqual(metadata["model"], name)
                self.assertEqual(metadata["tokens"], str(got["k.0"].shape[1]))

    def test_metadata_says_what_attention_needs(self):
        _, _, gemma = self.capture("gemma2")
        self.assertAlmostEqual(float(gemma["attention_scale"]), 24 ** -0.5, places=12)
        self.assertEqual(gemma["attention_softcap"], "20")
        self.assertEqual({k: v for k, v in gemma.items() if k.startswith("sliding")},
                         {"sliding_window.0": "16", "sliding_window.2": "16"})
        _, _, oss = self.capture("gpt-oss", "--force")
        self.assertEqual(len(oss["attention_sinks.1"].split()), 4)
        self.assertEqual(oss["sliding_window.0"], "8")

    def test_chosen_layers_without_queries(self):
        _, got, _ = self.capture("gemma3", "--layers", "0,3-4", "--no-queries")
        self.assertEqual(sorted(got), ["k.0", "k.3", "k.4", "v.0", "v.3", "v.4"])
        self.refused(COULD_NOT, "no layer 6", "capture", "--model", fixture("gemma3"), "--token-ids", self.ids([3, 4]), "-o", "x",
                     "--layers", "6")
        for bad in ("", "x", "1,", "3-1", "-1", "1.5"):
            self.refused(USAGE, "--layers", "capture", "--model", fixture("gemma3"), "--token-ids", self.ids([3]), "-o", "x",
                         "--layers", bad) if bad else None

    def test_a_hub_id_is_found_in_the_cache(self):
        snapshot = self.path("hub/models--some--llama/snapshots/abc")
        shutil.copytree(fixture("llama"), snapshot)
        self.tq("capture", "--model", "some/llama", "--token-ids", self.ids([3, 4]), "-o", "d", env={"HF_HUB_CACHE": self.path("hub")})
        self.assertEqual(read_safetensors(self.path("d"))[1]["model"], "some/llama")
        self.refused(COULD_NOT, "some/other", "capture", "--model", "some/other", "--token-ids", self.ids([3]), "-o", "x",
                     env={"HF_HUB_CACHE": self.path("hub")})

    def test_latent_cache(self):
        _, got, metadata = self.capture("deepseek-v3", "--mla", "latent")
        self.assertEqual(got["k.0"].shape, [1, 24, 24])
        self.assertEqual(got["v.0"].shape, [1, 24, 16])
        self.assertEqual(got["q.0"].shape, [4, 24, 24])
        rows = got["k.0"].values
        self.assertEqual([rows[t * 24 + i] for t in range(24) for i in range(16)], list(got["v.0"].values))

    def test_what_goes_in_and_out(self):
        ids = self.ids([3, 4, 5])
        self.tq("capture", "--model", fixture("llama"), "--token-ids", ids, "-o", "d", "--tokens", "2")
        self.assertEqual(read_safetensors(self.path("d"))[0]["k.0"].shape, [2, 2, 16])
        self.refused(COULD_NOT, ["d", "--force"], "capture", "--model", fixture("llama"), "--token-ids", ids, "-o", "d")
        self.refused(COULD_NOT, "only 3 tokens", "capture", "--model", fixture("llama"), "--token-ids", ids, "-o", "x", "--tokens", "4")
        self.refused(COULD_NOT, "tokenizer.json", "capture", "--model", fixture("llama"), "-o", "x", "--prompt", "Hello")
        self.refused(USAGE, "--prompt", "capture", "--model", fixture("llama"), "--token-ids", ids, "-o", "x", "--prompt", "Hello")
        self.refused(USAGE, "--tokens", "capture", "--model", fixture("llama"), "--token-ids", ids, "-o", "x", "--tokens", "0")
        self.refused(USAGE, "--model", "capture", "-o", "x")
        with open(self.path("plain.txt"), "w", encoding="utf-8") as file:
            file.write("3 4\n5")
        self.tq("capture", "--model", fixture("llama"), "--token-ids", self.path("plain.txt"), "-o", "e")
        self.tq("capture", "--model", fixture("llama"), "--token-ids", ids, "-o", "f")
        self.assertEqual(self.read("e").split(b"k.0")[1][:40], self.read("f").split(b"k.0")[1][:40])
        self.assertEqual(read_safetensors(self.path("e"))[0], read_safetensors(self.path("f"))[0])


class Verify(ModelTest):
    def long_ids(self, vocabulary=64):
        return self.ids([(7 * i * i + 3 * i) % (vocabulary - 3) + 3 for i in range(128)])

    def test_exit_codes(self):
        """llama-linear has 64 pieces, so that even a random model stays below a perplexity of 200."""
        args = ("--model", fixture("llama-linear"), "--token-ids", self.long_ids())
        report = self.verify(*args)
        run = report["model_run"]
        self.assertEqual((run["name"], run["family"], run["layers"], run["tokens"], run["predictions"], run["exact_layers"]),
                         ("llama-linear", "llama", 2, 128, 127, []))
        self.assertTrue(run["plausible"] and 30 < run["perplexity"] < 200, run)
        self.assertEqual(report["source"]["kind"], "model")
        self.assertEqual(report["validation"], "VALIDATED")
        self.assertEqual([layer["layer"] for layer in report["layers"]], [0, 1])
        self.verify(*args, "--threshold", "0.9999", code=GATE_FAILED)
        self.verify(*args, "--k-bits", "2", "--v-bits", "2", "--threshold", "-1", code=COULD_NOT)  # passes controls too
        self.refused(USAGE, "exactly one source", "verify", *args, "--synthetic")
        self.refused(USAGE, "--allow-random", "verify", "--synthetic", "--allow-random")
        self.refused(USAGE, "--tokens", "verify", "--kv", "x", "--tokens", "3")

    def test_an_implausible_reference_is_no_measurement(self):
        ids = self.long_ids(300)
        said = self.refused(COULD_NOT, ["measurement invalid", "perplexity"], "verify", "--model", fixture("llama"), "--token-ids", ids)
        self.assertIn("--allow-random", said)
        few = self.ids(list(range(3, 130)), "few.json")
        self.refused(COULD_NOT, ["measurement invalid", "126 predictions"], "verify", "--model", fixture("llama"), "--token-ids", few)
        report = self.verify("--model", fixture("llama"), "--token-ids", ids, "--allow-random")
        self.assertFalse(report["model_run"]["plausible"])
        self.assertEqual(report["validation"], "UNVALIDATED")
        self.assertTrue(any("--allow-random" in warning for warning in report["warnings"]))

    def test_the_same_as_capture_and_verify_kv(self):
        for name in ("gemma2", "gpt-oss", "deepseek-v2", "qwen3-moe-mixed"):
            with self.subTest(name):
                self.capture(name, "--force")
                by_dump = self.verify("--kv", "dump.safetensors", "--threshold", "0.5", "--max-attention-kl", "10", code=COULD_NOT)
                by_model = self.verify("--model", fixture(name), "--token-ids", self.ids(expected(name)[1]), "--allow-random",
                                       "--threshold", "0.5", "--max-attention-kl", "10", code=COULD_NOT)
                self.assertEqual(by_model["layers"], by_dump["layers"])
                self.assertEqual(by_model["gates"], by_dump["gates"])

    def test_windows_and_sinks_are_reported(self):
        ids = self.ids(expected("gpt-oss")[1])
        layers = self.verify("--model", fixture("gpt-oss"), "--token-ids", ids, "--allow-random", code=DONE)["layers"]
        self.assertEqual([(x["window"], x["sinks"]) for x in layers], [(8, True), (None, True)])
        table = self.tq("verify", "--model", fixture("gpt-oss"), "--token-ids", ids, "--allow-random").stdout
        self.assertIn("Windows  8 tokens in 1 layers", table)

    def test_check(self):
        for name in sorted(os.listdir(PREFILL)):
            if os.path.isdir(fixture(name)) and os.path.exists(os.path.join(fixture(name), "config.json")):
                self.assertTrue(self.json("verify", "--model", fixture(name), "--check", "--json")["supported"], name)
        self.assertIn("llama", self.tq("verify", "--model", fixture("llama"), "--check").stdout)
        strange = self.model("llama", model_type="mamba")
        self.refused(COULD_NOT, ["mamba", "config.json"], "verify", "--model", strange, "--check")
        answer = self.json("verify", "--model", strange, "--check", "--json", code=COULD_NOT)
        self.assertEqual(answer["supported"], False)
        self.assertIn("mamba", answer["reason"])


class BadInput(ModelTest):
    def check(self, words, directory, ids=(3, 4, 5), *args):
        self.refused(COULD_NOT, words, "capture", "--model", directory, "--token-ids", self.ids(list(ids)), "-o", "x", *args)

    def test_config(self):
        for key, value, words in (("hidden_size", None, "hidden_size"), ("num_attention_heads", None, "num_attention_heads"),
                                  ("vocab_size", None, "vocab_size"), ("hidden_size", 62, "embed_tokens"),
                                  ("quantization_config", {"quant_method": "mxfp4"}, "mxfp4"),
                                  ("rope_parameters", {"rope_type": "strange"}, "strange"), ("hidden_act", "strange", "strange"),
                                  ("num_hidden_layers", 4, "layers.3."), ("vocab_size", 321, "embed_tokens"),
                                  ("intermediate_size", 97, "gate_proj"), ("tie_word_embeddings", "yes", "tie_word_embeddings")):
            with self.subTest(key=key, value=value):
                self.check(words, self.model("llama", **{key: value}))
        directory = self.model("llama")
        with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
            file.write("{")
        self.check(["config.json", "JSON"], directory)
        os.remove(os.path.join(directory, "config.json"))
        self.check("config.json", directory)
        self.check("nowhere", self.path("nowhere"))

    def test_tensors(self):
        directory = self.model("llama")
        path = os.path.join(directory, "model.safetensors")
        tensors, metadata = read_safetensors(path)
        name = "model.layers.1.mlp.up_proj.weight"
        for change, words in ((lambda t: t.pop(name), ["missing", name]),
                              (lambda t: t.update({name: Tensor("BF16", [64, 96], t[name].data)}), ["shape", name, "[64, 96]"]),
                              (lambda t: t.pop("model.embed_tokens.weight"), "embed_tokens"),
                              (lambda t: t.update({name: Tensor("U8", [96, 64], t[name].data[:96 * 64])}), ["U8", name]),
                              (lambda t: t.pop("lm_head.weight"), "lm_head")):
            changed = dict(tensors)
            change(changed)
            write_safetensors(path, changed, metadata)
            self.check(words, directory)
        changed = dict(tensors)
        changed[name] = Tensor("BF16", [96, 64], b"\xc0\x7f" * (96 * 64))  # NaN
        write_safetensors(path, changed, metadata)
        self.check(["not finite", "layer 1"], directory)
        write_safetensors(path, tensors, metadata)
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) - 1000)
        self.check("model.safetensors", directory)

    def test_a_truncated_or_missing_shard(self):
        directory = self.model("qwen2-swa")
        shards = sorted(name for name in os.listdir(directory) if name.startswith("model-"))
        self.assertGreater(len(shards), 2)
        with open(os.path.join(directory, shards[1]), "r+b") as file:
            file.truncate(os.path.getsize(file.name) - 10)
        self.check(shards[1], directory)
        os.remove(os.path.join(directory, shards[1]))
        self.check(shards[1], directory)

    def test_prompts(self):
        self.check(["id 320", "vocabulary"], fixture("llama"), [3, 320])
        self.check(["600", "context", "512"], fixture("llama"), [3] * 600, "--tokens", "600")
        self.tq("capture", "--model", fixture("llama"), "--token-ids", self.ids([3] * 600), "-o", "y", "--tokens", "5", "--quiet")
        for text in ("", "[]", "3 x", "[1.5]", "-3", "99999999999"):
            with open(self.path("bad"), "w", encoding="utf-8") as file:
                file.write(text)
            self.refused(COULD_NOT, "bad", "capture", "--model", fixture("llama"), "--token-ids", self.path("bad"), "-o", "x")


if __name__ == "__main__":
    helpers.main()
