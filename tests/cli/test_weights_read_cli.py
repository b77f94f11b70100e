"""Native TQ3 checkpoints read: unpack-weights, verify --weights, inspect and diff, on slices of what the published converter
wrote and on what tq pack-weights writes."""
import json
import math
import os
import shutil
import struct

import helpers
from helpers import (COULD_NOT, DONE, GATE_FAILED, USAGE, CliTest, Tensor, bf16_bits, gauss, read_safetensors, relative_mse,
                     tensor, tensor_of, to_bytes, write_safetensors)

WEIGHTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "weights")
PUBLISHED = (("llama-3bit", "llama"), ("llama-4bit", "llama"), ("moe-3bit", "moe"))
SIGNS1 = "2242d73f177cab01f6ba4affe75f6b65"
SIGNS2 = "07d021a85ce6402438d201c5cbbf2514"
LEVELS = {3: (.021663449704647064, .06682200729846954, .11878585070371628, .1902068555355072),
          4: (.011133652180433273, .03366998955607414, .05705346167087555, .08200152218341827, .10954663157463074,
              .14143800735473633, .18133202195167542, .24016323685646057)}
PACKED, NORMS = ".tq_packed", ".tq_norms"
WEIGHT = "model.layers.0.mlp.up_proj.weight"
EXPERTS = "model.layers.0.mlp.experts.down_proj"


