"""The front door: help, version, wrong usage (exit 2), and a stdout that cannot be written (exit 3)."""
import os
import pty
import re
import subprocess

import helpers
from helpers import COULD_NOT, DONE, USAGE, CliTest

COMMANDS = ("codebook", "pack-kv", "unpack-kv", "pack-weights", "merge-shards", "unpack-weights", "inspect", "diff", "verify",
            "capture", "tokenize", "size", "plan", "bench")


class Help(CliTest):
    def test_help_lists_every_command(self):
        for flag in ("--help", "-h"):
            text = self.tq(flag).stdout
            for command in COMMANDS:
                self.assertRegex(text, rf"(?m)^  {command} ")
            for code in "0123":
                self.assertRegex(text, rf"Exit codes:.*\b{code}\b")

    def test_version(self):
        self.assertRegex(self.tq("--version").stdout, r"^tq \d+\.\d+\.\d+\n$")

    def test_help_of_each_command_has_an_example_that_calls_it(self):
        for command in COMMANDS:
            done = self.tq(command, "--help")
            self.assertRegex(done.stdout, rf"Examples?: +tq {command} ")
            self.assertEqual(done.stderr, "")

    def test_help_names_units_ranges_and_defaults(self):
        for command, words in {
            "codebook": ["8..1024", "1..8", "=beta", "=table", " files)"],
            "pack-kv": ["1..8", "=4", "=rht2", "0..2^32-1", "=42", "1..1024", "[kv_heads, tokens, head_dim]", "F32"],
            "unpack-kv": ["f32", "f16", "bf16", "default", "1..1024"],
            "inspect": ["1..1024", "--json"],
            "capture": ["1..2147483648", "up to 128", "F32", "expanded", "docs/models.md"],
            "verify": ["-1..1", "0..1", "nats", "=512", "=128", "default 1024", "8..1024", "default", "Exit codes"],
        }.items():
            text = self.tq(command, "--help").stdout
            for word in words:
                self.assertIn(word, text, command)

    def test_each_integer_option_names_its_range_in_words(self):
        for command in COMMANDS:
            text = self.tq(command, "--help").stdout
            for name, words in re.findall(r"(?m)^  (--[\w-]+) U?INT\S*.*\n {20,}(.*)", text):
                with self.subTest(command=command, name=name):
                    self.assertRegex(words, r"\d\.\.|\d+, \d+ or \d+")  # a range, or all values

    def test_files_that_help_speaks_of_are_there(self):
        root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
        for command in COMMANDS:
            for name in re.findall(r"docs/[\w./-]+\w", self.tq(command, "--help").stdout):
                with self.subTest(command=command, name=name):
                    self.assertTrue(os.path.exists(os.path.join(root, name)))


class Devices(CliTest):
    """--device, where work can go to a GPU."""

    # What each command would read is missing: a name that is none is refused before that.
    CALLS = (["pack-kv", "missing", "-o", "x.tq3"], ["unpack-kv", "missing", "-o", "x"], ["pack-weights", "missing", "-o", "x"],
             ["unpack-weights", "missing", "-o", "x"], ["verify", "--synthetic"], ["capture", "--model", "missing", "-o", "x"],
             ["plan", "--kv", "missing", "--bytes-per-token", "100"], ["bench", "--mb", "1"])

    def test_names_that_are_none_are_answered_with_the_list(self):
        for args in self.CALLS:
            for name in ("gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cuda:99999999999", "CPU", ""):
                with self.subTest(args=args, name=name):
                    self.refused(USAGE, ["cuda:N", "--device"], *args, f"--device={name}")

    def test_cuda_is_there_or_says_what_was_looked_for(self):
        args = ("verify", "--synthetic", "--tokens", "64", "--device")
        done = subprocess.run([helpers.TQ, *args, "cuda"], capture_output=True, timeout=120)
        self.refused(COULD_NOT, ["cuda"], *args, "cuda:4096")
        if done.returncode != DONE:
            line = self.refused(COULD_NOT, ["no GPU:"], *args, "cuda")
            self.assertRegex(line, "this build has no CUDA|NVIDIA driver|no device")
            self.refused(COULD_NOT, ["no GPU:"], "bench", "--mb", "1", "--device", "cuda")

    def test_auto_and_cpu_report_the_same(self):
        auto, cpu = (self.json("verify", "--synthetic", "--tokens", 64, "--json", "--device", device) for device in ("auto", "cpu"))
        self.assertTrue(cpu["backend"].startswith("cpu/"))
        self.assertEqual({**auto, "backend": ""}, {**cpu, "backend": ""})


