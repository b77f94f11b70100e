"""tq verify: its numbers against an own computation from what unpack-kv gives back, in plain Python doubles."""
import math

import helpers
from helpers import (COULD_NOT, VerifyTest, gauss, kv_tensors, read_safetensors, relative_mse, tensor, tensor_of,
                     write_safetensors)


def dot(x, y):
    return math.fsum(a * b for a, b in zip(x, y))


def cosine(x, y):
    return dot(x, y) / math.sqrt(dot(x, x) * dot(y, y))


def rows_of(values, dim):
    return [values[i:i + dim] for i in range(0, len(values), dim)]


def codec_numbers(x, y, dim):
    cosines = [cosine(a, b) for a, b in zip(rows_of(x, dim), rows_of(y, dim))]
    norms = [math.sqrt(dot(b, b) / dot(a, a)) for a, b in zip(rows_of(x, dim), rows_of(y, dim))]
    return {"relative_mse": relative_mse(x, y), "cosine_flattened": cosine(x, y), "rows": len(cosines),
            "cosine_mean": math.fsum(cosines) / len(cosines), "cosine_min": min(cosines),
            "worst_row": cosines.index(min(cosines)), "norm_bias": math.fsum(norms) / len(norms) - 1}


def softmax(logits):
    weights = [math.exp(x - max(logits)) for x in logits]
    return [w / math.fsum(weights) for w in weights]


def attention_numbers(q, k, k_hat, v, v_hat, scale, softcap=None, window=None, last=None, sinks=None):
    """q, k ... are [heads][tokens][dim]; query head h looks at KV head h // group, the last query at the last token."""
    errors, kl, agreed, wrong, energy, queries = [], [], 0, 0.0, 0.0, 0
    for h, q_head in enumerate(q):
        kv = h // (len(q) // len(k))
        tokens = len(k[kv])
        used = q_head[-last:] if last else q_head
        for i, query in enumerate(used):
            position = tokens - len(used) + i
            seen = range(max(0, position + 1 - (window or tokens)), position + 1)

            def logits(keys):
                raw = [scale * dot(query, keys[t]) for t in seen]
                return [softcap * math.tanh(x / softcap) for x in raw] if softcap else raw
            a, b = logits(k[kv]), logits(k_hat[kv])
            errors += [(x - y) ** 2 for x, y in zip(a, b)]
            extra = [sinks[h]] if sinks else []  # a logit more on both sides, without a value
            p, p_hat = softmax(a + extra), softmax(b + extra)
            if len(a) > 1:
                kl.append(math.fsum(x * math.log(x / y) for x, y in zip(p, p_hat)))
                agreed += (a + extra).index(max(a + extra)) == (b + extra).index(max(b + extra))
            o, o_hat = ([dot(w, column) for column in zip(*[values[kv][t] for t in seen])]
                        for w, values in ((p, v), (p_hat, v_hat)))
            wrong += math.fsum((x - y) ** 2 for x, y in zip(o, o_hat))
            energy += dot(o, o)
            queries += 1
    return {"queries": queries, "logit_rmse": math.sqrt(math.fsum(errors) / len(errors)),
            "kl_mean": math.fsum(kl) / len(kl), "kl_max": max(kl),
            "top1_agreement": agreed / len(kl), "output_relative_error": math.sqrt(wrong / energy)}


def heads_of(t):
    return [rows_of(x, t.shape[-1]) for x in rows_of(t.values, t.shape[-2] * t.shape[-1])]


