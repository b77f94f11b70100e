"""tq bench: what it prints, that the hash depends on rows and scheme alone, and what it refuses. No time is asserted."""
import datetime
import os
import re
import signal
import subprocess
import time

import helpers
from helpers import COULD_NOT, USAGE, CliTest

SMALL = ["--mb", 1, "--repeat", 1]


class Bench(CliTest):
    def bench(self, *args, **options):
        return self.json("bench", "--json", "--quiet", *SMALL, *args, **options)

    def test_json_says_what_was_run_where_and_when(self):
        report = self.bench("--threads", "1,2", "--dim", 96, "--bits", 3)
        self.assertEqual(report["schema_version"], 1)
        self.assertTrue(report["machine"]["cpu"].strip())
        self.assertGreaterEqual(report["machine"]["threads"], 1)
        then = datetime.datetime.strptime(report["date"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
        self.assertLess(abs(datetime.datetime.now(datetime.timezone.utc) - then), datetime.timedelta(minutes=10))
        self.assertEqual([(copy["threads"], copy["bytes"]) for copy in report["memcpy"]], [(1, 10**6), (2, 10**6)])
        self.assertEqual([(case["op"], case["threads"]) for case in report["cases"]],
                         [(op, threads) for op in ("encode", "decode", "compare") for threads in (1, 2)])
        for case in report["cases"]:
            self.assertEqual((case["dim"], case["bits"], case["dtype"]), (96, 3, "BF16"))
            self.assertEqual(case["rows"], 10**6 // (2 * 96))
            self.assertEqual(case["bytes"], case["rows"] * 2 * 96)
            self.assertIsNone(case["failure"])
            self.assertRegex(case["hash"], r"^[0-9a-f]{16}$")
            self.assertGreaterEqual(case["median_us"], case["min_us"])
            self.assertAlmostEqual(case["relative_mse"] / case["expected_mse"], 1, delta=0.02)

    def test_rates_follow_from_times_and_the_copy_of_as_many_threads(self):
        report = self.bench("--threads", "1,2", "--dim", 64, "--bits", 2)
        copies = {copy["threads"]: copy["gb_per_s"] for copy in report["memcpy"]}
        for item in report["memcpy"] + report["cases"]:
            self.assertAlmostEqual(item["gb_per_s"] * 1e9 * item["median_us"] * 1e-6 / item["bytes"], 1, places=6)
        for case in report["cases"]:
            self.assertAlmostEqual(case["of_memcpy"] * copies[case["threads"]] / case["gb_per_s"], 1, places=6)

    def test_the_hash_is_the_same_for_every_target_and_number_of_threads(self):
        report = self.bench("--target", "all", "--threads", "1,2,5", "--dim", "64,100", "--bits", "2,5")
        hashes, targets = {}, set()
        for case in report["cases"]:
            hashes.setdefault((case["op"], case["dim"], case["bits"]), set()).add(case["hash"])
            targets.add(case["target"])
        self.assertEqual(len(hashes), 3 * 2 * 2)
        for key, values in hashes.items():
            self.assertEqual(len(values), 1, key)
        self.assertEqual(len(set.union(*hashes.values())), 12, "two cases with one output")
        self.assertLess({"cpu/scalar"}, targets)
        again = self.bench("--op", "encode", "--threads", "3", "--dim", 100, "--bits", 5)
        self.assertEqual({case["hash"] for case in again["cases"]}, hashes["encode", 100, 5])

    def test_effort_of_encode_lowers_the_error_and_is_the_same_for_every_target(self):
        report = self.bench("--target", "all", "--threads", 1, "--dim", 64, "--bits", "3,4", "--effort", "0,1,2,3")
        errors = {}
        for case in report["cases"]:
            self.assertIsNone(case["failure"])
            if case["op"] == "encode":
                errors.setdefault((case["bits"], case["effort"]), set()).add((case["relative_mse"], case["hash"]))
            else:
                self.assertEqual(case["effort"], 0)
        self.assertEqual(sorted(errors), [(bits, effort) for bits in (3, 4) for effort in range(4)])
        for key, values in errors.items():
            self.assertEqual(len(values), 1, key)
        for bits in (3, 4):
            series = [min(errors[bits, effort])[0] for effort in range(4)]
            self.assertEqual(series, sorted(series, reverse=True))
            self.assertLess(series[1], 0.95 * series[0])
        self.refused(USAGE, "--effort", "bench", "--effort", "4")
        self.refused(USAGE, "least-squares", "bench", "--effort", "0,1", "--norm", "corrected")

    def test_the_norm_that_was_asked_for(self):
        cases = self.bench("--op", "encode", "--dim", 64, "--bits", 3, "--threads", 1, "--norm", "raw,corrected")["cases"]
        self.assertEqual([case["norm"] for case in cases], ["raw", "corrected"])
        self.assertNotEqual(cases[0]["hash"], cases[1]["hash"])
        self.refused(COULD_NOT, "no GPU", "bench", "--device", "cuda:99")
        self.refused(USAGE, ["--threads", "--device"], "bench", "--device", "cuda:99", "--threads", 2)
        self.refused(USAGE, ["--target", "--device"], "bench", "--device", "cuda:99", "--target", "auto")
        for device in ("gpu", "cuda:", "cuda:x", "cuda:-1"):
            self.refused(USAGE, "cuda:N", "bench", "--device", device)

    def test_weights_are_cases_of_native_tq3(self):
        cases = self.bench("--weights", "300x512", "--op", "encode", "--threads", 1, "--bits", "3,2")["cases"]
        self.assertEqual([(c["codebook"], c["norm"], c["bits"], c["dim"], c["bytes"]) for c in cases],
                         [(f"vj-d128-b{bits}", "corrected", bits, 128, 300 * 512 * 2) for bits in (3, 2)])
        groups = self.bench("--weights", "300x512", "--op", "decode", "--threads", 1, "--bits", 3, "--dim", "64,256", "--norm", "raw")
        self.assertEqual([(c["codebook"], c["norm"]) for c in groups["cases"]], [("vj-d64-b3", "raw"), ("vj-d256-b3", "raw")])
        self.assertIn("300x512 BF16 weights", self.tq("bench", "--weights", "300x512", "--op", "encode", "--bits", 3, "--threads", 1,
                                                      "--repeat", 1, "--quiet").stdout.splitlines()[0])
        for shape in ("", "300", "300x", "x512", "0x512", "300x512x1", "300x 512", "1000001x128", "-1x128", "1000000x1000000"):
            with self.subTest(shape=shape):
                self.refused(USAGE, ["--weights"], "bench", f"--weights={shape}")
        for options in (["--dim", 96], ["--dim", "64,100"], ["--bits", 5], ["--bits", 1]):
            with self.subTest(options=options):
                self.refused(USAGE, ["--weights"], "bench", "--weights", "300x512", *options)
        self.refused(USAGE, ["--weights", "whole"], "bench", "--weights", "300x500")

    def test_the_operation_that_was_asked_for(self):
        for op in ("encode", "decode", "compare"):
            cases = self.bench("--op", op, "--threads", 1, "--dim", 64, "--bits", "4,1")["cases"]
            self.assertEqual([(case["op"], case["bits"]) for case in cases], [(op, 4), (op, 1)])

    def test_one_target_and_the_one_that_the_environment_names(self):
        small = ["--op", "encode", "--threads", 1, "--dim", 64, "--bits", 2]
        for args, env in ((["--target", "scalar"], {}), ([], {"TQ_CPU": "scalar"})):
            self.assertEqual([case["target"] for case in self.bench(*small, *args, env=env)["cases"]], ["cpu/scalar"])

    def test_the_table(self):
        done = self.tq("bench", *SMALL, "--threads", "2,1,2", "--dim", 64, "--bits", 3)
        self.assertEqual(done.stderr, "")
        lines = done.stdout.splitlines()
        self.assertRegex(lines[0], r"^1\.00 MB of BF16 rows a case; GB/s")
        self.assertRegex(lines[1], r"^memcpy of as many bytes, 1 thread: [\d.]+ GB/s$")
        self.assertRegex(lines[2], r"^memcpy of as many bytes, 2 threads: [\d.]+ GB/s$")
        self.assertEqual(re.split(r" {2,}", lines[4].strip()),
                         ["op", "dim", "bits", "norm", "effort", "target", "threads", "GB/s", "of memcpy", "median us", "min us", "rel.MSE",
                          "hash"])
        rows = [line.split() for line in lines[5:]]
        self.assertEqual([(row[0], row[6]) for row in rows],
                         [(op, threads) for op in ("encode", "decode", "compare") for threads in "12"])
        for row in rows:
            self.assertEqual(row[1:3], ["64", "3"])
            self.assertEqual(len(row), 13)
            self.assertRegex(row[12], r"^[0-9a-f]{16}$")


class Refusals(CliTest):
    def test_values_just_out_of_range(self):
        for option, wrong in (("--dim", (7, 1025)), ("--bits", (0, 9)), ("--threads", (0, 1025)), ("--mb", (0, 16385)),
                              ("--repeat", (0, 1001)), ("--op", ("all,encode", "quantize")), ("--target", ("mmx",))):
            for value in (*wrong, "x", "", "1.5", "-1"):
                with self.subTest(option=option, value=value):
                    self.refused(USAGE, [option], "bench", f"{option}={value}")
        for option in ("--dim", "--bits", "--threads"):
            for value in ("8,x", "8;8", "8,0"):
                with self.subTest(option=option, value=value):
                    self.refused(USAGE, [option], "bench", f"{option}={value}")

    def test_surplus_words(self):
        self.refused(USAGE, ["surplus"], "bench", "surplus")
        self.refused(USAGE, ["128"], "bench", "--dim", 64, 128)

    def test_a_target_that_is_not_to_be_had(self):
        self.refused(COULD_NOT, ["mmx", "scalar"], "bench", *SMALL, env={"TQ_CPU": "mmx"})

    def test_a_full_disk_is_no_success(self):
        with open("/dev/full", "wb") as full:
            self.assertIn("stdout", self.tq("bench", *SMALL, "--op", "encode", "--dim", 64, "--bits", 2, code=COULD_NOT,
                                            stdout=full).stderr)

    def test_an_interrupt_ends_it_and_leaves_nothing(self):
        process = subprocess.Popen([helpers.TQ, "bench", "--repeat", "1000"], cwd=self.dir, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
        self.assertEqual((process.returncode, out, error), (-signal.SIGINT, b"", b""))
        self.assertEqual(os.listdir(self.dir), [])


if __name__ == "__main__":
    helpers.main()
