#!/usr/bin/env python3
"""Holds README.md and docs/*.md against the repository and the binary.

    check_docs.py PATH_TO_TQ        (from anywhere; needs nothing but Python 3)

* Relative links, and code spans that look like paths of the repository, lead to something. A code span such as
  `encode_row()` occurs in one of the files that its line names, and so does a "quoted text" right after a path.
* In blocks marked ```console, lines `$ tq ...` are run, in a directory that has docs/ and tests/ in it. `# exit N` at their end is
  the exit code, 0 where nothing is said; `NAME=value` may stand before tq. The lines that follow must come out in this
  order, `...` skipping any. Runs of spaces count as one, and a number with a decimal point may be off by one in its last
  digit, because the mathematical library of another machine may round otherwise.
* The reports of `tq verify --json` follow docs/verify.schema.json, and the validator below refuses reports that do not.
"""

import copy
import glob
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import unittest
from decimal import Decimal
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SAMPLE = "docs/samples/smollm2-135m-instruct.safetensors"
FOLDERS = ("cli", "lib", "kernels", "codebooks", "cmake", "docs", "tests", ".ci")
TOP_FILES = re.compile(r"(Makefile|LICENSE|\.clang-format|CMakeLists\.txt|CMakePresets\.json|[A-Z]+\.md)$")
TQ = None  # the binary; set from the command line


def run_tq(words, folder):
    """`words` as they stand after "$": NAME=value ..., tq, arguments."""
    environment = {key: value for key, value in os.environ.items() if key != "TQ_CPU"}
    while "=" in words[0]:
        name, _, value = words[0].partition("=")
        environment[name], words = value, words[1:]
    assert words[0] == "tq", words
    return subprocess.run([TQ, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
                          stdin=subprocess.DEVNULL)


# ---- links and paths ---------------------------------------------------------------------------------------------
def without_blocks(text):
    """The page with its fenced blocks blanked, so that line numbers stay."""
    return re.sub(r"^```.*?^```$", lambda block: "\n" * block.group().count("\n"), text, flags=re.M | re.S)


def is_repository_path(span):
    return bool(TOP_FILES.match(span)) or (span.split("/")[0] in FOLDERS and "/" in span and not re.search(r"[\s<>=$]", span))


def broken_references(page, text):
    found = []
    for number, line in enumerate(without_blocks(text).splitlines(), 1):
        spans = re.findall(r"`([^`]+)`", line)
        paths = [span for span in spans if is_repository_path(span)]
        found += [(number, path) for path in paths if not glob.glob(str(ROOT / path))]
        for target in re.findall(r"\]\(([^)\s]+)\)", line):
            if not re.match(r"[a-z]+:|#", target) and not (page.parent / target.split("#")[0]).exists():
                found.append((number, target))
        files = [Path(f) for path in paths for f in glob.glob(str(ROOT / path)) if Path(f).is_file()]
        for name in [span[:-2] for span in spans if re.fullmatch(r"[\w:]+\(\)", span)]:
            if files and not any(name.split("::")[-1] in f.read_text(errors="replace") for f in files):
                found.append((number, f"{name}() in {', '.join(paths)}"))
        for path, quoted in re.findall(r'`([^`]+)` "([^"]+)"', line):
            if is_repository_path(path) and not any(quoted in Path(f).read_text() for f in glob.glob(str(ROOT / path))):
                found.append((number, f'"{quoted}" in {path}'))
    return found


# ---- console blocks ----------------------------------------------------------------------------------------------
def console_commands(text):
    """(line number, command, exit code, expected lines) of each command; a block must begin with one."""
    found, inside, started = [], False, False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            inside, started = line == "```console", False
        elif inside and (line.startswith("$ ") or not started):
            command, _, note = line.removeprefix("$ ").partition("  # exit ")
            found.append((number, command, int(note or 0), []))
            started = True
        elif inside:
            found[-1][3].append(line)
    return found


NUMBER = re.compile(r"[-+]?\d+\.\d+(?:e[-+]?\d+)?")


def same_line(expected, actual):
    expected, actual = (" ".join(line.split()) for line in (expected, actual))
    if NUMBER.sub("#", expected) != NUMBER.sub("#", actual):
        return False
    pairs = ((Decimal(a), Decimal(b)) for a, b in zip(NUMBER.findall(expected), NUMBER.findall(actual)))
    return all(abs(a - b) <= Decimal(1).scaleb(a.as_tuple().exponent) for a, b in pairs)


def first_missing(expected, output):
    """The first expected line that does not come where it should, or None."""
    actual, may_skip = [line for line in output.splitlines() if line.strip()], False
    for line in filter(str.strip, expected):
        if line.strip() == "...":
            may_skip = True
            continue
        while may_skip and actual and not same_line(line, actual[0]):
            actual.pop(0)
        if not actual or not same_line(line, actual.pop(0)):
            return line
        may_skip = False
    return None if may_skip or not actual or not expected else f"(the output goes on) {actual[0]}"


# ---- JSON Schema, as much of it as docs/verify.schema.json uses -----------------------------------------------------
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
         "number": (int, float)}
