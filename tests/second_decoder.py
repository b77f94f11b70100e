#!/usr/bin/env python3
"""A second decoder of .tq3 KV files, written from docs/format.md alone.

It shares no line with the library, so that a mistake in the library and its tests, or a hole in the specification,
shows as a difference between the two. It needs nothing but Python 3, and is plain rather than fast: rows are decoded
one at a time. Section numbers are those of docs/format.md.

    second_decoder.py FILE.tq3      prints name, shape and XXH64 of the float32 bytes of each tensor

As a module: decode(path) returns {name: (dtype, shape, values)} with the names, dtypes and shapes that went in and the
values as array('f'); it raises Refused where the file breaks a rule of the format.
"""

import json
import math
import re
import struct
import sys
from array import array
from operator import add, mul

HADAMARD_FACTORS = (12, 20, 28, 36)
ITEM_SIZE = {"U8": 1, "F16": 2, "F32": 4}
SCHEME_VERSION = "tq/1"
SCHEME_FIELDS = ("bits", "dim", "rotation", "seed", "codebook", "norm", "norm_dtype", "qjl")
SCHEME_WORDS = (("rotation", ("rht2", "rht1", "qr", "identity")), ("norm", ("raw", "corrected", "least-squares")),
                ("norm_dtype", ("F32", "F16")))
SCHEME_RANGES = (("bits", 1, 8), ("dim", 8, 1024), ("seed", 0, 2**32 - 1))


class Refused(Exception):
    """The file breaks a rule of the format; the message is one line that says which."""


def require(condition, message):
    if not condition:
        raise Refused(message)


# ---- XXH64 and MT19937, both with published definitions ----------------------------------------------------------
MASK64 = (1 << 64) - 1
PRIME1, PRIME2, PRIME3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
PRIME4, PRIME5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5


def rotate_left(value, count):
    value &= MASK64
    return (value << count | value >> (64 - count)) & MASK64


def mix_lane(accumulator, lane):
    return rotate_left(accumulator + lane * PRIME2, 31) * PRIME1 & MASK64


def xxh64(data):
    """XXH64 with seed 0, as 16 lower-case hexadecimal digits."""
    place = 0
    if len(data) >= 32:
        lanes = [PRIME1 + PRIME2 & MASK64, PRIME2, 0, -PRIME1 & MASK64]
        while len(data) - place >= 32:
            lanes = list(map(mix_lane, lanes, struct.unpack_from("<4Q", data, place)))
            place += 32
        h = sum(map(rotate_left, lanes, (1, 7, 12, 18))) & MASK64
        for lane in lanes:
            h = (h ^ mix_lane(0, lane)) * PRIME1 + PRIME4 & MASK64
    else:
        h = PRIME5
    h += len(data)
    while len(data) - place >= 8:
        h ^= mix_lane(0, struct.unpack_from("<Q", data, place)[0])
        h = rotate_left(h, 27) * PRIME1 + PRIME4 & MASK64
        place += 8
    if len(data) - place >= 4:
        h ^= struct.unpack_from("<I", data, place)[0] * PRIME1 & MASK64
        h = rotate_left(h, 23) * PRIME2 + PRIME3 & MASK64
        place += 4
    for byte in data[place:]:
        h = rotate_left(h ^ byte * PRIME5 & MASK64, 11) * PRIME1 & MASK64
    h = (h ^ h >> 33) * PRIME2 & MASK64
    h = (h ^ h >> 29) * PRIME3 & MASK64
    return f"{h ^ h >> 32:016x}"


def mt19937(seed):
    """Yields the 32-bit outputs of MT19937 initialised by init_genrand(seed)."""
    state = [seed]
    for i in range(1, 624):
        state.append(1812433253 * (state[-1] ^ state[-1] >> 30) + i & 0xFFFFFFFF)
    while True:
        for i in range(624):
            y = state[i] & 0x80000000 | state[(i + 1) % 624] & 0x7FFFFFFF
            state[i] = state[(i + 397) % 624] ^ y >> 1 ^ (0x9908B0DF if y & 1 else 0)
        for y in state:
            y ^= y >> 11
            y ^= y << 7 & 0x9D2C5680
            y ^= y << 15 & 0xEFC60000
            yield y ^ y >> 18


# ---- section 1: the container ------------------------------------------------------------------------------------
def object_without_duplicates(pairs):
    result = dict(pairs)
    require(len(result) == len(pairs), "a JSON object has the same key twice")
    return result


def refuse_constant(text):
    raise Refused(f"{text} is not JSON")


def parse_json(text, what):
    try:
        value = json.loads(text, object_pairs_hook=object_without_duplicates, parse_constant=refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError) as error:
        raise Refused(f"{what} is not JSON: {error}") from None
    return value


def is_list_of_counts(value):
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