class Usage(CliTest):
    """What the command line alone decides: exit 2, one line, before any file is looked at."""

    def test_no_command_points_to_help(self):
        self.refused(USAGE, ["--help"])

    def test_unknown_command_is_named(self):
        self.refused(USAGE, ["compress"], "compress")

    def test_unknown_option_is_named(self):
        self.refused(USAGE, ["--frobnicate"], "--frobnicate")
        for command in COMMANDS:
            source = ("--model", "x") if command in ("capture", "tokenize", "size") else ("x",)
            output = {"tokenize": ("--text", "y"), "size": ("--batch", "1")}.get(command, ("-o", "y"))
            self.refused(USAGE, ["--frobnicate"], command, *source, *output, "--frobnicate")

    def test_missing_arguments_are_named(self):
        for words, args in (
            (["IN"], ["pack-kv", "-o", "x.tq3"]),
            (["output"], ["pack-kv", "dump"]),
            (["IN"], ["unpack-kv", "-o", "x"]),
            (["output"], ["unpack-kv", "x.tq3"]),
            (["FILE"], ["inspect"]),
            (["--kv", "--packed", "--against", "--synthetic"], ["verify"]),
            (["--dim"], ["codebook"]),
            (["--bits"], ["codebook", "--dim", "128"]),
        ):
            self.refused(USAGE, words, *args)

    def test_surplus_arguments_are_named(self):
        for args in (["codebook", "--dim", "8", "--bits", "1", "surplus"], ["pack-kv", "dump", "surplus", "-o", "x"],
                     ["unpack-kv", "x.tq3", "surplus", "-o", "y"], ["inspect", "x", "surplus"],
                     ["verify", "--synthetic", "surplus"]):
            self.refused(USAGE, ["surplus"], *args)

    def test_integer_options_just_out_of_range(self):
        pack = ["pack-kv", "missing", "-o", "x.tq3"]
        synthetic = ["verify", "--synthetic"]
        for args, option, below, above in (
            (["codebook", "--bits", 3], "--dim", 0, 1025),
            (["codebook", "--dim", 128], "--bits", 0, 9),
            (pack, "--bits", 0, 9),
            (pack + ["--v-bits", 4], "--k-bits", 0, 9),
            (pack + ["--k-bits", 4], "--v-bits", 0, 9),
            (pack, "--k-seed", -1, 2**32),
            (pack, "--v-seed", -1, 2**32),
            (pack, "--threads", 0, 1025),
            (["unpack-kv", "missing", "-o", "x"], "--threads", 0, 1025),
            (["inspect", "missing"], "--threads", 0, 1025),
            (synthetic, "--dim", 7, 1025),
            (synthetic, "--tokens", 0, 1000001),
            (synthetic, "--heads", 0, 1025),
            (synthetic, "--layers", 0, 1025),
            (synthetic, "--seed", -1, 2**32),
            (synthetic, "--bits", 0, 9),
            (synthetic, "--threads", 0, 1025),
            (synthetic, "--attention-queries", 0, 1000001),
        ):
            for value in (below, above, "x", "1.5", ""):
                with self.subTest(args=args, option=option, value=value):
                    self.refused(USAGE, [option], *args, f"{option}={value}")

    def test_gate_limits_just_out_of_range(self):
        for option, wrong in (("--threshold", ("-1.0001", "1.0001")), ("--min-token-cosine", ("-1.0001", "1.0001")),
                              ("--max-rel-mse-ratio", ("-0.0001",)), ("--max-attention-kl", ("-0.0001",)),
                              ("--min-attention-top1", ("-0.0001", "1.0001"))):
            for value in (*wrong, "x", "", "nan", "NaN"):
                with self.subTest(option=option, value=value):
                    line = self.refused(USAGE, [option], "verify", "--kv", "missing", f"{option}={value}")
                    self.assertLess(len(line), 300, "a line that nobody reads")

    def test_words_out_of_the_list_are_answered_with_the_list(self):
        for words, args in (
            (["beta", "gaussian"], ["codebook", "--dim", 8, "--bits", 1, "--density", "normal"]),
            (["table", "json", "c"], ["codebook", "--dim", 8, "--bits", 1, "--format", "yaml"]),
            (["rht2", "qr"], ["pack-kv", "missing", "-o", "x.tq3", "--rotation", "RHT2"]),
            (["f32", "f16", "bf16"], ["unpack-kv", "missing", "-o", "x", "--dtype", "f64"]),
        ):
            self.refused(USAGE, words, *args)

    def test_options_that_do_not_go_together(self):
        pack = ["pack-kv", "missing", "-o", "x.tq3"]
        packed = ["verify", "--packed", "missing", "--against", "missing"]
        for words, args in (
            (["--k-bits", "--v-bits"], pack + ["--k-bits", 4]),
            (["--k-bits", "--v-bits"], pack + ["--v-bits", 4]),
            (["--bits", "--k-bits"], pack + ["--bits", 4, "--k-bits", 4, "--v-bits", 4]),
            (["--all"], ["codebook", "--all", "--dim", 128, "-o", "d"]),
            (["--all"], ["codebook", "--all", "--bits", 3, "-o", "d"]),
            (["--all"], ["codebook", "--all", "--density", "beta", "-o", "d"]),
            (["--all"], ["codebook", "--all", "--format", "c", "-o", "d"]),
            (["--all", "-o"], ["codebook", "--all"]),
            (["exactly one"], ["verify", "--kv", "missing", "--synthetic"]),
            (["exactly one"], packed + ["--kv", "missing"]),
            (["exactly one"], packed + ["--synthetic"]),
            (["--against"], ["verify", "--packed", "missing"]),
            (["--packed"], ["verify", "--against", "missing"]),
            (["--packed"], ["verify", "--kv", "missing", "--against", "missing"]),
            (["--bits"], packed + ["--bits", 4]),
            (["--k-bits"], packed + ["--k-bits", 4, "--v-bits", 4]),
            (["--rotation"], packed + ["--rotation", "qr"]),
            (["--k-seed"], packed + ["--k-seed", 1]),
            (["--v-seed"], packed + ["--v-seed", 1]),
            (["--dim", "--synthetic"], ["verify", "--kv", "missing", "--dim", 64]),
            (["--seed", "--synthetic"], ["verify", "--kv", "missing", "--seed", 1]),
            (["--paper", "--rows"], ["verify", "--kv", "missing", "--rows", 16384]),
            (["exactly one"], ["verify", "--paper", "--synthetic"]),
            (["--paper", "gates"], ["verify", "--paper", "--threshold", 0.9]),
            (["--paper", "--norm"], ["verify", "--paper", "--bits", 3, "--norm", "corrected"]),
            (["--dim"], ["verify", "--synthetic", "--dim", 64, 128]),
            (["--bits"], ["verify", "--synthetic", "--bits", "3,4"]),
            (["--rows"], ["verify", "--paper", "--rows", 16383]),
            (["--max-attention-kl"], ["verify", "--synthetic", "--max-attention-kl", 1]),
            (["--min-attention-top1"], ["verify", "--synthetic", "--min-attention-top1", 0.5]),
        ):
            with self.subTest(args=args):
                self.refused(USAGE, words, *args)

    def test_empty_paths_and_stdout_are_no_output(self):
        dump = self.dump(layers=1, heads=1, tokens=1, dim=8)
        for path in ("", "-", "/dev/stdout"):
            for args in (["codebook", "--dim", 8, "--bits", 1], ["codebook", "--all"], ["pack-kv", dump]):
                if (args[1], path) == ("--all", "/dev/stdout"):
                    continue  # an odd name for a directory, but what is there decides
                with self.subTest(args=args, path=path):
                    self.refused(USAGE, [], *args, "-o", path)

    def test_every_command_refuses_an_empty_output(self):
        for args in (["pack-kv", "missing"], ["unpack-kv", "missing"], ["pack-weights", "missing"], ["unpack-weights", "missing"],
                     ["capture", "--model", "missing"], ["plan", "--kv", "missing", "--bytes-per-token", "100"], ["codebook", "--dim", "64"]):
            for output in (["-o", ""], ["--output="]):
                with self.subTest(args=args, output=output):
                    self.refused(USAGE, ["--output: a path is missing"], *args, *output)

    def test_an_option_given_twice(self):
        self.refused(USAGE, ["--dim"], "codebook", "--dim", 128, "--dim", 64, "--bits", 3)