ANNOTATIONS = {"$schema", "$defs", "title", "description"}
KEYWORDS = ANNOTATIONS | {"$ref", "type", "const", "enum", "minimum", "maximum", "properties", "required",
                          "additionalProperties", "items", "minItems", "oneOf"}


def has_type(value, name):
    return isinstance(value, TYPES[name]) and not (isinstance(value, bool) and name in ("integer", "number"))


def violations(value, schema, root, place="$"):
    if unknown := schema.keys() - KEYWORDS:
        raise ValueError(f"{place}: this validator does not know {sorted(unknown)}")
    found = []
    if "$ref" in schema:
        found += violations(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, place)
    types = schema.get("type", [])
    if types and not any(has_type(value, name) for name in ([types] if isinstance(types, str) else types)):
        return found + [f"{place}: {json.dumps(value)[:60]} is not of type {types}"]
    if "const" in schema and value != schema["const"]:
        found.append(f"{place}: not {schema['const']}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{place}: {value} is none of {schema['enum']}")
    if has_type(value, "number") and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        found.append(f"{place}: {value} is out of range")
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        found += [f"{place}: no {name}" for name in schema.get("required", []) if name not in value]
        if schema.get("additionalProperties") is False:
            found += [f"{place}: unknown {name}" for name in value.keys() - properties.keys()]
        for name in value.keys() & properties.keys():
            found += violations(value[name], properties[name], root, f"{place}.{name}")
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            found.append(f"{place}: too few items")
        for i, item in enumerate(value):
            found += violations(item, schema.get("items", {}), root, f"{place}[{i}]")
    if "oneOf" in schema and sum(not violations(value, option, root, place) for option in schema["oneOf"]) != 1:
        found.append(f"{place}: not exactly one of oneOf")
    return found


def objects_of(value):
    """Every object within a JSON value."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from objects_of(item)


def broken_reports(report):
    """The report without one field of one object, or with one more, for every object and field: (object, field, report)."""
    for i, target in enumerate(list(objects_of(report))):
        for name in [*target, "unknown_field"]:
            broken = copy.deepcopy(report)
            target_there = list(objects_of(broken))[i]
            if name == "unknown_field":
                target_there[name] = 1
            else:
                del target_there[name]
            yield i, name, broken


# ---- the tests ---------------------------------------------------------------------------------------------------
class InFolder(unittest.TestCase):
    """A test with a directory that has docs/ and tests/ in it."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = temporary.name
        for name in ("docs", "tests"):
            os.symlink(ROOT / name, Path(self.folder, name))


class References(unittest.TestCase):
    def test_links_and_paths_lead_somewhere(self):
        for page in PAGES:
            broken = broken_references(page, page.read_text())
            self.assertEqual(broken, [], f"{page.relative_to(ROOT)}: (line, what is not there)")

    def test_broken_ones_are_found(self):
        good = 'See [a](docs/format.md), `lib/tq.h`, `tests/cli/test_*.py`, `encode_row()` of `lib/math/row.h` "One row"'
        self.assertEqual(broken_references(ROOT / "README.md", good), [])
        for bad in ("[a](docs/absent.md)", "`lib/absent.h`", "`ABSENT.md`", "`tests/absent_*.py`",
                    "`absent_name()` of `lib/math/row.h`", '`lib/math/row.h` "absent text"'):
            self.assertEqual(len(broken_references(ROOT / "README.md", bad)), 1, bad)