class Tensor:
    """One tensor of the container: its dtype, shape and bytes."""

    def __init__(self, name, entry, data):
        require(isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"},
                f"tensor {name!r} does not have exactly dtype, shape and data_offsets")
        self.name, self.dtype, self.shape, offsets = name, entry["dtype"], entry["shape"], entry["data_offsets"]
        require(isinstance(self.dtype, str) and self.dtype in ITEM_SIZE, f"tensor {name!r} is neither U8 nor F32")
        require(is_list_of_counts(self.shape), f"tensor {name!r} has no valid shape")
        require(is_list_of_counts(offsets) and len(offsets) == 2, f"tensor {name!r} has no valid data_offsets")
        self.begin, self.end = offsets
        self.bytes = data[self.begin:self.end]
        size = math.prod(self.shape) * ITEM_SIZE[self.dtype]
        require(self.end - self.begin == size, f"the size of tensor {name!r} does not follow from its dtype and shape")

    def floats(self):
        size, code = (2, "e") if self.dtype == "F16" else (4, "f")
        return array("f", struct.unpack(f"<{len(self.bytes) // size}{code}", self.bytes))


def read_container(path):
    """Returns (header bytes, metadata, {name: Tensor}) of a file that keeps section 1."""
    with open(path, "rb") as file:
        content = file.read()
    require(len(content) >= 8, "the file ends before the header")
    length = struct.unpack_from("<Q", content)[0]
    require(length <= len(content) - 8, "the file ends within the header")
    header, data = content[8:8 + length], content[8 + length:]
    require(header.startswith(b"{") and header.rstrip(b" ").endswith(b"}"), "the header is not one object, then spaces")
    try:
        entries = parse_json(header.decode(), "the header")
    except UnicodeDecodeError:
        raise Refused("the header is not UTF-8") from None
    metadata = entries.pop("__metadata__", None)
    strings = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    require(strings, "__metadata__ is not an object of strings")
    tensors = {name: Tensor(name, entry, data) for name, entry in entries.items()}
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
        require(tensor.begin == end, f"tensor {tensor.name!r} leaves a gap or an overlap before it")
        end = tensor.end
    require(end == len(data), "the data does not end with the last tensor")
    return header, metadata, tensors


# ---- section 2: metadata -----------------------------------------------------------------------------------------
def check_metadata(header, metadata, tensors):
    require(metadata.get("format") == "tq3-kv", "format is not tq3-kv")
    require(metadata.get("format_version") == "1", "format_version is not 1")
    field = re.search(rb'"header_xxh64":"([0-9a-f]{16})"', header)
    require(field, "header_xxh64 is missing")
    rest = header[:field.start(1)] + header[field.end(1):]
    require(metadata.get("header_xxh64") == xxh64(rest), "header_xxh64 does not match the header")
    for name, tensor in tensors.items():
        require(f"{name}.xxh64" in metadata, f"the hash of tensor {name!r} is missing")
        require(metadata[f"{name}.xxh64"] == xxh64(tensor.bytes), f"the hash of tensor {name!r} does not match it")


def parse_source(text, what):
    """Returns (name, dtype, shape) of the tensor that went in."""
    source = parse_json(text, what)
    require(isinstance(source, dict) and set(source) == {"name", "dtype", "shape"},
            f"{what} is not an object of name, dtype and shape")
    require(isinstance(source["name"], str) and source["name"] != "__metadata__", f"{what} has no valid name")
    require(source["dtype"] in ("F32", "F16", "BF16"), f"{what} has an unknown dtype")
    require(is_list_of_counts(source["shape"]), f"{what} has no valid shape")
    return source["name"], source["dtype"], source["shape"]


# ---- section 3: scheme -------------------------------------------------------------------------------------------
def parse_scheme(text, what):
    """Returns the fields as a dictionary, numbers as int."""
    words = text.split(" ")
    require(words[0] == SCHEME_VERSION, f"{what} is not of version {SCHEME_VERSION}")
    pairs = [word.partition("=") for word in words[1:]]
    require(tuple(key for key, _, _ in pairs) == SCHEME_FIELDS, f"{what} does not have the fields {SCHEME_FIELDS}")
    scheme = {key: value for key, _, value in pairs}
    for key, known in SCHEME_WORDS:
        require(scheme[key] in known, f"{what} has an unknown {key}")
    for key, least, most in SCHEME_RANGES:
        number = scheme[key]
        require(re.fullmatch("0|[1-9][0-9]{0,9}", number) and least <= int(number) <= most,
                f"{key} of {what} is not a number in {least}..{most}")
        scheme[key] = int(number)
    require(scheme["codebook"], f"{what} names no codebook")
    require(re.fullmatch("none|0|[1-9][0-9]{0,9}", scheme["qjl"]), f"{what} has an unknown qjl")
    require(scheme["qjl"] == "none" or int(scheme["qjl"]) < 2**32, f"qjl of {what} is too large")
    return scheme


