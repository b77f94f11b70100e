"""tq pack-weights: the bytes of the published converter, the files around them, options, refusals."""
import json
import math
import os
import struct
import subprocess

import helpers
from helpers import (COULD_NOT, GATE_FAILED, USAGE, Tensor, gauss, read_safetensors, relative_mse, tensor, tensor_of, write_safetensors,
                     xxh64)
from weights_helpers import (PUBLISHED, WeightsTest, bf16_tensor, decode_tensor, golden_t1, golden_t2, sha256, small_model)

T1 = {2: "845b89877792264c80b6680c3b1d0a20d45aece932343a79a2cba7ce59def232",
      3: "54e9a2e712141a6220bcf1b1e73b130ffcd29611e9d70623bec264eb8b3e8647",
      4: "dfde89a33af53d67e3902ee47886e38959d3160f35692c8e3b09198bf0780191"}
T2 = {3: "5a769fa87c1635547816df3fe5bb4f5470b9295024cc3c8c083906040188482f",
      4: "950f67fb814c89e9eec22a13a9504b556717e9a74bf6fbd05848e8aec11704b7"}


class Parity(WeightsTest):
    def check_golden(self, values, shape, hashes, first_norms):
        model = self.model(tensors={"w.weight": bf16_tensor(values, shape)})
        for bits, expected in hashes.items():
            self.pack(model, "--bits", bits, "--force")
            tensors = self.tensors("out")
            groups = -(-shape[1] // 128)
            self.assertEqual(tensors["w.weight.tq_packed"].shape, [shape[0] * groups, 16 * bits])
            self.assertEqual(tensors["w.weight.tq_norms"].shape, [shape[0], groups])
            self.assertEqual(sha256(tensors["w.weight.tq_packed"].data), expected)
            for actual, norm in zip(tensors["w.weight.tq_norms"].values, first_norms.get(bits, [])):
                self.assertLess(abs(actual / norm - 1), 1e-6)

    def test_golden_t1(self):
        self.check_golden(*golden_t1(), T1, {2: (.8822919726371765, .6869887709617615), 4: (.8220543265342712, .6244968771934509),
                                             3: (.8125354051589966, .6444666981697083, .8452801704406738, .6143755912780762,
                                                 .8279610276222229, .6381407976150513, .8441136479377747, .6301898956298828)})

    def test_golden_t2(self):
        self.check_golden(*golden_t2(), T2, {3: (.2068771868944168, .20457862317562103)})

    def test_the_published_converter_wrote_the_same(self):
        for name, bits in (("llama", 3), ("llama", 4), ("moe", 3)):
            source, _ = read_safetensors(os.path.join(PUBLISHED, name, "model.safetensors"))
            expected, _ = read_safetensors(os.path.join(PUBLISHED, f"{name}-{bits}bit", "model.safetensors"))
            model = self.model(name, tensors=source)
            for target in ("scalar", "simd128", "avx2", "avx512"):
                if not self.runs_on(target, model):
                    continue
                self.pack(model, "--bits", bits, "--keep-dtype", "f16", "--force", env={"TQ_CPU": target})
                actual = self.tensors("out")
                self.assertEqual(list(actual), list(expected))  # in the same order, too
                for key, value in expected.items():
                    self.assertEqual((actual[key].dtype, actual[key].shape), (value.dtype, value.shape), key)
                    if key.endswith(".tq_norms"):
                        self.assertLess(max(abs(a / b - 1) for a, b in zip(actual[key].values, value.values)), 1e-6)
                    else:
                        self.assertEqual(actual[key].data, value.data, f"{key} at {bits} bits on {target}")

    def runs_on(self, target, model):
        run = [helpers.TQ, "pack-weights", model, "-o", self.path("none"), "--dry-run"]
        return subprocess.run(run, env={**os.environ, "TQ_CPU": target}, capture_output=True).returncode == 0

    def test_a_zero_group_has_norm_0_and_the_code_below_the_middle(self):
        model = self.model(tensors={"w.weight": bf16_tensor([0.0] * 128 * 128, [128, 128])})
        for bits, code in ((2, 0b01010101), (4, 0x77)):
            self.pack(model, "--bits", bits, "--force")
            self.assertEqual(set(self.tensors("out")["w.weight.tq_packed"].data), {code})
            self.assertEqual(set(self.tensors("out")["w.weight.tq_norms"].data), {0})

    def test_what_is_written_decodes_to_the_source(self):
        source = {"a.weight": tensor([6, 200], 5, "F32"), "experts.fused": tensor([2, 3, 160], 6, "F16", 3.0)}
        model = self.model(tensors=source)
        for bits, low, high in ((2, .08, .13), (3, .028, .040), (4, .0075, .0115)):
            report = self.pack_json(model, "--bits", bits, "--force")
            written = self.tensors("out")
            for name, t in source.items():
                rows = decode_tensor(written[name + ".tq_packed"], written[name + ".tq_norms"], t.shape[-1], bits)
                mse = relative_mse(t.values, sum(rows, []))
                self.assertTrue(low < mse < high, f"{name} at {bits} bits: {mse}")
                told = next(x for x in report["tensors"] if x["name"] == name)
                self.assertEqual(told["rows_checked"], len(rows))
                self.assertAlmostEqual(told["relative_mse"] / mse, 1, delta=1e-5)
                self.assertAlmostEqual(told["relative_mse_ratio"], mse / told["distortion"], delta=1e-4)
                cosines = [sum(a * b for a, b in zip(x, y)) / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))
                           for x, y in zip((t.values[i:i + len(rows[0])] for i in range(0, len(t.values), len(rows[0]))), rows)]
                self.assertEqual(told["worst_row"], cosines.index(min(cosines)))
                self.assertAlmostEqual(told["worst_row_cosine"], min(cosines), delta=1e-5)
                mean = sum(t.values) / len(t.values)
                moments = [sum((x - mean) ** k for x in t.values) / len(t.values) for k in (2, 4)]
                self.assertAlmostEqual(told["kurtosis"], moments[1] / moments[0] ** 2, delta=1e-6)
                self.assertAlmostEqual(told["bits_per_weight"], 8 * told["bytes"] / len(t.values), delta=1e-12)


