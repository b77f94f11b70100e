#!/usr/bin/env python3
"""Makes tests/golden: small KV dumps, what tq packs from them, and files that a reader must refuse.

    make_golden.py PATH_TO_TQ

writes golden/NAME.safetensors and NAME.tq3 for each of CASES, golden/expected.json with how each was packed and with
the hashes of the values as tests/second_decoder.py reads them, and golden/refuse/*.tq3, each of which breaks one rule
of docs/format.md and keeps every other, hashes included. Run it when the format changes, and never to make
tests/test_golden.py pass: a golden that changes without a new format version is a reader that breaks.
"""

import copy
import json
import math
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import second_decoder
from second_decoder import xxh64

GOLDEN = Path(__file__).resolve().parent / "golden"
REFUSE_SOURCE = "small"  # the case that the files in refuse/ are made from


# ---- dumps -------------------------------------------------------------------------------------------------------
def encode(values, dtype):
    if dtype == "BF16":
        return b"".join(struct.pack("<f", value)[2:] for value in values)
    return struct.pack(f"<{len(values)}{'e' if dtype == 'F16' else 'f'}", *values)


def write_safetensors(path, metadata, tensors):
    """tensors is a list of (name, dtype, shape, bytes)."""
    header, place = {"__metadata__": metadata}, 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + len(data)]}
        place += len(data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % 64)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, _, data in tensors))


def ordinary_rows(seed, count):
    """Values of a bell-like density from sums of uniform numbers, so that no maths library has a say in them."""
    draw = random.Random(seed).random
    return [draw() + draw() + draw() + draw() - 2 for _ in range(count)]


def dump(seed, shapes, dtype="F32", names="{}.{}", key="k", value="v"):
    """shapes holds (K's shape, V's shape) of each layer; names is a pattern of (letter, layer)."""
    tensors = []
    for layer, pair in enumerate(shapes):
        for letter, shape in zip((key, value), pair):
            seed += 1
            rows = ordinary_rows(seed, math.prod(shape))
            tensors.append((names.format(letter, layer), dtype, shape, encode(rows, dtype)))
    return tensors


