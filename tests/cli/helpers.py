"""What the tests of the command line share: running tq, safetensors files written and read by hand, small KV dumps.

Every test runs as `python3 tests/cli/test_X.py PATH_TO_TQ` and needs nothing but Python 3's standard library.
"""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unittest

ELEMENT_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1}
DONE, GATE_FAILED, USAGE, COULD_NOT = 0, 1, 2, 3  # exit codes
TQ = None


def main():
    """Takes PATH_TO_TQ from the command line, and leaves the rest to unittest."""
    global TQ
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(f"usage: python3 {sys.argv[0]} PATH_TO_TQ [unittest options]")
    TQ = os.path.abspath(sys.argv.pop(1))
    unittest.main(module="__main__")


# Values.

def gauss(seed, count, sigma=1.0):
    generator = random.Random(seed)
    return [generator.gauss(0.0, sigma) for _ in range(count)]


def bf16_bits(value):
    bits, = struct.unpack("<I", struct.pack("<f", value))
    if value != value or value in (float("inf"), float("-inf")):
        return bits >> 16
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # to nearest, ties to even


def to_bytes(dtype, values):
    if dtype == "BF16":
        return struct.pack(f"<{len(values)}H", *map(bf16_bits, values))
    return struct.pack(f"<{len(values)}{'f' if dtype == 'F32' else 'e'}", *values)


def to_values(dtype, data):
    count = len(data) // ELEMENT_BYTES[dtype]
    if dtype == "BF16":
        return struct.unpack(f"<{count}f", b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2)))
    return struct.unpack(f"<{count}{'f' if dtype == 'F32' else 'e'}", data)


# Safetensors.

class Tensor:
    """dtype, shape and bytes, as they stand in a file."""

    def __init__(self, dtype, shape, data):
        self.dtype, self.shape, self.data = dtype, list(shape), data

    @property
    def values(self):
        return to_values(self.dtype, self.data)

    def __eq__(self, other):
        return (self.dtype, self.shape, self.data) == (other.dtype, other.shape, other.data)


def tensor(shape, seed=1, dtype="BF16", sigma=1.0):
    """Gaussian values."""
    count = 1
    for size in shape:
        count *= size
    return Tensor(dtype, shape, to_bytes(dtype, gauss(seed, count, sigma)))


def tensor_of(shape, values, dtype="F32"):
    return Tensor(dtype, shape, to_bytes(dtype, values))


def write_raw(path, header, data):
    """A container whose header is this very text, sound or not."""
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + data)
    return path


def safetensors_parts(tensors, metadata=None):
    """Header (a dict) and data."""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, t in tensors.items():
        header[name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": [len(data), len(data) + len(t.data)]}
        data += t.data
    return header, data


def write_safetensors(path, tensors, metadata=None):
    header, data = safetensors_parts(tensors, metadata)
    return write_raw(path, json.dumps(header).encode(), data)


def read_safetensors(path):
    """Tensors by name, in the order of their offsets, and the metadata."""
    with open(path, "rb") as file:
        length, = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    metadata = header.pop("__metadata__", {})
    ordered = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    return {name: Tensor(x["dtype"], x["shape"], data[slice(*x["data_offsets"])]) for name, x in ordered}, metadata


def xxh64(data):
    """XXH64 with seed 0, after its public specification."""
    p1, p2, p3, p4, p5 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63,
                          0x27D4EB2F165667C5)
    mask = 2**64 - 1

    def rotate(x, r):
        return (x << r | x >> 64 - r) & mask

    def mix(lane, word):
        return rotate((lane + word * p2) & mask, 31) * p1 & mask

    place, lanes = 0, [(p1 + p2) & mask, p2, 0, -p1 & mask]
    if len(data) < 32:
        h = p5
    else:
        while place + 32 <= len(data):
            lanes = [mix(lane, word) for lane, word in zip(lanes, struct.unpack_from("<4Q", data, place))]
            place += 32
        h = sum(map(rotate, lanes, (1, 7, 12, 18))) & mask
        for lane in lanes:
            h = ((h ^ mix(0, lane)) * p1 + p4) & mask
    h = (h + len(data)) & mask
    while place + 8 <= len(data):
        word, = struct.unpack_from("<Q", data, place)
        h, place = (rotate(h ^ mix(0, word), 27) * p1 + p4) & mask, place + 8
    if place + 4 <= len(data):
        word, = struct.unpack_from("<I", data, place)
        h, place = (rotate(h ^ word * p1 & mask, 23) * p2 + p3) & mask, place + 4
    for byte in data[place:]:
        h = rotate(h ^ byte * p5 & mask, 11) * p1 & mask
    h = (h ^ h >> 33) * p2 & mask
    h = (h ^ h >> 29) * p3 & mask
    return h ^ h >> 32