class Files(WeightsTest):
    def test_configuration_index_and_companions(self):
        model = self.model(shards=3, files={"tokenizer.json": "{1}", "merges.txt": "a b", "LICENSE": "free", "chat_template.jinja": "x",
                                            "notes.bin": "no", ".hidden.json": "no", "quantize_config.json": "no",
                                            "pytorch_model.bin.index.json": "no"})
        os.mkdir(os.path.join(model, "sub.json"))
        self.pack(model, "--max-shard-size", "30KB", "--bits", 4)
        tree = self.tree("out")
        weights = [n for n in tree if n.endswith(".safetensors")]
        self.assertGreater(len(weights), 3)
        self.assertEqual(weights, [f"model-{i + 1:05d}-of-{len(weights):05d}.safetensors" for i in range(len(weights))])
        self.assertEqual([n for n in tree if n not in weights],
                         ["LICENSE", "chat_template.jinja", "config.json", "merges.txt", "model.safetensors.index.json",
                          "tokenizer.json", "tq_config.json"])
        self.assertEqual(tree["tokenizer.json"], b"{1}")
        self.assertNotIn("quantization_config", json.loads(tree["config.json"]))
        self.assertEqual(json.loads(tree["config.json"])["rms_norm_eps"], 1e-06)
        index = json.loads(tree["model.safetensors.index.json"])
        held = {name: read_safetensors(os.path.join(self.path("out"), name)) for name in weights}
        self.assertEqual(index["weight_map"], {t: name for name in weights for t in held[name][0]})
        self.assertEqual(index["metadata"]["total_size"], sum(len(t.data) for name in weights for t in held[name][0].values()))
        self.assertTrue(all(metadata["format"] == "pt" for _, metadata in held.values()))
        config = self.tq3_config("out")
        for key, value in {"format": "tq3_native", "bits": 4, "group_size": 128, "quantizer_seed": 42, "compressed_layers": 6,
                           "original_model": "model"}.items():
            self.assertEqual(config[key], value)
        self.assertNotIn("sensitive_bits", config)
        tensors = self.tensors("out")
        for name, told in config["tq"]["quantized"].items():
            self.assertEqual(told["packed_xxh64"], f"{xxh64(tensors[name + '.tq_packed'].data):016x}")
            self.assertEqual(told["norms_xxh64"], f"{xxh64(tensors[name + '.tq_norms'].data):016x}")
            self.assertEqual((told["bits"], told["dtype"], told["codebook"]), (4, "BF16", "vj-d128-b4"))
        for name, told in config["tq"]["kept"].items():
            self.assertEqual(told["xxh64"], f"{xxh64(tensors[name].data):016x}")

    def test_a_config_without_quantization_is_copied_byte_for_byte(self):
        model = self.model()
        text = b'{ "a": 1.50,\n\n "b": [] }'
        with open(os.path.join(model, "config.json"), "wb") as file:
            file.write(text)
        self.pack(model)
        self.assertEqual(self.read("out/config.json"), text)

    def test_dry_run_tells_every_byte_and_writes_nothing(self):
        model = self.model(shards=2)
        options = ("--max-shard-size", "30KB", "--sensitive-bits", 4)
        report = self.pack_json(model, "--dry-run", *options)
        self.assertFalse(os.path.exists(self.path("out")))
        done = self.pack_json(model, *options)
        self.assertEqual({f["name"]: f["bytes"] for f in report["files"]}, {n: len(data) for n, data in self.tree("out").items()})
        self.assertEqual(report["files"], done["files"])
        self.assertEqual(report["bytes"], sum(f["bytes"] for f in report["files"]))
        self.assertIn("nothing was written", self.pack(model, "--dry-run", out="none").stdout)

    def test_the_report_says_where_the_time_went(self):
        done = self.pack_json(self.model(), "--threads", 2)["speed"]
        spent = done["thread_seconds"]
        self.assertEqual(set(spent), {"reading", "writing", "bus", "kernels", "processors", "turns"})
        self.assertEqual(done["bound_by"], max(set(spent) - {"turns"}, key=spent.get))
        self.assertTrue(all(seconds >= 0 for seconds in spent.values()), spent)
        self.assertGreater(spent["reading"] + spent["writing"] + spent["processors"], 0)
        self.assertLess(sum(spent.values()), 2 * done["seconds"] + 0.001, "two threads cannot spend more")
        if done["backend"].startswith("cpu/"):
            self.assertEqual(spent["bus"] + spent["kernels"], 0)
        self.assertRegex(self.tq("pack-weights", self.model("again"), "-o", "o").stderr, r"bound by \w+: .*\d % of the threads' time")

    def test_no_byte_depends_on_threads_times_or_how_the_source_is_cut(self):
        model = self.model()
        self.pack(model, "--threads", 1)
        first, tensors = self.tree("out"), self.tensors("out")
        os.utime(os.path.join(model, "model.safetensors"), (1, 1))
        self.pack(model, "--threads", 7, "--force")
        self.assertEqual(self.tree("out"), first)
        self.pack(self.model("cut", shards=3), "--force")
        self.assertEqual(self.tensors("out"), tensors)

    def test_tensors_with_odd_names_empty_ones_and_other_types(self):
        odd = "l.\"\\\n\x01 é.weight"
        source = {odd: tensor([3, 128], 1), "empty.weight": Tensor("BF16", [0, 128], b""), "none.weight": Tensor("F32", [128, 0], b""),
                  "step": Tensor("I64", [], struct.pack("<q", 7)), "mask": Tensor("BOOL", [3], b"\1\0\1"),
                  "scalar": tensor([], 3, "F32")}
        helpers.ELEMENT_BYTES.update({"I64": 8, "BOOL": 1})
        self.pack(self.model(tensors=source), "--keep-dtype", "f16")
        written = self.tensors("out")
        self.assertEqual(written["empty.weight.tq_packed"].shape, [0, 48])
        self.assertEqual(written["empty.weight.tq_norms"].shape, [0, 1])
        self.assertEqual(written[odd + ".tq_norms"].shape, [3, 1])
        self.assertEqual(written["none.weight"].shape, [128, 0])
        self.assertEqual((written["step"], written["mask"]), (source["step"], source["mask"]))
        self.assertEqual((written["scalar"].dtype, written["scalar"].shape), ("F16", []))

    def test_a_model_of_the_hub_cache(self):
        self.model("home/hub/models--org--tiny/snapshots/abc")
        env = {"HF_HOME": self.path("home"), "HF_HUB_CACHE": ""}
        self.pack("org/tiny", env=env)
        self.assertEqual(self.tq3_config("out")["original_model"], "org/tiny")
        self.refused(COULD_NOT, ["org/other", "hf download org/other"], "pack-weights", "org/other", "-o", "x", env=env)


