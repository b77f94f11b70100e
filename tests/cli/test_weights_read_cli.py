"""Native TQ3 checkpoints read: unpack-weights, verify --weights, inspect and diff, on slices of what the published converter
wrote and on what tq pack-weights writes."""
import json
import math
import os

import helpers
from helpers import COULD_NOT, DONE, GATE_FAILED, USAGE, Tensor, read_safetensors, relative_mse, tensor, to_bytes
from weights_helpers import EXPERTS, NORMS, PACKED, PUBLISHED, WEIGHT, CheckpointTest, decode_row

MODELS = (("llama-3bit", "llama"), ("llama-4bit", "llama"), ("moe-3bit", "moe"))


class Published(CheckpointTest):
    def test_unpacked_values_are_those_of_the_description(self):
        for packed, source in MODELS:
            with self.subTest(packed):
                self.tq("unpack-weights", os.path.join(PUBLISHED, packed), "-o", packed, "--quiet", "--dtype", "f32")
                stored, _ = self.read_model(os.path.join(PUBLISHED, packed))
                expected, _ = self.read_model(os.path.join(PUBLISHED, source))
                got, metadata = self.read_model(packed)
                self.assertEqual(metadata, {"format": "pt"})
                self.assertEqual({n: t.shape for n, t in got.items()}, {n: t.shape for n, t in expected.items()})
                for name, t in got.items():
                    self.assertEqual(t.dtype, "F32")
                    if name in stored:
                        self.assertEqual(t.values, stored[name].values)
                        continue
                    length = t.shape[1]
                    for row in (0, t.shape[0] - 1):
                        values = t.values[row * length:(row + 1) * length]
                        wanted = decode_row(stored, name, row, int(packed[-4]), length)
                        self.assertLess(max(abs(a - b) for a, b in zip(values, wanted)), 1e-6)
                        self.assertGreater(max(map(abs, wanted)), 1e-3)

    def test_the_default_type_is_that_of_the_config(self):
        self.tq("unpack-weights", os.path.join(PUBLISHED, "llama-3bit"), "-o", "plain", "--quiet")
        got, _ = self.read_model("plain")
        self.assertEqual({t.dtype for t in got.values()}, {"BF16"})
        with open(self.path("plain/config.json")) as file, open(os.path.join(PUBLISHED, "llama/config.json")) as source:
            self.assertEqual(json.load(file), json.load(source))
        self.assertEqual(sorted(os.listdir(self.path("plain"))), ["config.json", "model.safetensors"])

    def test_verify_measures_the_distortion_of_the_codebook(self):
        for packed, source in MODELS:
            with self.subTest(packed):
                report = self.json("verify", "--weights", os.path.join(PUBLISHED, packed), "--against",
                                   os.path.join(PUBLISHED, source), "--json", "--quiet", "--max-rel-mse-ratio", 1.1)
                self.assertEqual((report["status"], report["exit_code"], report["hashes_checked"]), ("PASS", 0, False))
                self.assertEqual(report["requantized_groups"], 0)
                for t in report["tensors"]:
                    if t["bits"] == 0:
                        self.assertEqual((t["state"], t["stored_dtype"]), ("rounded", "F16"))
                        continue
                    self.assertEqual((t["state"], t["bits"]), ("quantized", int(packed[-4])))
                    self.assertTrue(.9 < t["mse_ratio"] < 1.1, t)
                    self.assertAlmostEqual(t["relative_mse"], t["mse_ratio"] * t["distortion"], places=12)
                    self.assertTrue(1.5 < t["other_seed_mse"] < 2.2, t)
                    self.assertLess(abs(t["norm_bias"]), 1e-3)
                    self.assertLess(t["cosine_min"], t["cosine"])

    def test_the_numbers_are_those_of_an_own_computation(self):
        report = self.json("verify", "--weights", os.path.join(PUBLISHED, "moe-3bit"), "--against", os.path.join(PUBLISHED, "moe"),
                           "--json", "--quiet")
        stored, _ = self.read_model(os.path.join(PUBLISHED, "moe-3bit"))
        source, _ = self.read_model(os.path.join(PUBLISHED, "moe"))
        name = "model.layers.0.mlp.gate.weight"
        t, = (t for t in report["tensors"] if t["name"] == name)
        x = source[name].values
        y = sum((decode_row(stored, name, row, 3, 192) for row in range(4)), [])
        self.assertAlmostEqual(t["relative_mse"], relative_mse(x, y), places=7)
        self.assertAlmostEqual(t["max_abs_error"], max(abs(a - b) for a, b in zip(x, y)), places=6)
        dot, xx, yy = (sum(a * b for a, b in zip(p, q)) for p, q in ((x, y), (x, x), (y, y)))
        self.assertAlmostEqual(t["cosine"], dot / math.sqrt(xx * yy), places=6)
        cosines = []
        for r in range(4):
            p, q = x[192 * r:192 * r + 192], y[192 * r:192 * r + 192]
            cosines.append(sum(a * b for a, b in zip(p, q)) / math.sqrt(sum(a * a for a in p) * sum(b * b for b in q)))
        self.assertEqual(t["worst_row"], cosines.index(min(cosines)))
        self.assertAlmostEqual(t["cosine_min"], min(cosines), places=6)

    def test_another_model_and_another_row_order_are_noticed(self):
        source, _ = self.read_model(os.path.join(PUBLISHED, "llama"))
        name = "model.layers.0.self_attn.k_proj.weight"
        other = source[name]
        rows = [other.data[i:i + 384] for i in range(0, len(other.data), 384)]
        self.write_model("shuffled", {**source, name: Tensor("BF16", other.shape, b"".join(rows[1:] + rows[:1]))})
        report = self.json("verify", "--weights", os.path.join(PUBLISHED, "llama-3bit"), "--against", "shuffled", "--json",
                           "--quiet", code=GATE_FAILED)
        gates = {g["name"]: g for g in report["gates"]}
        self.assertEqual((gates["other-seed"]["passed"], gates["other-seed"]["worst_tensor"]), (False, name))
        self.assertTrue(gates["kept"]["passed"])

        norm = "model.layers.0.input_layernorm.weight"
        changed = Tensor("BF16", [192], to_bytes("BF16", [1.0] * 191 + [1.5]))
        self.write_model("kept", {**source, norm: changed})
        report = self.json("verify", "--weights", os.path.join(PUBLISHED, "llama-3bit"), "--against", "kept", "--json",
                           "--quiet", code=GATE_FAILED)
        gates = {g["name"]: g for g in report["gates"]}
        self.assertEqual((gates["kept"]["passed"], gates["kept"]["worst_tensor"], gates["kept"]["value"]), (False, norm, 1))
        self.assertTrue(gates["other-seed"]["passed"])

    def test_gates_and_their_exit_codes(self):
        args = ["verify", "--weights", os.path.join(PUBLISHED, "llama-4bit"), "--against", os.path.join(PUBLISHED, "llama")]
        for gate, limit, code in (("--max-rel-mse", .02, DONE), ("--max-rel-mse", .005, GATE_FAILED),
                                  ("--max-rel-mse-ratio", .9, GATE_FAILED), ("--max-rel-mse", 1.5, COULD_NOT),
                                  ("--max-rel-mse-ratio", 500, COULD_NOT)):
            with self.subTest(gate=gate, limit=limit):
                done = self.tq(*args, gate, limit, code=code)
                self.assertIn({DONE: "PASS:", GATE_FAILED: "FAIL:", COULD_NOT: "NOT MEASURED:"}[code], done.stdout)
        self.refused(USAGE, "--against", "verify", "--weights", "x")
        self.refused(USAGE, "--max-rel-mse", *args, "--max-rel-mse", "nan")
        self.refused(USAGE, "--max-rel-mse-ratio", *args, "--threshold", .9)
        self.refused(USAGE, "--bits", *args, "--bits", 3)
        self.refused(USAGE, "--max-rel-mse", "verify", "--synthetic", "--max-rel-mse", .1)

    def test_inspect(self):
        report = self.json("inspect", os.path.join(PUBLISHED, "moe-3bit"), "--json")
        self.assertEqual((report["kind"], report["bits"], report["by_tq"], report["hashes"]), ("tq3-weights", 3, False, None))
        kinds = {(k["bits"], k["dtype"]): k for k in report["kinds"]}
        three = kinds[3, None]
        self.assertEqual((three["tensors"], three["weights"]), (2, 192 * 160 + 4 * 192))
        self.assertEqual(three["bytes"], (192 * 2 + 4 * 2) * (48 + 4))
        self.assertAlmostEqual(three["bits_per_weight"], 8 * three["bytes"] / three["weights"])
        self.assertEqual(kinds[0, "F16"]["bytes"], 2 * (192 + 48))
        self.assertEqual(report["file_bytes"], os.path.getsize(os.path.join(PUBLISHED, "moe-3bit/model.safetensors")))
        self.assertEqual(report["source_bytes"], 2 * (192 * 160 + 4 * 192 + 192 + 48))
        text = self.tq("inspect", os.path.join(PUBLISHED, "moe-3bit")).stdout
        self.assertIn("published converter", text)
        self.assertIn("4.333", self.tq("inspect", os.path.join(PUBLISHED, "llama-3bit")).stdout)  # 192 padded to 256