class FullStdout(CliTest):
    def test_a_full_disk_is_no_success(self):
        dump = self.dump(layers=1, heads=1, tokens=4, dim=8)
        for args in (["codebook", "--dim", 8, "--bits", 3],
                     ["codebook", "--dim", 1024, "--bits", 8, "--format", "json"], ["inspect", dump],
                     ["inspect", dump, "--json"], ["pack-kv", dump, "-o", "x.tq3", "--dry-run"],
                     ["verify", "--kv", dump, "--quiet"], ["verify", "--kv", dump, "--json", "--quiet"],
                     ["verify", "--kv", dump, "--threshold", 1, "--quiet"], ["--help"], ["--version"],
                     ["verify", "--help"]):
            with self.subTest(args=args), open("/dev/full", "wb") as full:
                self.assertIn("stdout", self.tq(*args, code=COULD_NOT, stdout=full).stderr)

    def test_a_closed_stdout_is_no_full_disk(self):
        for args in (["codebook", "--dim", 8, "--bits", 3], ["--version"]):
            self.assertEqual(self.tq(*args, code=COULD_NOT, stdout=None, preexec_fn=lambda: os.close(1)).stderr,
                             "tq: cannot write to stdout\n")

    def test_messages_never_reach_stdout(self):
        dump = self.dump(layers=1, heads=1, tokens=4, dim=8)
        self.assertEqual(self.tq("pack-kv", dump, "-o", "x.tq3").stdout, "")
        self.assertEqual(self.tq("unpack-kv", "x.tq3", "-o", "y").stdout, "")
        done = self.tq("pack-kv", dump, "-o", "z.tq3", "--quiet")
        self.assertEqual((done.stdout, done.stderr), ("", ""))
        done = self.tq("unpack-kv", "z.tq3", "-o", "w", "--quiet")
        self.assertEqual((done.stdout, done.stderr), ("", ""))
        self.assertNotIn("\r", self.tq("verify", "--synthetic", "--layers", 1).stderr)


