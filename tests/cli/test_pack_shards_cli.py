"""tq pack-weights --shard K/N and tq merge-shards: N processes make what one makes."""
import os
import re
import subprocess

import helpers
from helpers import COULD_NOT, DONE
from weights_helpers import PUBLISHED, WeightsTest, small_model


class Shards(WeightsTest):
    def setUp(self):
        super().setUp()
        self.source = self.model(tensors=small_model(4), shards=4)

    def pack_part(self, part, *args, code=DONE, out="out", **options):
        return self.tq("pack-weights", self.source, "-o", out, "--quiet", "--shard", part, *args, code=code, **options)

    def test_parts_at_once_make_the_tensors_of_one_run(self):
        self.pack(self.source, out="whole")
        runs = [subprocess.Popen([helpers.TQ, "pack-weights", self.source, "-o", self.path("out"), "--shard", f"{k}/4", "--threads", "1"],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for k in (1, 2, 3, 4)]
        self.assertEqual([run.wait() for run in runs], [0] * 4)
        names = os.listdir(self.path("out"))
        self.assertFalse([n for n in names if n.endswith((".safetensors", ".json"))], "it looks complete")
        merged = self.json("merge-shards", "out", "--json")
        self.assertEqual((merged["parts"], merged["shards"], merged["complete"]), (4, 4, True))
        self.assertEqual(self.tensors("out"), self.tensors("whole"))
        self.assertEqual([n for n in self.tree("out") if "journal" in n or "partial" in n], [])
        self.assertEqual(self.tq3_config("whole"), self.tq3_config("out"))
        before = self.tree("out")
        for _ in range(2):  # a merge that is repeated checks, and changes nothing
            again = self.json("merge-shards", "out", "--json")
            self.assertEqual((again["complete"], again["was_complete"], again["shards"], again["parts"]), (True, True, 4, None))
            self.assertEqual(again["shard_bytes"], merged["shard_bytes"])
            self.assertEqual(self.tree("out"), before)
        self.assertIn("is complete already", self.tq("merge-shards", "out").stderr)
        name = next(n for n in before if n.endswith(".safetensors"))
        with open(self.path("out/" + name), "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(bytes([before[name][-1] ^ 1]))
        self.refused(COULD_NOT, [name, "XXH64"], "merge-shards", "out")

    def test_the_slurm_script_packs_a_model_with_the_tasks_of_an_array(self):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "pack-weights.sbatch")
        os.mkdir(self.path("bin"))
        for name, text in (("srun", 'exec "$@"'), ("tq", f"exec '{helpers.TQ}' \"$@\"")):  # what a node of a cluster has
            with open(self.path("bin/" + name), "w") as file:
                file.write(f"#!/bin/sh\n{text}\n")
            os.chmod(self.path("bin/" + name), 0o755)
        env = {**os.environ, "PATH": self.path("bin") + os.pathsep + os.environ["PATH"], "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_CPUS_PER_TASK": "2"}
        args = ["bash", script, self.source, self.path("out"), "--bits", "4"]
        first = subprocess.run(args, env={**env, "SLURM_ARRAY_TASK_ID": "1", "TQ_TEST_KILL_AT": "tensors-recorded:1"}, timeout=60)
        self.assertNotEqual(first.returncode, 0)  # killed, and queued again below
        tasks = [subprocess.Popen(args, env={**env, "SLURM_ARRAY_TASK_ID": str(k)}, stdout=subprocess.DEVNULL) for k in (1, 2, 3)]
        self.assertEqual([task.wait(timeout=60) for task in tasks], [0] * 3)
        self.tq("merge-shards", "out")
        self.pack(self.source, "--bits", 4, out="whole")
        self.assertEqual(self.tensors("out"), self.tensors("whole"))
        alone = subprocess.run(args, env=env, capture_output=True, text=True, timeout=60)
        self.assertIn("sbatch --array=1-N", alone.stderr)
        self.assertNotEqual(alone.returncode, 0)

    def test_what_is_neither_parts_nor_a_whole_cannot_be_merged(self):
        os.mkdir(self.path("empty"))
        self.refused(COULD_NOT, "holds no parts", "merge-shards", "empty")
        self.refused(COULD_NOT, "not written by tq", "merge-shards", os.path.join(PUBLISHED, "llama-3bit"))

    def test_the_report_of_a_part_is_its_own(self):
        whole = self.pack_json(self.source, "--dry-run")
        parts = [self.pack_json(self.source, "--shard", f"{k}/4", "--dry-run") for k in (1, 2, 3, 4)]
        for k, planned in enumerate(parts, 1):
            done = self.pack_json(self.source, "--shard", f"{k}/4")
            self.assertEqual((done["part"], done["parts"], done["complete"]), (k, 4, False))
            for key in ("source_bytes", "tensor_bytes", "bytes", "files", "part", "parts"):
                self.assertEqual(done[key], planned[key], key)
            self.assertEqual([f["name"] for f in done["files"]], [f"model-{k:05d}-of-00004.safetensors"])
            self.assertEqual(done["bytes"], os.path.getsize(self.path(f"out/model-{k:05d}-of-00004.safetensors.tq-partial")))
            self.assertEqual(done["source_bytes"], done["speed"]["bytes_read"])
            self.assertEqual(done["tensor_bytes"], done["speed"]["bytes_written"])
            self.assertEqual({t["part"] for t in done["tensors"]}, {k})
        for key in ("source_bytes", "tensor_bytes"):
            self.assertEqual(sum(part[key] for part in parts), whole[key], key)
        done = self.tq("pack-weights", self.source, "-o", "again", "--shard", "2/4")
        self.assertIn("part 2 of 4: ", done.stderr)
        self.assertNotIn("model-00001", done.stdout)

    def test_where_files_end_at_the_borders_of_parts_all_is_equal(self):
        self.pack(self.source, "--max-shard-size", "1KB", out="whole")  # a file a tensor
        for part in ("2/2", "1/2"):
            self.pack_part(part, "--max-shard-size", "1KB")
        self.tq("merge-shards", "out", "--quiet")
        self.assertEqual(self.tree("out"), self.tree("whole"))

    def test_missing_and_unfinished_parts_are_named(self):
        self.refused(COULD_NOT, ["none", "name the directory that the parts were packed into"], "merge-shards", "none")
        self.pack_part("1/4")
        self.pack_part("3/4")
        env = {**os.environ, "TQ_TEST_KILL_AT": "tensors-recorded:1"}
        subprocess.run([helpers.TQ, "pack-weights", self.source, "-o", self.path("out"), "--shard", "4/4"], env=env, capture_output=True)
        self.refused(COULD_NOT, ["unfinished parts of 4: 2 (0 of", ", 4 ("], "merge-shards", "out")
        self.pack_part("2/4")
        self.pack_part("4/4", "--resume")
        self.pack_part("3/4", "--resume")  # done already: nothing to do
        self.tq("merge-shards", "out")

    def test_parts_of_different_runs_do_not_mix(self):
        self.pack_part("1/2")
        self.refused(COULD_NOT, ["unfinished run in 2 parts"], "pack-weights", self.source, "-o", "out", "--shard", "1/3", "--force")
        self.refused(COULD_NOT, ["unfinished run in 2 parts"], "pack-weights", self.source, "-o", "out")
        self.refused(COULD_NOT, ["--resume", "--force"], "pack-weights", self.source, "-o", "out", "--shard", "1/2")
        before = self.tree("out")
        for option, value, words in (("--bits", 4, "was 3 and is 4"), ("--group-size", 64, "was 128"), ("--keep-dtype", "f16", '"same"'),
                                     ("--effort", 1, "was 0"), ("--skip", "x", "[]")):
            self.refused(COULD_NOT, ["part 1 of 2", option, words], "pack-weights", self.source, "-o", "out", "--shard", "2/2",
                         option, value)
            self.assertEqual(self.tree("out"), before)
        self.pack_part("2/2", "--bits", 4, "--force")
        self.refused(COULD_NOT, ["parts 1 and 2 of 2", "--bits is 3 in part 1 and 4 in part 2"], "merge-shards", "out")
        self.pack_part("2/2", "--force")
        self.tq("merge-shards", "out")

    def test_parts_of_another_version_of_tq_do_not_mix(self):
        self.pack_part("1/2")
        journal = self.path("out/tq-pack-00001-of-00002.journal")
        with open(journal, "rb") as file:
            first, rest = file.read().split(b"\n", 1)
        old = re.sub(rb'"version of tq":"[^"]*"', b'"version of tq":"0.0.1"', first[17:])
        self.assertNotEqual(old, first[17:])
        with open(journal, "wb") as file:
            file.write(f"{helpers.xxh64(old):016x} ".encode() + old + b"\n" + rest)
        self.refused(COULD_NOT, ["part 1 of 2", "version of tq", "0.0.1"], "pack-weights", self.source, "-o", "out", "--shard", "2/2")
        self.pack_part("2/2", "--force")
        self.refused(COULD_NOT, ["parts 1 and 2 of 2", "version of tq", "0.0.1"], "merge-shards", "out")

    def test_a_file_of_a_part_that_is_gone_is_named_with_its_part(self):
        for part in ("1/2", "2/2"):
            self.pack_part(part)
        os.remove(self.path("out/model-00002-of-00002.safetensors.tq-partial"))
        self.refused(COULD_NOT, ["model-00002-of-00002.safetensors", "is gone", "--shard 2/2 --resume"], "merge-shards", "out")
        self.pack_part("2/2", "--resume")
        self.tq("merge-shards", "out")

    def test_a_damaged_part_is_named(self):
        for part in ("1/2", "2/2"):
            self.pack_part(part)
        name = "model-00002-of-00002.safetensors.tq-partial"
        with open(self.path("out/" + name), "r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
        self.refused(COULD_NOT, [name, "the finished tensor"], "merge-shards", "out")
        self.pack_part("2/2", "--force")
        self.tq("merge-shards", "out")

    def test_more_parts_than_files(self):
        for k in range(1, 7):
            self.pack_part(f"{k}/6")
        self.tq("merge-shards", "out")
        self.assertEqual(len([n for n in self.tree("out") if n.endswith(".safetensors")]), 4)

    def test_a_merge_that_was_killed_goes_on(self):
        for part in ("1/2", "2/2"):
            self.pack_part(part, out="parts")
        self.remove("whole")
        for point in ("companion-copied", "tq-config-written", "weights-in-place", "index-written", "config-written", "journal-removed"):
            with self.subTest(point=point):
                self.remove("out")
                subprocess.run(["cp", "-r", self.path("parts"), self.path("out")], check=True)
                done = subprocess.run([helpers.TQ, "merge-shards", self.path("out")], capture_output=True,
                                      env={**os.environ, "TQ_TEST_KILL_AT": point + ":1"})
                self.assertLess(done.returncode, 0)
                self.tq("merge-shards", "out")
                if not os.path.exists(self.path("whole")):
                    os.rename(self.path("out"), self.path("whole"))
                else:
                    self.assertEqual(self.tree("out"), self.tree("whole"))


if __name__ == "__main__":
    helpers.main()