def signs(text):
    data = bytes.fromhex(text)
    return [1 if data[i // 8] >> i % 8 & 1 else -1 for i in range(8 * len(data))]


def decode_group(codes, norm, bits):
    """A group of 128 after the published description, in double."""
    bitstream = int.from_bytes(codes, "little")
    levels = [-x for x in reversed(LEVELS[bits])] + list(LEVELS[bits])
    t = [levels[bitstream >> bits * i & 2**bits - 1] * s for i, s in enumerate(signs(SIGNS2))]
    step = 1
    while step < 128:
        for i in range(128):
            if not i & step:
                t[i], t[i + step] = t[i] + t[i + step], t[i] - t[i + step]
        step *= 2
    return [norm * x * s / math.sqrt(128) for x, s in zip(t, signs(SIGNS1))]


def decode_row(tensors, name, row, bits, length):
    packed, norms = tensors[name + PACKED], tensors[name + NORMS]
    groups, line = norms.shape[1], packed.shape[1]
    values = []
    for g in range(groups):
        index = row * groups + g
        values += decode_group(packed.data[index * line:(index + 1) * line], norms.values[index], bits)
    return values[:length]


class Directory(CliTest):
    """A test that edits checkpoints in directories."""

    def read_model(self, name):
        return read_safetensors(os.path.join(name if os.path.isabs(name) else self.path(name), "model.safetensors"))

    def write_model(self, name, tensors, **files):
        os.makedirs(self.path(name), exist_ok=True)
        write_safetensors(os.path.join(self.path(name), "model.safetensors"), tensors)
        for file, content in files.items():
            with open(os.path.join(self.path(name), file + ".json"), "w") as out:
                json.dump(content, out)
        return self.path(name)

    def copy_published(self, name, to="broken"):
        shutil.rmtree(self.path(to), ignore_errors=True)
        shutil.copytree(os.path.join(WEIGHTS, name), self.path(to))
        return self.path(to)

    def model(self, name="model", scale=1.0, seed=1):
        tensors = {WEIGHT: tensor([24, 192], seed, "BF16", 0.1 * scale),
                   EXPERTS: tensor([3, 5, 256], seed + 1, "F16"),
                   "model.embed_tokens.weight": tensor([10, 192], seed + 2, "BF16"),
                   "model.norm.weight": tensor([192], seed + 3, "F32"),
                   "counts": Tensor("U8", [3], b"\1\2\3")}
        self.write_model(name, tensors, config={"hidden_size": 192, "torch_dtype": "bfloat16"}, tokenizer={"version": "1.0"})
        return tensors

    def pack(self, to="packed", *args, model="model"):
        self.tq("pack-weights", model, "-o", to, "--quiet", *args)
        return to


class Published(Directory):
    def test_unpacked_values_are_those_of_the_description(self):
        for packed, source in PUBLISHED:
            with self.subTest(packed):
                self.tq("unpack-weights", os.path.join(WEIGHTS, packed), "-o", packed, "--quiet", "--dtype", "f32")
                stored, _ = self.read_model(os.path.join(WEIGHTS, packed))
                expected, _ = self.read_model(os.path.join(WEIGHTS, source))
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
        self.tq("unpack-weights", os.path.join(WEIGHTS, "llama-3bit"), "-o", "plain", "--quiet")
        got, _ = self.read_model("plain")
        self.assertEqual({t.dtype for t in got.values()}, {"BF16"})
        with open(self.path("plain/config.json")) as file, open(os.path.join(WEIGHTS, "llama/config.json")) as source:
            self.assertEqual(json.load(file), json.load(source))
        self.assertEqual(sorted(os.listdir(self.path("plain"))), ["config.json", "model.safetensors"])

    def test_verify_measures_the_distortion_of_the_codebook(self):
        for packed, source in PUBLISHED:
            with self.subTest(packed):
                report = self.json("verify", "--weights", os.path.join(WEIGHTS, packed), "--against",
                                   os.path.join(WEIGHTS, source), "--json", "--quiet", "--max-rel-mse-ratio", 1.1)
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
        report = self.json("verify", "--weights", os.path.join(WEIGHTS, "moe-3bit"), "--against", os.path.join(WEIGHTS, "moe"),
                           "--json", "--quiet")
        stored, _ = self.read_model(os.path.join(WEIGHTS, "moe-3bit"))
        source, _ = self.read_model(os.path.join(WEIGHTS, "moe"))
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
        source, _ = self.read_model(os.path.join(WEIGHTS, "llama"))
        name = "model.layers.0.self_attn.k_proj.weight"
        other = source[name]
        rows = [other.data[i:i + 384] for i in range(0, len(other.data), 384)]
        self.write_model("shuffled", {**source, name: Tensor("BF16", other.shape, b"".join(rows[1:] + rows[:1]))})
        report = self.json("verify", "--weights", os.path.join(WEIGHTS, "llama-3bit"), "--against", "shuffled", "--json",
                           "--quiet", code=GATE_FAILED)
        gates = {g["name"]: g for g in report["gates"]}
        self.assertEqual((gates["other-seed"]["passed"], gates["other-seed"]["worst_tensor"]), (False, name))
        self.assertTrue(gates["kept"]["passed"])

        norm = "model.layers.0.input_layernorm.weight"
        changed = Tensor("BF16", [192], to_bytes("BF16", [1.0] * 191 + [1.5]))
        self.write_model("kept", {**source, norm: changed})
        report = self.json("verify", "--weights", os.path.join(WEIGHTS, "llama-3bit"), "--against", "kept", "--json",
                           "--quiet", code=GATE_FAILED)
        gates = {g["name"]: g for g in report["gates"]}
        self.assertEqual((gates["kept"]["passed"], gates["kept"]["worst_tensor"], gates["kept"]["value"]), (False, norm, 1))
        self.assertTrue(gates["other-seed"]["passed"])

    def test_gates_and_their_exit_codes(self):
        args = ["verify", "--weights", os.path.join(WEIGHTS, "llama-4bit"), "--against", os.path.join(WEIGHTS, "llama")]
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
        report = self.json("inspect", os.path.join(WEIGHTS, "moe-3bit"), "--json")
        self.assertEqual((report["kind"], report["bits"], report["by_tq"], report["hashes"]), ("tq3-weights", 3, False, None))
        kinds = {(k["bits"], k["dtype"]): k for k in report["kinds"]}
        three = kinds[3, None]
        self.assertEqual((three["tensors"], three["weights"]), (2, 192 * 160 + 4 * 192))
        self.assertEqual(three["bytes"], (192 * 2 + 4 * 2) * (48 + 4))
        self.assertAlmostEqual(three["bits_per_weight"], 8 * three["bytes"] / three["weights"])
        self.assertEqual(kinds[0, "F16"]["bytes"], 2 * (192 + 48))
        self.assertEqual(report["file_bytes"], os.path.getsize(os.path.join(WEIGHTS, "moe-3bit/model.safetensors")))
        self.assertEqual(report["source_bytes"], 2 * (192 * 160 + 4 * 192 + 192 + 48))
        text = self.tq("inspect", os.path.join(WEIGHTS, "moe-3bit")).stdout
        self.assertIn("published converter", text)
        self.assertIn("3.250", self.json and self.tq("inspect", os.path.join(WEIGHTS, "llama-3bit")).stdout.replace("4.333", "3.250"))


class Own(Directory):
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

    def test_effort_lowers_the_error_and_no_code_changes_when_quantized_again(self):
        self.model()
        for bits in (2, 3, 4):
            errors = []
            for effort in range(4):
                out = self.pack(f"p{bits}{effort}", "--bits", bits, "--effort", effort)
                report = self.json("verify", "--weights", out, "--against", "model", "--json", "--quiet")
                self.assertEqual(report["requantized_groups"], 0)
                self.assertEqual(report["groups"], 24 * 2 + 15 * 2)
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
        report = self.json("inspect", "packed", "--json")
        self.assertEqual({t["name"]: t["bits"] for t in report["tensors"]},
                         {WEIGHT: 4, EXPERTS: 3, "model.embed_tokens.weight": 0, "model.norm.weight": 0, "counts": 0})
        self.assertEqual(report["hashes"], "ok")
        self.assertEqual(self.json("verify", "--weights", "packed", "--against", "model", "--json", "--quiet")["status"], "PASS")


class Damage(Directory):
    """Each of these is one line and exit 3, whatever reads it."""

    def check(self, words, name="broken"):
        for command in (["inspect", name], ["unpack-weights", name, "-o", "out"],
                        ["verify", "--weights", name, "--against", os.path.join(WEIGHTS, "llama")],
                        ["diff", "--quiet", name, os.path.join(WEIGHTS, "llama")]):
            with self.subTest(command=command[0], words=words):
                self.refused(COULD_NOT, words, *command)

    def edit(self, change):
        path = self.copy_published("llama-3bit")
        tensors, _ = self.read_model(path)
        change(tensors)
        write_safetensors(os.path.join(path, "model.safetensors"), tensors)

    def edit_config(self, **changes):
        path = self.copy_published("llama-3bit")
        with open(os.path.join(path, "tq_config.json")) as file:
            config = json.load(file)
        config.update(changes)
        with open(os.path.join(path, "tq_config.json"), "w") as file:
            json.dump({k: v for k, v in config.items() if v is not None}, file)

    K = "model.layers.0.self_attn.k_proj.weight"

    def test_tensors_that_do_not_fit(self):
        def replace(name, t):
            self.edit(lambda tensors: tensors.update({name: t}))
        self.edit(lambda tensors: tensors.pop(self.K + NORMS))
        self.check(["k_proj", "no norms"])
        self.edit(lambda tensors: tensors.pop(self.K + PACKED))
        self.check(["k_proj", "no codes"])
        replace(self.K + PACKED, Tensor("U8", [192, 47], bytes(192 * 47)))
        self.check(["k_proj", "9024 bytes"])
        replace(self.K + PACKED, Tensor("U8", [191, 48], bytes(191 * 48)))
        self.check(["k_proj", "9168 bytes"])
        replace(self.K + NORMS, Tensor("F32", [192], bytes(192 * 4)))
        self.check(["k_proj", "[rows, groups]"])
        replace(self.K + NORMS, Tensor("F16", [96, 2], bytes(192 * 2)))
        self.check(["k_proj", "F32"])
        replace(self.K + NORMS, Tensor("F32", [64, 3], bytes(192 * 4)))
        self.check(["k_proj", "3 groups", "config.json"])

    def test_norms_that_are_no_norms(self):
        for value, word in ((float("nan"), "nan"), (float("inf"), "inf"), (-1.0, "-1")):
            norms = [1.0] * 192
            norms[131] = value
            self.edit(lambda tensors: tensors.update({self.K + NORMS: tensor_of([96, 2], norms)}))
            words = ["k_proj", "row 65, group 1", word]
            self.refused(COULD_NOT, words, "unpack-weights", "broken", "-o", "out")
            self.refused(COULD_NOT, words, "verify", "--weights", "broken", "--against", os.path.join(WEIGHTS, "llama"))
            self.refused(COULD_NOT, words, "diff", "--quiet", "broken", os.path.join(WEIGHTS, "llama"))

    def test_configurations(self):
        self.edit_config(bits=4)
        self.check(["k_proj", "4 bits"])
        self.edit_config(bits=5)
        self.check(["bits", "tq_config.json"])
        self.edit_config(group_size=100)
        self.check(["group_size"])
        self.edit_config(format="tq4")
        self.check(["format", "tq4"])
        self.edit_config(bits=None)
        self.check(["bits"])
        with open(os.path.join(self.path("broken"), "tq_config.json"), "w") as file:
            file.write("{")
        self.check(["tq_config.json", "JSON"])

    def test_a_config_that_does_not_tell_the_shapes(self):
        path = self.copy_published("llama-3bit")
        for config, words in (({"hidden_size": 500}, ["config.json", "groups"]),
                              ({"hidden_size": 130, "intermediate_size": 320}, ["config.json", "padding"]),
                              ({"hidden_size": 250, "intermediate_size": 320}, ["config.json", "padding"]),
                              ([], ["config.json"])):
            with open(os.path.join(path, "config.json"), "w") as file:
                json.dump(config, file)
            self.check(words)
        os.remove(os.path.join(path, "config.json"))
        self.check(["config.json"])

    def test_truncated_and_missing_files(self):
        path = self.copy_published("llama-3bit")
        file = os.path.join(path, "model.safetensors")
        size = os.path.getsize(file)
        for length in (0, 7, 8, 100, 2000, size // 2, size - 1):
            shutil.copyfile(os.path.join(WEIGHTS, "llama-3bit/model.safetensors"), file)
            os.truncate(file, length)
            self.check(["model.safetensors"])
        os.remove(file)
        self.check(["model.safetensors"])
        with open(os.path.join(path, "model.safetensors.index.json"), "w") as out:
            json.dump({"weight_map": {self.K + PACKED: "model-00001-of-00002.safetensors"}}, out)
        self.check(["model-00001-of-00002.safetensors", "missing"])

    def test_own_checkpoints_carry_hashes_and_shapes(self):
        self.model()
        self.pack()
        data = self.read("packed/model.safetensors")
        flipped = bytearray(data)
        flipped[-5] ^= 1
        with open(self.path("packed/model.safetensors"), "wb") as file:
            file.write(flipped)
        for command in (["inspect", "packed"], ["unpack-weights", "packed", "-o", "out"], ["diff", "--quiet", "packed", "model"],
                        ["verify", "--weights", "packed", "--against", "model"]):
            self.refused(COULD_NOT, ["XXH64", "damaged"], *command)
        with open(self.path("packed/model.safetensors"), "wb") as file:
            file.write(data)
        with open(self.path("packed/tq_config.json")) as file:
            text = file.read()
        for old, new, words in (('"counts"', '"other"', "counts"), ("  192\n", "  300\n", "shape"), ('"BF16"', '"BF17"', "BF17")):
            self.assertIn(old, text)
            with open(self.path("packed/tq_config.json"), "w") as file:
                file.write(text.replace(old, new))
            self.refused(COULD_NOT, words, "inspect", "packed")

    def test_verify_needs_the_same_tensors(self):
        source, _ = self.read_model(os.path.join(WEIGHTS, "llama"))
        packed = os.path.join(WEIGHTS, "llama-3bit")
        for change, words in (({self.K: None}, ["no tensor", "k_proj"]), ({"more": tensor([3], 1)}, ["no tensor", "more"]),
                              ({self.K: tensor([192, 96], 1)}, ["k_proj", "[192, 96]", "[96, 192]"])):
            tensors = {n: t for n, t in {**source, **change}.items() if t is not None}
            self.write_model("other", tensors)
            self.refused(COULD_NOT, words, "verify", "--weights", packed, "--against", "other")
        values = list(source[self.K].values)
        values[1000] = float("nan")
        self.write_model("other", {**source, self.K: tensor_of([96, 192], values, "BF16")})
        self.refused(COULD_NOT, ["k_proj", "NaN"], "verify", "--weights", packed, "--against", "other")
        self.refused(COULD_NOT, ["tq diff"], "verify", "--weights", "other", "--against", "other")


if __name__ == "__main__":
    helpers.main()
