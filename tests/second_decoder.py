#!/usr/bin/env python3
"""A second decoder of .tq3 KV files, written from docs/format.md alone.

It shares no line with the library, so that a mistake in the library and its tests, or a hole in the specification,
shows as a difference between the two. It needs nothing but Python 3, and is plain rather than fast: rows are decoded
one at a time. Section numbers are those of docs/format.md; sections 1 and 2 are in second_container.py.

    second_decoder.py FILE.tq3      prints name, shape and XXH64 of the float32 bytes of each tensor

As a module: decode(path) returns {name: (dtype, shape, values)} with the names, dtypes and shapes that went in and the
values as array('f'); it raises Refused where the file breaks a rule of the format.
"""

import math
import re
import struct
import sys
from array import array
from operator import add, lt, mul

from second_container import Refused, check_metadata, mt19937, parse_source, read_container, require, xxh64

HADAMARD_FACTORS = (12, 20, 28, 36)
SCHEME_FIELDS = {  # by version word: the fields that are always there, and those that may follow
    "tq/1": (("bits", "dim", "rotation", "seed", "codebook", "norm", "norm_dtype", "qjl"),
             ("center", "outliers", "exact")),
    "group/1": (("bits", "dim", "group"), ("exact",)),
    "exact/1": (("dim", "dtype"), ())}
SCHEME_WORDS = {"rotation": ("rht2", "rht1", "qr", "identity"), "norm": ("raw", "corrected", "least-squares"),
                "norm_dtype": ("F32", "F16"), "dtype": ("BF16", "F16"), "center": ("mean",)}
SCHEME_RANGES = {"bits": (1, 8), "dim": (8, 1024), "seed": (0, 2**32 - 1), "group": (8, 1024)}


# ---- section 3: scheme -------------------------------------------------------------------------------------------
def parse_number(text, least, most, what):
    number = re.fullmatch("0|[1-9][0-9]{0,9}", text)
    require(number and least <= int(text) <= most, f"{what} is not a number in {least}..{most}")
    return int(text)


def parse_outliers(text, scheme, what):
    """The fields of the scheme of the outlier channels, which is that of the rest in all but these three."""
    count, bits, codebook = (text.split(":", 2) + ["", ""])[:3]
    require(codebook, f"the outliers of {what} are not C:B:TEXT")
    require(scheme["qjl"] == "none", f"{what} has outliers and a sketch")
    outliers = dict(scheme, dim=parse_number(count, 8, 1016, f"the number of outliers of {what}"),
                    bits=parse_number(bits, 1, 8, f"bits of the outliers of {what}"), codebook=codebook)
    require(scheme["dim"] + outliers["dim"] <= 1024, f"dim and outliers of {what} are more than 1024")
    return outliers


def parse_exact(text, what):
    """(first, last, dtype) of the tokens that are kept exactly."""
    parts = re.fullmatch(r"([0-9]+)\+([0-9]+):(BF16|F16)", text)
    require(parts, f"exact of {what} is not S+W:TYPE")
    first, last = (parse_number(part, 0, 2**20, f"exact of {what}") for part in parts.groups()[:2])
    require(first + last > 0, f"exact of {what} keeps no tokens")
    return first, last, parts[3]


def parse_scheme(text, what):
    """Returns the fields as a dictionary, numbers as int; `row` is the number of elements of a whole row."""
    version, *words = text.split(" ")
    require(version in SCHEME_FIELDS, f"{what} is not of version {', '.join(SCHEME_FIELDS)}")
    always, optional = SCHEME_FIELDS[version]
    pairs = [word.partition("=") for word in words]
    scheme = {key: value for key, _, value in pairs}
    require(tuple(key for key, _, _ in pairs) == always + tuple(key for key in optional if key in scheme),
            f"{what} does not have the fields {always}")
    for key, known in SCHEME_WORDS.items():
        require(key not in scheme or scheme[key] in known, f"{what} has an unknown {key}")
    for key, (least, most) in SCHEME_RANGES.items():
        if key in scheme:
            scheme[key] = parse_number(scheme[key], least, most, f"{key} of {what}")
    scheme["version"], scheme["row"] = version, scheme["dim"]
    if version == "tq/1":
        require(scheme["codebook"], f"{what} names no codebook")
        if scheme["qjl"] != "none":
            parse_number(scheme["qjl"], 0, 2**32 - 1, f"qjl of {what}")
    if "outliers" in scheme:
        scheme["outliers"] = parse_outliers(scheme["outliers"], scheme, what)
        scheme["row"] += scheme["outliers"]["dim"]
    if "exact" in scheme:
        scheme["exact"] = parse_exact(scheme["exact"], what)
    require(version != "group/1" or scheme["dim"] % scheme["group"] == 0, f"group of {what} does not divide dim")
    return scheme


