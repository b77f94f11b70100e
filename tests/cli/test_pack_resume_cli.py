"""tq pack-weights --resume: ended at any point, the run goes on to the same bytes; anything that changed is refused by name."""
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
import unittest

import helpers
from helpers import COULD_NOT, tensor
from weights_helpers import WeightsTest

KILLED = -signal.SIGKILL
POINTS = ("journal-created", "shard-reserved", "block-written", "tensors-synced", "tensors-recorded", "companion-copied",
          "tq-config-written", "weights-in-place", "index-written", "config-written", "journal-removed")
OPTIONS = ("--max-shard-size", "30KB", "--keep-dtype", "f16")


def looks_complete(names):
    """What a loader asks for: the model's configuration beside its weights."""
    return "config.json" in names and any(n.endswith(".safetensors") for n in names)


class Resume(WeightsTest):
    def setUp(self):
        super().setUp()
        self.source = self.model(shards=2)
        self.pack(self.source, *OPTIONS, out="whole")
        self.whole = self.tree("whole")
        self.assertGreater(len(self.whole), 6)

    def check_resumed(self, *args):
        self.pack(self.source, *OPTIONS, "--resume", *args)
        self.assertEqual(self.tree("out"), self.whole)
        again = self.tq("pack-weights", self.source, "-o", "out", *OPTIONS, "--resume", *args)
        self.assertIn("is complete already", again.stderr)
        self.assertEqual(self.tree("out"), self.whole)

    def test_killed_at_each_write_point(self):
        for point in POINTS:
            for count in (1, 2, 5):
                with self.subTest(point=point, count=count):
                    self.remove("out")
                    done = subprocess.run([helpers.TQ, "pack-weights", self.source, "-o", self.path("out"), *OPTIONS, "--threads", "2"],
                                          env={**os.environ, "TQ_TEST_KILL_AT": f"{point}:{count}"}, capture_output=True, timeout=60)
                    self.assertIn(done.returncode, (KILLED, 0))  # a point may be passed less often
                    if count == 1:
                        self.assertEqual(done.returncode, KILLED, "the point was never passed")
                    if done.returncode == KILLED and point not in ("config-written", "journal-removed"):
                        self.assertFalse(looks_complete(os.listdir(self.path("out"))))
                        self.refused_run("--resume")
                    self.check_resumed()

    def refused_run(self, words):
        before = self.tree("out")
        if "tq-pack.journal" not in before or not before["tq-pack.journal"]:
            return
        self.refused(COULD_NOT, words, "pack-weights", self.source, "-o", "out", *OPTIONS)
        self.assertEqual(self.tree("out"), before)

    def test_killed_again_and_again(self):
        self.remove("out")
        for count in range(1, 8):
            subprocess.run([helpers.TQ, "pack-weights", self.source, "-o", self.path("out"), *OPTIONS, "--resume"],
                           env={**os.environ, "TQ_TEST_KILL_AT": "tensors-recorded:1"}, capture_output=True, timeout=60)
        self.check_resumed()

    def test_gates_judge_all_rows_of_what_an_earlier_run_finished(self):
        model = self.model("tall", {"model.layers.0.mlp.up_proj.weight": tensor([1024, 128], 3), "model.layers.1.mlp.up_proj.weight": tensor([1024, 128], 4)})
        whole = self.pack_json(model, "--max-rel-mse", 1, out="tall-whole")
        for earlier, again in ((["--max-rel-mse", "1"], 0), ([], 1)):
            with self.subTest(earlier=earlier):
                self.remove("tall-out")
                subprocess.run([helpers.TQ, "pack-weights", model, "-o", self.path("tall-out"), "--threads", "1", *earlier],
                               env={**os.environ, "TQ_TEST_KILL_AT": "tensors-recorded:1"}, capture_output=True, timeout=60)
                done = self.tq("pack-weights", model, "-o", "tall-out", "--resume", "--max-rel-mse", 1, "--json")
                report = json.loads(done.stdout)
                self.assertEqual("were packed again: an earlier run had checked a sample" in done.stderr, again == 1, done.stderr)
                self.assertEqual(report["tensors"], whole["tensors"])
                self.assertEqual(report["gates"], whole["gates"])
                self.assertEqual([t["rows_checked"] for t in report["tensors"]], [1024, 1024])
                self.assertEqual(report["warnings"], whole["warnings"])
                self.assertEqual(self.tree("tall-out"), self.tree("tall-whole"))

    def test_killed_at_random_moments(self):
        generator = random.Random(5)
        started = time.monotonic()
        self.remove("out")
        self.pack(self.source, *OPTIONS)
        usual = time.monotonic() - started
        for _ in range(10):
            self.remove("out")
            run = subprocess.Popen([helpers.TQ, "pack-weights", self.source, "-o", self.path("out"), *OPTIONS],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(generator.uniform(0, usual))
            run.kill()
            run.wait()
            self.check_resumed()

    def interrupt(self, point="tensors-recorded:2"):
        self.remove("out")
        done = subprocess.run([helpers.TQ, "pack-weights", self.source, "-o", self.path("out"), *OPTIONS, "--threads", "1"],
                              env={**os.environ, "TQ_TEST_KILL_AT": point}, capture_output=True, timeout=60)
        self.assertEqual(done.returncode, KILLED)

    def refuse_resume(self, words, *options):
        before = self.tree("out")
        self.refused(COULD_NOT, words, "pack-weights", self.source, "-o", "out", *(options or OPTIONS), "--resume")
        self.assertEqual(self.tree("out"), before)

    def test_what_changed_is_refused_by_name(self):
        self.interrupt()
        self.refuse_resume(["--bits", "was 3 and is 4"], *OPTIONS, "--bits", 4)
        self.refuse_resume("--keep-dtype", "--max-shard-size", "30KB")
        self.refuse_resume(["--skip", "x+"], *OPTIONS, "--skip", "x+")
        shard = os.path.join(self.source, "model-00002-of-00002.safetensors")
        with open(shard, "rb") as file:
            before, status = file.read(), os.stat(shard)
        os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        self.refuse_resume(["model-00002-of-00002.safetensors", "time"])
        with open(shard, "wb") as file:
            file.write(before.replace(b'"format": "pt"', b'"format": "np"'))
        os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
        self.refuse_resume(["model-00002-of-00002.safetensors", "header"])
        with open(shard, "wb") as file:
            file.write(before)
        os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
        with open(os.path.join(self.source, "vocab.txt"), "w"):
            pass
        self.refuse_resume(["vocab.txt", "new"])
        os.remove(os.path.join(self.source, "vocab.txt"))
        self.check_resumed()

    def test_a_finished_tensor_that_changed_is_refused_by_name(self):
        self.interrupt("companion-copied:1")  # all are finished
        name = next(n for n in sorted(os.listdir(self.path("out"))) if n.endswith(".tq-partial"))
        partial = self.path("out/" + name)
        with open(partial, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
        self.refuse_resume([name, "the finished tensor", "--force"])
        self.pack(self.source, *OPTIONS, "--force")
        self.assertEqual(self.tree("out"), self.whole)

    def test_a_source_that_changed_under_its_size_and_time_is_refused_by_name(self):
        self.interrupt("companion-copied:1")  # all are finished
        shard = os.path.join(self.source, "model-00002-of-00002.safetensors")
        with open(shard, "rb") as file:
            before, status = file.read(), os.stat(shard)
        name = list(helpers.read_safetensors(shard)[0])[-1]  # its last byte is the file's
        with open(shard, "wb") as file:
            file.write(before[:-1] + bytes([before[-1] ^ 1]))
        os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
        self.refuse_resume(["model-00002-of-00002.safetensors", name, "not what it was", "--force"])
        with open(shard, "wb") as file:
            file.write(before)
        os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
        self.check_resumed()

    def test_files_that_are_gone_are_packed_again_by_name(self):
        for point in ("companion-copied:1", "weights-in-place:2", "tensors-recorded:2"):
            self.interrupt(point)
            files = sorted(n for n in os.listdir(self.path("out")) if ".safetensors" in n)
            for lost in (files[:1], files[-1:], files[:1] + files[2:3]):
                with self.subTest(point=point, lost=lost):
                    self.interrupt(point)
                    for name in lost:
                        os.remove(self.path("out/" + name))
                    done = self.tq("pack-weights", self.source, "-o", "out", *OPTIONS, "--resume")
                    self.assertEqual(self.tree("out"), self.whole)
                    if "recorded" not in point:
                        for name in lost:
                            self.assertIn(name.removesuffix(".tq-partial") + ": was gone", done.stderr)

    def test_a_file_that_is_gone_and_a_kill_while_it_is_packed_again(self):
        self.interrupt("companion-copied:1")
        name = next(n for n in sorted(os.listdir(self.path("out"))) if n.endswith(".tq-partial"))
        for point in ("shard-reserved", "block-written", "tensors-recorded"):
            os.remove(self.path("out/" + name))
            subprocess.run([helpers.TQ, "pack-weights", self.source, "-o", self.path("out"), *OPTIONS, "--resume"],
                           env={**os.environ, "TQ_TEST_KILL_AT": point + ":1"}, capture_output=True, timeout=60)
        with open(self.path("out/" + name), "ab") as file:
            file.truncate(100)
        self.check_resumed()

    def test_a_complete_result_of_other_options_is_refused_by_the_option(self):
        self.remove("out")
        self.pack(self.source, *OPTIONS)
        self.refuse_resume(["--bits", "was 3 and is 2", "--force"], *OPTIONS, "--bits", 2)
        self.refuse_resume(["--keep-dtype", '"f16"', '"same"'], *OPTIONS[:2])
        self.refuse_resume(["--skip", "x+"], *OPTIONS, "--skip", "x+")
        with open(os.path.join(self.source, "tokenizer.json"), "w") as file:
            file.write("{    }")
        self.refuse_resume(["tokenizer.json", "size"])

    def test_force_starts_again_and_an_earlier_result_stays_until_the_end(self):
        self.interrupt()
        self.pack(self.source, *OPTIONS, "--force")
        self.assertEqual(self.tree("out"), self.whole)
        for point in ("tensors-recorded:2", "weights-in-place:1"):
            self.remove("out")
            shutil.copytree(self.path("whole"), self.path("out"))
            subprocess.run([helpers.TQ, "pack-weights", self.source, "-o", self.path("out"), "--force", "--bits", "4"],
                           env={**os.environ, "TQ_TEST_KILL_AT": point.replace(":2", ":1")}, capture_output=True, timeout=60)
            if "recorded" in point:
                self.assertLessEqual(set(self.whole.items()), set(self.tree("out").items()))
            else:
                self.assertFalse(looks_complete(os.listdir(self.path("out"))))
            self.pack(self.source, "--bits", 4, "--resume")
            self.remove("four")
            self.pack(self.source, "--bits", 4, out="four")
            self.assertEqual(self.tree("out"), self.tree("four"))

    def test_no_room_and_limits_leave_a_run_that_goes_on(self):
        for limit in (20_000, 1_500):  # too small for a file of weights; too small for the journal
            self.remove("out")
            done = self.tq("pack-weights", self.source, "-o", "out", *OPTIONS, code=COULD_NOT,
                           preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)))
            self.assertEqual(done.stdout, "")
            self.assertFalse(looks_complete(os.listdir(self.path("out"))))
            self.check_resumed()

    def test_a_read_only_output_directory(self):
        if os.geteuid() == 0:
            os.mkdir(self.path("file"))
            self.refused(COULD_NOT, "cannot be made", "pack-weights", self.source, "-o", "/proc/none", *OPTIONS)
            self.skipTest("root may write everywhere")
        os.mkdir(self.path("locked"), 0o500)
        self.refused(COULD_NOT, "locked", "pack-weights", self.source, "-o", "locked", *OPTIONS)

    def test_resume_begins_a_run_where_there_is_none(self):
        self.remove("out")
        self.check_resumed()


