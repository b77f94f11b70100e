"""What the tests of native TQ3 checkpoints share: directories of models, written and edited."""
import json
import os
import shutil

from helpers import CliTest, Tensor, read_safetensors, tensor, write_safetensors

WEIGHTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "weights")
PACKED, NORMS = ".tq_packed", ".tq_norms"
WEIGHT = "model.layers.0.mlp.up_proj.weight"
EXPERTS = "model.layers.0.mlp.experts.down_proj"


class Directory(CliTest):
    """A test that edits checkpoints in directories."""

    def read_model(self, name):
        return read_safetensors(os.path.join(name if os.path.isabs(name) else self.path(name), "model.safetensors"))

    def write_model(self, name, tensors, **files):
        os.makedirs(self.path(name), exist_ok=True)
        write_safetensors(os.path.join(self.path(name), "model.safetensors"), tensors)
        for file, content in files.items():
            with open(os.path.join(self.path(name), file + ".json"), "w") as out:
                json.dump(content, out)
        return self.path(name)

    def copy_published(self, name, to="broken"):
        shutil.rmtree(self.path(to), ignore_errors=True)
        shutil.copytree(os.path.join(WEIGHTS, name), self.path(to))
        return self.path(to)

    def model(self, name="model", scale=1.0, seed=1):
        tensors = {WEIGHT: tensor([24, 192], seed, "BF16", 0.1 * scale),
                   EXPERTS: tensor([3, 5, 256], seed + 1, "F16"),
                   "model.embed_tokens.weight": tensor([10, 192], seed + 2, "BF16"),
                   "model.norm.weight": tensor([192], seed + 3, "F32"),
                   "counts": Tensor("U8", [3], b"\1\2\3")}
        self.write_model(name, tensors, config={"hidden_size": 192, "torch_dtype": "bfloat16"}, tokenizer={"version": "1.0"})
        return tensors

    def pack(self, to="packed", *args, model="model"):
        self.tq("pack-weights", model, "-o", to, "--quiet", *args)
        return to