class Own(CheckpointTest):
    def test_there_and_back_restores_types_and_shapes(self):
        source = self.model()
        self.pack()
        for shards in ([], ["--max-shard-size", "8KB"]):
            with self.subTest(shards):
                self.tq("unpack-weights", "packed", "-o", "plain", "--quiet", "--force", *shards)
                files = sorted(name for name in os.listdir(self.path("plain")) if name.endswith(".safetensors"))
                got = {}
                for name in files:
                    got.update(read_safetensors(self.path(os.path.join("plain", name)))[0])
                self.assertEqual({n: (t.dtype, t.shape) for n, t in got.items()},
                                 {n: (t.dtype, t.shape) for n, t in source.items()})
                for name in ("model.embed_tokens.weight", "model.norm.weight", "counts"):
                    self.assertEqual(got[name], source[name])
                for name in (WEIGHT, EXPERTS):
                    self.assertTrue(.02 < relative_mse(source[name].values, got[name].values) < .05)
                self.assertIn("tokenizer.json", os.listdir(self.path("plain")))
                self.assertNotIn("tq_config.json", os.listdir(self.path("plain")))
                if shards:
                    with open(self.path("plain/model.safetensors.index.json")) as file:
                        index = json.load(file)
                    self.assertGreater(len(files), 2)
                    self.assertEqual(set(index["weight_map"]), set(source))
                    self.assertEqual(index["metadata"]["total_size"], sum(len(t.data) for t in source.values()))
        self.tq("unpack-weights", "packed", "-o", "plain", "--quiet", "--force")
        self.assertEqual(sorted(os.listdir(self.path("plain"))), ["config.json", "model.safetensors", "tokenizer.json"])

    def test_the_type_that_was_asked_for_is_in_the_config(self):
        self.model()
        self.pack()
        for dtype, name in (("f32", "float32"), ("f16", "float16"), ("bf16", "bfloat16")):
            self.tq("unpack-weights", "packed", "-o", dtype, "--quiet", "--dtype", dtype)
            with open(self.path(dtype + "/config.json")) as file:
                self.assertEqual(json.load(file)["torch_dtype"], name)
            got, _ = self.read_model(dtype)
            self.assertEqual({t.dtype for n, t in got.items() if n != "counts"}, {dtype.upper()})

    def test_groups_that_end_in_padding_are_cut_before_they_are_quantized_again(self):
        self.write_model("rows", {f"r{n}.weight": tensor([120, n], n) for n in (192, 224, 240, 250)}, config={"hidden_size": 192})
        for bits in (3, 4):
            counts, errors = [], []
            for effort in range(4):
                out = self.pack(f"p{bits}{effort}", "--bits", bits, "--effort", effort, model="rows")
                report = self.json("verify", "--weights", out, "--against", "rows", "--json", "--quiet")
                self.assertEqual((report["groups"], report["requantized_groups"], report["padded_groups"]), (480, 0, 480))
                counts.append({t["name"]: t["requantized_padded_groups"] for t in report["tensors"]})
                self.assertEqual(sum(counts[-1].values()), report["requantized_padded_groups"])
                errors.append(report["relative_mse"])
            self.assertEqual(counts[0]["r192.weight"], 0)  # half a group of zeros: their coordinates come in pairs
            self.assertGreater(counts[0]["r224.weight"], 12)
            self.assertEqual(errors, sorted(errors, reverse=True))
            for effort in (1, 2, 3):  # no more than with the nearest levels
                for name, count in counts[0].items():
                    self.assertLessEqual(counts[effort][name], count, (bits, effort, name))
        text = self.tq("verify", "--weights", "p40", "--against", "rows", "--quiet").stdout
        self.assertIn("0 of 480 whole groups get other codes", text)
        self.assertIn(f"{sum(counts[0].values())} of 480 padded groups do", text)
        text = self.tq("verify", "--weights", os.path.join(PUBLISHED, "llama-3bit"), "--against", os.path.join(PUBLISHED, "llama"), "--quiet").stdout
        self.assertIn("whole groups", text)

    def test_effort_lowers_the_error_and_no_code_changes_when_quantized_again(self):
        self.model()
        for bits in (2, 3, 4):
            errors = []
            for effort in range(4):
                out = self.pack(f"p{bits}{effort}", "--bits", bits, "--effort", effort)
                report = self.json("verify", "--weights", out, "--against", "model", "--json", "--quiet")
                self.assertEqual(report["requantized_groups"], 0)
                self.assertEqual((report["groups"], report["padded_groups"]), (24 + 15 * 2, 24))
                self.assertTrue(report["hashes_checked"])
                errors.append(report["relative_mse"])
            self.assertEqual(errors, sorted(errors, reverse=True))
            self.assertLess(errors[1], (.995, .97, .92)[bits - 2] * errors[0])

    def test_dry_run_and_bytes(self):
        self.model()
        self.pack()
        before = sorted(os.listdir(self.dir))
        text = self.tq("unpack-weights", "packed", "-o", "plain", "--dry-run").stdout
        self.assertEqual(sorted(os.listdir(self.dir)), before)
        self.tq("unpack-weights", "packed", "-o", "plain", "--quiet")
        size = os.path.getsize(self.path("plain/model.safetensors"))
        self.assertIn(f"model.safetensors  {size:,} bytes, 5 tensors", text)

    def test_an_output_that_exists_is_left_alone(self):
        self.model()
        self.pack()
        self.refused(COULD_NOT, ["config.json", "--force"], "unpack-weights", "packed", "-o", "model")
        self.refused(COULD_NOT, ["is read"], "unpack-weights", "packed", "-o", "packed", "--force")
        self.refused(USAGE, ["--max-shard-size", "5 PB"], "unpack-weights", "packed", "-o", "x", "--max-shard-size", "5 PB")
        self.refused(COULD_NOT, ["nothing to unpack"], "unpack-weights", "model", "-o", "x")

    def test_force_keeps_the_model_that_is_there_until_the_new_one_is_whole(self):
        self.model(scale=1e6)
        self.pack()
        self.tq("unpack-weights", "packed", "-o", "x", "--dtype", "f32", "--quiet")
        before = {name: open(self.path("x/" + name), "rb").read() for name in os.listdir(self.path("x"))}
        self.refused(COULD_NOT, ["too large for F16"], "unpack-weights", "packed", "-o", "x", "--dtype", "f16", "--force")
        self.assertEqual({name: open(self.path("x/" + name), "rb").read() for name in os.listdir(self.path("x"))}, before)
        self.tq("unpack-weights", "packed", "-o", "x", "--dtype", "bf16", "--quiet", "--force")
        self.assertEqual(sorted(os.listdir(self.path("x"))), sorted(before))
        self.assertNotEqual(os.path.getsize(self.path("x/model.safetensors")), len(before["model.safetensors"]))

    def test_a_value_that_the_type_cannot_hold_is_named(self):
        tensors = self.model(scale=1e6)
        self.pack()
        words = self.refused(COULD_NOT, ["up_proj", "too large for F16", "--dtype"], "unpack-weights", "packed", "-o", "x",
                             "--dtype", "f16")
        self.assertIn("value ", words)
        self.assertTrue(max(map(abs, tensors[WEIGHT].values)) > 65504)

    def test_diff(self):
        self.model()
        self.pack()
        self.pack("again", "--threads", 1)
        self.pack("better", "--effort", 1)
        self.assertIn("5 identical", self.tq("diff", "packed", "again").stdout)
        report = self.json("diff", "packed", "better", "--json", "--quiet", code=GATE_FAILED)
        states = {t["name"]: t for t in report["tensors"]}
        self.assertEqual({n: t["state"] for n, t in states.items()},
                         {WEIGHT: "different", EXPERTS: "different", "model.embed_tokens.weight": "identical",
                          "model.norm.weight": "identical", "counts": "identical"})
        self.assertGreater(states[WEIGHT]["max_abs"], 0)
        self.assertEqual(states[WEIGHT]["values"], 24 * 192)
        self.tq("unpack-weights", "packed", "-o", "plain", "--quiet", "--dtype", "f32")
        report = self.json("diff", "packed", "plain", "--json", "--quiet", code=GATE_FAILED)
        self.assertEqual({t["name"]: t["state"] for t in report["tensors"]},
                         {WEIGHT: "storage", EXPERTS: "storage", "model.embed_tokens.weight": "storage",
                          "model.norm.weight": "identical", "counts": "identical"})
        report = self.json("diff", "packed", "model", "--json", "--quiet", code=GATE_FAILED)
        t, = (t for t in report["tensors"] if t["name"] == WEIGHT)
        self.assertTrue(.02 < t["relative_mse"] < .05)

        tensors, _ = self.read_model("model")
        changed = dict(tensors)
        del changed["counts"]
        changed["model.norm.weight"] = tensor([191], 1, "F32")
        changed["new"] = tensor([3], 1, "F32")
        self.write_model("changed", changed)
        report = self.json("diff", "model", "changed", "--json", "--quiet", code=GATE_FAILED)
        self.assertEqual({t["name"]: t["state"] for t in report["tensors"] if t["state"] != "identical"},
                         {"counts": "only in A", "model.norm.weight": "shape", "new": "only in B"})
        text = self.tq("diff", "model", "changed", code=GATE_FAILED).stdout
        self.assertIn("6 tensors: 3 identical, 1 shape, 1 only in A, 1 only in B", text)

    def test_diff_of_files(self):
        a = self.dump("a.safetensors", seed=1)
        b = self.dump("b.safetensors", seed=2)
        self.assertIn("4 identical", self.tq("diff", a, a).stdout)
        self.assertIn("4 different", self.tq("diff", a, b, code=GATE_FAILED).stdout)
        for name, source in (("a", a), ("b", b)):
            self.tq("pack-kv", source, "-o", name + ".tq3", "--quiet")
        self.assertIn("4 identical", self.tq("diff", "a.tq3", "a.tq3").stdout)
        self.assertIn("4 different", self.tq("diff", "a.tq3", "b.tq3", code=GATE_FAILED).stdout)
        self.refused(COULD_NOT, "two of a kind", "diff", "--quiet", "a.tq3", a)
        self.refused(COULD_NOT, "none", "diff", "--quiet", a, "none")

    def test_inspect_of_plain_weights_and_of_a_file(self):
        tensors = self.model()
        report = self.json("inspect", "model", "--json")
        self.assertEqual((report["kind"], report["files"]), ("weights", 1))
        self.assertEqual(report["source_bytes"], sum(len(t.data) for t in tensors.values()))
        self.assertEqual(self.json("inspect", "model/model.safetensors", "--json")["tensors"], report["tensors"])
        self.pack("packed", "--sensitive-bits", 4, "--sensitive-pattern", "up_proj")
        os.makedirs(self.path("hub/models--org--tiny/snapshots"))
        os.rename(self.path("packed"), self.path("hub/models--org--tiny/snapshots/abc"))
        env = {"HF_HUB_CACHE": self.path("hub")}
        self.assertEqual(self.json("inspect", "org/tiny", "--json", env=env)["hashes"], "ok")
        self.refused(COULD_NOT, ["org/other", "hf download org/other"], "inspect", "org/other", env=env)
        self.refused(COULD_NOT, ["org/none.tq3", "no such file"], "inspect", "org/none.tq3", env=env)
        os.rename(self.path("hub/models--org--tiny/snapshots/abc"), self.path("packed"))
        report = self.json("inspect", "packed", "--json")
        self.assertEqual({t["name"]: t["bits"] for t in report["tensors"]},
                         {WEIGHT: 4, EXPERTS: 3, "model.embed_tokens.weight": 0, "model.norm.weight": 0, "counts": 0})
        self.assertEqual(report["hashes"], "ok")
        self.assertEqual(self.json("verify", "--weights", "packed", "--against", "model", "--json", "--quiet")["status"], "PASS")


if __name__ == "__main__":
    helpers.main()