def extreme_rows():
    """K and V at dim 16 with rows that a careless norm or scale loses."""
    dim, ordinary = 16, ordinary_rows(1, 16)
    rows = [
        [0.0] * dim,
        [-0.0] * dim,
        [value * 1e-30 for value in ordinary],
        [value * 1e30 for value in ordinary],
        [value * 1e-42 for value in ordinary],  # subnormal
        [1e-45] + [0.0] * (dim - 1),  # the least float32 alone
        [8e37] * dim,  # a norm just below the largest float32
        [0.0] * (dim - 1) + [-3.0],
        [1.0, -1.0] * (dim // 2),
        [value * 1e30 if i % 2 else value * 1e-30 for i, value in enumerate(ordinary)],
    ]
    data = encode([value for row in rows for value in row], "F32")
    return [(name, "F32", [1, len(rows), dim], data) for name in ("k.0", "v.0")]


# name: (tensors, arguments of tq pack-kv)
CASES = {
    "small": (dump(10, [([1, 2, 24], [1, 2, 9])]), "--k-bits 2 --v-bits 3"),
    "power-of-two": (dump(20, [([2, 5, 64], [2, 5, 64]), ([1, 3, 128], [1, 3, 64])]), "--k-bits 4 --v-bits 3"),
    "hadamard-12": (dump(30, [([2, 3, 96], [2, 3, 96]), ([1, 2, 48], [1, 2, 12])], "F16", "layers.{1}.{0}", "key",
                         "value"), "--k-bits 3 --v-bits 2"),
    "hadamard-20": (dump(40, [([1, 3, 2, 80], [1, 3, 2, 80])], "BF16"), "--k-bits 1 --v-bits 5"),
    "hadamard-28": (dump(50, [([2, 2, 112], [2, 2, 112])]), "--k-bits 6 --v-bits 7 --k-seed 7"),
    "hadamard-36": (dump(60, [([1, 3, 144], [1, 3, 72])], "BF16"), "--k-bits 8 --v-bits 4"),
    "qr-100": (dump(70, [([1, 3, 100], [1, 3, 100])]), "--bits 3"),
    "qr-chosen": (dump(80, [([2, 2, 32], [2, 2, 24])], "F16"), "--rotation qr --bits 4 --v-seed 9"),
    "odd": (dump(90, [([3, 3, 9], [3, 3, 11]), ([1, 5, 13], [1, 5, 8])]), "--k-bits 3 --v-bits 7"),
    "extreme": (extreme_rows(), "--k-bits 4 --v-bits 1"),
    "rht1-f16": (dump(110, [([2, 3, 64], [2, 3, 24])]), "--rotation rht1 --norm corrected --norm-dtype f16"),
    "identity": (dump(120, [([1, 4, 16], [1, 4, 9])]), "--rotation identity --norm least-squares --bits 3"),
    "qjl": (dump(130, [([2, 3, 9], [2, 3, 16])]), "--qjl-keys --k-bits 3 --v-bits 2"),
    "qjl-f16": (dump(140, [([1, 3, 32], [1, 3, 8])], "BF16"), "--qjl-keys --k-bits 5 --v-bits 4 --norm-dtype f16"),
    "one-token": (dump(100, [([1, 1, 8], [1, 1, 8])]), "--bits 5 --k-seed 0 --v-seed 4294967295"),
}
METADATA = {"model": "none", "say \"hi\"": "tab\there, é and \\"}


# ---- .tq3 files taken apart and put together ---------------------------------------------------------------------
class Parts:
    """A .tq3 file as metadata and tensors that can be changed; to_bytes() writes it with every hash right."""

    def __init__(self, path):
        _, self.metadata, tensors = second_decoder.read_container(path)
        self.tensors = {t.name: [t.dtype, t.shape, t.bytes] for t in sorted(tensors.values(), key=lambda t: t.begin)}

    def remove(self, name):
        del self.tensors[name], self.metadata[name + ".xxh64"]

    def put(self, name, dtype, shape, data):
        self.tensors[name] = [dtype, shape, data]

    def set_float(self, name, index, value):
        data = bytearray(self.tensors[name][2])
        struct.pack_into("<f", data, 4 * index, value)
        self.tensors[name][2] = bytes(data)

    def replace(self, key, old, new):
        assert old in self.metadata[key]
        self.metadata[key] = self.metadata[key].replace(old, new)

    def rehash(self):
        for name, (_, _, data) in self.tensors.items():
            self.metadata[name + ".xxh64"] = xxh64(data)

    def header(self):
        header, place = {"__metadata__": self.metadata}, 0
        for name, (dtype, shape, data) in self.tensors.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + len(data)]}
            place += len(data)
        return header

    def to_bytes(self, edit_text=lambda text: text, header=None):
        """edit_text changes the header's text before it is padded and hashed."""
        self.metadata["header_xxh64"] = ""
        text = json.dumps(header or self.header(), separators=(",", ":"), ensure_ascii=False).encode()
        text = edit_text(text)
        field = b'"header_xxh64":"'
        text += b" " * (-(8 + len(text) + 16 * (field in text)) % 64)
        if field in text:
            text = text.replace(field, field + xxh64(text).encode(), 1)
        return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in self.tensors.values())


# ---- files to refuse: each is (what is wrong, a part of the second decoder's message, how to make it) -------------
K_CODEBOOK, P, H = "codebook.beta-d24-b2", "rotation.qr-d9-s42", "rotation.hadamard-12"


def edit(change):
    """A file whose parts went through change(parts), with every hash right."""
    def make(parts):
        change(parts)
        parts.rehash()
        return parts.to_bytes()
    return make


def scheme(old, new):
    return edit(lambda parts: parts.replace("k.0.scheme", old, new))


def source(old, new, x="k.0"):
    return edit(lambda parts: parts.replace(x + ".source", old, new))


def set_float(name, index, value):
    return edit(lambda parts: parts.set_float(name, index, value))


def reshape(name, shape):
    return edit(lambda parts: parts.tensors[name].__setitem__(1, shape))


def edit_text(old, new):
    def change(text):
        assert old in text
        return text.replace(old, new, 1)
    return lambda parts: parts.to_bytes(change)


def edit_bytes(change):
    return lambda parts: change(parts.to_bytes())


def edit_offsets(name, change):
    """A file in which change(entries) moved the entry of a tensor."""
    def make(parts):
        header = parts.header()
        change(header[name]["data_offsets"], parts)
        return parts.to_bytes(header=header)
    return make


def change_k(dim, bits, levels):
    """K with another dim and number of bits, everything else made to fit, at a dim that needs no matrix."""
    def change(parts):
        parts.remove(H)
        parts.replace("k.0.scheme", "bits=2 dim=24", f"bits={bits} dim={dim}")
        parts.replace("k.0.source", "[1,2,24]", f"[1,2,{dim}]")
        row_bytes = (dim * bits + 7) // 8
        parts.put("k.0.codes", "U8", [1, 2, row_bytes], bytes(2 * row_bytes))
        parts.put(K_CODEBOOK, "F32", [levels], struct.pack(f"<{levels}f", *(i - levels / 2 for i in range(levels))))
    return edit(change)


