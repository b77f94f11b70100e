"""Writes tests/foreign_cache.safetensors: rows, and what the caches of other systems make of them.

    python3 tests/make_foreign_cache.py

Needs numpy. Written from the published arithmetic (formulas in lib/cache/*.h), with whole arrays,
float16 as numpy's, and a table of all 256 fp8 values; it shares no code with lib/. x is
[2 heads][33 tokens][64]: Gaussian rows of many sizes with loud channels, and rows that are special.
Where torch is installed, the fp8 table is compared with torch.float8_e4m3fn.
"""

import json
import pathlib
import struct

import numpy as np

HEADS, TOKENS, DIM = 2, 33, 64
F = np.float32
H = np.float16


def make_rows():
    rng = np.random.default_rng(20260)
    x = rng.standard_normal((HEADS, TOKENS, DIM))
    x *= np.exp2(rng.integers(-9, 8, (HEADS, TOKENS, 1)))
    x[:, :, 5] *= 8
    x[:, :, 40] += 3
    x = x.astype(F)
    x[0, 3] = 0
    x[0, 4] = 2.5                                   # constant
    x[0, 5] = np.where(np.arange(DIM) % 2, 3, -3)   # the largest magnitude, with both signs
    x[0, 6] = -x[0, 5]
    x[0, 7] = np.arange(DIM) * 2 - 63.5             # beside -127 and 127, all are ties of q8_0
    x[0, 7, [0, 63]] = -127, 127
    x[0, 8] = np.linspace(0, 15.5, DIM)
    x[0, 9] = np.linspace(-0.02, 0.02, DIM)         # fp8's subnormals
    x[0, 10] = np.linspace(-600, 600, DIM)          # beyond 448
    x[0, 11] = 0
    x[0, 11, 17] = -5                               # one-hot
    x[0, 12] *= F(1e-9) / np.abs(x[0, 12]).max()    # scales that are 0 in F16
    x[0, 13, 32:] = 0                               # a zero block beside another
    return x


# fp8 e4m3fn, by search in the table of its values

def make_e4m3():
    values = []
    for bits in range(128):
        exponent, mantissa = bits >> 3, bits & 7
        normal = (8 + mantissa) * 2.0 ** (exponent - 10)
        values.append(mantissa * 2.0**-9 if exponent == 0 else normal)
    values.pop()  # 0x7f is NaN
    return np.array(values)


E4M3 = make_e4m3()


def to_e4m3(x):
    magnitude = np.abs(x.astype(np.float64))
    upper = np.minimum(np.searchsorted(E4M3, magnitude), len(E4M3) - 1)
    lower = np.maximum(upper - 1, 0)
    below, above = magnitude - E4M3[lower], E4M3[upper] - magnitude
    take_upper = (above < below) | ((above == below) & (upper % 2 == 0))
    take_upper |= magnitude > E4M3[-1]
    return (np.sign(x) * np.where(take_upper, E4M3[upper], E4M3[lower])).astype(F)


