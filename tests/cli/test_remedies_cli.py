"""The remedies of pack-kv and verify: each from the command line to a file and back, at the bytes that are announced."""
import json
import os
import re
import resource
import signal
import subprocess
import time

import helpers
from helpers import (COULD_NOT, USAGE, Tensor, VerifyTest, gauss, kv_tensors, read_safetensors, relative_mse,
                     tensor_of, to_bytes, write_safetensors)

SAMPLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/samples/smollm2-135m-instruct.safetensors")
HEADS, TOKENS, DIM, V_DIM, LAYERS = 2, 40, 64, 48, 3


def loud_tensors(dtype="BF16"):
    """Keys with a strong mean and eight loud channels; values as they come."""
    tensors = kv_tensors(LAYERS, HEADS, TOKENS, DIM, V_DIM, dtype=dtype)
    shift = gauss(99, DIM, 6.0)
    for layer in range(LAYERS):
        values = [(12 if i % 8 == 5 else 1) * x + shift[i % DIM] for i, x in enumerate(gauss(layer, HEADS * TOKENS * DIM))]
        tensors[f"k.{layer}"] = tensor_of([HEADS, TOKENS, DIM], values, dtype)
    return tensors


def code_bytes(dim, bits):
    return -(-dim * bits // 8)


def bytes_of(part, bits, outliers=None, group=None, center=False, exact=0):
    """Bytes of K or V of one layer, counted by hand."""
    dim = DIM if part == "k" else V_DIM
    coded = max(0, TOKENS - exact)
    if bits == 16:
        row, coded = 0, 0
    elif group and part == "v":
        row = code_bytes(dim, bits) + 4 * dim // group
    elif outliers:
        row = code_bytes(dim - outliers[0], bits) + 4 + code_bytes(outliers[0], outliers[1]) + 4
    else:
        row = code_bytes(dim, bits) + 4
    head = coded * row + (TOKENS - coded) * 2 * dim + (2 * dim if center and part == "k" else 0)
    return HEADS * (head + (2 * outliers[0] if outliers else 0))


class AllKept(helpers.CliTest):
    def test_a_cache_that_codes_no_token_passes(self):
        dump = self.dump(layers=1, tokens=32)
        report = self.json("verify", "--kv", dump, "--sink-tokens", 1048576, "--json", "--quiet")
        self.assertEqual(report["status"], "PASS")
        self.assertNotIn("other_seed", report["layers"][0]["k"]["controls"])


class Remedies(VerifyTest):
    def setUp(self):
        super().setUp()
        self.source = write_safetensors(self.path("dump"), loud_tensors())

    def scheme_file(self, content):
        with open(self.path("scheme.json"), "w", encoding="utf-8") as file:
            file.write(content if isinstance(content, str) else json.dumps(content))
        return "scheme.json"

    def whole_way(self, *options):
        """pack, inspect, verify in memory and from the file, unpack. Returns the values of the dump that came back."""
        dry = self.tq("pack-kv", self.source, "-o", "x.tq3", "--dry-run", "--force", *options).stdout
        self.tq("pack-kv", self.source, "-o", "x.tq3", "--force", *options)
        size = os.path.getsize(self.path("x.tq3"))
        self.assertIn(f"-> {size:,} bytes", dry)
        seen = self.json("inspect", "--json", "x.tq3")
        self.tq("inspect", "x.tq3")
        coded = seen["bytes"] - seen["overhead_bytes"]
        self.assertEqual(coded, sum(row["bytes"] for row in seen["tensors"]))
        reports = [json.loads(self.tq("verify", "--json", "--quiet", "--threshold", -1, *args, code=COULD_NOT).stdout)
                   for args in (["--kv", self.source, *options], ["--packed", "x.tq3", "--against", self.source])]
        for report in reports:
            self.assertEqual(report["bytes"]["packed"], coded)
            self.assertEqual({use["scheme"] for use in report["schemes"]["all"]}, {row["scheme"] for row in seen["tensors"]})
        if "--effort" in options:  # which no file knows, and the other seeds are coded without it
            for report in reports:
                for numbers in (m[part] for layer in report["layers"] for m in [layer, *layer["heads"]] for part in "kv"):
                    del numbers["mse_ratio_other_seeds"]
        self.assertEqual(*(report["layers"] for report in reports))
        self.assertEqual(*(report["k_bits"] for report in reports))
        said = float(re.search(r"K ([0-9.]+) bits", dry)[1])
        self.assertAlmostEqual(said, reports[0]["k_bits"], delta=0.001 * said)
        self.tq("unpack-kv", "x.tq3", "-o", "back", "--force")
        return seen, reports[0], read_safetensors(self.path("back"))[0]

    def part_bytes(self, seen, part, layer=0):
        return sum(row["bytes"] for row in seen["tensors"] if row["part"].split()[0] == part and row["layer"] == layer)

    def check_bytes(self, seen, bits, layer=0, **remedy):
        for part in "kv":
            self.assertEqual(self.part_bytes(seen, part, layer), bytes_of(part, bits, **remedy), part)

    def test_center(self):
        seen, report, _ = self.whole_way("--bits", 3, "--k-center")
        self.check_bytes(seen, 3, center=True)
        plain = self.whole_way("--bits", 3)[1]
        errors = [r["layers"][0]["k"]["relative_mse"] for r in (report, plain)]
        self.assertLess(errors[0], 0.7 * errors[1])
        self.assertAlmostEqual(report["layers"][0]["k"]["mse_ratio"], 1, delta=0.15)

    def test_outlier_channels(self):
        seen, report, _ = self.whole_way("--bits", 2, "--outlier-channels", "16:4", "--k-center")
        self.check_bytes(seen, 2, outliers=(16, 4), center=True)
        self.assertEqual(report["k_bits"], (48 * 2 + 16 * 4) / 64)
        self.assertAlmostEqual(report["v_bits"], (32 * 2 + 16 * 4) / 48)
        self.assertAlmostEqual(report["layers"][0]["k"]["mse_ratio"], 1, delta=0.2)
        metadata = read_safetensors(self.path("x.tq3"))[1]
        self.assertIn("outliers=16:4:", metadata["k.0.scheme"])
        channels = read_safetensors_u16(self.path("x.tq3"), "k.0.channels")
        self.assertTrue({i for i in range(DIM) if i % 8 == 5} <= set(channels[:16]))

    def test_boundary_layers(self):
        seen, report, back = self.whole_way("--bits", 3, "--boundary-layers", 1)
        self.check_bytes(seen, 16, layer=0)
        self.check_bytes(seen, 3, layer=1)
        self.check_bytes(seen, 16, layer=2)
        source = read_safetensors(self.source)[0]
        for name in ("k.0", "v.0", "k.2", "v.2"):
            self.assertEqual(back[name], source[name], name)
        self.assertNotEqual(back["k.1"], source["k.1"])
        self.assertEqual(report["k_bits"], (16 + 3 + 16) / 3)
        self.assertEqual([use["layers"] for use in report["schemes"]["all"] if use["part"] == "k"], [[0, 2], [1]])
        nothing_coded = self.verify("--kv", self.source, "--boundary-layers", 2)
        self.assertEqual([gate["name"] for gate in nothing_coded["gates"]], ["threshold"])
        self.assertEqual((nothing_coded["min_cosine"], nothing_coded["bytes"]["ratio"]), (1, 1))
        seen, report, _ = self.whole_way("--bits", 3, "--boundary-layers", "1:8")
        self.check_bytes(seen, 8, layer=2)
        self.assertEqual(report["v_bits"], (8 + 3 + 8) / 3)

    def test_exact_tokens(self):
        seen, _, back = self.whole_way("--bits", 2, "--sink-tokens", 3, "--residual-window", 7)
        self.check_bytes(seen, 2, exact=10)
        source = read_safetensors(self.source)[0]
        for name, dim in (("k.1", DIM), ("v.2", V_DIM)):
            for head in range(HEADS):
                for token in range(TOKENS):
                    place = slice(2 * (head * TOKENS + token) * dim, 2 * (head * TOKENS + token + 1) * dim)
                    same = back[name].data[place] == source[name].data[place]
                    self.assertEqual(same, token < 3 or token >= TOKENS - 7, (name, head, token))
        seen, report, back = self.whole_way("--bits", 2, "--sink-tokens", 20, "--residual-window", 1000)
        self.check_bytes(seen, 2, exact=1020)
        self.assertEqual(report["k_bits"], 16)
        for name, t in source.items():
            self.assertEqual(back[name], t)

    def test_groups_of_values(self):
        seen, report, back = self.whole_way("--bits", 4, "--group-values", 16)
        self.check_bytes(seen, 4, group=16)
        self.assertEqual(back["v.0"].shape, [HEADS, TOKENS, V_DIM])
        self.assertLess(relative_mse(read_safetensors(self.source)[0]["v.0"].values, back["v.0"].values), 0.01)
        self.assertIsNone(report["layers"][0]["v"]["mse_ratio"])

    def test_scheme_file(self):
        content = {"k_bits": 3, "v_bits": 2, "layers": [{"layer": 1, "k": [4, 16], "v": 5}, {"layer": 2, "k": 6}]}
        seen, report, back = self.whole_way("--scheme", self.scheme_file(content))
        rows = {(row["layer"], row["part"]): row["bytes"] for row in seen["tensors"]}
        self.assertEqual(rows, {(0, "k"): bytes_of("k", 3), (0, "v"): bytes_of("v", 2), (1, "k h0"): bytes_of("k", 4) // 2,
                                (1, "k h1"): bytes_of("k", 16) // 2, (1, "v"): bytes_of("v", 5), (2, "k"): bytes_of("k", 6),
                                (2, "v"): bytes_of("v", 2)})
        half = HEADS * TOKENS * DIM
        self.assertEqual(back["k.1"].data[half:], read_safetensors(self.source)[0]["k.1"].data[half:])
        self.assertAlmostEqual(report["k_bits"], (3 + (4 + 16) / 2 + 6) / 3)
        self.assertEqual([report["layers"][1]["k"][name] for name in ("bits", "average_bits")], [4, 10])
        self.assertEqual([head["k"]["bits"] for head in report["layers"][1]["heads"]], [4, 16])
        said = self.tq("inspect", "x.tq3").stdout
        self.assertIn(" k.1.h1\n", said)

    def test_all_at_once_and_effort(self):
        options = ["--bits", 2, "--k-center", "--outlier-channels", "8:5", "--group-values", 8, "--sink-tokens", 2,
                   "--residual-window", 5, "--boundary-layers", "1:6", "--norm-dtype", "f16"]
        sizes, errors = set(), []
        for effort in (0, 1, 3):
            seen, report, _ = self.whole_way(*options, "--norm", "least-squares", "--effort", effort)
            sizes.add(self.part_bytes(seen, "k", 1))
            errors.append(report["layers"][1]["k"]["relative_mse"])
        self.assertEqual(len(sizes), 1)
        self.assertLess(errors[2], errors[0])

    def test_threads_make_no_difference(self):
        options = ["--bits", 3, "--k-center", "--outlier-channels", "8:4", "--sink-tokens", 1, "--group-values", 8]
        files = set()
        for threads in (1, 2, 5):
            self.tq("pack-kv", self.source, "-o", "x", "--force", "--threads", threads, *options)
            files.add(self.read("x"))
        self.assertEqual(len(files), 1)


class RealKeys(VerifyTest):
    """What a remedy is for: less of a change in the softmax of a real model, in the bytes that it says."""

    def numbers(self, *options):
        """KL, a mean over the layers, and bytes; whatever the verdict."""
        done = subprocess.run([helpers.TQ, "verify", "--kv", SAMPLE, "--bits", "3", "--json", "--quiet", *options],
                              capture_output=True, text=True, timeout=120)
        report = json.loads(done.stdout)
        kl = [layer["attention"]["kl_mean"] for layer in report["layers"]]
        return sum(kl) / len(kl), report["bytes"]["packed"]

    def test_each_remedy_lowers_the_kl_of_the_sample(self):
        plain, plain_bytes = self.numbers()
        self.assertTrue(0.05 < plain < 0.2, plain)
        for share, options in ((0.8, ["--k-center"]), (0.6, ["--outlier-channels", "16:4"]), (0.8, ["--boundary-layers", "1"]),
                               (0.95, ["--sink-tokens", "4"]), (0.5, ["--residual-window", "32"]),
                               (0.95, ["--norm", "least-squares"]), (0.85, ["--effort", "3"]),
                               (0.45, ["--k-center", "--effort", "3", "--sink-tokens", "4"])):
            with self.subTest(options=options):
                kl, packed = self.numbers(*options)
                self.assertLess(kl, share * plain)
                self.assertGreater(kl, 0.1 * plain)
                self.assertEqual(packed == plain_bytes, options[0] in ("--norm", "--effort"))
        self.assertGreater(self.numbers("--qjl-keys")[0], 2 * plain)  # no remedy: the test sees that too
        self.assertEqual(self.numbers("--group-values", "32")[0], plain)  # K is not touched


def read_safetensors_u16(path, name):
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
        data = file.read()[slice(*entry["data_offsets"])]
    return [int.from_bytes(data[i:i + 2], "little") for i in range(0, len(data), 2)]


class Refusals(VerifyTest):
    def setUp(self):
        super().setUp()
        self.source = self.dump(layers=2, heads=2, tokens=8, dim=64, v_dim=64)

    def refuse(self, code, words, *options):
        for command in (["pack-kv", self.source, "-o", "x.tq3"], ["verify", "--kv", self.source]):
            with self.subTest(command=command[0], options=options):
                self.refused(code, words, *command, *options)

    def test_values_that_are_wrong_by_themselves(self):
        for value in ("32", "", ":", "32:", ":3", "4:5", "7:5", "1017:5", "32:9", "32:0", "32:5:6", "-8:5", "8.0:5", "a:b", "32 :5",
                      "99999999999:5"):
            self.refuse(USAGE, "--outlier-channels", "--outlier-channels", value)
        for value in ("32:2", "32:3"):
            self.refuse(USAGE, "need more bits", "--bits", 3, "--outlier-channels", value)
        for value in ("1:9", "1:0", "-1", "1:", "x", "1:17", "1:15", ":4", "1.5"):
            self.refuse(USAGE, "--boundary-layers", "--boundary-layers", value)
        for option in ("--sink-tokens", "--residual-window"):
            for value in ("-1", "1048577", "x", "1.5"):
                self.refuse(USAGE, option, option, value)
        for value in ("0", "7", "-8", "1025", "x"):
            self.refuse(USAGE, "--group-values", "--group-values", value)
        for value in ("-1", "4", "x"):
            self.refuse(USAGE, "--effort", "--effort", value)
        self.refuse(USAGE, "least-squares", "--effort", 1, "--norm", "raw")
        self.refuse(USAGE, "--qjl-keys", "--qjl-keys", "--outlier-channels", "8:6")

    def test_values_that_do_not_fit_the_dump(self):
        self.refuse(COULD_NOT, ["layer 0", "48", "64"], "--group-values", 48)
        self.refuse(COULD_NOT, ["layer 0", "leaves 4 of 64"], "--outlier-channels", "60:6")
        narrow = self.dump("narrow", layers=1, dim=124)
        self.refused(COULD_NOT, ["leaves 4 of 124"], "pack-kv", narrow, "-o", "x", "--bits", 3, "--outlier-channels", "120:4")

    def test_scheme_files(self):
        def refuse(words, content):
            with open(self.path("scheme.json"), "wb") as file:
                file.write(content)
            self.refuse(COULD_NOT, words, "--scheme", "scheme.json")
        name = "scheme.json"
        self.refuse(COULD_NOT, "no.json", "--scheme", "no.json")
        self.refuse(COULD_NOT, "", "--scheme", self.dir)
        for content in (b"", b"{", b"[]", b"3", b'{"layers": 3}', b"\xff\xfe", b'{"layers": [}', self.read("dump.safetensors")):
            refuse([name], content)
        refuse([name, "twice"], b'{"k_bits": 3, "k_bits": 4}')
        refuse([name, "k_bit", "not known"], b'{"k_bit": 3}')
        refuse([name, "17"], b'{"k_bits": 17}')
        refuse([name, "nested"], b'{"k_bits": ' + b"[" * 100000 + b"]" * 100000 + b"}")
        refuse([name, "layers[1]", "twice"], b'{"layers": [{"layer": 0, "k": 3}, {"layer": 0, "k": 3}]}')
        refuse(["no layer 2"], b'{"layers": [{"layer": 2, "k": 3}]}')
        for heads in (b"[3, 3, 3]", b"[1, 2, 3, 4]"):
            refuse(["layer 1 has 2 heads", "of V"], b'{"layers": [{"layer": 1, "v": ' + heads + b"}]}")

    def test_remedies_are_of_the_file_where_a_file_is_verified(self):
        self.tq("pack-kv", self.source, "-o", "x.tq3", "--k-center")
        for options in (["--k-center"], ["--outlier-channels", "8:6"], ["--scheme", "x"], ["--sink-tokens", 1], ["--boundary-layers", 1]):
            self.refused(USAGE, options[0], "verify", "--packed", "x.tq3", "--against", self.source, *options)

    def test_bad_values_are_named_by_head_token_and_channel(self):
        for bad, word in ((float("nan"), "nan"), (float("inf"), "infinite")):
            values = gauss(3, 2 * 8 * 64)
            values[(1 * 8 + 5) * 64 + 17] = bad
            tensors = kv_tensors(1, 2, 8, 64, dtype="F32")
            for part in "kv":
                broken = write_safetensors(self.path("broken"), {**tensors, f"{part}.0": tensor_of([2, 8, 64], values)})
                for options in (["--k-center"], ["--outlier-channels", "8:6"], ["--group-values", 32], ["--boundary-layers", 1],
                                ["--sink-tokens", 6], ["--residual-window", 3]):
                    if (part, options[0]) in (("v", "--k-center"), ("k", "--group-values")):
                        continue
                    for command in (["pack-kv", broken, "-o", "x"], ["verify", "--kv", broken]):
                        with self.subTest(part=part, options=options, command=command[0]):
                            self.refused(COULD_NOT, ["broken", f"{part}.0", "head 1", "token 5", "channel 17", word], *command, *options)

    def test_values_that_16_bits_cannot_hold(self):
        values = gauss(3, 2 * 8 * 64)
        values[(0 * 8 + 7) * 64 + 2] = 3.4e38
        broken = write_safetensors(self.path("broken"), {**kv_tensors(1, 2, 8, 64, dtype="F32"), "k.0": tensor_of([2, 8, 64], values)})
        for command in (["pack-kv", broken, "-o", "x"], ["verify", "--kv", broken]):
            self.refused(COULD_NOT, ["head 0", "token 7", "channel 2", "BF16"], *command, "--residual-window", 1)

    def test_an_interrupted_run_leaves_nothing(self):
        block = to_bytes("BF16", gauss(5, 1 << 14))
        rows = 1 << 16
        big = write_safetensors(self.path("big"), {f"{part}.{layer}": Tensor("BF16", [4, rows // 4, 64], block * (rows * 64 >> 14))
                                                   for layer in range(4) for part in "kv"})
        before = sorted(os.listdir(self.dir))
        options = ["pack-kv", big, "-o", "x.tq3", "--bits", "7", "--k-center", "--outlier-channels", "8:8", "--threads", "1"]
        started = time.monotonic()
        self.tq(*options)
        usual = time.monotonic() - started
        os.remove(self.path("x.tq3"))
        for share in (0.5, 0.3, 0.15, 0.05, 0.01):
            run = subprocess.Popen([helpers.TQ, *options], cwd=self.dir, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(share * usual)
            run.send_signal(signal.SIGINT)
            if run.wait(timeout=60) != 0:
                break
            os.remove(self.path("x.tq3"))  # it was done before the signal came
        else:
            self.fail("no run was interrupted")
        self.assertEqual(sorted(os.listdir(self.dir)), before)
        limit = 1 << 20
        self.refused(COULD_NOT, "x.tq3", *options, "--quiet", preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)))


if __name__ == "__main__":
    helpers.main()
