"""tq pack-weights --shard K/N and tq merge-shards: N processes make what one makes."""
import os
import subprocess

import helpers
from helpers import COULD_NOT, DONE
from weights_helpers import WeightsTest, small_model


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
        self.refused(COULD_NOT, "holds no parts", "merge-shards", "out")

    def test_where_files_end_at_the_borders_of_parts_all_is_equal(self):
        self.pack(self.source, "--max-shard-size", "1KB", out="whole")  # a file a tensor
        for part in ("2/2", "1/2"):
            self.pack_part(part, "--max-shard-size", "1KB")
        self.tq("merge-shards", "out", "--quiet")
        self.assertEqual(self.tree("out"), self.tree("whole"))

    def test_missing_and_unfinished_parts_are_named(self):
        self.refused(COULD_NOT, "none", "merge-shards", "none")
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
        self.pack_part("2/2", "--bits", 4)
        self.refused(COULD_NOT, ["--bits", "was 4 and is 3"], "merge-shards", "out")
        self.pack_part("2/2", "--force")
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