def remove_last_v_token(parts):
    for name, shape, size in (("v.0.codes", [1, 1, 4], 4), ("v.0.norms", [1, 1], 4)):
        parts.put(name, parts.tensors[name][0], shape, parts.tensors[name][2][:size])
    parts.replace("v.0.source", "[1,2,9]", "[1,1,9]")


def remove_v(parts):
    for name in ("v.0.codes", "v.0.norms", P, "codebook.beta-d9-b3"):
        parts.remove(name)
    for key in ("v.0.scheme", "v.0.source"):
        del parts.metadata[key]


def remove_everything(parts):
    for name in list(parts.tensors):
        parts.remove(name)
    for key in [key for key in parts.metadata if key[:4] in ("k.0.", "v.0.")]:
        del parts.metadata[key]


def set_pad_bit(parts):
    data = bytearray(parts.tensors["v.0.codes"][2])
    data[3] |= 0x80
    parts.tensors["v.0.codes"][2] = bytes(data)


def overlap(offsets, parts):
    """The last tensor begins 4 bytes early, over the one before it, and the data is 4 bytes shorter."""
    offsets[0], offsets[1] = offsets[0] - 4, offsets[1] - 4
    last = list(parts.tensors)[-1]
    parts.tensors[last][2] = parts.tensors[last][2][:-4]


def gap(offsets, parts):
    """The last tensor begins 4 bytes late, and so the data is 4 bytes longer."""
    offsets[0], offsets[1] = offsets[0] + 4, offsets[1] + 4
    parts.tensors[list(parts.tensors)[-1]][2] += bytes(4)


def change_header_hash(content):
    place = content.index(b'"header_xxh64":"') + 16
    return content[:place] + (b"1" if content[place:place + 1] == b"0" else b"0") + content[place + 1:]


def change_tensor_hash(name):
    def make(parts):
        parts.metadata[name + ".xxh64"] = xxh64(b"")
        return parts.to_bytes()
    return make


