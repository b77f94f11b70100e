"""Files that a reader must refuse for what they say of a remedy: means, outlier channels, exact tokens, groups, heads.

As golden_refusals.py, made from the golden files named below.
"""

import struct

from golden_refusals import edit, reshape, set_float

NAN, INFINITY, MINUS_ZERO = 0x7FC0, 0x7F80, 0x8000  # of BF16; those of F16 are below
NAN_F16, INFINITY_F16 = 0x7E00, 0x7C00


def set_half(name, index, bits):
    """Sets one element of 2 bytes."""
    def change(parts):
        data = bytearray(parts.tensors[name][2])
        struct.pack_into("<H", data, 2 * index, bits)
        parts.tensors[name][2] = bytes(data)
    return edit(change)


def set_channels(change):
    """Changes the list of the outlier channels of head 0, in place."""
    def make(parts):
        data = parts.tensors["k.0.channels"][2]
        channels = list(struct.unpack(f"<{len(data) // 2}H", data))
        change(channels)
        parts.tensors["k.0.channels"][2] = struct.pack(f"<{len(channels)}H", *channels)
    return edit(make)


def swap(channels):
    channels[0], channels[1] = channels[1], channels[0]


def set_last_bit(name, row_bytes):
    """Sets the last bit of the first row."""
    def change(parts):
        data = bytearray(parts.tensors[name][2])
        data[row_bytes - 1] |= 0x80
        parts.tensors[name][2] = bytes(data)
    return edit(change)


def remove(name):
    return edit(lambda parts: parts.remove(name))


def set_dtype(name, dtype):
    return edit(lambda parts: parts.tensors[name].__setitem__(0, dtype))


def k(old, new):
    return edit(lambda parts: parts.replace("k.0.scheme", old, new))


def v(old, new):
    return edit(lambda parts: parts.replace("v.0.scheme", old, new))


def add_scheme(key, like):
    return edit(lambda parts: parts.metadata.__setitem__(key, parts.metadata[like]))


def remove_head(parts):
    """All of head 1 of K, its tables apart."""
    for name in [name for name in parts.tensors if name.startswith("k.0.h1.")]:
        parts.remove(name)
    del parts.metadata["k.0.h1.scheme"]


FIELDS, MEAN = "does not have the fields", " center=mean"