class Console(InFolder):
    def test_commands_do_what_the_pages_show(self):
        for page in PAGES:
            for number, command, code, expected in console_commands(page.read_text()):
                where = f"{page.relative_to(ROOT)}:{number}: {command}"
                with self.subTest(where):
                    self.assertRegex(command, r"^(\w+=\S+ )*tq ", "only tq is run in console blocks")
                    done = run_tq(shlex.split(command), self.folder)
                    self.assertEqual(done.returncode, code, f"{where}\n{done.stdout}{done.stderr}")
                    missing = first_missing(expected, done.stdout + done.stderr)
                    self.assertIsNone(missing, f"{where}\n{done.stdout}{done.stderr}")

    def test_every_page_that_shows_results_has_commands(self):
        for name in ("README.md", "docs/verification.md", "docs/numerics.md"):
            self.assertTrue(console_commands((ROOT / name).read_text()), name)

    def test_other_output_is_found(self):
        output = "one  0.125\n\ntwo 7 x\nthree\n"
        for good in (["one 0.125", "two 7 x", "three"], ["one 0.126", "..."], ["...", "three"], ["...", "two 7 x", "..."], []):
            self.assertIsNone(first_missing(good, output), good)
        for bad in (["one 0.127", "..."], ["one 0.125", "two 8 x", "..."], ["one 0.125", "three"], ["two 7 x", "..."],
                    ["...", "three", "four"], ["...", "two 7 x"], ["one .125", "..."]):
            self.assertIsNotNone(first_missing(bad, output), bad)


class Schema(InFolder):
    def setUp(self):
        super().setUp()
        self.schema = json.loads((ROOT / "docs/verify.schema.json").read_text())

    def reports(self):
        self.assertEqual(run_tq(["tq", "pack-kv", SAMPLE, "-o", "cache.tq3", "--k-bits", "4", "--v-bits", "3"], self.folder).returncode, 0)
        one_token = ["--synthetic", "--tokens", "1", "--dim", "8", "--bits", "1", "--layers", "1", "--threshold", "1"]
        for code, arguments in ((0, ["--kv", SAMPLE]), (0, ["--packed", "cache.tq3", "--against", SAMPLE]),
                                (0, ["--synthetic"]), (1, ["--kv", SAMPLE, "--max-attention-kl", "0"]),
                                (3, ["--kv", SAMPLE, "--threshold", "-1"]), (1, one_token)):
            done = run_tq(["tq", "verify", "--json", *arguments], self.folder)
            self.assertEqual(done.returncode, code, done.stderr)
            yield arguments, json.loads(done.stdout)
        yield from self.model_reports()

    def model_reports(self):
        """Of a model: its cache with all there is, packed weights alone, and too few tokens to say anything."""
        model = str(ROOT / "tests/prefill/llama-linear")
        Path(self.folder, "ids").write_text(" ".join(str(7 * i * i % 61 + 3) for i in range(128)))
        self.assertEqual(run_tq(["tq", "pack-weights", model, "-o", "packed", "--group-size", "64"], self.folder).returncode, 0)
        run = ["--model", model, "--token-ids", "ids"]
        for code, arguments in ((3, [*run, "--max-kld", "9", "--greedy", "4"]), (0, [*run, "--with-weights", "packed"]),
                                (1, [*run, "--with-weights", "packed", "--bits", "4", "--max-kld", "0", "--window", "64",
                                     "--allow-random"]),
                                (0, [*run, "--allow-random", "--tokens", "2"])):
            done = run_tq(["tq", "verify", "--json", *arguments], self.folder)
            self.assertEqual(done.returncode, code, done.stderr)
            yield arguments, json.loads(done.stdout)

    def test_reports_follow_the_schema(self):
        for arguments, report in self.reports():
            self.assertEqual(violations(report, self.schema, self.schema), [], arguments)

    def test_a_missing_and_an_unknown_field_are_refused_in_every_object(self):
        for _, report in (next(self.reports()), next(self.model_reports())):
            report["layers"], report["gates"] = report["layers"][:1], report["gates"][-1:]
            report["layers"][0]["heads"] = report["layers"][0]["heads"][:1]
            self.check_every_object(report)

    def check_every_object(self, report):
        optional = {"permuted_tokens", "one_bit", "other_seed"}
        self.assertGreater(len(list(objects_of(report))), 20)
        for i, name, broken in broken_reports(report):
            self.assertEqual(bool(violations(broken, self.schema, self.schema)), name not in optional, (i, name))

    def test_wrong_values_are_refused(self):
        report = next(self.reports())[1]
        for name, value in (("schema_version", 1), ("status", "FAIL"), ("exit_code", 2), ("min_cosine", 1.5), ("bits", 16.5),
                            ("k_bits", None), ("threshold", True), ("layers", []), ("warnings", [1]), ("per_layer_cosine", None),
                            ("effect", {}), ("schemes", None), ("bytes", None), ("gates", [])):
            self.assertTrue(violations({**report, name: value}, self.schema, self.schema), name)

    def test_the_schema_describes_every_field(self):
        for schema in objects_of(self.schema):
            if not isinstance(schema.get("properties"), dict):
                continue
            if schema.get("additionalProperties") is not False:
                self.assertNotIn("type", schema, "an object that lets unknown fields pass")
                continue
            for name, field in schema["properties"].items():
                self.assertTrue("description" in field or "$ref" in field or "properties" in field, name)