REFUSALS = {
    # section 1
    "empty": ("ends before the header", lambda parts: b""),
    "seven-bytes": ("ends before the header", edit_bytes(lambda content: content[:7])),
    "header-length-absurd": ("ends within the header", edit_bytes(lambda content: b"\xff" * 8 + content[8:])),
    "header-length-negative": ("ends within the header", edit_bytes(lambda content: bytes(7) + b"\x80" + content[8:])),
    "header-not-json": ("is not JSON", edit_text(b'"shape":[1,2,6]', b'"shape":[1,2,6')),
    "header-not-utf8": ("not UTF-8", edit_text(b'"tool":"tq', b'"tool":"\xff\xfe')),
    "header-deep": ("is not JSON", edit_text(b"[1,2,6]", b"[" * 2000 + b"]" * 2000)),
    "header-after-a-space": ("one object, then spaces", edit_text(b'{"__metadata__"', b' {"__metadata__"')),
    "header-two-objects": ("is not JSON", lambda parts: parts.to_bytes(lambda text: text + b" {}")),
    "key-twice": ("same key twice", edit_text(b'{"format":"tq3-kv",', b'{"format":"tq3-kv","format":"tq3-kv",')),
    "tensor-twice": ("same key twice", edit_text(
        b',"k.0.norms":{', b',"k.0.norms":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"k.0.norms":{')),
    "metadata-number": ("object of strings", edit_text(b'"tool":"', b'"future":1,"tool":"')),
    "metadata-missing": ("object of strings", edit_text(b'"__metadata__":', b'"__Metadata__":')),
    "overlap": ("a gap or an overlap", edit_offsets("v.0.codes", overlap)),
    "gap": ("a gap or an overlap", edit_offsets("v.0.codes", gap)),
    "offsets-beyond-file": ("does not end with", edit_bytes(lambda content: content[:-4])),
    "offsets-reversed": ("does not follow", edit_offsets("k.0.codes", lambda offsets, parts: offsets.reverse())),
    "shape-too-large": ("does not follow", edit_text(b'"shape":[1,2,6]', b'"shape":[4294967296,4294967296,12]')),
    "shape-negative": ("no valid shape", edit_text(b'"shape":[1,2,6]', b'"shape":[-1,-2,6]')),
    "shape-fraction": ("no valid shape", edit_text(b'"shape":[1,2,6]', b'"shape":[1.0,2,6]')),
    "byte-appended": ("does not end with", edit_bytes(lambda content: content + b"\0")),
    "truncated": ("does not end with", edit_bytes(lambda content: content[:-1])),
    # section 2
    "format-other": ("format is not", edit(lambda parts: parts.replace("format", "tq3", "tq4"))),
    "format-version-2": ("format_version", edit(lambda parts: parts.replace("format_version", "1", "2"))),
    "format-version-missing": ("format_version", edit(lambda parts: parts.metadata.pop("format_version"))),
    "header-hash-wrong": ("header_xxh64 does not match", edit_bytes(change_header_hash)),
    "header-hash-missing": ("header_xxh64 is missing", edit_text(b'"header_xxh64":"",', b"")),
    "tensor-hash-wrong-codes": ("does not match it", change_tensor_hash("k.0.codes")),
    "tensor-hash-wrong-norms": ("does not match it", change_tensor_hash("v.0.norms")),
    "tensor-hash-wrong-codebook": ("does not match it", change_tensor_hash(K_CODEBOOK)),
    "tensor-hash-wrong-rotation": ("does not match it", change_tensor_hash(P)),
    "tensor-hash-missing": ("is missing", lambda parts: parts.metadata.pop("k.0.codes.xxh64") and parts.to_bytes()),
    "source-missing": ("the source of k.0 is missing", edit(lambda parts: parts.metadata.pop("k.0.source"))),
    "source-not-json": ("is not JSON", source("{", "")),
    "source-key-twice": ("same key twice", source("{", '{"name":"k.0",')),
    "source-key-unknown": ("name, dtype and shape", source("{", '{"x":1,')),
    "source-name-reserved": ("no valid name", source("k.0", "__metadata__")),
    "source-shape-fraction": ("no valid shape", source("[1,2,", "[1,2.0,")),
    "source-dtype": ("unknown dtype", source("F32", "F64")),
    "source-shape": ("does not fit the scheme", source("[1,2,24]", "[1,2,25]")),
    "source-batch-2": ("is not [heads, tokens, dim]", source("[1,2,24]", "[2,1,1,24]")),
    "source-twice": ("two tensors came from", source("v.0", "k.0", "v.0")),
    "no-layer": ("no layer", edit(remove_everything)),
    # section 3
    "scheme-missing": ("the scheme of v.0 is missing", edit(lambda parts: parts.metadata.pop("v.0.scheme"))),
    "scheme-version": ("not of version", scheme("tq/1", "tq/2")),
    "scheme-field-unknown": ("unknown center", scheme("qjl=none", "qjl=none center=1")),
    "scheme-field-missing": ("does not have the fields", scheme(" norm_dtype=F32", "")),
    "scheme-field-twice": ("does not have the fields", scheme("bits=2", "bits=2 bits=2")),
    "scheme-fields-swapped": ("does not have the fields", scheme("bits=2 dim=24", "dim=24 bits=2")),
    "scheme-two-spaces": ("does not have the fields", scheme("bits=2 dim", "bits=2  dim")),
    "scheme-number-words": ("not a number", scheme("bits=2", "bits=2x")),
    "scheme-number-zero-first": ("not a number", scheme("bits=2", "bits=02")),
    "scheme-space-last": ("does not have the fields", scheme("qjl=none", "qjl=none ")),
    "rotation-unknown": ("unknown rotation", scheme("rht2", "rht3")),
    "norm-unknown": ("unknown norm", scheme("norm=raw", "norm=none")),
    "norm-dtype-other": ("is not F16", scheme("norm_dtype=F32", "norm_dtype=F16")),
    "qjl-unknown": ("qjl of", scheme("qjl=none", "qjl=-1")),
    "qjl-too-large": ("qjl of", scheme("qjl=none", "qjl=4294967296")),
    "qjl-without-matrix": ("is missing", scheme("qjl=none", "qjl=5")),
    "norm-dtype-unknown": ("unknown norm_dtype", scheme("norm_dtype=F32", "norm_dtype=F64")),
    "seed-out-of-range": ("seed of", scheme("seed=42", "seed=4294967296")),
    "bits-0": ("bits of", change_k(16, 0, 1)),
    "bits-9": ("bits of", change_k(16, 9, 512)),
    "dim-4": ("dim of", change_k(4, 2, 4)),
    "dim-2048": ("dim of", change_k(2048, 2, 4)),
    # section 4
    "codebook-missing": (f"'{K_CODEBOOK}' is missing", edit(lambda parts: parts.remove(K_CODEBOOK))),
    "codebook-not-ascending": ("do not ascend", set_float(K_CODEBOOK, 1, 9.0)),
    "codebook-level-twice": ("do not ascend", edit(lambda parts: parts.put(
        K_CODEBOOK, "F32", [4], struct.pack("<4f", -1, 0, 0, 1)))),
    "codebook-nan": ("not finite", set_float(K_CODEBOOK, 1, float("nan"))),
    "codebook-infinity": ("not finite", set_float(K_CODEBOOK, 3, float("inf"))),
    "codebook-overflow": ("too large", edit(lambda parts: parts.put(
        K_CODEBOOK, "F32", [4], struct.pack("<4f", -3e38, -1e38, 1e38, 3e38)))),
    "codebook-levels-3": ("not of shape", edit(lambda parts: parts.put(
        K_CODEBOOK, "F32", [3], parts.tensors[K_CODEBOOK][2][:12]))),
    "codebook-2d": ("not of shape", reshape(K_CODEBOOK, [2, 2])),
    "codes-missing": ("'k.0.codes' is missing", edit(lambda parts: parts.remove("k.0.codes"))),
    "codes-2d": ("not of shape", reshape("k.0.codes", [2, 6])),
    "codes-row-bytes": ("not of shape", reshape("k.0.codes", [1, 3, 4])),
    "codes-dtype": ("neither U8", edit(lambda parts: parts.tensors["k.0.codes"].__setitem__(0, "I8"))),
    "codes-dtype-f32": ("not U8", edit(lambda parts: parts.put("k.0.codes", "F32", [1, 2, 6], bytes(48)))),
    "pad-bits": ("bits after the last", edit(set_pad_bit)),
    "norms-missing": ("'v.0.norms' is missing", edit(lambda parts: parts.remove("v.0.norms"))),
    "norms-shape": ("not of shape", reshape("k.0.norms", [2, 1])),
    "norm-negative": ("negative or not finite", set_float("k.0.norms", 1, -1.0)),
    "norm-minus-zero": ("negative or not finite", set_float("k.0.norms", 1, -0.0)),
    "norm-nan": ("negative or not finite", set_float("k.0.norms", 1, float("nan"))),
    "norm-infinity": ("negative or not finite", set_float("v.0.norms", 0, float("inf"))),
    "v-missing": ("of v.0 is missing", edit(remove_v)),
    "v-other-tokens": ("differ in heads or tokens", edit(remove_last_v_token)),
    "tensor-extra": ("nothing in the format explains", edit(lambda parts: parts.put("w", "F32", [1], bytes(4)))),
    "tensor-extra-empty": ("nothing in the format explains", edit(lambda parts: parts.put("w", "F32", [0], b""))),
    # section 5
    "hadamard-missing": (f"'{H}' is missing", edit(lambda parts: parts.remove(H))),
    "hadamard-half": ("other than 1 and -1", set_float(H, 5, 0.5)),
    "hadamard-not-orthogonal": ("not orthogonal", edit(lambda parts: parts.put(
        H, "F32", [12, 12], struct.pack("<144f", *[1.0] * 144)))),
    "qr-missing": (f"'{P}' is missing", edit(lambda parts: parts.remove(P))),
    "qr-not-orthogonal": ("not orthogonal", edit(lambda parts: parts.put(
        P, "F32", [9, 9], struct.pack("<81f", *[1.0] + [0.0] * 80)))),
    "qr-nan": ("not orthogonal", set_float(P, 40, float("nan"))),
}