REFUSALS_OF_REMEDIES = {
    # K: 24 channels at 3 bits and 9 at 4, centered; V: groups of 9 at 3 bits; 1 sink and 2 recent tokens of 6
    "remedies": {
        "center-unknown": ("unknown center", k("center=mean", "center=median")),
        "center-twice": (FIELDS, k(MEAN, MEAN + MEAN)),
        "center-after-outliers": (FIELDS, k(
            " center=mean outliers=9:4:beta-d9-b4", " outliers=9:4:beta-d9-b4 center=mean")),
        "center-not-named": ("nothing in the format explains", k(MEAN, "")),
        "center-of-groups": (FIELDS, v(" exact", " center=mean exact")),
        "center-missing": ("'k.0.center' is missing", remove("k.0.center")),
        "center-nan": ("not finite", set_half("k.0.center", 7, NAN)),
        "center-infinity": ("not finite", set_half("k.0.center", 40, INFINITY)),
        "center-dtype": ("is not BF16", set_dtype("k.0.center", "F16")),
        "center-shape": ("not of shape", reshape("k.0.center", [33, 2])),
        "outliers-seven": ("number of outliers", k("outliers=9:", "outliers=7:")),
        "outliers-zero-first": ("number of outliers", k("outliers=9:", "outliers=09:")),
        "outliers-1017": ("number of outliers", k("outliers=9:", "outliers=1017:")),
        "outliers-row-too-long": ("more than 1024", k("outliers=9:", "outliers=1001:")),
        "outliers-bits-0": ("bits of the outliers", k("outliers=9:4:", "outliers=9:0:")),
        "outliers-bits-9": ("bits of the outliers", k("outliers=9:4:", "outliers=9:9:")),
        "outliers-no-codebook": ("not C:B:TEXT", k("outliers=9:4:beta-d9-b4", "outliers=9:4:")),
        "outliers-two-parts": ("not C:B:TEXT", k("outliers=9:4:beta-d9-b4", "outliers=9:4")),
        "outliers-with-sketch": ("outliers and a sketch", k("qjl=none", "qjl=7")),
        "outliers-other-codebook": ("is missing", k("beta-d9-b4", "beta-d9-b5")),
        "outliers-codebook-missing": ("is missing", remove("codebook.beta-d9-b4")),
        "outliers-rotation-missing": ("is missing", remove("rotation.qr-d9-s42")),
        "outliers-codes-missing": ("'k.0.outlier_codes' is missing", remove("k.0.outlier_codes")),
        "outliers-norms-shape": ("not of shape", reshape("k.0.outlier_norms", [3, 2])),
        "outliers-norm-negative": ("negative or not finite", set_float("k.0.outlier_norms", 5, -1.0)),
        "outliers-pad-bits": ("bits after the last", set_last_bit("k.0.outlier_codes", 5)),
        "channels-missing": ("'k.0.channels' is missing", remove("k.0.channels")),
        "channels-swapped": ("do not ascend", set_channels(swap)),
        "channels-twice": ("do not ascend", set_channels(lambda channels: channels.__setitem__(1, channels[0]))),
        "channels-out-of-range": ("out of range", set_channels(lambda channels: channels.__setitem__(8, 33))),
        "channels-far": ("out of range", set_channels(lambda channels: channels.__setitem__(17, 65535))),
        "channels-dtype": ("is not U16", set_dtype("k.0.channels", "F16")),
        "channels-shape": ("not of shape", reshape("k.0.channels", [18])),
        "exact-nothing": ("keeps no tokens", k("exact=1+2", "exact=0+0")),
        "exact-too-many": ("exact of", k("exact=1+2", "exact=1048577+2")),
        "exact-zero-first": ("exact of", k("exact=1+2", "exact=01+2")),
        "exact-negative": ("not S+W:TYPE", k("exact=1+2", "exact=1+-2")),
        "exact-f32": ("not S+W:TYPE", k("2:BF16", "2:F32")),
        "exact-no-type": ("not S+W:TYPE", v("2:BF16", "2")),
        "exact-other-count": ("not of shape", k("exact=1+2", "exact=1+3")),
        "exact-other-type": ("is not F16", k("2:BF16", "2:F16")),
        "exact-missing": ("'v.0.exact' is missing", remove("v.0.exact")),
        "exact-nan": ("not finite", set_half("v.0.exact", 30, NAN)),
        "exact-infinity": ("not finite", set_half("k.0.exact", 100, INFINITY | MINUS_ZERO)),
        "exact-shape": ("not of shape", reshape("k.0.exact", [3, 2, 33])),
        "group-does-not-divide": ("does not divide", v("group=9", "group=10")),
        "group-seven": ("group of", v("group=9", "group=7")),
        "group-beyond-dim": ("does not divide", v("group=9", "group=54")),
        "group-missing": (FIELDS, v(" group=9", "")),
        "group-bits-9": ("bits of", v("bits=3", "bits=9")),
        "group-version-2": ("not of version", v("group/1", "group/2")),
        "group-pad-bits": ("bits after the last", set_last_bit("v.0.codes", 11)),
        "steps-missing": ("'v.0.steps' is missing", remove("v.0.steps")),
        "steps-shape": ("not of shape", reshape("v.0.steps", [2, 9])),
        "step-negative": ("negative or not finite", set_half("v.0.steps", 4, 0xBC00)),
        "step-minus-zero": ("negative or not finite", set_half("v.0.steps", 4, MINUS_ZERO)),
        "step-nan": ("negative or not finite", set_half("v.0.steps", 17, NAN_F16)),
        "step-infinity": ("negative or not finite", set_half("v.0.steps", 0, INFINITY_F16)),
        "minimum-nan": ("not finite", set_half("v.0.minima", 17, NAN_F16)),
        "minimum-infinity": ("not finite", set_half("v.0.minima", 0, INFINITY_F16 | MINUS_ZERO)),
        "source-other-dim": ("does not fit the scheme", edit(lambda parts: parts.replace("k.0.source", ",33]", ",24]"))),
    },
    # layer 0: three heads of K at 4, 16 and 3 bits
    "heads": {
        "heads-and-all": ("has a scheme, and its heads", add_scheme("k.0.scheme", "k.0.h0.scheme")),
        "heads-and-all-of-v": ("has a scheme, and its heads", add_scheme("v.0.h0.scheme", "v.0.scheme")),
        "heads-scheme-missing": ("the scheme of k.0.h1", edit(lambda parts: parts.metadata.pop("k.0.h1.scheme"))),
        "heads-one-missing": ("the scheme of k.0.h1", edit(remove_head)),
        "heads-other-dim": ("does not fit the scheme", edit(
            lambda parts: parts.replace("k.0.h1.scheme", "dim=16", "dim=12"))),
        "heads-codes-shape": ("not of shape", reshape("k.0.h0.codes", [3, 1, 8])),
        "heads-tensor-too-many": ("nothing in the format explains", edit(
            lambda parts: parts.put("k.0.h3.exact", "F16", [1, 0, 16], b""))),
    },
    # layers 0 and 2 are kept in F16
    "boundary": {
        "exact-version-2": ("not of version", k("exact/1", "exact/2")),
        "exact-dtype-f32": ("unknown dtype", k("dtype=F16", "dtype=F32")),
        "exact-dtype-other": ("is not BF16", v("dtype=F16", "dtype=BF16")),
        "exact-field-unknown": (FIELDS, k(" dtype", " bits=16 dtype")),
        "exact-dim-4": ("dim of", v("dim=8", "dim=4")),
        "exact-rows-nan": ("not finite", set_half("k.0.exact", 47, NAN_F16)),
        "exact-rows-missing": ("is missing", remove("v.0.exact")),
        "exact-rows-shape": ("not of shape", reshape("v.0.exact", [3, 1, 8])),
    },
}