def check_with_torch():
    try:
        import torch
    except ImportError:
        print("torch is not installed: fp8 is not compared with it")
        return
    bits = np.arange(0, 2**32, 65521 * 3, dtype=np.uint32)
    x = bits.view(F)
    x = x[np.isfinite(x) & (np.abs(x) <= 448)]
    x = np.concatenate([x, E4M3.astype(F), ((E4M3[1:] + E4M3[:-1]) / 2).astype(F)])
    theirs = torch.from_numpy(x).to(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(theirs, to_e4m3(x))
    print(f"fp8 agrees with torch on {len(x)} values")


# llama.cpp

def quantize_blocks(x, name):
    b = x.reshape(-1, 32)
    bits, kind = int(name[1]), name[3]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if kind == "1":
            m = b.min(1, keepdims=True)
            d = (b.max(1, keepdims=True) - m) / F(2**bits - 1)
        else:
            m = np.zeros((len(b), 1), F)
            first = np.abs(b).argmax(1)  # the first of equals
            extreme = b[np.arange(len(b)), first][:, None]
            d = np.abs(extreme) / F(127) if bits == 8 else extreme / F(-(2 ** (bits - 1)))
        inverse = np.where(d.astype(H) != 0, F(1) / d, F(0)).astype(F)
        scaled = ((b - m) * inverse).astype(F)
    if bits == 8:
        code = np.sign(scaled) * np.floor(np.abs(scaled.astype(np.float64)) + 0.5)
    elif kind == "1":
        code = np.minimum(np.floor(scaled + F(0.5)), 2**bits - 1)
    else:
        half = 2 ** (bits - 1)
        code = np.minimum(np.floor(scaled + F(half + 0.5)), 2**bits - 1) - half
    out = code * d.astype(H).astype(np.float64) + m.astype(H).astype(np.float64)
    return out.astype(F).reshape(x.shape)


# KIVI

def quantize_group_axis(x, bits, axis):
    """Groups are all of one axis; every step in float16, as torch's half tensors compute."""
    x = x.astype(H)
    low, high = x.min(axis, keepdims=True), x.max(axis, keepdims=True)
    scale = ((high - low) / H(2**bits - 1)).astype(H)
    with np.errstate(divide="ignore", invalid="ignore"):
        code = (x - low) / scale
    code = np.where(scale > 0, np.rint(np.clip(code, 0, 2**bits - 1)), 0).astype(np.float64)
    return (code * scale.astype(np.float64) + low.astype(np.float64)).astype(F)


def kivi_keys(x, bits):
    out = x.astype(H).astype(F)
    for begin in range(0, TOKENS - 31, 32):
        out[:, begin : begin + 32] = quantize_group_axis(x[:, begin : begin + 32], bits, 1)
    return out


def kivi_values(x, bits):
    return quantize_group_axis(x.reshape(HEADS, TOKENS, DIM // 32, 32), bits, 3).reshape(x.shape)


# vLLM

def vllm_levels(dim, bits):
    sigma = dim**-0.5
    edge = 3.5 * sigma
    n = 2**bits
    c = -edge + 2 * edge * (np.arange(n) + 0.5) / n
    for _ in range(200):
        inner = (c[:-1] + c[1:]) / 2
        a = np.concatenate([[-3 * edge], inner])
        b = np.concatenate([inner, [3 * edge]])
        t = a[:, None] + (b - a)[:, None] * np.arange(201) / 200
        f = np.exp(-t * t / (2 * sigma**2)) / np.sqrt(2 * np.pi * sigma**2)
        w = np.ones(201)
        w[[0, -1]] = 0.5
        new = (w * t * f).sum(1) / (w * f).sum(1)
        if np.abs(new - c).max() < 1e-10:
            break
        c = new
    return c.astype(F)


def hadamard(n):
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return h / np.sqrt(n)


def vllm_keys(x, bits):
    levels = vllm_levels(DIM, bits)
    middle = (levels[:-1] + levels[1:]) / F(2)
    norm = np.sqrt((x.astype(np.float64) ** 2).sum(-1, keepdims=True))
    y = (x / (norm + 1e-8)) @ hadamard(DIM)
    y[np.abs(y) < 1e-15] = 0
    margin = np.where(y == 0, 1, np.abs(y[..., None] - middle).min(-1)).min(-1, keepdims=True)
    c = levels[(y[..., None] >= middle).sum(-1)].astype(np.float64)
    c /= np.sqrt((c**2).sum(-1, keepdims=True) + 1e-16)
    # A row with a code that hangs on the order of a sum is not compared: it is NaN.
    assert (margin < 1e-6).sum() <= 6
    return np.where(margin < 1e-6, np.nan, norm.astype(H) * (c @ hadamard(DIM))).astype(F)


def vllm_values(x, bits):
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    scale = np.maximum((high - low) / F(2**bits - 1), F(1e-8))
    code = np.minimum(np.floor((x - low) / scale + F(0.5)), 2**bits - 1).astype(np.float64)
    return (code * scale.astype(H) + low.astype(H).astype(np.float64)).astype(F)


def rotate(x, order):
    return (x.reshape(-1, order) @ hadamard(order)).reshape(x.shape)


def main():
    check_with_torch()
    x = make_rows()
    scale = np.abs(x).max() / F(448)
    tensors = {"x": x, "fp8": to_e4m3(x), "fp8:scaled": to_e4m3(x / scale) * scale}
    for name in ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0"):
        tensors[name] = quantize_blocks(x, name)
    for bits in (4, 2):
        tensors[f"kivi{bits}.k"] = kivi_keys(x, bits)
        tensors[f"kivi{bits}.v"] = kivi_values(x, bits)
    for bits in (4, 3):
        tensors[f"vllm{bits}.k"] = vllm_keys(x, bits)
        tensors[f"vllm{bits}.v"] = vllm_values(x, bits)
        tensors[f"vllm{bits}.levels"] = vllm_levels(DIM, bits)
    rotated = rotate(x.astype(np.float64), 64).astype(F)
    tensors["q4_0:rotated"] = rotate(quantize_blocks(rotated, "q4_0").astype(np.float64), 64)

    header, blobs, offset = {}, [], 0
    for name, array in tensors.items():
        blob = np.ascontiguousarray(array, dtype="<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape),
                        "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    path = pathlib.Path(__file__).parent / "foreign_cache.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