class Terminal(CliTest):
    def on_terminal(self, *args, env=None):
        """What a terminal at stderr gets."""
        master, slave = pty.openpty()
        process = subprocess.Popen([helpers.TQ, *map(str, args)], cwd=self.dir, stdout=subprocess.DEVNULL, stderr=slave,
                                   env={**os.environ, "NO_COLOR": "", **(env or {})})
        os.close(slave)
        said = b""
        try:
            while more := os.read(master, 4096):
                said += more
        except OSError:
            pass  # the other end is closed
        os.close(master)
        self.assertEqual(process.wait(), DONE)
        return said.decode()

    def commands(self):
        rows = helpers.Tensor("BF16", [4, 4000, 100], helpers.to_bytes("BF16", helpers.gauss(1, 16000)) * 100)
        dump = helpers.write_safetensors(self.path("dump"), {"k.0": rows, "v.0": rows})
        yield ["pack-kv", dump, "-o", "x.tq3", "--force"]
        yield ["unpack-kv", "x.tq3", "-o", "x", "--force"]
        yield ["verify", "--synthetic"]

    def test_the_bar_is_gone_before_anything_else_is_said(self):
        for args in self.commands():
            said = self.on_terminal(*args)
            for line in said.split("\n"):
                seen = line.rstrip("\r").split("\x1b[K")[-1].split("\r")[-1]  # what is left on the screen
                self.assertFalse("[" in seen and "%" in seen, f"{args}: the bar stays in {line!r}")

    def test_no_bar_if_quiet_or_without_color(self):
        for args in self.commands():
            self.assertNotIn("\x1b", self.on_terminal(*args, env={"NO_COLOR": "1"}))
            self.assertEqual(self.on_terminal(*args, "--quiet"), "")


class Conversions(CliTest):
    def test_a_number_that_is_none_is_told_what_the_option_takes(self):
        for value in ("-1", "99999999999", "two"):
            self.refused(USAGE, ["--seed", value, "0..2^32-1"], "unpack-kv", "in", "-o", "out", "--layout", "ar-slot",
                         "--dim", 128, "--heads", 1, "--bits", 4, "--seed", value)
        for value in ("x", "3.0", "3,"):
            self.refused(USAGE, ["--bits", value, "2, 3 or 4"], "pack-weights", "in", "-o", "out", "--bits", value)


if __name__ == "__main__":
    helpers.main()
