"""Files that a reader of .tq3 files must refuse, each made from a golden one by breaking one rule of docs/format.md.

Every other rule is kept, hashes included. REFUSALS are made from golden/small.tq3; those of remedies are in
golden_remedies.py. make_golden.py writes them all to golden/refuse.
"""

import json
import struct

from second_container import read_container, xxh64


# ---- .tq3 files taken apart and put together ---------------------------------------------------------------------
class Parts:
    """A .tq3 file as metadata and tensors that can be changed; to_bytes() writes it with every hash right."""

    def __init__(self, path):
        _, self.metadata, tensors = read_container(path)
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
