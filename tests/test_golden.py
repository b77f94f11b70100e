#!/usr/bin/env python3
"""Holds tq against tests/golden and against the second decoder.

    test_golden.py PATH_TO_TQ

* tq packs the kept dumps to the kept files, with the same bytes on every CPU target and with any number of threads;
* tq unpacks the kept files to the values of tests/second_decoder.py, bit for bit, and both to the kept hashes; a second
  decoder that is wrong on purpose does not match;
* both refuse each file in golden/refuse, tq with exit 3, one line that names the file, and no output;
* both refuse every truncation, appended byte and changed byte of one small file.

TQ_TEST_REDUCED=1 takes fewer truncations and changed bytes, for builds that run slowly.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from array import array
from pathlib import Path
from unittest import mock

import second_decoder
from golden_refusals import Parts
from make_golden import GOLDEN, REFUSE_SOURCE, describe, pack_arguments

TARGETS = ("scalar", "simd128", "avx2", "avx512")
REDUCED = os.environ.get("TQ_TEST_REDUCED") == "1"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
SMALL = GOLDEN / f"{REFUSE_SOURCE}.tq3"
TQ = None  # the binary under test; set from the command line


def run_tq(*arguments, target=None):
    environment = {key: value for key, value in os.environ.items() if key != "TQ_CPU"}
    if target:
        environment["TQ_CPU"] = target
    return subprocess.run([TQ, *map(str, arguments)], env=environment, capture_output=True, text=True)


def available_targets():
    """The CPU targets that this machine and this build offer; an unavailable one exits 3."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for target in TARGETS:
            source = GOLDEN / f"{REFUSE_SOURCE}.safetensors"
            result = run_tq("pack-kv", source, "-o", f"{folder}/{target}.tq3", "--quiet", target=target)
            if result.returncode == 0:
                found.append(target)
            elif result.returncode != 3:
                raise AssertionError(f"TQ_CPU={target}: exit {result.returncode}: {result.stderr}")
    return found


def read_safetensors(path):
    """{name: (dtype, shape, bytes)} and the metadata of any safetensors file."""
    content = Path(path).read_bytes()
    data_begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:data_begin])
    metadata = header.pop("__metadata__", {})
    return {name: (entry["dtype"], entry["shape"], content[data_begin:][slice(*entry["data_offsets"])])
            for name, entry in header.items()}, metadata


def parts_without_writer(path):
    """All of a .tq3 file that does not depend on the version of tq that wrote it."""
    parts = Parts(path)
    metadata = {key: value for key, value in parts.metadata.items() if key not in ("tool", "header_xxh64")}
    return metadata, parts.tensors


class GoldenTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.output = self.folder / "output"

    def require_success(self, result):
        self.assertEqual(result.returncode, 0, result.stderr)

    def require_refusal(self, path, *arguments):
        """tq refuses the file at `path` with exit 3 and one line that names it, and writes nothing."""
        result = run_tq(*arguments)
        written = [entry for entry in self.folder.iterdir() if entry != path]
        for entry in written:
            entry.unlink()
        self.assertEqual((result.returncode, written), (3, []), f"{arguments}: {result.stderr}")
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
        self.assertTrue(result.stderr.startswith("tq: "), result.stderr)
        self.assertIn(path.name, result.stderr)
        return result.stderr

    def require_both_refuse(self, content):
        path = self.folder / "broken.tq3"
        path.write_bytes(content)
        self.require_refusal(path, "inspect", path)
        with self.assertRaises(second_decoder.Refused):
            second_decoder.decode(path)


class PackTest(GoldenTest):
    def test_same_file_on_every_target_and_thread_count(self):
        targets = available_targets()
        skipped = [target for target in TARGETS if target not in targets]
        print(f"\nCPU targets that ran: {', '.join(targets)}; skipped: {', '.join(skipped) or 'none'}")
        self.assertIn("scalar", targets)
        for name, case in EXPECTED["golden"].items():
            files = {}
            for target in targets:
                for threads in (1, 2):
                    with self.subTest(name=name, target=target, threads=threads):
                        self.require_success(run_tq(
                            "pack-kv", GOLDEN / f"{name}.safetensors", "-o", self.output, *pack_arguments(case["pack"]),
                            "--threads", threads, "--quiet", "--force", target=target))
                        files[target, threads] = self.output.read_bytes()
            with self.subTest(name=name):
                self.assertEqual(len(set(files.values())), 1, f"the targets or threads differ: {list(files)}")
                self.assertEqual(parts_without_writer(self.output), parts_without_writer(GOLDEN / f"{name}.tq3"))