class ErrorSchema(InFolder):
    def test_what_is_printed_without_a_report(self):
        schema = json.loads((ROOT / "docs/verify-error.schema.json").read_text())
        model = str(ROOT / "tests/prefill/llama-linear")
        Path(self.folder, "ids").write_text("3 4 5")
        for arguments in (["--kv", "nowhere"], ["--model", model, "--token-ids", "ids"]):
            done = run_tq(["tq", "verify", "--json", *arguments], self.folder)
            self.assertEqual(done.returncode, 3)
            answer = json.loads(done.stdout)
            self.assertEqual(violations(answer, schema, schema), [], arguments)
            self.assertTrue(violations({**answer, "unknown": 1}, schema, schema))
            self.assertTrue(violations({**answer, "exit_code": 1}, schema, schema))


class PackWeightsSchema(InFolder):
    """Of objects with a tensor each of every kind: kept, cast, quantized; whole, dry, in parts, done before."""

    OPTIONAL = {"stored_dtype", "xxh64", "f16_losses", "bits_per_weight", "distortion", "rows_checked", "values_checked", "relative_mse",
                "relative_mse_ratio", "worst_row", "worst_row_cosine", "kurtosis", "packed_xxh64", "norms_xxh64"}

    def setUp(self):
        super().setUp()
        self.schema = json.loads((ROOT / "docs/pack-weights.schema.json").read_text())

    def report(self, code, *arguments):
        done = run_tq(["tq", "pack-weights", str(ROOT / "tests/weights/llama"), "--json", *arguments], self.folder)
        self.assertEqual(done.returncode, code, done.stderr)
        return json.loads(done.stdout)

    def test_reports_follow_the_schema(self):
        for code, arguments in ((0, ["-o", "a", "--dry-run"]), (0, ["-o", "b"]), (0, ["-o", "b", "--resume"]),
                                (1, ["-o", "c", "--max-rel-mse", "0", "--max-rel-mse-ratio", "9"]), (0, ["-o", "d", "--keep-dtype", "f16"]),
                                (0, ["-o", "e", "--shard", "1/2"])):
            self.assertEqual(violations(self.report(code, *arguments), self.schema, self.schema), [], arguments)

    def test_others_are_refused(self):
        report = self.report(1, "-o", "a", "--max-rel-mse", "0", "--keep-dtype", "f16")
        for i, name, broken in broken_reports(report):
            self.assertEqual(bool(violations(broken, self.schema, self.schema)), name not in self.OPTIONAL, (i, name))


class WeightsSchema(InFolder):
    def report(self, code, *arguments):
        weights = str(ROOT / "tests/weights")
        done = run_tq(["tq", "verify", "--weights", weights + "/llama-3bit", "--against", weights + "/llama", "--json",
                       *arguments], self.folder)
        self.assertEqual(done.returncode, code, done.stderr)
        return json.loads(done.stdout)

    def test_reports_follow_the_schema_and_others_are_refused(self):
        schema = json.loads((ROOT / "docs/verify-weights.schema.json").read_text())
        for code, arguments in ((0, []), (1, ["--max-rel-mse", "0"]), (3, ["--max-rel-mse-ratio", "99"])):
            report = self.report(code, *arguments)
            self.assertEqual(violations(report, schema, schema), [], arguments)
        for i, name, broken in broken_reports(report):
            self.assertTrue(violations(broken, schema, schema), (i, name))


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(f"usage: python3 {sys.argv[0]} PATH_TO_TQ [unittest options]")
    TQ = os.path.abspath(sys.argv.pop(1))
    unittest.main()
