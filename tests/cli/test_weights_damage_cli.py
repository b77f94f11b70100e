"""Damaged and inconsistent native TQ3 checkpoints: exit 3 and one line that says what and where, whatever reads them."""
import json
import os
import shutil

import helpers
from helpers import COULD_NOT, Tensor, read_safetensors, tensor, tensor_of, write_safetensors, xxh64
from weights_helpers import NORMS, PACKED, PUBLISHED, CheckpointTest


class Damage(CheckpointTest):
    """Each of these is one line and exit 3, whatever reads it."""

    def check(self, words, name="broken"):
        for command in (["inspect", name], ["unpack-weights", name, "-o", "out"],
                        ["verify", "--weights", name, "--against", os.path.join(PUBLISHED, "llama")],
                        ["diff", "--quiet", name, os.path.join(PUBLISHED, "llama")]):
            with self.subTest(command=command[0], words=words):
                self.refused(COULD_NOT, words, *command)

    def edit(self, change):
        path = self.copy_published("llama-3bit")
        tensors, _ = self.read_model(path)
        change(tensors)
        write_safetensors(os.path.join(path, "model.safetensors"), tensors)

    def edit_config(self, **changes):
        path = self.copy_published("llama-3bit")
        with open(os.path.join(path, "tq_config.json")) as file:
            config = json.load(file)
        config.update(changes)
        with open(os.path.join(path, "tq_config.json"), "w") as file:
            json.dump({k: v for k, v in config.items() if v is not None}, file)

    K = "model.layers.0.self_attn.k_proj.weight"

    def test_tensors_that_do_not_fit(self):
        def replace(name, t):
            self.edit(lambda tensors: tensors.update({name: t}))
        self.edit(lambda tensors: tensors.pop(self.K + NORMS))
        self.check(["k_proj", "no norms"])
        self.edit(lambda tensors: tensors.pop(self.K + PACKED))
        self.check(["k_proj", "no codes"])
        replace(self.K + PACKED, Tensor("U8", [192, 47], bytes(192 * 47)))
        self.check(["k_proj", "9024 bytes"])
        replace(self.K + PACKED, Tensor("U8", [191, 48], bytes(191 * 48)))
        self.check(["k_proj", "9168 bytes"])
        replace(self.K + NORMS, Tensor("F32", [192], bytes(192 * 4)))
        self.check(["k_proj", "[rows, groups]"])
        replace(self.K + NORMS, Tensor("F16", [96, 2], bytes(192 * 2)))
        self.check(["k_proj", "F32"])
        replace(self.K + NORMS, Tensor("F32", [64, 3], bytes(192 * 4)))
        self.check(["k_proj", "3 groups", "config.json"])

    def test_norms_that_are_no_norms(self):
        for value, word in ((float("nan"), "nan"), (float("inf"), "inf"), (-1.0, "-1")):
            norms = [1.0] * 192
            norms[131] = value
            self.edit(lambda tensors: tensors.update({self.K + NORMS: tensor_of([96, 2], norms)}))
            words = ["k_proj", "row 65, group 1", word]
            self.refused(COULD_NOT, words, "unpack-weights", "broken", "-o", "out")
            self.refused(COULD_NOT, words, "verify", "--weights", "broken", "--against", os.path.join(PUBLISHED, "llama"))
            self.refused(COULD_NOT, words, "diff", "--quiet", "broken", os.path.join(PUBLISHED, "llama"))

    def test_configurations(self):
        self.edit_config(bits=4)
        self.check(["k_proj", "4 bits"])
        self.edit_config(bits=5)
        self.check(["bits", "tq_config.json"])
        self.edit_config(group_size=100)
        self.check(["group_size"])
        self.edit_config(format="tq4")
        self.check(["format", "tq4"])
        self.edit_config(bits=None)
        self.check(["bits"])
        with open(os.path.join(self.path("broken"), "tq_config.json"), "w") as file:
            file.write("{")
        self.check(["tq_config.json", "JSON"])

    def test_a_config_that_does_not_tell_the_shapes(self):
        path = self.copy_published("llama-3bit")
        for config, words in (({"hidden_size": 500}, ["config.json", "groups"]),
                              ({"hidden_size": 130, "intermediate_size": 320}, ["config.json", "padding"]),
                              ({"hidden_size": 250, "intermediate_size": 320}, ["config.json", "padding"]),
                              ([], ["config.json"])):
            with open(os.path.join(path, "config.json"), "w") as file:
                json.dump(config, file)
            self.check(words)
        os.remove(os.path.join(path, "config.json"))
        self.check(["config.json"])

    def test_truncated_and_missing_files(self):
        path = self.copy_published("llama-3bit")
        file = os.path.join(path, "model.safetensors")
        size = os.path.getsize(file)
        for length in (0, 7, 8, 100, 2000, size // 2, size - 1):
            shutil.copyfile(os.path.join(PUBLISHED, "llama-3bit/model.safetensors"), file)
            os.truncate(file, length)
            self.check(["model.safetensors"])
        os.remove(file)
        self.check(["model.safetensors"])
        with open(os.path.join(path, "model.safetensors.index.json"), "w") as out:
            json.dump({"weight_map": {self.K + PACKED: "model-00001-of-00002.safetensors"}}, out)
        self.check(["model-00001-of-00002.safetensors", "missing"])

    def test_own_checkpoints_carry_hashes_and_shapes(self):
        self.model()
        self.pack()
        data = self.read("packed/model.safetensors")
        flipped = bytearray(data)
        flipped[-5] ^= 1
        with open(self.path("packed/model.safetensors"), "wb") as file:
            file.write(flipped)
        for command in (["inspect", "packed"], ["unpack-weights", "packed", "-o", "out"], ["diff", "--quiet", "packed", "model"],
                        ["verify", "--weights", "packed", "--against", "model"]):
            self.refused(COULD_NOT, ["XXH64", "damaged"], *command)
        with open(self.path("packed/model.safetensors"), "wb") as file:
            file.write(data)

    def test_own_configurations_carry_a_hash(self):
        self.model()
        self.pack()
        text = self.read("packed/tq_config.json").decode()
        own = json.loads(text)["tq"]
        del own["xxh64"]
        line = json.dumps(own, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self.assertIn(f'"xxh64": "{xxh64(line.encode()):016x}"', text)
        # A length with the same number of groups, which nothing else would notice, and what has its own words when it is hashed anew.
        for old, new, edited, hashed in (("  192\n", "  200\n", "XXH64", None), ('"counts"', '"other"', "XXH64", "counts"),
                                         ("  192\n", "  300\n", "XXH64", "shape"), ('"BF16"', '"BF17"', "BF17", "BF17")):
            self.assertIn(old, text)
            config = json.loads(text.replace(old, new))
            for words in (edited, hashed):
                if words is None:
                    continue
                with open(self.path("packed/tq_config.json"), "w") as file:
                    json.dump(config, file)
                for command in (["inspect", "packed"], ["unpack-weights", "packed", "-o", "out"],
                                ["verify", "--weights", "packed", "--against", "model"]):
                    self.refused(COULD_NOT, ["tq_config.json" if words == "XXH64" else "packed", words], *command)
                del config["tq"]["xxh64"]
                line = json.dumps(config["tq"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
                config["tq"]["xxh64"] = f"{xxh64(line.encode()):016x}"

    def test_verify_needs_the_same_tensors(self):
        source, _ = self.read_model(os.path.join(PUBLISHED, "llama"))
        packed = os.path.join(PUBLISHED, "llama-3bit")
        for change, words in (({self.K: None}, ["no tensor", "k_proj"]), ({"more": tensor([3], 1)}, ["no tensor", "more"]),
                              ({self.K: tensor([192, 96], 1)}, ["k_proj", "[192, 96]", "[96, 192]"])):
            tensors = {n: t for n, t in {**source, **change}.items() if t is not None}
            self.write_model("other", tensors)
            self.refused(COULD_NOT, words, "verify", "--weights", packed, "--against", "other")
        values = list(source[self.K].values)
        values[1000] = float("nan")
        self.write_model("other", {**source, self.K: tensor_of([96, 192], values, "BF16")})
        self.refused(COULD_NOT, ["k_proj", "NaN"], "verify", "--weights", packed, "--against", "other")
        self.refused(COULD_NOT, ["tq diff"], "verify", "--weights", "other", "--against", "other")


if __name__ == "__main__":
    helpers.main()