class UnpackTest(GoldenTest):
    def test_second_decoder_gives_the_kept_hashes(self):
        for name, case in EXPECTED["golden"].items():
            with self.subTest(name=name):
                self.assertEqual(describe(second_decoder.decode(GOLDEN / f"{name}.tq3")), case["tensors"])

    def test_tq_equals_the_second_decoder(self):
        for name in EXPECTED["golden"]:
            expected = {tensor: ("F32", shape, second_decoder.to_bytes(values)) for tensor, (_, shape, values)
                        in second_decoder.decode(GOLDEN / f"{name}.tq3").items()}
            _, metadata = read_safetensors(GOLDEN / f"{name}.safetensors")
            for target in available_targets():
                with self.subTest(name=name, target=target):
                    self.require_success(run_tq("unpack-kv", GOLDEN / f"{name}.tq3", "-o", self.output, "--dtype",
                                                "f32", "--quiet", "--force", target=target))
                    tensors, found_metadata = read_safetensors(self.output)
                    self.assertTrue(tensors == expected, "the values differ")
                    self.assertEqual({key: found_metadata.get(key) for key in metadata}, metadata)

    def test_default_dtype_and_shape_are_those_of_the_source(self):
        for name in EXPECTED["golden"]:
            with self.subTest(name=name):
                packed = GOLDEN / f"{name}.tq3"
                self.require_success(run_tq("unpack-kv", packed, "-o", self.output, "--quiet", "--force"))
                source, output = read_safetensors(GOLDEN / f"{name}.safetensors")[0], read_safetensors(self.output)[0]
                self.assertEqual({tensor: entry[:2] for tensor, entry in output.items()},
                                 {tensor: entry[:2] for tensor, entry in source.items()})

    def test_unknown_metadata_keys_are_ignored(self):
        path = self.folder / "future.tq3"
        for key in ("future", "k.0.future", "k.00.scheme", "k.2147483648.scheme", "v.7.scheme", "w.xxh64",
                    "k.0.h1.scheme", "v.0.h9.scheme", "k.7.h1.scheme"):
            with self.subTest(key=key):
                parts = Parts(SMALL)
                parts.metadata[key] = parts.metadata["k.0.scheme"]
                path.write_bytes(parts.to_bytes())
                self.assertEqual(describe(second_decoder.decode(path)), EXPECTED["golden"][REFUSE_SOURCE]["tensors"])
                self.require_success(run_tq("inspect", path))
                self.require_success(run_tq("unpack-kv", path, "-o", self.output, "--quiet", "--force"))

    def test_wrong_second_decoders_do_not_match(self):
        """Negative controls: were the comparison blind, these decoders would pass it too."""
        unpack, draw, tree = second_decoder.unpack_codes, second_decoder.draw_signs, second_decoder.tree_sum
        put, groups, take = second_decoder.put_outliers, second_decoder.decode_groups, second_decoder.take_finite
        controls = {
            ("unpack_codes", "power-of-two"): lambda row, bits, dim: unpack(
                bytes(byte >> 4 | byte << 4 & 0xF0 for byte in row), bits, dim),
            ("draw_signs", "power-of-two"): lambda seed, dim, kind: draw(seed + 1, dim, kind),
            ("draw_signs", "hadamard-12"): lambda seed, dim, kind: draw(seed, dim, kind)[::-1],
            ("tree_sum", "qr-100"): lambda terms: tree(terms[::-1]),
            ("put_outliers", "outliers"): lambda *rest: put(*rest[:-1], rest[-1][::-1]),
            ("decode_groups", "groups"): lambda *rest: groups(*rest)[::-1],
            ("take_finite", "center"): lambda store, name, *rest: array("f", (
                0 if name.endswith(".center") else value for value in take(store, name, *rest))),
        }
        for (function, name), wrong in controls.items():
            with self.subTest(function=function, name=name), mock.patch.object(second_decoder, function, wrong):
                found = describe(second_decoder.decode(GOLDEN / f"{name}.tq3"))
                expected = EXPECTED["golden"][name]["tensors"]
                self.assertEqual(found.keys(), expected.keys())
                self.assertNotEqual(found, expected)


class RefuseTest(GoldenTest):
    def test_list_of_files_is_complete(self):
        self.assertEqual({path.stem for path in (GOLDEN / "refuse").iterdir()}, set(EXPECTED["refuse"]))

    def test_second_decoder_refuses_for_the_right_reason(self):
        for name, refusal in EXPECTED["refuse"].items():
            with self.subTest(name=name):
                with self.assertRaisesRegex(second_decoder.Refused, re.escape(refusal["message"])):
                    second_decoder.decode(GOLDEN / "refuse" / f"{name}.tq3")

    def test_tq_refuses(self):
        for name, refusal in EXPECTED["refuse"].items():
            path = GOLDEN / "refuse" / f"{name}.tq3"
            commands = (("inspect", path), ("unpack-kv", path, "-o", self.output),
                        ("verify", "--packed", path, "--against", GOLDEN / f"{refusal['from']}.safetensors"))
            for command in commands:
                with self.subTest(name=name, command=command[0]):
                    message = self.require_refusal(path, *command)
                    self.assertEqual("'s hash" in message, "-hash-wrong" in name, message)

    def test_truncations_and_appended_bytes_are_refused(self):
        content = SMALL.read_bytes()
        edges = set(range(64)) | set(range(len(content) - 64, len(content)))
        for length in sorted(edges | set(range(0, len(content), 101 if REDUCED else 1))):
            with self.subTest(length=length):
                self.require_both_refuse(content[:length])
        for tail in (b"\0", b" ", bytes(8), bytes(4096), content):
            with self.subTest(appended=len(tail)):
                self.require_both_refuse(content + tail)

    def test_any_changed_byte_is_refused(self):
        content = SMALL.read_bytes()
        for place in sorted(set(range(8)) | set(range(8, len(content), 101 if REDUCED else 5))):
            with self.subTest(place=place):
                changed = bytearray(content)
                changed[place] ^= 1 << place % 8
                self.require_both_refuse(bytes(changed))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: test_golden.py PATH_TO_TQ")
    TQ = Path(sys.argv.pop(1)).resolve()
    unittest.main()