# Dumps.

def kv_tensors(layers=2, heads=2, tokens=32, dim=64, v_dim=None, q_heads=0, dtype="BF16", seed=1):
    """Gaussian k.L, v.L and, with q_heads, q.L of layers that are all alike."""
    tensors = {}
    for layer in range(layers):
        at = 1000 * seed + 10 * layer
        tensors[f"k.{layer}"] = tensor([heads, tokens, dim], at, dtype)
        tensors[f"v.{layer}"] = tensor([heads, tokens, v_dim or dim], at + 1, dtype)
        if q_heads:
            tensors[f"q.{layer}"] = tensor([q_heads, tokens, dim], at + 2, dtype)
    return tensors


def relative_mse(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y)) / sum(a * a for a in x)


class CliTest(unittest.TestCase):
    """A test with a directory of its own; it runs tq there."""
    longMessage = True
    maxDiff = 2000

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.dir = directory.name

    def path(self, name):
        return os.path.join(self.dir, name)

    def dump(self, name="dump.safetensors", metadata=None, **shape):
        """Writes a Gaussian dump and returns its path."""
        return write_safetensors(self.path(name), kv_tensors(**shape), metadata)

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def tq(self, *args, code=DONE, env=None, **options):
        """Runs tq in the test's directory and asserts its exit code. Never a crash, whatever it was given."""
        options.setdefault("stdout", subprocess.PIPE)
        done = subprocess.run([TQ, *map(str, args)], cwd=self.dir, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                              env={**os.environ, **(env or {})}, timeout=120, **options)
        done.stdout = (done.stdout or b"").decode(errors="surrogateescape")  # a path need not be UTF-8
        done.stderr = done.stderr.decode(errors="surrogateescape")
        said = f"tq {' '.join(map(str, args))}\nstdout: {done.stdout[:1500]}\nstderr: {done.stderr[:1500]}"
        self.assertEqual(done.returncode, code, said)
        for word in ("terminate called", "Sanitizer", "what():", "Traceback"):
            self.assertNotIn(word, done.stderr, said)
        return done

    def refused(self, code, words, *args, **options):
        """Asserts the exit code, one line on stderr that holds all of `words`, an empty stdout, and no new file."""
        before = sorted(os.listdir(self.dir))
        done = self.tq(*args, code=code, **options)
        said = f"tq {' '.join(map(str, args))}\nstderr: {done.stderr}"
        self.assertTrue(done.stderr.startswith("tq: ") and done.stderr.endswith("\n"), said)
        self.assertEqual(done.stderr.count("\n"), 1, "not one line: " + said)
        for word in [words] if isinstance(words, str) else words:
            self.assertIn(word.lower(), done.stderr.lower(), said)
        self.assertEqual(done.stdout, "", said)
        self.assertEqual(sorted(os.listdir(self.dir)), before, "files were left or removed: " + said)
        return done.stderr

    def json(self, *args, code=DONE, **options):
        """Runs tq and parses its stdout as strict JSON: NaN, Infinity and what is no UTF-8 are refused."""
        def refuse(constant):
            raise AssertionError(f"{constant} is not JSON")
        text = self.tq(*args, code=code, **options).stdout.encode(errors="surrogateescape").decode()
        return json.loads(text, parse_constant=refuse)


class VerifyTest(CliTest):
    def verify(self, *args, code=DONE):
        """The JSON report, whose exit code and status must say the same."""
        report = self.json("verify", "--json", "--quiet", *args, code=code)
        self.assertEqual(report["exit_code"], code)
        self.assertEqual(report["status"], {DONE: "PASS", GATE_FAILED: "FAIL", COULD_NOT: "NOT_MEASURED"}[code])
        return report