# ---- all of it ---------------------------------------------------------------------------------------------------
def run_tq(tq, *arguments):
    subprocess.run([tq, *map(str, arguments)], check=True)


def describe(decoded):
    return {name: {"dtype": dtype, "shape": shape, "xxh64": xxh64(second_decoder.to_bytes(values))}
            for name, (dtype, shape, values) in decoded.items()}


def main(arguments):
    if len(arguments) != 1:
        print("usage: make_golden.py PATH_TO_TQ", file=sys.stderr)
        return 2
    shutil.rmtree(GOLDEN, ignore_errors=True)
    (GOLDEN / "refuse").mkdir(parents=True)
    expected = {"golden": {}, "refuse": {}}
    for name, (tensors, options) in CASES.items():
        source, packed = GOLDEN / f"{name}.safetensors", GOLDEN / f"{name}.tq3"
        write_safetensors(source, METADATA, tensors)
        run_tq(arguments[0], "pack-kv", source, "-o", packed, *options.split(), "--quiet")
        expected["golden"][name] = {"pack": options, "tensors": describe(second_decoder.decode(packed))}
    whole = Parts(GOLDEN / f"{REFUSE_SOURCE}.tq3")
    for name, (message, make) in REFUSALS.items():
        path = GOLDEN / "refuse" / f"{name}.tq3"
        path.write_bytes(make(copy.deepcopy(whole)))
        expected["refuse"][name] = message
    (GOLDEN / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