class Numbers(VerifyTest):
    def reconstruct(self, dump, *args):
        """The dump and what its own scheme makes of it, through pack-kv and unpack-kv."""
        self.tq("pack-kv", dump, "-o", "x.tq3", "--force", *args)
        self.tq("unpack-kv", "x.tq3", "-o", "x", "--dtype", "f32", "--force")
        return read_safetensors(dump)[0], read_safetensors(self.path("x"))[0]

    def assert_close(self, found, expected, tolerance, place):
        for name, value in expected.items():
            self.assertAlmostEqual(found[name], value, delta=tolerance * abs(value) + 1e-9, msg=f"{place} {name}")

    def test_codec_numbers_are_those_of_the_reconstruction(self):
        tensors = {**kv_tensors(layers=1, heads=3, tokens=20, dim=64, v_dim=24), "k.5": tensor([1, 7, 80], 8, "F32"),
                   "v.5": tensor([1, 7, 9], 9, "F16", sigma=0.1)}
        dump = write_safetensors(self.path("dump"), tensors)
        scheme = ["--k-bits", 4, "--v-bits", 3, "--v-seed", 7]
        source, back = self.reconstruct(dump, *scheme)
        report = self.verify("--kv", dump, *scheme, "--threshold", 0.9)
        self.assertEqual([layer["layer"] for layer in report["layers"]], [0, 5])
        for layer in report["layers"]:
            for part in "kv":
                name = f"{part}.{layer['layer']}"
                x, y, dim = source[name].values, back[name].values, source[name].shape[-1]
                found = layer[part]
                self.assertEqual((found["bits"], found["dim"]), (4 if part == "k" else 3, dim))
                self.assert_close(found, codec_numbers(x, y, dim), 1e-5, name)
                self.assertAlmostEqual(found["mse_ratio"], found["relative_mse"] / found["distortion"])
                book = self.json("codebook", "--dim", dim, "--bits", found["bits"], "--format", "json")
                self.assertAlmostEqual(found["distortion"] / book["distortion"], 1, delta=1e-4)
                self.assertAlmostEqual(found["bound_ratio"], found["relative_mse"] / book["theorem_bound"])
                self.assertAlmostEqual(found["controls"]["zeros"]["relative_mse"], 1)
                self.assertEqual(found["controls"]["zeros"]["cosine_flattened"], 0)
                heads = source[name].shape[-3]
                self.assertEqual(len(layer["heads"]), heads)
                for head in range(heads):
                    cut = slice(head * len(x) // heads, (head + 1) * len(x) // heads)
                    expected = codec_numbers(x[cut], y[cut], dim)
                    self.assert_close(layer["heads"][head][part], expected, 1e-5, f"{name} head {head}")
        self.assertEqual(report["per_layer_cosine"], [min(x["k"]["cosine_flattened"], x["v"]["cosine_flattened"])
                                                      for x in report["layers"]])
        self.assertEqual(report["min_cosine"], min(report["per_layer_cosine"]))

    def check_attention(self, metadata, scale, softcap=None, windows=(None, None), last=None, sinks=None):
        tensors = {**kv_tensors(layers=1, heads=2, tokens=12, dim=16, v_dim=24), "q.0": tensor([6, 12, 16], 3, sigma=2),
                   "k.3": tensor([1, 9, 16], 4), "v.3": tensor([1, 9, 16], 5), "q.3": tensor([2, 5, 16], 6, sigma=2)}
        dump = write_safetensors(self.path("dump"), tensors, metadata)
        source, back = self.reconstruct(dump, "--bits", 3)
        more = ["--attention-queries", last] if last else []
        report = self.verify("--kv", dump, "--bits", 3, "--threshold", 0.9, *more)
        for layer, window in zip(report["layers"], windows):
            q, k, v, k_hat, v_hat = (heads_of(t[f"{part}.{layer['layer']}"]) for part, t in
                                     (("q", source), ("k", source), ("v", source), ("k", back), ("v", back)))
            extra = sinks if layer["layer"] == 0 else None
            expected = attention_numbers(q, k, k_hat, v, v_hat, scale, softcap, window, last, extra)
            self.assert_close(layer["attention"], expected, 1e-3, f"{metadata} layer {layer['layer']}")
            self.assertAlmostEqual(layer["attention_scale"], scale)
            group = len(q) // len(k)
            for head in range(len(k)):
                one = slice(head, head + 1)
                expected = attention_numbers(q[head * group:(head + 1) * group], k[one], k_hat[one], v[one], v_hat[one],
                                             scale, softcap, window, last,
                                             extra and extra[head * group:(head + 1) * group])
                self.assert_close(layer["heads"][head]["attention"], expected, 1e-3, f"head {head}")

    def test_attention_at_the_default_scale(self):
        self.check_attention({}, 0.25)

    def test_attention_metadata(self):
        self.check_attention({"attention_scale": "0.5"}, 0.5)
        self.check_attention({"attention_softcap": "2"}, 0.25, softcap=2.0)
        self.check_attention({"sliding_window.0": "4"}, 0.25, windows=(4, None))
        self.check_attention({"attention_scale": "0.4", "attention_softcap": "3.5", "sliding_window.0": "5",
                              "sliding_window.3": "2"}, 0.4, 3.5, (5, 2))

    def test_attention_sinks(self):
        sinks = [0.5, -2.0, 6.0, 1.25, -40.0, 3.0]
        metadata = {"attention_sinks.0": " ".join(map(str, sinks))}
        self.check_attention(metadata, 0.25, sinks=sinks)
        self.check_attention({**metadata, "sliding_window.0": "4", "attention_softcap": "2"}, 0.25, 2.0, (4, None), sinks=sinks)

    def test_attention_queries_are_the_last_ones(self):
        for last in (1, 3, 12, 1000000):
            self.check_attention({}, 0.25, last=last)

    def test_key_health_names_head_and_channel(self):
        values = gauss(1, 2 * 32 * 16)
        for token in range(32):
            values[(32 + token) * 16 + 11] *= 20
            values[token * 16 + 2] = 9.0
        dump = write_safetensors(self.path("dump"), {"k.0": tensor_of([2, 32, 16], values), "v.0": tensor([2, 32, 16])})
        health = self.verify("--kv", dump, "--threshold", 0.5, code=COULD_NOT)["layers"][0]["key_health"]
        self.assertEqual((health["mean_head"], health["channel_head"], health["channel"]), (0, 1, 11))
        self.assertTrue(0.7 < health["mean_energy_share"] < 0.95, health)
        self.assertTrue(10 < health["channel_rms_ratio"] < 40, health)

    def test_threads_and_cpu_targets_change_no_number(self):
        dump = self.dump(layers=2, heads=3, tokens=32, dim=64, q_heads=6)
        expected = self.verify("--kv", dump, "--threads", 1)
        for threads, target in ((2, ""), (5, ""), (1, "scalar")):
            report = self.json("verify", "--kv", dump, "--json", "--threads", threads, env={"TQ_CPU": target})
            self.assertEqual({**report, "backend": ""}, {**expected, "backend": ""}, (threads, target))


if __name__ == "__main__":
    helpers.main()
