"""tq pack-kv, unpack-kv and inspect on sound input: exact sizes, what comes back, equal bytes however it was run."""
import os
import subprocess

import helpers
from helpers import (COULD_NOT, CliTest, Tensor, gauss, read_safetensors, relative_mse, tensor, tensor_of, to_bytes,
                     write_safetensors)

# Lloyd-Max distortion at dim 64, K and V alike: what a sound codec has on Gaussian rows.
DISTORTION = {1: 0.35839, 2: 0.11453, 3: 0.033391, 4: 0.0091315, 8: 3.9317e-05}
CPU_TARGETS = ("scalar", "simd128", "avx2", "avx512")


def code_bytes(dim, bits):
    return -(-dim * bits // 8)


def odd_tensors():
    """Layers that differ in everything, in both spellings of the names, in three types, out of order."""
    return {
        "v.7": tensor([3, 5, 24], 1, "F32"),
        "k.7": tensor([3, 5, 80], 2, "F16"),
        "layers.2.key": tensor([1, 2, 9, 64], 3, "BF16"),
        "layers.2.value": tensor([2, 9, 128], 4, "F32"),
        "q.7": tensor([6, 4, 80], 5, "BF16"),
        "k.11": tensor([1, 1, 8], 6, "F32"),
        "v.11": tensor([1, 1, 1, 13], 7, "F16"),
    }


class Pack(CliTest):
    def test_payload_is_exact_to_the_byte(self):
        dump = self.dump(layers=2, heads=3, tokens=17, dim=64, v_dim=100)
        for k_bits, v_bits in ((1, 8), (8, 1), (4, 3), (5, 7), (2, 6)):
            self.tq("pack-kv", dump, "-o", "x.tq3", "--k-bits", k_bits, "--v-bits", v_bits, "--force")
            tensors, metadata = read_safetensors(self.path("x.tq3"))
            for layer in range(2):
                for part, dim, bits in (("k", 64, k_bits), ("v", 100, v_bits)):
                    codes, norms = tensors[f"{part}.{layer}.codes"], tensors[f"{part}.{layer}.norms"]
                    self.assertEqual((codes.dtype, codes.shape), ("U8", [3, 17, code_bytes(dim, bits)]))
                    self.assertEqual((norms.dtype, norms.shape), ("F32", [3, 17]))
                    self.assertIn(f" bits={bits} dim={dim} ", metadata[f"{part}.{layer}.scheme"])

    def test_k4_v3_is_smaller_than_k4_v4_by_the_exact_bytes(self):
        dump = self.dump(layers=2, heads=2, tokens=64, dim=128)
        sizes = {}
        for v_bits in (4, 3):
            self.tq("pack-kv", dump, "-o", f"v{v_bits}", "--k-bits", 4, "--v-bits", v_bits)
            tensors, _ = read_safetensors(self.path(f"v{v_bits}"))
            sizes[v_bits] = {name: len(t.data) for name, t in tensors.items()}
        for layer in range(2):
            self.assertEqual(sizes[4][f"v.{layer}.codes"] - sizes[3][f"v.{layer}.codes"], 2 * 64 * (64 - 48))
            self.assertEqual(sizes[4][f"k.{layer}.codes"], sizes[3][f"k.{layer}.codes"])
        saved = 2 * 2 * 64 * 16 - 8 * 4  # less the levels of the second codebook
        self.assertEqual(sum(sizes[4].values()) - sum(sizes[3].values()), saved)
        header = {v: len(self.read(f"v{v}")) - sum(sizes[v].values()) for v in (3, 4)}
        self.assertEqual(len(self.read("v4")) - len(self.read("v3")), saved + header[4] - header[3])
        self.assertLess(header[3] - header[4], 256)  # one more name and hash

    def test_bits_means_k_and_v_and_the_default_is_4(self):
        dump = self.dump(layers=1)
        self.tq("pack-kv", dump, "-o", "default")
        self.tq("pack-kv", dump, "-o", "bits", "--bits", 4)
        self.tq("pack-kv", dump, "-o", "both", "--k-bits", 4, "--v-bits", 4)
        self.tq("pack-kv", dump, "-o", "three", "--bits", 3)
        self.assertEqual(self.read("default"), self.read("bits"))
        self.assertEqual(self.read("default"), self.read("both"))
        self.assertLess(len(self.read("three")), len(self.read("bits")))

    def test_seeds_and_rotation_change_the_codes_of_their_part_only(self):
        dump = self.dump(layers=1)
        packed = {}
        for name, args in {"plain": [], "same": ["--k-seed", 42, "--v-seed", 42, "--rotation", "rht2"],
                           "k": ["--k-seed", 43], "zero": ["--k-seed", 0], "v": ["--v-seed", 2**32 - 1],
                           "qr": ["--rotation", "qr"]}.items():
            self.tq("pack-kv", dump, "-o", name, *args)
            packed[name], _ = read_safetensors(self.path(name))
        codes = {name: (t["k.0.codes"].data, t["v.0.codes"].data) for name, t in packed.items()}
        self.assertEqual(self.read("same"), self.read("plain"))
        for name in ("k", "zero"):
            self.assertNotEqual(codes[name][0], codes["plain"][0])
            self.assertEqual(codes[name][1], codes["plain"][1])
        self.assertEqual(codes["v"][0], codes["plain"][0])
        self.assertNotEqual(codes["v"][1], codes["plain"][1])
        self.assertNotEqual(codes["qr"][0], codes["plain"][0])
        self.assertIn("rotation.qr-d64-s42", packed["qr"])
        self.assertEqual(packed["qr"]["k.0.norms"], packed["plain"]["k.0.norms"])

    def test_threads_and_cpu_targets_give_the_same_bytes(self):
        # Several pieces of 1 MB, at a dim of each rotation: butterflies, H_12 blocks, a dense matrix.
        block = to_bytes("BF16", gauss(5, 1 << 14))
        tensors = {}
        for layer, dim in enumerate((128, 96, 40)):
            for part in "kv":
                rows = (5 << 18) // dim // 5 * 5
                tensors[f"{part}.{layer}"] = Tensor("BF16", [5, rows // 5, dim], (block * 100)[:2 * rows * dim])
        dump = write_safetensors(self.path("dump"), tensors)
        self.tq("pack-kv", dump, "-o", "x.tq3", "--bits", 3, "--threads", 1)
        self.tq("unpack-kv", "x.tq3", "-o", "x", "--threads", 1)
        for threads, target in [(2, None), (7, None), (1024, None)] + [(2, target) for target in CPU_TARGETS]:
            env = {"TQ_CPU": target} if target else None
            if target and not self.has_target(target):
                continue
            with self.subTest(threads=threads, target=target):
                self.tq("pack-kv", dump, "-o", "y.tq3", "--bits", 3, "--threads", threads, "--force", env=env)
                self.assertTrue(self.read("x.tq3") == self.read("y.tq3"), "packed files differ")
                self.tq("unpack-kv", "y.tq3", "-o", "y", "--threads", threads, "--force", env=env)
                self.assertTrue(self.read("x") == self.read("y"), "unpacked files differ")

    def has_target(self, target):
        if target == "scalar":
            return True  # always built
        args = [helpers.TQ, "verify", "--synthetic", "--layers", "1", "--heads", "1"]
        probe = subprocess.run(args, env={**os.environ, "TQ_CPU": target}, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
        return probe.returncode != COULD_NOT

    def test_dry_run_tells_the_exact_bytes_and_writes_nothing(self):
        dump = write_safetensors(self.path("dump"), odd_tensors())
        said = self.tq("pack-kv", dump, "-o", "x.tq3", "--dry-run").stdout
        self.assertFalse(os.path.exists(self.path("x.tq3")))
        self.tq("pack-kv", dump, "-o", "x.tq3")
        self.assertIn(f"{len(self.read('x.tq3')):,} bytes", said)
        said = self.tq("unpack-kv", "x.tq3", "-o", "y", "--dtype", "f32", "--dry-run").stdout
        self.assertFalse(os.path.exists(self.path("y")))
        self.tq("unpack-kv", "x.tq3", "-o", "y", "--dtype", "f32")
        self.assertIn(f"{len(self.read('y')):,} bytes", said)

    def test_summary_on_stderr_names_sizes(self):
        dump = self.dump(layers=2, heads=2, tokens=32, dim=64)
        done = self.tq("pack-kv", dump, "-o", "x.tq3", "--k-bits", 4, "--v-bits", 3)
        for word in ("x.tq3", "2 layers", "K 4", "V 3", f"{4 * 2 * 32 * 64 * 2:,}", f"{len(self.read('x.tq3')):,}"):
            self.assertIn(word, done.stderr)


class Unpack(CliTest):
    def test_names_shapes_types_and_metadata_come_back(self):
        tensors = odd_tensors()
        metadata = {"model": "a \"quoted\" n\u00e4me\n", "attention_scale": "0.25", "format": "tq-kv-dump", "empty": "",
                    "k.7.scheme": "mine", "sliding_window.2": "4"}
        dump = write_safetensors(self.path("dump"), tensors, metadata)
        self.tq("pack-kv", dump, "-o", "x.tq3", "--bits", 8)
        self.tq("unpack-kv", "x.tq3", "-o", "y")
        back, back_metadata = read_safetensors(self.path("y"))
        self.assertEqual(back_metadata, metadata)
        self.assertEqual(set(back), set(tensors) - {"q.7"})
        for name, t in back.items():
            self.assertEqual((t.dtype, t.shape), (tensors[name].dtype, tensors[name].shape), name)
            self.assertLess(relative_mse(tensors[name].values, t.values), 5e-4, name)  # of its own rows, in their order

    def test_error_is_that_of_the_codebook(self):
        dump = self.dump(layers=1, heads=2, tokens=64, dim=64, dtype="F32")
        source, _ = read_safetensors(dump)
        for rotation in ("rht2", "qr"):
            for bits, distortion in DISTORTION.items():
                self.tq("pack-kv", dump, "-o", "x.tq3", "--bits", bits, "--rotation", rotation, "--force")
                self.tq("unpack-kv", "x.tq3", "-o", "y", "--force")
                back, _ = read_safetensors(self.path("y"))
                for name in ("k.0", "v.0"):
                    ratio = relative_mse(source[name].values, back[name].values) / distortion
                    self.assertTrue(0.93 < ratio < 1.07, (rotation, bits, name, ratio))

    def test_dtype_rounds_the_same_values(self):
        dump = self.dump(layers=1, dtype="F32")
        self.tq("pack-kv", dump, "-o", "x.tq3")
        outputs = {}
        for dtype in ("f32", "f16", "bf16"):
            self.tq("unpack-kv", "x.tq3", "-o", dtype, "--dtype", dtype)
            outputs[dtype], _ = read_safetensors(self.path(dtype))
            self.assertEqual({t.dtype for t in outputs[dtype].values()}, {dtype.upper()})
        for name, exact in outputs["f32"].items():
            for dtype in ("f16", "bf16"):
                self.assertEqual(outputs[dtype][name].data, to_bytes(dtype.upper(), exact.values), (name, dtype))

    def test_rows_of_zeros_come_back_as_zeros(self):
        values = gauss(3, 4 * 16)
        values[16:32] = [-0.0] * 16
        tensors = {"k.0": tensor_of([1, 4, 16], values), "v.0": tensor_of([1, 4, 16], [0.0] * 64)}
        self.tq("pack-kv", write_safetensors(self.path("dump"), tensors), "-o", "x.tq3")
        self.tq("unpack-kv", "x.tq3", "-o", "y")
        back, _ = read_safetensors(self.path("y"))
        self.assertEqual(back["k.0"].data[64:128], bytes(64))  # +0, also for -0
        self.assertEqual(back["v.0"].data, bytes(256))
        self.assertLess(relative_mse(values, back["k.0"].values), 0.03)

    def test_tiny_and_huge_rows_keep_their_scale(self):
        for scale in (1e-44, 1e-38, 1e-30, 1e-20, 1e18, 1e30, 1e37):
            values = [scale * x for x in gauss(4, 64)]
            tensors = {"k.0": tensor_of([1, 1, 64], values), "v.0": tensor_of([1, 1, 64], values)}
            self.tq("pack-kv", write_safetensors(self.path("dump"), tensors), "-o", "x.tq3", "--bits", 8, "--force")
            self.tq("unpack-kv", "x.tq3", "-o", "y", "--force")
            back, _ = read_safetensors(self.path("y"))
            stored = tensors["k.0"].values
            error = max(abs(a - b) for a, b in zip(stored, back["k.0"].values)) / max(map(abs, stored))
            self.assertLess(error, 0.3 if scale == 1e-44 else 0.02, scale)  # 1e-44 is 7 units of the last place

    def test_a_value_that_f16_cannot_hold_is_named(self):
        values = gauss(3, 2 * 3 * 16)
        values[(1 * 3 + 2) * 16 + 5] = 1e6
        tensors = {"k.4": tensor_of([2, 3, 16], values), "v.4": tensor([2, 3, 16])}
        self.tq("pack-kv", write_safetensors(self.path("dump"), tensors), "-o", "x.tq3")
        self.refused(COULD_NOT, ["x.tq3", "k.4", "head 1", "token 2", "F16", "bf16"],
                     "unpack-kv", "x.tq3", "-o", "y", "--dtype", "f16")
        self.tq("unpack-kv", "x.tq3", "-o", "y", "--dtype", "bf16")

    def test_packing_what_was_unpacked_keeps_shapes_and_stays_close(self):
        dump = self.dump(layers=1, dtype="F32")
        self.tq("pack-kv", dump, "-o", "x.tq3")
        self.tq("unpack-kv", "x.tq3", "-o", "y")
        self.tq("pack-kv", "y", "-o", "z.tq3")
        self.tq("unpack-kv", "z.tq3", "-o", "z")
        first, _ = read_safetensors(self.path("y"))
        second, _ = read_safetensors(self.path("z"))
        for name in first:
            self.assertLess(relative_mse(first[name].values, second[name].values), 0.005)


class Output(CliTest):
    def test_existing_output_needs_force_and_is_else_untouched(self):
        dump = self.dump(layers=1)
        with open(self.path("x.tq3"), "w") as file:
            file.write("mine")
        self.refused(COULD_NOT, ["x.tq3", "--force"], "pack-kv", dump, "-o", "x.tq3")
        self.assertEqual(self.read("x.tq3"), b"mine")
        self.tq("pack-kv", dump, "-o", "x.tq3", "--force")
        self.refused(COULD_NOT, ["x.tq3", "input itself"], "unpack-kv", "x.tq3", "-o", "x.tq3", "--force")
        self.refused(COULD_NOT, [dump, "input itself"], "pack-kv", dump, "-o", dump, "--force")
        self.refused(COULD_NOT, [dump, "--force"], "unpack-kv", "x.tq3", "-o", dump)
        self.tq("unpack-kv", "x.tq3", "-o", dump, "--force")

    def test_force_replaces_a_link_and_not_what_it_points_to(self):
        dump = self.dump(layers=1)
        with open(self.path("precious"), "w") as file:
            file.write("mine")
        os.symlink("precious", self.path("x.tq3"))
        self.refused(COULD_NOT, ["--force"], "pack-kv", dump, "-o", "x.tq3")
        self.tq("pack-kv", dump, "-o", "x.tq3", "--force")
        self.assertEqual(self.read("precious"), b"mine")

    def test_two_runs_give_the_same_bytes_and_no_extra_file(self):
        dump = self.dump(layers=1)
        self.tq("pack-kv", dump, "-o", "x.tq3")
        self.tq("pack-kv", dump, "-o", "y.tq3")
        self.assertEqual(self.read("x.tq3"), self.read("y.tq3"))
        self.assertEqual(sorted(os.listdir(self.dir)), ["dump.safetensors", "x.tq3", "y.tq3"])

    def test_a_new_file_has_the_permissions_that_umask_leaves(self):
        dump = self.dump(layers=1)
        self.tq("pack-kv", dump, "-o", "x.tq3", preexec_fn=lambda: os.umask(0o027))
        self.assertEqual(os.stat(self.path("x.tq3")).st_mode & 0o777, 0o640)


class Inspect(CliTest):
    def test_packed_json(self):
        tensors = odd_tensors()
        dump = write_safetensors(self.path("dump"), tensors, {"model": "tiny"})
        self.tq("pack-kv", dump, "-o", "x.tq3", "--k-bits", 4, "--v-bits", 3)
        report = self.json("inspect", "x.tq3", "--json")
        _, metadata = read_safetensors(self.path("x.tq3"))
        self.assertEqual((report["kind"], report["format_version"], report["hashes"]), ("tq3-kv", "1", "ok"))
        self.assertEqual(report["bytes"], len(self.read("x.tq3")))
        self.assertEqual(report["source_bytes"], sum(len(t.data) for n, t in tensors.items() if n != "q.7"))
        self.assertEqual(report["header_xxh64"], metadata["header_xxh64"])
        self.assertEqual(report["dump_metadata"], {"model": "tiny"})
        shapes = {(2, "k"): [2, 9, 64], (2, "v"): [2, 9, 128], (7, "k"): [3, 5, 80], (7, "v"): [3, 5, 24],
                  (11, "k"): [1, 1, 8], (11, "v"): [1, 1, 13]}
        self.assertEqual([(t["layer"], t["part"]) for t in report["tensors"]], list(shapes))
        for t in report["tensors"]:
            heads, tokens, dim = shapes[t["layer"], t["part"]]
            row = code_bytes(dim, 4 if t["part"] == "k" else 3) + 4
            self.assertEqual(t["shape"], [heads, tokens, dim])
            self.assertEqual((t["bytes_per_token_and_head"], t["bytes"]), (row, heads * tokens * row))
            self.assertAlmostEqual(t["bits_per_value"], 8 * row / dim)
            name = f"{t['part']}.{t['layer']}"
            self.assertEqual(t["scheme"], metadata[name + ".scheme"])
            self.assertEqual(t["xxh64"], {f"{name}.{x}": metadata[f"{name}.{x}.xxh64"] for x in ("codes", "norms")})
        self.assertEqual(report["overhead_bytes"], report["bytes"] - sum(t["bytes"] for t in report["tensors"]))
        tables = {t["name"]: (t["shape"], t["bytes"]) for t in report["tables"]}
        self.assertEqual(tables["codebook.beta-d64-b4"], ([16], 64))
        self.assertEqual(tables["rotation.hadamard-20"], ([20, 20], 1600))
        self.assertEqual(len(tables), len({name for name in metadata if name.startswith(("codebook.", "rotation."))}))

    def test_packed_table_shows_schemes_hashes_and_bytes(self):
        self.tq("pack-kv", self.dump(layers=2, dim=128), "-o", "x.tq3", "--k-bits", 4, "--v-bits", 3)
        text = self.tq("inspect", "x.tq3").stdout
        _, metadata = read_safetensors(self.path("x.tq3"))
        for word in ("k.1", metadata["k.0.scheme"], metadata["v.1.scheme"], metadata["k.1.codes.xxh64"],
                     metadata["header_xxh64"], "4.250", "3.250", f"{len(self.read('x.tq3')):,}"):
            self.assertIn(word, text)

    def test_dump(self):
        dump = write_safetensors(self.path("dump"), odd_tensors(), {"model": "tiny", "attention_scale": "0.25"})
        report = self.json("inspect", dump, "--json")
        self.assertEqual((report["kind"], report["bytes"]), ("kv-dump", len(self.read("dump"))))
        self.assertEqual(report["dump_metadata"], {"model": "tiny", "attention_scale": "0.25"})
        found = {(t["layer"], t["part"]): (t["shape"], t["bytes"]) for t in report["tensors"]}
        self.assertEqual(found[7, "q"], ([6, 4, 80], 6 * 4 * 80 * 2))
        self.assertEqual(found[2, "k"], ([2, 9, 64], 2 * 9 * 64 * 2))
        self.assertEqual(len(found), 7)
        text = self.tq("inspect", dump).stdout
        for word in ("tiny", "attention_scale", "BF16", "F16", "F32"):
            self.assertIn(word, text)

    def test_json_of_a_path_that_is_not_utf8(self):
        dump = self.dump("caf\udce9", layers=1)
        self.tq("pack-kv", dump, "-o", "\udce9.tq3")
        self.assertIn("caf", self.json("inspect", dump, "--json")["file"])
        self.assertIn(".tq3", self.json("inspect", "\udce9.tq3", "--json")["file"])
        self.assertIn("caf", self.json("verify", "--kv", dump, "--json")["source"]["path"])

    def test_metadata_cannot_forge_lines_or_command_the_terminal(self):
        dump = self.dump(layers=1, metadata={"note\x1b[2J": "a\nhashes (XXH64, all checked)\x1b[31m\r"})
        text = self.tq("inspect", dump).stdout
        self.assertNotIn("\x1b", text)
        self.assertNotIn("\r", text)
        self.assertNotIn("\nhashes", text)


if __name__ == "__main__":
    helpers.main()
