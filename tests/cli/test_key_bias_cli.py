"""A large constant on the keys: cosine passes, the output breaks, and a remedy repairs it.

A k_proj.bias on the slowest RoPE pairs adds nearly the same vector to every key, which softmax does not see, so the model
reads as before. Its codec does: the error of a row grows with its norm. On a tiny random model always; on a real one where
TQ_TEST_MODEL names the directory of a llama in one safetensors file, such as SmolLM2-135M (tests/README.md)."""
import json
import math
import os
import shutil
import unittest

import helpers
from helpers import DONE, GATE_FAILED, Tensor, VerifyTest, read_safetensors, write_safetensors

PREFILL = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "prefill")
REAL = os.environ.get("TQ_TEST_MODEL", "")


class KeyBias(VerifyTest):
    def spread_of_keys(self, model, text):
        """{(layer, head): mean over tokens of |k - mean|^2}, and the heads and dim of K."""
        self.tq("capture", "--model", model, *text, "--no-queries", "-o", "keys", "--quiet")
        spread = {}
        for name, tensor in read_safetensors(self.path("keys"))[0].items():
            if not name.startswith("k."):
                continue
            heads, tokens, dim = tensor.shape
            values = tensor.values
            for head in range(heads):
                rows = values[head * tokens * dim:(head + 1) * tokens * dim]
                means = [sum(rows[c::dim]) / tokens for c in range(dim)]
                energy = sum(x * x for x in rows) / tokens - sum(m * m for m in means)
                spread[int(name[2:]), head] = energy
        return spread, heads, dim

    def biased_model(self, model, text, pairs, share):
        """A copy with a bias on the `pairs` slowest pairs whose energy is `share` of a key's, and zeros for the other biases."""
        spread, heads, dim = self.spread_of_keys(model, text)
        shutil.copytree(model, self.path("biased"))
        config = os.path.join(self.path("biased"), "config.json")
        with open(config, encoding="utf-8") as file:
            values = json.load(file)
        values["attention_bias"] = True
        with open(config, "w", encoding="utf-8") as file:
            json.dump(values, file)
        os.rename(self.path("biased/model.safetensors"), self.path("biased/weights.safetensors"))
        slow = [dim // 2 - 1 - i for i in range(pairs)]
        channels = slow + [c + dim // 2 for c in slow]
        sizes = {"q": values["num_attention_heads"] * dim, "k": heads * dim, "v": heads * dim, "o": values["hidden_size"]}
        biases = {}
        for layer in range(values["num_hidden_layers"]):
            for part, size in sizes.items():
                bias = [0.0] * size
                for head in range(heads if part == "k" else 0):
                    size_of_each = math.sqrt(share / (1 - share) * spread[layer, head] / len(channels))
                    for i, channel in enumerate(channels):
                        bias[head * dim + channel] = size_of_each * (1 if i % 2 == 0 else -1)
                biases[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = Tensor("F32", [size], helpers.to_bytes("F32", bias))
        write_safetensors(self.path("biased/biases.safetensors"), biases)
        names = helpers_names(self.path("biased/weights.safetensors"))
        index = {**{name: "weights.safetensors" for name in names}, **{name: "biases.safetensors" for name in biases}}
        with open(self.path("biased/model.safetensors.index.json"), "w", encoding="utf-8") as file:
            json.dump({"metadata": {}, "weight_map": index}, file)
        return self.path("biased")

    def kl(self, report):
        return report["effect"]["kl"]["mean"]["estimate"]

    def test_a_tiny_model(self):
        model = os.path.join(PREFILL, "llama-linear")
        with open(self.path("ids.json"), "w", encoding="utf-8") as file:
            json.dump([(7 * i * i + 3 * i) % 61 + 3 for i in range(200)], file)
        text = ["--token-ids", "ids.json", "--tokens", 128]
        biased = self.biased_model(model, text, 1, 0.97)
        run = lambda directory, *args: self.verify("--model", directory, *text, "--bits", 4, *args)
        plain, broken, repaired = run(model), run(biased), run(biased, "--k-center")
        self.assertLess(abs(broken["model_run"]["perplexity"] / plain["model_run"]["perplexity"] - 1), .01)
        self.assertGreater(min(layer["k"]["cosine_flattened"] for layer in broken["layers"]), .99)
        self.assertGreater(self.kl(broken), 5 * self.kl(plain))
        self.assertLess(self.kl(repaired), 2 * self.kl(plain))

    @unittest.skipUnless(REAL, "TQ_TEST_MODEL does not name a model's directory")
    def test_a_real_model(self):
        text = ["--tokens", 256]
        biased = self.biased_model(REAL, text, 2, 0.97)
        limit = ["--max-kld", .15, "--bits", 4, *text]
        plain = self.verify("--model", REAL, *limit, code=DONE)
        broken = self.verify("--model", biased, *limit, code=GATE_FAILED)
        self.assertLess(abs(broken["model_run"]["perplexity"] / plain["model_run"]["perplexity"] - 1), .01)
        gates = {gate["name"]: gate for gate in broken["gates"]}
        self.assertTrue(gates["threshold"]["passed"] and gates["threshold"]["sensitive"])
        self.assertFalse(gates["max-kld"]["passed"])
        self.assertGreater(self.kl(broken), 5 * self.kl(plain))
        for remedy in (["--k-center"], ["--outlier-channels", "8:8"]):
            repaired = self.verify("--model", biased, *limit, *remedy, code=DONE)
            self.assertLess(self.kl(repaired), 1.5 * self.kl(plain))


def helpers_names(path):
    """The tensors of a safetensors file, whatever their types."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return [name for name in header if name != "__metadata__"]


if __name__ == "__main__":
    helpers.main()
