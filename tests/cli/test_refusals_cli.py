"""What pack-kv, unpack-kv and inspect must refuse: exit 3, one line that says what and where, no file left behind."""
import json
import os
import random
import resource
import signal
import struct
import subprocess
import time

import helpers
from helpers import (COULD_NOT, CliTest, Tensor, gauss, kv_tensors, read_safetensors, safetensors_parts, tensor,
                     tensor_of, to_bytes, write_raw, write_safetensors, xxh64)

NAN, INFINITY = float("nan"), float("inf")


class Values(CliTest):
    """A value that cannot be quantized is named by tensor, head, token and channel."""

    def pack(self, name, values, dtype, words, *args):
        tensors = {n: tensor([2, 3, 16], seed, dtype) for seed, n in enumerate(("k.3", "v.3", "k.9", "v.9"))}
        tensors[name] = tensor_of([2, 3, 16], values, dtype)
        path = write_safetensors(self.path("dump"), tensors)
        self.refused(COULD_NOT, ["dump", name, *words], "pack-kv", path, "-o", "x.tq3", *args)

    def test_nan_and_infinity(self):
        for dtype in ("F32", "F16", "BF16"):
            for name in ("k.3", "v.9"):
                for head, token, channel in ((0, 0, 0), (1, 2, 15), (1, 0, 7)):
                    for value, word in ((NAN, "NaN"), (INFINITY, "infinite"), (-INFINITY, "infinite")):
                        values = gauss(1, 2 * 3 * 16)
                        values[(head * 3 + token) * 16 + channel] = value
                        with self.subTest(dtype=dtype, name=name, value=value, head=head):
                            self.pack(name, values, dtype,
                                      [word, f"head {head}", f"token {token}", f"channel {channel}"])

    def test_first_of_two_is_named_whatever_the_threads(self):
        block = to_bytes("F32", gauss(1, 1 << 14))
        rows = Tensor("F32", [4, 16384, 16], block * 64)
        values = bytearray(rows.data)
        for row, channel in ((20000, 3), (60000, 4)):
            struct.pack_into("<f", values, 4 * (row * 16 + channel), NAN)
        path = write_safetensors(self.path("dump"), {"k.0": rows, "v.0": Tensor("F32", rows.shape, bytes(values))})
        for threads in (1, 2, 8):
            self.refused(COULD_NOT, ["v.0", "head 1", f"token {20000 - 16384}", "channel 3"],
                         "pack-kv", path, "-o", "x.tq3", "--threads", threads)

    def test_a_norm_that_overflows(self):
        values = gauss(1, 2 * 3 * 16)
        values[(1 * 3 + 1) * 16:(1 * 3 + 2) * 16] = [3e38] * 16
        self.pack("v.3", values, "F32", ["norm", "overflow", "head 1", "token 1"])

    def test_a_norm_that_f16_would_make_zero(self):
        values = gauss(1, 2 * 3 * 16)
        values[(1 * 3 + 1) * 16:(1 * 3 + 2) * 16] = [1e-9] * 16
        self.pack("v.3", values, "F32", ["norm", "becomes 0 in F16", "head 1", "token 1", "--norm-dtype f32"],
                  "--norm-dtype", "f16")


