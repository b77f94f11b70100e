#!/usr/bin/env python3
"""Makes tests/golden: small KV dumps, what tq packs from them, and files that a reader must refuse.

    make_golden.py PATH_TO_TQ

writes golden/NAME.safetensors and NAME.tq3 for each of CASES, golden/expected.json with how each was packed and with
the hashes of the values as tests/second_decoder.py reads them, and golden/refuse/*.tq3 (golden_refusals.py,
golden_remedies.py). Run it when the format changes, and never to make tests/test_golden.py pass: a golden that changes
without a new format version is a reader that breaks.
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
from golden_refusals import REFUSALS, Parts
from golden_remedies import REFUSALS_OF_REMEDIES
from second_decoder import xxh64

GOLDEN = Path(__file__).resolve().parent / "golden"
REFUSE_SOURCE = "small"  # the case that REFUSALS are made from
ALL_REFUSALS = {REFUSE_SOURCE: REFUSALS, **REFUSALS_OF_REMEDIES}


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


def dump(seed, shapes, dtype="F32", names="{}.{}", key="k", value="v", loud=0):
    """shapes holds (K's shape, V's shape) of each layer; names is a pattern of (letter, layer); of every 8 channels but the
    first four one is `loud` times louder, and shifted by as much."""
    tensors = []
    for layer, pair in enumerate(shapes):
        for letter, shape in zip((key, value), pair):
            seed += 1
            rows = ordinary_rows(seed, math.prod(shape))
            if loud:
                rows = [loud * (x + 1) if i % shape[-1] % 8 == 4 else x for i, x in enumerate(rows)]
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
    "center": (dump(150, [([2, 6, 16], [2, 6, 9])], "F16", loud=5), "--k-center --k-bits 2 --v-bits 3"),
    "center-qjl": (dump(160, [([2, 5, 9], [2, 5, 8])], loud=5), "--k-center --qjl-keys --bits 3"),
    "outliers": (dump(170, [([2, 4, 32], [2, 4, 21])], "BF16", loud=9), "--outlier-channels 8:3 --bits 2"),
    "sinks": (dump(180, [([2, 7, 16], [2, 7, 12])], "BF16"), "--sink-tokens 2 --residual-window 3 --bits 3"),
    "nothing-coded": (dump(190, [([2, 4, 16], [2, 4, 24])], "F16"),
                      "--sink-tokens 3 --residual-window 5 --k-bits 3 --v-bits 2 --k-center --outlier-channels 8:4"),
    "groups": (dump(200, [([2, 3, 16], [2, 3, 24])], "F16", loud=7),
               "--group-values 8 --k-bits 3 --v-bits 2"),
    "boundary": (dump(210, [([1, 3, 16], [1, 3, 8])] * 3, "F16"), "--boundary-layers 1 --bits 3"),
    "heads": (dump(220, [([3, 3, 16], [3, 3, 16]), ([1, 2, 16], [1, 2, 16])]), "--bits 3 --scheme {golden}/heads.json"),
    "remedies": (dump(230, [([2, 6, 33], [2, 6, 27])], loud=9), "--k-center --outlier-channels 9:4 --group-values 9 "
                 "--sink-tokens 1 --residual-window 2 --bits 3"),
    "all": (dump(240, [([2, 8, 32], [2, 8, 24])] * 4, "BF16", loud=9), "--k-center --outlier-channels 8:4 --group-values 8 "
            "--sink-tokens 1 --residual-window 2 --boundary-layers 1:6 --norm-dtype f16 --effort 2 --bits 3 "
            "--scheme {golden}/all.json"),
    "one-token-remedies": (dump(250, [([1, 1, 32], [1, 1, 16])], "F16", loud=9),
                           "--k-center --outlier-channels 8:5 --group-values 16 --bits 4"),
    "one-token": (dump(100, [([1, 1, 8], [1, 1, 8])]), "--bits 5 --k-seed 0 --v-seed 4294967295"),
}
SCHEME_FILES = {
    "heads": {"k_bits": 2, "layers": [{"layer": 0, "k": [4, 16, 3], "v": 5}, {"layer": 1, "v": [1]}]},
    "all": {"layers": [{"layer": 1, "k": [3, 5]}, {"layer": 2, "v": [2, 16]}, {"layer": 3, "k": 3}]},
}
METADATA = {"model": "none", "say \"hi\"": "tab\there, é and \\"}


# ---- all of it ---------------------------------------------------------------------------------------------------
def run_tq(tq, *arguments):
    subprocess.run([tq, *map(str, arguments)], check=True)


def pack_arguments(options):
    """The arguments of tq pack-kv as expected.json has them, which does not know where it lies."""
    return [word.format(golden=GOLDEN) for word in options.split()]


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
    for name, content in SCHEME_FILES.items():
        (GOLDEN / f"{name}.json").write_text(json.dumps(content) + "\n")
    for name, (tensors, options) in CASES.items():
        source, packed = GOLDEN / f"{name}.safetensors", GOLDEN / f"{name}.tq3"
        write_safetensors(source, METADATA, tensors)
        run_tq(arguments[0], "pack-kv", source, "-o", packed, *pack_arguments(options), "--quiet")
        expected["golden"][name] = {"pack": options, "tensors": describe(second_decoder.decode(packed))}
    for source, refusals in ALL_REFUSALS.items():
        whole = Parts(GOLDEN / f"{source}.tq3")
        for name, (message, make) in refusals.items():
            (GOLDEN / "refuse" / f"{name}.tq3").write_bytes(make(copy.deepcopy(whole)))
            expected["refuse"][name] = {"from": source, "message": message}
    (GOLDEN / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