class RefusedValues(WeightsTest):
    """A value that can never be packed leaves nothing behind; resume could not go on."""

    def bad_model(self):
        tensors = {f"a{i}.weight": helpers.tensor([8, 128], i + 1) for i in range(4)}
        tensors["b.weight"] = helpers.tensor_of([8, 128], [1.0] * 1023 + [float("nan")], "BF16")
        return self.model(tensors=tensors, shards=5)

    def refuse_nan(self, *args):
        done = self.tq("pack-weights", self.path("model"), "-o", "out", "--quiet", *args, code=COULD_NOT)
        self.assertIn("NaN", done.stderr.splitlines()[-1])

    def test_nothing_is_left(self):
        self.bad_model()
        self.refuse_nan("--threads", 1)
        self.assertFalse(os.path.exists(self.path("out")), "the directory that the run made")
        os.mkdir(self.path("out"))
        self.refuse_nan("--threads", 2)
        self.assertEqual(os.listdir(self.path("out")), [])
        self.refuse_nan("--shard", "5/5")
        self.assertEqual(os.listdir(self.path("out")), [])

    def test_nothing_of_an_earlier_attempt_is_left(self):
        self.bad_model()
        subprocess.run([helpers.TQ, "pack-weights", self.path("model"), "-o", self.path("out"), "--threads", "1"],
                       env={**os.environ, "TQ_TEST_KILL_AT": "tensors-recorded:1"}, capture_output=True, timeout=60)
        self.assertIn("tq-pack.journal", os.listdir(self.path("out")))
        self.refuse_nan("--resume")
        self.assertEqual(os.listdir(self.path("out")), [])
        subprocess.run([helpers.TQ, "pack-weights", self.path("model"), "-o", self.path("out"), "--max-shard-size", "1KB"],
                       env={**os.environ, "TQ_TEST_KILL_AT": "shard-reserved:3"}, capture_output=True, timeout=60)
        self.refuse_nan("--force")  # files of other names
        self.assertEqual(os.listdir(self.path("out")), [])

    def test_what_was_there_and_other_parts_stay(self):
        good = self.model("good")
        self.pack(good)
        before = self.tree("out")
        self.bad_model()
        self.refuse_nan("--force")
        self.assertEqual(self.tree("out"), before)
        self.remove("out")
        self.pack("model", "--shard", "1/5")
        before = self.tree("out")
        self.refuse_nan("--shard", "5/5")
        self.assertEqual(self.tree("out"), before)

    def test_a_value_beyond_f16(self):
        self.model(tensors={"a.weight": helpers.tensor([8, 128], 1), "n.norm": helpers.tensor_of([2], [1.0, 1e6])})
        self.tq("pack-weights", "model", "-o", "out", "--keep-dtype", "f16", code=COULD_NOT)
        self.assertFalse(os.path.exists(self.path("out")))


class Memory(WeightsTest):
    @unittest.skipIf("TQ_TEST_REDUCED" in os.environ, "sanitizers need memory of their own")
    def test_a_tensor_larger_than_the_memory_that_is_used(self):
        shape, size = [64, 4096, 512], 64 * 4096 * 512 * 2
        directory = self.model()
        path = os.path.join(directory, "model.safetensors")
        header = ('{"experts.w":{"dtype":"BF16","shape":%s,"data_offsets":[0,%d]}}' % (shape, size)).encode()
        helpers.write_raw(path, header, b"")
        os.truncate(path, 8 + len(header) + size)  # a hole: zeros
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        self.pack(directory, "--threads", 4)
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        self.assertLess(max(used, before), 100_000, "kilobytes")


if __name__ == "__main__":
    helpers.main()