class Options(WeightsTest):
    def test_bits_group_sizes_and_sensitive_tensors(self):
        model = self.model()
        for group_size in (64, 128, 256):
            for bits in (2, 3, 4):
                report = self.pack_json(model, "--bits", bits, "--group-size", group_size, "--force")
                for t in report["tensors"]:
                    if t["bits"]:
                        groups = t["shape"][0] * -(-t["shape"][1] // group_size)
                        self.assertEqual(t["bytes"], groups * (group_size * bits // 8 + 4))
        done = self.pack(model, "--bits", 2, "--sensitive-bits", 4, "--force")
        self.assertIn("vLLM loader decodes such tensors wrongly", done.stderr)
        config = self.tq3_config("out")
        self.assertEqual((config["sensitive_bits"], config["sensitive_patterns"]), (4, ["o_proj", "down_proj"]))
        self.assertEqual({n: t["bits"] for n, t in config["tq"]["quantized"].items()},
                         {n: 4 if "down_proj" in n else 2 for n in config["tq"]["quantized"]})
        self.pack(model, "--sensitive-bits", 2, "--sensitive-pattern", "q_proj", "--sensitive-pattern", "layers.1", "--force")
        self.assertEqual(self.tq3_config("out")["sensitive_patterns"], ["q_proj", "layers.1"])
        self.assertEqual(self.tensors("out")["model.layers.1.mlp.up_proj.weight.tq_packed"].shape[1], 32)
        self.assertEqual(self.tensors("out")["model.layers.0.mlp.up_proj.weight.tq_packed"].shape[1], 48)

    def test_skip_and_skip_router(self):
        source = small_model(1) | {"model.layers.0.mlp.gate.weight": tensor([4, 192], 9)}
        model = self.model(tensors=source)
        self.pack(model, "--skip", r"q_proj\.weight$", "--skip", "(up|none)_proj", "--skip-router")
        kept = self.tq3_config("out")["tq"]["kept"]
        for name in ("mlp.gate", "self_attn.q_proj", "mlp.up_proj"):
            self.assertIn(f"model.layers.0.{name}.weight", kept)
            self.assertEqual(self.tensors("out")[f"model.layers.0.{name}.weight"], source[f"model.layers.0.{name}.weight"])
        self.assertEqual(list(self.tq3_config("out")["tq"]["quantized"]), ["model.layers.0.mlp.down_proj.weight"])

    def test_gates_judge_every_row_and_reports_without_them_a_sample(self):
        # The sample takes an eighth of the rows. Every eighth row is one spike, which the codebook meets well; the others are noise. A
        # sample of every eighth row would see spikes alone, or none.
        rows = [gauss(row, 512) if row % 8 != 0 else [0.0] * row + [9.0] + [0.0] * (511 - row) for row in range(512)]
        model = self.model(tensors={"w.weight": bf16_tensor(sum(rows, []), [512, 512])})
        def of(report):
            return report["tensors"][0]
        sample = of(self.pack_json(model, out="a"))
        self.assertEqual((sample["rows_checked"], sample["values_checked"]), (64, 64 * 512))
        whole = of(self.pack_json(model, "--max-rel-mse", 0.5, out="b"))
        self.assertEqual((whole["rows_checked"], whole["values_checked"]), (512, 512 * 512))
        verified = self.json("verify", "--weights", "b", "--against", model, "--json")["tensors"][0]
        self.assertAlmostEqual(whole["relative_mse"] / verified["relative_mse"], 1, delta=1e-6)
        self.assertEqual(self.tree("a"), self.tree("b"), "checking changes no byte")
        self.assertAlmostEqual(sample["relative_mse"] / whole["relative_mse"], 1, delta=.02)
        self.assertNotAlmostEqual(sample["relative_mse"] / whole["relative_mse"], 1, delta=1e-3, msg="a limit between them tells who judges")
        limit = (sample["relative_mse"] + whole["relative_mse"]) / 2
        self.pack(model, "--max-rel-mse", limit, out="c", code=GATE_FAILED if whole["relative_mse"] > limit else 0)

    def test_rows_longer_than_a_block_are_rows(self):
        model = self.model(tensors={"w.weight": bf16_tensor(sum((gauss(row, 300_000) for row in range(3)), []), [3, 300_000])})
        told = self.pack_json(model, "--threads", 2)["tensors"][0]
        verified = self.json("verify", "--weights", "out", "--against", model, "--json")["tensors"][0]
        self.assertEqual((told["rows_checked"], told["values_checked"]), (3, 900_000))
        for name in ("relative_mse", "worst_row"):
            self.assertAlmostEqual(told[name], verified[name], delta=1e-7, msg=name)

    def test_gates_fail_with_exit_1_and_keep_the_output(self):
        model = self.model()
        report = self.pack_json(model, "--max-rel-mse", .05, "--max-rel-mse-ratio", 1.5)
        self.assertTrue(all(g["passed"] for g in report["gates"]))
        worst = max((t for t in report["tensors"] if t["bits"]), key=lambda t: t["relative_mse"])
        limit = worst["relative_mse"]
        report = self.pack_json(model, "--max-rel-mse", repr(limit), "--force")  # at equality it passes
        self.assertEqual(report["gates"][0]["tensor"], worst["name"])
        tree = self.tree("out")
        report = self.pack_json(model, "--max-rel-mse", repr(limit * (1 - 1e-9)), "--force", code=GATE_FAILED)
        self.assertEqual((report["gates"][0]["failed_tensors"], report["complete"]), (1, True))
        self.assertEqual(self.tree("out"), tree)
        done = self.pack(model, "--max-rel-mse-ratio", .5, "--force", code=GATE_FAILED)
        self.assertIn("FAIL max-rel-mse-ratio", done.stdout)

    def test_what_f16_is_too_coarse_for_is_counted(self):
        tiny, lost = 2.0**-24, 2.0**-26
        values = [0.0, -0.0, 1.0, 2.0**-14, 5 * tiny, 1.5 * tiny, -(100 + 2**-7) * tiny, lost, -3 * lost / 4, lost / 2**40, 1 / 3,
                  float("inf")]
        model = self.model(tensors={"n.norm": tensor_of([12], values), "m.norm": tensor_of([2], [0.0, 1.0]),
                                    "b.norm": tensor_of([1], [lost], "BF16"), "h.norm": tensor_of([1], [tiny], "F16")})
        done = self.pack(model, "--keep-dtype", "f16")
        self.assertIn("small values of 2 tensors (b.norm and others): 4 became 0, the largest 1.49e-08; 2 below 2^-14", done.stderr)
        self.assertIn("became 0", done.stdout)
        report = self.pack_json(model, "--keep-dtype", "f16", "--force")
        losses = {t["name"]: t.get("f16_losses") for t in report["tensors"]}
        self.assertEqual(losses, {"n.norm": {"zeroed": 3, "largest_zeroed": lost, "subnormal": 2, "largest_subnormal": (100 + 2**-7) * tiny},
                                  "m.norm": {"zeroed": 0, "largest_zeroed": 0, "subnormal": 0, "largest_subnormal": 0},
                                  "b.norm": {"zeroed": 1, "largest_zeroed": lost, "subnormal": 0, "largest_subnormal": 0}, "h.norm": None})
        self.assertIn("became 0", report["warnings"][-1])
        done = self.pack(model, "--force")
        self.assertNotIn("became 0", done.stdout + done.stderr)

    def test_what_cannot_be_measured_is_a_dash_or_null(self):
        model = self.model(tensors={"a.weight": bf16_tensor([0.0] * 256, [2, 128]), "b.weight": bf16_tensor([1.0] * 256, [2, 128]),
                                    "c.weight": Tensor("BF16", [0, 128], b"")})
        text = self.pack(model).stdout
        self.assertNotIn("nan", text)
        rows = {line.split()[0]: line.split() for line in text.splitlines() if ".weight" in line}
        self.assertEqual([rows[name][-2] for name in ("a.weight", "b.weight", "c.weight")], ["-"] * 3)
        self.assertEqual([t["kurtosis"] for t in self.pack_json(model, "--force")["tensors"]], [None] * 3)

    def test_sizes_of_files(self):
        for command in ("pack-weights", "unpack-weights"):
            self.assertRegex(self.tq(command, "--help").stdout, "--max-shard-size TEXT=5GiB")
        shape, model = [5 * 2**16, 4096], self.model()  # 2.5 GiB each in BF16: two and a norm are beyond 5 GiB, and two are not
        tensors = {name: Tensor("BF16", shape, b"") for name in ("embed.1", "embed.2", "embed.3")}
        sizes, at = {}, 0
        for name in tensors:
            sizes[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + 5 * 2**29]}
            at += 5 * 2**29
        path = helpers.write_raw(os.path.join(model, "model.safetensors"), json.dumps(sizes).encode(), b"")
        os.truncate(path, os.path.getsize(path) + at)  # a hole
        def count(*args):
            return sum(".safetensors" in f["name"] and "index" not in f["name"]
                       for f in self.pack_json(model, "--dry-run", *args)["files"])
        self.assertEqual(count(), 2)
        for size, files in (("5GiB", 2), ("5GB", 3), ("5120MiB", 2), ("5368MB", 3), ("5242880KiB", 2), ("5368709KB", 3),
                            ("5368709120", 2), ("5368709119B", 3), ("1TB", 1)):
            self.assertEqual(count("--max-shard-size", size), files, size)

    def test_wrong_usage(self):
        model = self.model()
        for words, args in (("--bits", ["--bits", 5]), ("--bits", ["--bits", 1]), ("--group-size", ["--group-size", 96]),
                            ("no size", ["--max-shard-size", "5 apples"]), ("no size", ["--max-shard-size", "0"]),
                            ("--sensitive-bits", ["--sensitive-pattern", "x"]), ("regular expression", ["--skip", "("]),
                            ("no part", ["--shard", "3/2"]), ("no part", ["--shard", "0/2"]), ("no part", ["--shard", "1"]),
                            ("--keep-dtype", ["--keep-dtype", "f32"]), ("--resume", ["--resume", "--force"]),
                            ("--max-rel-mse", ["--max-rel-mse", "-1"]), ("--effort", ["--effort", 4])):
            self.refused(USAGE, words, "pack-weights", model, "-o", "out", *args)
        for gate in ("--max-rel-mse", "--max-rel-mse-ratio"):
            for value in ("nan", "inf", "-1"):
                self.refused(USAGE, [gate, "0 or more"], "pack-weights", model, "-o", "out", f"{gate}={value}")


class Refusals(WeightsTest):
    def refuse(self, words, tensors, *args):
        self.model(tensors=tensors)
        self.remove("out")
        done = self.tq("pack-weights", "model", "-o", "out", "--quiet", *args, code=COULD_NOT)
        self.assertEqual(done.stdout, "")
        last = done.stderr.splitlines()[-1]
        for word in words:
            self.assertIn(word, last)
        self.assertFalse(os.path.exists(self.path("out/config.json")))

    def test_values_that_cannot_be_quantized_or_cast(self):
        values = [1.0] * 2 * 3 * 130
        for bad, word in ((float("nan"), "NaN"), (float("-inf"), "infinite")):
            values[1 * 390 + 2 * 130 + 129] = bad
            self.refuse(['"experts.w"', "[1, 2, 129]", word], {"experts.w": bf16_tensor(values, [2, 3, 130])})
            self.refuse(['"a.weight"', "[2, 1]", word], {"a.weight": bf16_tensor([0, 0, 0, 0, 0, bad] + [0] * 250, [128, 2])})
        norm = {"norm.weight": tensor_of([3], [1.0, 65519.0, 65520.0])}
        self.refuse(['"norm.weight"', "[2]", "65520", "--keep-dtype same"], norm, "--keep-dtype", "f16")
        self.pack("model", "--force")
        self.assertEqual(self.tensors("out")["norm.weight"], norm["norm.weight"])
        infinite = {"norm.weight": tensor_of([3], [1.0, 65519.0, float("inf")])}
        self.pack(self.model(tensors=infinite), "--force", "--keep-dtype", "f16")
        self.assertEqual(self.tensors("out")["norm.weight"].values, (1.0, 65504.0, float("inf")))

    def test_a_source_that_is_not_sound(self):
        model = self.model(shards=2)
        first = os.path.join(model, "model-00001-of-00002.safetensors")
        whole = self.read(first)
        for text in (whole[:-1], whole[:100], whole + b"x", b""):
            with open(first, "wb") as file:
                file.write(text)
            self.refused(COULD_NOT, ["model-00001-of-00002.safetensors"], "pack-weights", model, "-o", "out")
        os.remove(first)
        self.refused(COULD_NOT, ["index.json", "model-00001-of-00002.safetensors", "missing"], "pack-weights", model, "-o", "out")
        both = small_model()
        self.write_shards(model, both, 2)
        second, _ = read_safetensors(os.path.join(model, "model-00002-of-00002.safetensors"))
        name = next(iter(both))
        write_safetensors(os.path.join(model, "model-00002-of-00002.safetensors"), second | {name: both[name]})
        self.refused(COULD_NOT, [name, "as well"], "pack-weights", model, "-o", "out")
        self.refused(COULD_NOT, "neither model.safetensors", "pack-weights", ".", "-o", "out")
        self.refused(COULD_NOT, "no such directory", "pack-weights", "/none", "-o", "out")

    def test_outputs_that_are_taken(self):
        model = self.model()
        self.refused(COULD_NOT, "is the source itself", "pack-weights", model, "-o", model)
        for name in ("config.json", "other.safetensors", "tokenizer.json"):
            self.remove("out")
            os.mkdir(self.path("out"))
            with open(self.path("out/" + name), "w") as file:
                file.write("mine")
            self.refused(COULD_NOT, [name, "--force"], "pack-weights", model, "-o", "out")
            self.assertEqual(self.read("out/" + name), b"mine")
        self.pack(model, "--force")
        self.assertNotIn("other.safetensors", os.listdir(self.path("out")))
        self.pack(model, "--max-shard-size", "30KB", "--force")
        self.assertNotIn("model.safetensors", os.listdir(self.path("out")))
        self.refused(COULD_NOT, "already", "pack-weights", "out", "-o", "again")


if __name__ == "__main__":
    helpers.main()