# ---- section 4: tensors ------------------------------------------------------------------------------------------
class Store:
    """The tensors of a file; take() remembers which were asked for, so that those left over are found."""

    def __init__(self, tensors):
        self.tensors, self.taken = tensors, set()

    def take(self, name, dtype, shape=None):
        require(name in self.tensors, f"tensor {name!r} is missing")
        tensor = self.tensors[name]
        require(tensor.dtype == dtype, f"tensor {name!r} is not {dtype}")
        require(shape is None or tensor.shape == shape, f"tensor {name!r} is not of shape {shape}")
        self.taken.add(name)
        return tensor

    def require_all_taken(self):
        for name in self.tensors:
            require(name in self.taken, f"nothing in the format explains tensor {name!r}")


def take_levels(store, scheme):
    name = "codebook." + scheme["codebook"]
    levels = store.take(name, "F32", [2**scheme["bits"]]).floats()
    require(all(map(math.isfinite, levels)), f"tensor {name!r} has a level that is not finite")
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

def take_norms(store, name, scheme, shape):
    norms = store.take(name, scheme["norm_dtype"], shape).floats()
    require(all(math.isfinite(norm) and math.copysign(1, norm) > 0 for norm in norms),
            f"tensor {name!r} has a norm that is negative or not finite")
    return norms


class Sketch:
    """The sketch of the residuals of a tensor, row by row."""

    def __init__(self, store, scheme, x, rows):
        self.dim = scheme["dim"]
        name, self.row_bytes = f"qjl.d{self.dim}-s{scheme['qjl']}", (self.dim + 7) // 8
        matrix = store.take(name, "F32", [self.dim, self.dim]).floats()
        require(all(map(math.isfinite, matrix)), f"tensor {name!r} has a value that is not finite")
        self.columns = [matrix[j::self.dim] for j in range(self.dim)]
        self.signs = store.take(f"{x}.signs", "U8", rows + [self.row_bytes]).bytes
        self.norms = take_norms(store, f"{x}.residual_norms", scheme, rows)
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
        self.columns = None
        if scheme["rotation"] == "identity":
            self.scale = 1.0
            return
        if self.m is None:
            self.columns = take_columns(store, f"rotation.qr-d{self.dim}-s{scheme['seed']}", self.dim, 1, 1e-4)
            self.scale = 1.0
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


def decode_tensor(store, metadata, x):
    """Returns (name, dtype, shape, values, [heads, tokens]) of x, which is k.L or v.L."""
    require({f"{x}.scheme", f"{x}.source"} <= set(metadata), f"the scheme or the source of {x} is missing")
    scheme = parse_scheme(metadata[f"{x}.scheme"], f"{x}.scheme")
    name, dtype, shape = parse_source(metadata[f"{x}.source"], f"{x}.source")
    bits, dim, codes = scheme["bits"], scheme["dim"], store.take(f"{x}.codes", "U8")
    require(len(codes.shape) == 3 and min(codes.shape) >= 1, f"tensor '{x}.codes' is not [heads, tokens, bytes]")
    heads, tokens, row_bytes = codes.shape
    require(row_bytes == (dim * bits + 7) // 8, f"the rows of tensor '{x}.codes' do not fit the scheme")
    require(shape in ([heads, tokens, dim], [1, heads, tokens, dim]), f"the shape in {x}.source does not fit the codes")
    norms = take_norms(store, f"{x}.norms", scheme, [heads, tokens])
    decoder = RowDecoder(store, scheme)
    sketch = None if scheme["qjl"] == "none" else Sketch(store, scheme, x, [heads, tokens])
    values = array("f")
    for row, norm in enumerate(norms):
        decoded = decoder.decode(unpack_codes(codes.bytes[row * row_bytes:(row + 1) * row_bytes], bits, dim), norm)
        values += decoded if sketch is None else sketch.add(decoded, row)
    return name, dtype, shape, values, [heads, tokens]


def decode(path):
    """Returns {name: (dtype, shape, values)} as the tensors went in; raises Refused."""
    header, metadata, tensors = read_container(path)
    check_metadata(header, metadata, tensors)
    layers = [int(key[2:-7]) for key in metadata if re.fullmatch(r"k\.(0|[1-9][0-9]{0,9})\.scheme", key)]
    layers = sorted(layer for layer in layers if layer < 2**31)
    require(layers, "there is no layer")
    store, decoded = Store(tensors), {}
    for layer in layers:
        rows = []
        for x in (f"k.{layer}", f"v.{layer}"):
            name, dtype, shape, values, rows_of_x = decode_tensor(store, metadata, x)
            require(name not in decoded, f"two tensors came from {name!r}")
            decoded[name] = dtype, shape, values
            rows.append(rows_of_x)
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
