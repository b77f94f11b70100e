"""tq size against what tq really writes: caches by pack-kv, weights by pack-weights."""
import json
import os
import shutil

import helpers
from helpers import COULD_NOT, USAGE, CliTest, read_safetensors, tensor, write_safetensors

CONFIG = {"model_type": "llama", "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
          "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 100, "intermediate_size": 96,
          "max_position_embeddings": 512, "tie_word_embeddings": True}


class Size(CliTest):
    def model(self, name="model", **changes):
        os.mkdir(self.path(name))
        with open(self.path(f"{name}/config.json"), "w") as file:
            json.dump({**CONFIG, **changes}, file)
        return name

    def sizes(self, *args):
        report = self.json("size", *args, "--json")
        return {row["scheme"]: row for row in report["kv"]}, report

    def packed(self, *args):
        """Bytes of codes, norms and whatever else a scheme stores a head, as they stand in the file."""
        self.tq("pack-kv", "dump.safetensors", "-o", "out.tq3", "--force", "--quiet", *args)
        report = self.json("inspect", "out.tq3", "--json")
        return report["bytes"] - report["overhead_bytes"]

    def test_cache_as_pack_kv_writes_it(self):
        self.model()
        self.dump(layers=3, heads=2, tokens=40, dim=64)
        for k, v in ((8, 8), (4, 4), (4, 3), (2, 2)):
            rows, _ = self.sizes("--model", "model", "--contexts", 40)
            wanted = rows[f"k{k}v{v}"]["sizes"][0]["bytes"]
            self.assertEqual(self.packed("--k-bits", k, "--v-bits", v), wanted)
        for options in (["--bits", 3, "--norm-dtype", "f16"], ["--bits", 4, "--qjl-keys"],
                        ["--bits", 2, "--k-center", "--outlier-channels", "16:4"],
                        ["--bits", 3, "--boundary-layers", 1, "--sink-tokens", 4, "--residual-window", 8],
                        ["--bits", 2, "--group-values", 32]):
            with self.subTest(options=options):
                rows, _ = self.sizes("--model", "model", "--contexts", 40, *options)
                self.assertEqual(rows["given"]["sizes"][0]["bytes"], self.packed(*options))

    def test_weights_as_pack_weights_writes_them(self):
        config = {"hidden_size": 192, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 48, "intermediate_size": 320,
                  "num_hidden_layers": 2, "tie_word_embeddings": False}
        self.model(**config)
        shapes = {"self_attn.q_proj": [192, 192], "self_attn.k_proj": [96, 192], "self_attn.v_proj": [96, 192],
                  "self_attn.o_proj": [192, 192], "mlp.gate_proj": [320, 192], "mlp.up_proj": [320, 192],
                  "mlp.down_proj": [192, 320], "input_layernorm": [192], "post_attention_layernorm": [192]}
        names = {f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in shapes.items()}
        names.update({"model.embed_tokens.weight": [100, 192], "lm_head.weight": [100, 192], "model.norm.weight": [192]})
        write_safetensors(self.path("model/model.safetensors"), {name: tensor(shape) for name, shape in names.items()})
        _, report = self.sizes("--model", "model")
        self.assertEqual([form["bits"] for form in report["weights"]], [16, 4, 3, 2])
        for form in report["weights"][1:]:
            self.tq("pack-weights", "model", "-o", "out", "--bits", form["bits"], "--quiet")
            tensors, _ = read_safetensors(self.path("out/model.safetensors"))
            sizes = {kind: sum(len(t.data) for name, t in tensors.items() if (".tq_" in name) == kind) for kind in (True, False)}
            self.assertEqual(sizes, {True: form["quantized_bytes"], False: form["kept_bytes"]})
            shutil.rmtree(self.path("out"))

    def test_report(self):
        self.model()
        rows, report = self.sizes("--model", "model", "--batch", 3)
        self.assertEqual([entry["context"] for entry in rows["bf16"]["sizes"]], [4096, 32768, 131072])
        for row in rows.values():
            for entry in row["sizes"]:
                self.assertAlmostEqual(entry["bytes_per_token"], entry["bytes"] / entry["context"] / 3)
                base = next(e for e in rows["bf16"]["sizes"] if e["context"] == entry["context"])
                self.assertAlmostEqual(entry["compression"], base["bytes"] / entry["bytes"])
        self.assertNotIn("given", rows)
        text = self.tq("size", "--model", "model", "--contexts", 4096).stdout
        for word in ("3 layers: 2 KV heads, K of 64, V of 64", "k4v3", "vllm:turboquant_3bit_nc", "6,291,456", "0.006", "tq3, 3 bits"):
            self.assertIn(word, text)
        self.assertEqual(report["cache_layers"], [{"layers": 3, "kv_heads": 2, "k_dim": 64, "v_dim": 64, "window": None}])

    def test_a_refused_dim_is_a_dash_with_a_note(self):
        self.model(head_dim=80)
        rows, _ = self.sizes("--model", "model")
        self.assertEqual(rows["q8_0"]["sizes"], [])
        self.assertIn("80", rows["q8_0"]["refused"])
        self.assertRegex(self.tq("size", "--model", "model").stdout, r"(?m)^-: q8_0: .*80")

    def test_refusals(self):
        self.model()
        self.refused(COULD_NOT, ["nowhere"], "size", "--model", "nowhere")
        os.mkdir(self.path("empty"))
        self.refused(COULD_NOT, ["config.json"], "size", "--model", "empty")
        self.refused(USAGE, ["--contexts"], "size", "--model", "model", "--contexts", "0")
        self.refused(USAGE, ["--contexts"], "size", "--model", "model", "--contexts", "4k")
        self.refused(COULD_NOT, ["config.json", "48"], "size", "--model", "model", "--bits", 4, "--group-values", 48)


if __name__ == "__main__":
    helpers.main()