class DumpContainer(CliTest):
    def refuse(self, words, path):
        for args in (["pack-kv", path, "-o", "x.tq3"], ["inspect", path], ["verify", "--kv", path]):
            with self.subTest(args=args, words=words):
                self.refused(COULD_NOT, [os.path.basename(path), *words], *args)

    def refuse_header(self, words, header, data):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        self.refuse(words, write_raw(self.path("dump"), text, data))

    def test_paths(self):
        os.mkfifo(self.path("pipe"))
        os.mkdir(self.path("directory"))
        open(self.path("empty"), "w").close()
        for name, word in (("missing", "no such file"), ("directory", "directory"), ("pipe", "pipe"),
                           ("empty", "byte"), ("missing/x", "no such file")):
            self.refuse([word], self.path(name))
        self.refused(COULD_NOT, ["no such file"], "inspect", "two\nlines")

    def test_truncated_anywhere(self):
        whole = self.read(self.dump(layers=1, heads=1, tokens=2, dim=8))
        for length in range(len(whole)):
            with open(self.path("cut"), "wb") as file:
                file.write(whole[:length])
            self.refused(COULD_NOT, ["cut"], "pack-kv", "cut", "-o", "x.tq3")

    def test_appended_bytes(self):
        whole = self.read(self.dump(layers=1, heads=1, tokens=2, dim=8))
        for more in (b"\0", b"x" * 64):
            with open(self.path("longer"), "wb") as file:
                file.write(whole + more)
            self.refuse([], self.path("longer"))

    def test_absurd_header_lengths(self):
        for length in (0, 1, 2**31, 2**63, 2**64 - 1, 100_000_001):
            with open(self.path("dump"), "wb") as file:
                file.write(struct.pack("<Q", length) + b"{}")
            self.refuse(["header"], self.path("dump"))

    def test_offsets(self):
        header, data = safetensors_parts(kv_tensors(layers=1, heads=1, tokens=2, dim=8))
        size = len(data)
        for name, wrong in (("overlap", [size // 2 - 2, size - 2]), ("gap", [size // 2 + 2, size + 2]),
                            ("backwards", [size, size // 2]), ("negative", [-size // 2, size // 2]),
                            ("beyond", [size, size + size // 2]), ("huge", [2**63, 2**63 + size // 2]),
                            ("fraction", [size / 2 + 0.5, size + 0.5]), ("three", [size // 2, size, size])):
            broken = {**header, "v.0": {**header["v.0"], "data_offsets": wrong}}
            with self.subTest(name):
                self.refuse_header(["v.0"], broken, data)

    def test_header_text(self):
        header, data = safetensors_parts(kv_tensors(layers=1, heads=1, tokens=2, dim=8))
        good = json.dumps(header)
        entry = json.dumps(header["k.0"])
        for name, words, text in (
            ("duplicate tensor", ["k.0"], good[:-1] + f', "k.0": {entry}}}'),
            ("duplicate field", ["dtype"], good.replace('{"dtype"', '{"dtype": "BF16", "dtype"', 1)),
            ("duplicate metadata", ["model"], '{"__metadata__": {"model": "a", "model": "b"}, ' + good[1:]),
            ("metadata not strings", ["metadata"], '{"__metadata__": {"model": 3}, ' + good[1:]),
            ("unknown field", ["k.0"], good.replace('{"dtype"', '{"scale": 1, "dtype"', 1)),
            ("field missing", ["k.0"], good.replace('"dtype": "BF16", ', "", 1)),
            ("not closed", [], good[:-1]),
            ("text after the end", [], good + "x"),
            ("list", [], "[]"),
            ("not JSON", [], "x" * 40),
            ("deep", [], "[" * 100000),
            ("comment", [], "/* */" + good),
        ):
            with self.subTest(name):
                self.refuse_header(words, text.encode(), data)
        self.refuse_header([], good.replace("k.0", "k\udc80").encode("utf-8", "surrogateescape"), data)

    def test_types_and_shapes(self):
        data = bytes(2 * 2 * 8 * 2)
        for words, dtype, shape in (
            (["I8"], "I8", [1, 4, 8]), (["U8"], "U8", [1, 4, 8]), (["F64"], "F64", [1, 4, 1]),
            (["F8"], "F8_E4M3", [1, 4, 8]), (["F4"], "F4", [1, 4, 8]), (["bf16"], "bf16", [1, 2, 8]),
            (["shape"], "BF16", [2, 8]), (["shape"], "BF16", [1, 1, 1, 2, 8]), (["batch"], "BF16", [2, 1, 1, 8]),
            (["48"], "BF16", [1, 3, 8]), (["head_dim", "4"], "BF16", [1, 4, 4]), (["shape"], "BF16", [-1, -2, 8]),
            (["shape"], "BF16", [2**62, 2, 8]), (["shape"], "BF16", [1.0, 2, 8]), (["no tokens"], "BF16", [1, 0, 8]),
            (["no heads"], "BF16", [0, 1, 8]),
        ):
            size = 0 if 0 in shape else 32
            header = {n: {"dtype": dtype, "shape": shape, "data_offsets": [i * size, (i + 1) * size]}
                      for i, n in enumerate(("k.0", "v.0"))}
            with self.subTest(dtype=dtype, shape=shape):
                self.refuse_header(["k.0", *words], header, data[:2 * size])
        for dim in (7, 1025):
            self.refuse(["k.0", "head_dim", str(dim)],
                        write_safetensors(self.path("dump"), kv_tensors(layers=1, heads=1, tokens=1, dim=dim)))

    def test_tensors_that_do_not_belong_together(self):
        def kv(**more):
            others = {name.replace("_", "."): t for name, t in more.items()}
            return {**kv_tensors(layers=1, heads=2, tokens=3, dim=16), **others}
        only_keys = {"k.0": tensor([2, 3, 16])}
        for words, tensors in (
            (["no tensors"], {}),
            (["k.0", "v.0"], only_keys),
            (["v.1", "keys"], kv(v_1=tensor([2, 3, 16]))),
            (["q.1"], kv(q_1=tensor([2, 3, 16]))),
            (["tokens", "v.0"], kv(v_0=tensor([2, 4, 16]))),
            (["heads", "v.0"], kv(v_0=tensor([1, 3, 16]))),
            (["q.0", "heads"], kv(q_0=tensor([3, 3, 16]))),
            (["q.0", "head_dim"], kv(q_0=tensor([2, 3, 8]))),
            (["q.0", "tokens"], kv(q_0=tensor([2, 4, 16]))),
            (["layers.0.key", "k.0"], kv(layers_0_key=tensor([2, 3, 16]))),
            (["keys.0"], kv(keys_0=tensor([2, 3, 16]))),
            (["k.01"], {"k.01": tensor([2, 3, 16]), "v.01": tensor([2, 3, 16])}),
            (["k.-1"], {"k.-1": tensor([2, 3, 16]), "v.-1": tensor([2, 3, 16])}),
            (["k.99999999999"], {"k.99999999999": tensor([2, 3, 16]), "v.99999999999": tensor([2, 3, 16])}),
            (["k.0"], {"k.0\n": tensor([2, 3, 16]), "v.0": tensor([2, 3, 16])}),
        ):
            with self.subTest(words):
                self.refuse(words, write_safetensors(self.path("dump"), tensors))

    def test_metadata(self):
        tensors = kv_tensors(layers=1, heads=1, tokens=2, dim=8)
        for key, values in {
            "attention_scale": ("", "0", "-1", "nan", "inf", "1e999", "0.1x", " 1", "1,5"),
            "attention_softcap": ("0", "nan", "none"),
            "sliding_window.0": ("0", "-1", "1.5", "x", ""),
            "sliding_window.1": ("4",),
            "sliding_window": ("4",),
            "attention_scales": ("1",),
            "attention_sinks.0": ("", "x", "1  2", "nan", " 1"),
            "attention_sinks.1": ("1",),
            "attention_sinks": ("1",),
        }.items():
            for value in values:
                with self.subTest(key=key, value=value):
                    self.refuse([key], write_safetensors(self.path("dump"), tensors, {key: value}))


class PackedContainer(CliTest):
    def setUp(self):
        super().setUp()
        self.tq("pack-kv", self.dump(layers=1, heads=1, tokens=4, dim=9), "-o", "good.tq3", "--bits", 3)
        self.good = self.read("good.tq3")

    def refuse(self, words, content, name="bad.tq3"):
        with open(self.path(name), "wb") as file:
            file.write(content)
        for args in (["unpack-kv", name, "-o", "y"], ["inspect", name],
                     ["verify", "--packed", name, "--against", "dump.safetensors"]):
            with self.subTest(args=args, words=words):
                self.refused(COULD_NOT, [name, *words], *args)

    def rewrite(self, change):
        """The good file with change(tensors, metadata) applied and every hash put right."""
        tensors, metadata = read_safetensors(self.path("good.tq3"))
        change(tensors, metadata)
        for name, t in tensors.items():
            metadata[name + ".xxh64"] = f"{xxh64(t.data):016x}"
        metadata["header_xxh64"] = ""
        header, data = safetensors_parts(tensors, metadata)
        text = json.dumps(header, separators=(",", ":")).encode()
        digits = f"{xxh64(text):016x}".encode()
        text = text.replace(b'"header_xxh64":""', b'"header_xxh64":"' + digits + b'"')
        return struct.pack("<Q", len(text)) + text + data

    def test_a_rewritten_file_is_still_good(self):
        """Else the refusals below would be those of a wrong hash."""
        with open(self.path("same.tq3"), "wb") as file:
            file.write(self.rewrite(lambda tensors, metadata: None))
        self.tq("inspect", "same.tq3")
        self.tq("unpack-kv", "same.tq3", "-o", "same")
        self.tq("unpack-kv", "good.tq3", "-o", "good")
        self.assertEqual(self.read("same"), self.read("good"))

    def test_truncated_or_longer(self):
        for length in [0, 7, 8, 9, 1000] + list(range(len(self.good) - 40, len(self.good))):
            self.refuse([], self.good[:length])
        self.refuse([], self.good + b"\0")

    def test_any_flipped_bit(self):
        generator = random.Random(7)
        for place in generator.sample(range(len(self.good)), 150):
            broken = bytearray(self.good)
            broken[place] ^= 1 << generator.randrange(8)
            with open(self.path("bad.tq3"), "wb") as file:
                file.write(broken)
            with self.subTest(place=place):
                self.refused(COULD_NOT, ["bad.tq3"], "unpack-kv", "bad.tq3", "-o", "y")

    def test_payload_that_no_writer_leaves(self):
        def set_norm(value):
            def change(tensors, metadata):
                norms = list(tensors["k.0.norms"].values)
                norms[2] = value
                tensors["k.0.norms"] = tensor_of([1, 4], norms)
            return change

        def set_pad_bits(tensors, metadata):
            codes = bytearray(tensors["v.0.codes"].data)  # 27 bits in 4 bytes
            codes[4 * 3 + 3] |= 0x80
            tensors["v.0.codes"] = Tensor("U8", [1, 4, 4], bytes(codes))
        for value in (-1.0, -0.0, NAN, INFINITY):
            self.refuse(["k.0", "head 0", "token 2", "norm"], self.rewrite(set_norm(value)))
        self.refuse(["v.0", "head 0", "token 3", "pad"], self.rewrite(set_pad_bits))

    def test_descriptions_that_this_version_does_not_know(self):
        def put(key, value):
            return lambda tensors, metadata: metadata.__setitem__(key, value)
        scheme = read_safetensors(self.path("good.tq3"))[1]["k.0.scheme"]
        for words, change in (
            (["version", "2"], put("format_version", "2")),
            ([], put("format", "tq3-weights")),
            (["k.0", "tq/2"], put("k.0.scheme", scheme.replace("tq/1", "tq/2"))),
            (["k.0", "qjl"], put("k.0.scheme", scheme + " qjl=1")),
            (["k.0", "rotation"], put("k.0.scheme", scheme.replace("qr", "dct").replace("rht2", "dct"))),
            (["k.0", "bits"], put("k.0.scheme", scheme.replace("bits=3", "bits=9"))),
            (["k.0"], put("k.0.scheme", scheme.replace("bits=3", "bits=4"))),
            (["k.0"], put("k.0.scheme", scheme.replace("dim=9", "dim=10"))),
            (["rotation.qr-d9-s43"], put("k.0.scheme", scheme.replace("seed=42", "seed=43"))),
            (["k.0"], put("k.0.source", '{"name":"k.0","dtype":"I8","shape":[1,4,9]}')),
            (["k.0"], put("k.0.source", '{"name":"k.0","dtype":"BF16","shape":[2,2,9]}')),
            (["k.0"], put("k.0.source", "[" * 10000)),
            (["layer"], lambda tensors, metadata: metadata.pop("v.0.scheme") and metadata.pop("k.0.scheme")),
            (["v.0.scheme"], lambda tensors, metadata: metadata.pop("v.0.scheme")),
            (["v.0.norms"], lambda tensors, metadata: tensors.pop("v.0.norms")),
            (["extra"], lambda tensors, metadata: tensors.__setitem__("extra\nline", tensor_of([1], [1.0]))),
        ):
            with self.subTest(words):
                self.refuse(words, self.rewrite(change))

    def test_tables(self):
        tensors, _ = read_safetensors(self.path("good.tq3"))
        book = next(name for name in tensors if name.startswith("codebook."))
        matrix = next(name for name in tensors if name.startswith("rotation."))
        levels = list(tensors[book].values)

        def put(name, shape, values):
            return lambda tensors, metadata: tensors.__setitem__(name, tensor_of(shape, values))
        for name, change in (
            ("descending", put(book, [8], levels[::-1])),
            ("equal", put(book, [8], levels[:1] + levels[:7])),
            ("nan", put(book, [8], levels[:7] + [NAN])),
            ("too few", put(book, [4], levels[:4])),
            ("matrix of zeros", put(matrix, [9, 9], [0.0] * 81)),
            ("matrix with NaN", put(matrix, [9, 9], [NAN] * 81)),
            ("matrix of another shape", put(matrix, [3, 27], tensors[matrix].values)),
        ):
            with self.subTest(name):
                self.refuse([], self.rewrite(change))

    def test_a_dump_is_no_packed_file_and_the_other_way_round(self):
        self.refused(COULD_NOT, ["dump.safetensors", "pack-kv"], "unpack-kv", "dump.safetensors", "-o", "y")
        self.refused(COULD_NOT, ["good.tq3", "unpack-kv"], "pack-kv", "good.tq3", "-o", "y")


class Output(CliTest):
    def test_where_no_file_can_be(self):
        dump = self.dump(layers=1)
        self.tq("pack-kv", dump, "-o", "x.tq3")
        os.mkfifo(self.path("pipe"))
        os.mkdir(self.path("directory"))
        for path in (".", "directory", "missing/x", "x.tq3/x", "/dev/full", "pipe"):
            for args in (["pack-kv", dump], ["unpack-kv", "x.tq3"]):
                for force in ([], ["--force"]):
                    with self.subTest(args=args, path=path, force=force):
                        self.refused(COULD_NOT, [path], *args, "-o", path, *force)

    def test_a_limit_on_the_file_size(self):
        """Stands for a full disk."""
        dump = self.dump(layers=1)
        self.tq("pack-kv", dump, "-o", "x.tq3")
        for args in (["pack-kv", dump], ["unpack-kv", "x.tq3"]):
            self.refused(COULD_NOT, ["y"], *args, "-o", "y",
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))

    def test_unknown_cpu_target_names_the_variable(self):
        dump = self.dump(layers=1)
        self.refused(COULD_NOT, ["TQ_CPU", "sparc", "scalar"], "pack-kv", dump, "-o", "x.tq3", env={"TQ_CPU": "sparc"})


class Interrupt(CliTest):
    def interrupt(self, sent, *args):
        """Sends the signal as soon as a temporary is there, and returns the exit status."""
        before = set(os.listdir(self.dir))
        process = subprocess.Popen([helpers.TQ, *args], cwd=self.dir, env={**os.environ, "TQ_CPU": "scalar"},
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and set(os.listdir(self.dir)) == before:
            time.sleep(0.002)
        self.assertIsNone(process.poll(), "it was done before it could be interrupted")
        process.send_signal(sent)
        status = process.wait(timeout=30)
        self.assertEqual(set(os.listdir(self.dir)), before, "a file was left")
        return status

    def test_nothing_is_left_behind(self):
        rows = Tensor("BF16", [8, 2000, 1000], to_bytes("BF16", gauss(1, 16000)) * 1000)
        dump = write_safetensors(self.path("dump"), {"k.0": rows, "v.0": rows})
        for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self.assertEqual(self.interrupt(sent, "pack-kv", dump, "-o", "x.tq3", "--rotation", "qr"), -sent)
        with open(self.path("old.tq3"), "w") as file:
            file.write("mine")
        self.interrupt(signal.SIGINT, "pack-kv", dump, "-o", "old.tq3", "--rotation", "qr", "--force")
        self.assertEqual(self.read("old.tq3"), b"mine")

    def test_unpacking_leaves_nothing_behind(self):
        rows = Tensor("BF16", [1, 4000, 1000], to_bytes("BF16", gauss(1, 4000)) * 1000)
        dump = write_safetensors(self.path("dump"), {"k.0": rows, "v.0": rows})
        self.tq("pack-kv", dump, "-o", "x.tq3")
        for sent in (signal.SIGINT, signal.SIGTERM):
            self.assertEqual(self.interrupt(sent, "unpack-kv", "x.tq3", "-o", "y", "--threads", "1"), -sent)

    def test_nohup_stays_in_force(self):
        rows = Tensor("BF16", [1, 2000, 1000], to_bytes("BF16", gauss(1, 2000)) * 1000)
        dump = write_safetensors(self.path("dump"), {"k.0": rows, "v.0": rows})
        process = subprocess.Popen([helpers.TQ, "pack-kv", dump, "-o", "x.tq3", "--quiet"], cwd=self.dir,
                                   preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        while process.poll() is None and os.listdir(self.dir) == ["dump"]:
            time.sleep(0.002)
        process.send_signal(signal.SIGHUP)
        self.assertEqual(process.wait(timeout=60), 0)
        self.tq("inspect", "x.tq3")


if __name__ == "__main__":
    helpers.main()