# ---- section 4: tensors ------------------------------------------------------------------------------------------
class Store:
    """The tensors of a file; take() remembers which were asked for, so that those left over are found."""

    def __init__(self, tensors):
        self.tensors, self.taken = tensors, set()

    def take(self, name, dtype, shape):
        require(name in self.tensors, f"tensor {name!r} is missing")
        tensor = self.tensors[name]
        require(tensor.dtype == dtype, f"tensor {name!r} is not {dtype}")
        require(tensor.shape == shape, f"tensor {name!r} is not of shape {shape}")
        self.taken.add(name)
        return tensor

    def require_all_taken(self):
        for name in self.tensors:
            require(name in self.taken, f"nothing in the format explains tensor {name!r}")


def take_finite(store, name, dtype, shape):
    values = store.take(name, dtype, shape).floats()
    require(all(map(math.isfinite, values)), f"tensor {name!r} has a value that is not finite")
    return values


def take_levels(store, scheme):
    name = "codebook." + scheme["codebook"]
    levels = take_finite(store, name, "F32", [2**scheme["bits"]])
    require(all(a < b for a, b in zip(levels, levels[1:])), f"the levels of tensor {name!r} do not ascend")
    sums = array("f", map(add, levels, levels[1:]))
    require(all(map(math.isfinite, sums)), f"the levels of tensor {name!r} are too large")
    return levels


def unpack_codes(row, bits, dim):
    """The codes of a row's bytes, in which element i occupies the bits from i bits on."""
    stream = int.from_bytes(row, "little")
    require(stream >> dim * bits == 0, "bits after the last code of a row are set")
    return [stream >> i * bits & (1 << bits) - 1 for i in range(dim)]


# ---- section 5: rotation -----------------------------------------------------------------------------------------
def hadamard_order(dim):
    """The m of dim = m 2^k, or None where no Hadamard factor is known."""
    for m in (1,) + HADAMARD_FACTORS:
        blocks = dim // m
        if dim % m == 0 and blocks & (blocks - 1) == 0:
            return m
    return None


def take_columns(store, name, size, norm_squared, tolerance):
    """The columns of a square matrix M with M M^T = norm_squared I, each entry of it to a tolerance."""
    values = store.take(name, "F32", [size, size]).floats()
    require(tolerance or {abs(value) for value in values} == {1}, f"tensor {name!r} has entries other than 1 and -1")
    rows = [values[i * size:(i + 1) * size] for i in range(size)]
    for i, row in enumerate(rows):
        for j in range(i + 1):
            error = abs(sum(map(mul, row, rows[j])) - (norm_squared if i == j else 0))
            require(error <= tolerance, f"rows {j} and {i} of tensor {name!r} are not orthogonal")
    return list(zip(*rows))


def draw_signs(seed, dim, rotation):
    """The sign vectors (s1, s2)."""
    outputs = mt19937(seed)
    signs = [1.0 if next(outputs) & 1 else -1.0 for _ in range(2 * dim)]
    return signs[:dim], signs[dim:] if rotation == "rht2" else [1.0] * dim


def tree_sum(terms):
    """The float32 sum of an array('f') by pairs of neighbours; an odd last term moves up as it is."""
    while len(terms) > 1:
        paired = array("f", map(add, terms[0::2], terms[1::2]))
        if len(terms) % 2:
            paired.append(terms[-1])
        terms = paired
    return terms[0]


def apply_transpose(matrix_columns, values):
    return array("f", (tree_sum(array("f", map(mul, column, values))) for column in matrix_columns))


def apply_butterflies(values, width):
    """Sylvester's matrix, unscaled, on each block of `width` elements, in place."""
    stride = 1
    while stride < width:
        for start in range(0, len(values), 2 * stride):
            for i in range(start, start + stride):
                a, b = values[i], values[i + stride]
                values[i], values[i + stride] = a + b, a - b
        stride *= 2


# ---- section 6: decoding -----------------------------------------------------------------------------------------
# Storing into an array('f') rounds to float32. A sum or product of two float32 taken in Python's float64 and rounded
# so once has the bits of the float32 operation, because 53 >= 2 * 24 + 2.

def take_norms(store, name, dtype, shape):
    norms = store.take(name, dtype, shape).floats()
    require(all(math.isfinite(norm) and math.copysign(1, norm) > 0 for norm in norms),
            f"tensor {name!r} has a norm that is negative or not finite")
    return norms


