"""Sections 1 and 2 of docs/format.md: the container of a .tq3 file and its metadata, for tests/second_decoder.py.

Written from that page alone, like the rest of the second decoder: no line is shared with the library.
"""

import json
import math
import re
import struct
from array import array

ITEM_SIZE = {"U8": 1, "U16": 2, "F16": 2, "BF16": 2, "F32": 4}


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
        known = isinstance(self.dtype, str) and self.dtype in ITEM_SIZE
        require(known, f"tensor {name!r} is neither U8, U16, F16, BF16 nor F32")
        require(is_list_of_counts(self.shape), f"tensor {name!r} has no valid shape")
        require(is_list_of_counts(offsets) and len(offsets) == 2, f"tensor {name!r} has no valid data_offsets")
        self.begin, self.end = offsets
        self.bytes = data[self.begin:self.end]
        size = math.prod(self.shape) * ITEM_SIZE[self.dtype]
        require(self.end - self.begin == size, f"the size of tensor {name!r} does not follow from its dtype and shape")

    def floats(self):
        if self.dtype == "BF16":  # the upper half of a float32
            words = struct.unpack(f"<{len(self.bytes) // 2}H", self.bytes)
            return array("f", struct.unpack(f"<{len(words)}f", b"".join(struct.pack("<2H", 0, word) for word in words)))
        size, code = (2, "e") if self.dtype == "F16" else (4, "f")
        return array("f", struct.unpack(f"<{len(self.bytes) // size}{code}", self.bytes))

    def integers(self):
        return struct.unpack(f"<{len(self.bytes) // 2}H", self.bytes)


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
    """Returns (name, dtype, shape) of the tensor that went in; the last three of its shape are heads, tokens, dim."""
    source = parse_json(text, what)
    require(isinstance(source, dict) and set(source) == {"name", "dtype", "shape"},
            f"{what} is not an object of name, dtype and shape")
    require(isinstance(source["name"], str) and source["name"] != "__metadata__", f"{what} has no valid name")
    require(source["dtype"] in ("F32", "F16", "BF16"), f"{what} has an unknown dtype")
    shape = source["shape"]
    require(is_list_of_counts(shape) and min(shape, default=0) >= 1, f"{what} has no valid shape")
    require(len(shape) == 3 or len(shape) == 4 and shape[0] == 1, f"the shape in {what} is not [heads, tokens, dim]")
    return source["name"], source["dtype"], source["shape"]