class Sketch:
    """The sketch of the residuals of a tensor, row by row."""

    def __init__(self, store, scheme, x, rows):
        self.dim = scheme["dim"]
        name, self.row_bytes = f"qjl.d{self.dim}-s{scheme['qjl']}", (self.dim + 7) // 8
        matrix = take_finite(store, name, "F32", [self.dim, self.dim])
        self.columns = [matrix[j::self.dim] for j in range(self.dim)]
        self.signs = store.take(f"{x}.signs", "U8", rows + [self.row_bytes]).bytes
        self.norms = take_norms(store, f"{x}.residual_norms", scheme["norm_dtype"], rows)
        self.constant = array("f", [math.sqrt(math.pi / 2) / self.dim])[0]

    def add(self, values, row):
        bits = unpack_codes(self.signs[row * self.row_bytes:(row + 1) * self.row_bytes], 1, self.dim)
        z = [1.0 if bit else -1.0 for bit in bits]
        scale = array("f", [self.norms[row] * self.constant])[0]
        parts = array("f", (part * scale for part in
                            (tree_sum(array("f", map(mul, z, column))) for column in self.columns)))
        return array("f", map(add, values, parts))


class RowDecoder:
    """What all rows of a tensor have in common: levels, signs and matrices."""

    def __init__(self, store, scheme):
        self.dim, self.levels, self.signs = scheme["dim"], take_levels(store, scheme), None
        self.m = hadamard_order(self.dim) if scheme["rotation"] in ("rht2", "rht1") else None
        self.columns, self.scale = None, 1.0
        if scheme["rotation"] == "identity":
            return
        if self.m is None:
            self.columns = take_columns(store, f"rotation.qr-d{self.dim}-s{scheme['seed']}", self.dim, 1, 1e-4)
            return
        self.signs = draw_signs(scheme["seed"], self.dim, scheme["rotation"])
        self.scale = array("f", [1 / math.sqrt(self.dim)])[0]
        if self.m > 1:
            self.columns = take_columns(store, f"rotation.hadamard-{self.m}", self.m, self.m, 0)

    def undo_rotation(self, values):
        if self.signs is None:
            return apply_transpose(self.columns, values) if self.columns else values
        values = array("f", map(mul, self.signs[1], values))
        width = self.dim // self.m
        apply_butterflies(values, width)
        if self.m > 1:
            for place in range(width):
                sums = apply_transpose(self.columns, values[place::width])
                values[place::width] = array("f", (value + 0.0 for value in sums))
        return values

    def decode(self, codes, norm):
        if norm == 0:
            return array("f", bytes(4 * self.dim))
        values = self.undo_rotation(array("f", (self.levels[code] for code in codes)))
        factor = array("f", [norm * self.scale])[0]
        values = array("f", (value * factor for value in values))
        return values if self.signs is None else array("f", map(mul, self.signs[0], values))


# ---- section 6: whole rows ---------------------------------------------------------------------------------------
def take_codes(store, name, scheme, heads, tokens):
    """The codes of each row."""
    size = (scheme["dim"] * scheme["bits"] + 7) // 8
    data = store.take(name, "U8", [heads, tokens, size]).bytes
    return [unpack_codes(data[i * size:(i + 1) * size], scheme["bits"], scheme["dim"]) for i in range(heads * tokens)]


def decode_codes(store, scheme, prefix, heads, tokens):
    """The rows that the codes and norms of tq/1 give."""
    codes = take_codes(store, f"{prefix}codes", scheme, heads, tokens)
    norms = take_norms(store, f"{prefix}norms", scheme["norm_dtype"], [heads, tokens])
    return list(map(RowDecoder(store, scheme).decode, codes, norms))


def put_outliers(store, scheme, x, heads, tokens, rows):
    """Whole rows, of the rows without the outlier channels and of these channels."""
    outliers = scheme["outliers"]
    count, whole_rows = outliers["dim"], []
    channels = store.take(f"{x}.channels", "U16", [heads, count]).integers()
    loud_rows = decode_codes(store, outliers, f"{x}.outlier_", heads, tokens)
    for head in range(heads):
        loud = channels[head * count:(head + 1) * count]
        require(all(map(lt, loud, loud[1:])) and loud[-1] < scheme["row"],
                f"tensor '{x}.channels' has channels that do not ascend or are out of range")
        quiet = sorted(set(range(scheme["row"])) - set(loud))
        for i in range(head * tokens, (head + 1) * tokens):
            values = dict(zip(quiet, rows[i])) | dict(zip(loud, loud_rows[i]))
            whole_rows.append(array("f", (values[channel] for channel in range(scheme["row"]))))
    return whole_rows


def decode_turboquant(store, scheme, x, heads, tokens):
    rows = decode_codes(store, scheme, f"{x}.", heads, tokens)
    if scheme["qjl"] != "none":
        sketch = Sketch(store, scheme, x, [heads, tokens])
        rows = [sketch.add(row, i) for i, row in enumerate(rows)]
    if "outliers" in scheme:
        rows = put_outliers(store, scheme, x, heads, tokens, rows)
    if "center" in scheme:
        size = scheme["row"]
        center = take_finite(store, f"{x}.center", "BF16", [heads, size])
        rows = [array("f", map(add, row, center[i // tokens * size:][:size])) for i, row in enumerate(rows)]
    return rows


def decode_groups(store, scheme, x, heads, tokens):
    groups = scheme["dim"] // scheme["group"]
    codes = take_codes(store, f"{x}.codes", scheme, heads, tokens)
    steps = take_norms(store, f"{x}.steps", "F16", [heads, tokens, groups])
    minima = take_finite(store, f"{x}.minima", "F16", [heads, tokens, groups])
    rows = []
    for i, row in enumerate(codes):
        places = [i * groups + channel // scheme["group"] for channel in range(scheme["dim"])]
        products = array("f", (code * steps[place] for code, place in zip(row, places)))
        rows.append(array("f", (minima[place] + product for product, place in zip(products, places))))
    return rows


def decode_scheme(store, scheme, x, heads, tokens):
    """The rows of all heads that a scheme covers."""
    if scheme["version"] == "exact/1":
        first, last, dtype = tokens, 0, scheme["dtype"]
    else:
        first, last, dtype = scheme.get("exact", (0, 0, None))
    coded = max(0, tokens - first - last)
    rows = []
    if scheme["version"] != "exact/1":
        decode_rows = decode_turboquant if scheme["version"] == "tq/1" else decode_groups
        rows = decode_rows(store, scheme, x, heads, coded)
    if dtype is None:
        return rows
    size, kept, result = scheme["row"], tokens - coded, []
    exact = take_finite(store, f"{x}.exact", dtype, [heads, kept, size])
    exact_rows = [exact[i * size:(i + 1) * size] for i in range(heads * kept)]
    before = min(first, kept)
    for head in range(heads):
        kept_rows = exact_rows[head * kept:(head + 1) * kept]
        result += kept_rows[:before] + rows[head * coded:(head + 1) * coded] + kept_rows[before:]
    return result


def decode_tensor(store, metadata, y):
    """Returns (name, dtype, shape, values) of y, which is k.L or v.L."""
    require(f"{y}.source" in metadata, f"the source of {y} is missing")
    name, dtype, shape = parse_source(metadata[f"{y}.source"], f"{y}.source")
    heads, tokens, row_size = shape[-3:]
    parts = [(y, heads)]
    if f"{y}.h0.scheme" in metadata:
        require(f"{y}.scheme" not in metadata, f"{y} has a scheme, and its heads have schemes of their own")
        parts = [(f"{y}.h{head}", 1) for head in range(heads)]
    values = array("f")
    for x, heads_of_x in parts:
        require(f"{x}.scheme" in metadata, f"the scheme of {x} is missing")
        scheme = parse_scheme(metadata[f"{x}.scheme"], f"{x}.scheme")
        require(scheme["row"] == row_size, f"the shape in {y}.source does not fit the scheme of {x}")
        for row in decode_scheme(store, scheme, x, heads_of_x, tokens):
            values += row
    return name, dtype, shape, values


def decode(path):
    """Returns {name: (dtype, shape, values)} as the tensors went in; raises Refused."""
    header, metadata, tensors = read_container(path)
    check_metadata(header, metadata, tensors)
    keys = (re.fullmatch(r"k\.(0|[1-9][0-9]{0,9})(\.h0)?\.scheme", key) for key in metadata)
    layers = sorted({int(key[1]) for key in keys if key and int(key[1]) < 2**31})
    require(layers, "there is no layer")
    store, decoded = Store(tensors), {}
    for layer in layers:
        rows = []
        for y in (f"k.{layer}", f"v.{layer}"):
            name, dtype, shape, values = decode_tensor(store, metadata, y)
            require(name not in decoded, f"two tensors came from {name!r}")
            decoded[name] = dtype, shape, values
            rows.append(shape[-3:-1])
        require(rows[0] == rows[1], f"K and V of layer {layer} differ in heads or tokens")
    store.require_all_taken()
    return decoded


def to_bytes(values):
    return struct.pack(f"<{len(values)}f", *values)


def main(arguments):
    if len(arguments) != 1:
        print("usage: second_decoder.py FILE.tq3", file=sys.stderr)
        return 2
    try:
        decoded = decode(arguments[0])
    except (Refused, OSError) as error:
        print(f"second_decoder: {arguments[0]}: {error}", file=sys.stderr)
        return 3
    for name, (_, shape, values) in decoded.items():
        print(name, shape, xxh64(to_bytes(values)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
