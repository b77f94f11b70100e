"""What the tests of pack-weights share: small models, their directories, and a slow decoder of native TQ3."""
import hashlib
import json
import math
import os
import shutil
import struct

from helpers import CliTest, Tensor, bf16_bits, read_safetensors, tensor, write_safetensors

PUBLISHED = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "weights")  # of the published converter
PACKED, NORMS = ".tq_packed", ".tq_norms"
WEIGHT = "model.layers.0.mlp.up_proj.weight"
EXPERTS = "model.layers.0.mlp.experts.down_proj"
CONFIG = {"model_type": "llama", "hidden_size": 192, "rms_norm_eps": 1e-06, "quantization_config": {"quant_method": "x"}}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def small_model(layers=2, dtype="BF16"):
    """A few tensors of each kind."""
    tensors = {"model.embed_tokens.weight": tensor([40, 192], 1, dtype), "lm_head.weight": tensor([40, 192], 2, dtype)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        tensors |= {f"{at}.mlp.up_proj.weight": tensor([160, 192], 10 * layer + 3, dtype),
                    f"{at}.mlp.down_proj.weight": tensor([192, 160], 10 * layer + 4, dtype),
                    f"{at}.self_attn.q_proj.weight": tensor([128, 256], 10 * layer + 5, dtype),
                    f"{at}.input_layernorm.weight": tensor([192], 10 * layer + 6, dtype)}
    return tensors


def golden_t1():
    """T1 of the reference's notes: 4 rows of 200 values."""
    values = [((131 * i + 71 * j + 17) % 257 - 128) / 1024 for i in range(4) for j in range(200)]
    return values, [4, 200]


def golden_t2():
    """T2: 8 rows of 256 values from a linear congruential generator."""
    state, values = 12345, []
    for _ in range(8 * 256):
        state = (state * 1664525 + 1013904223) % 2**32
        values.append(((state >> 16 & 255) - 128) / 4096)
    return values, [8, 256]


class WeightsTest(CliTest):
    def model(self, name="model", tensors=None, shards=1, config=CONFIG, files=None):
        """Writes a model's directory and returns its path."""
        tensors = tensors or small_model()
        directory = self.path(name)
        os.makedirs(directory, exist_ok=True)
        if shards == 1:
            write_safetensors(os.path.join(directory, "model.safetensors"), tensors, {"format": "pt"})
        else:
            self.write_shards(directory, tensors, shards)
        if config is not None:
            with open(os.path.join(directory, "config.json"), "w") as file:
                json.dump(config, file)
        for file_name, text in (files or {"tokenizer.json": "{}", "generation_config.json": "{}"}).items():
            with open(os.path.join(directory, file_name), "w") as file:
                file.write(text)
        return directory

    def write_shards(self, directory, tensors, count):
        names, weight_map = list(tensors), {}
        for k in range(count):
            part = names[k * len(names) // count:(k + 1) * len(names) // count]
            file_name = f"model-{k + 1:05d}-of-{count:05d}.safetensors"
            write_safetensors(os.path.join(directory, file_name), {n: tensors[n] for n in part}, {"format": "pt"})
            weight_map |= {n: file_name for n in part}
        with open(os.path.join(directory, "model.safetensors.index.json"), "w") as file:
            json.dump({"metadata": {}, "weight_map": weight_map}, file)

    def tree(self, name):
        """Every file of a directory, by name."""
        directory = self.path(name)
        return {f: self.read(os.path.join(name, f)) for f in sorted(os.listdir(directory))}

    def tensors(self, name):
        """All tensors of a checkpoint, whatever its files."""
        found = {}
        for file_name in sorted(os.listdir(self.path(name))):
            if file_name.endswith(".safetensors"):
                found |= read_safetensors(os.path.join(self.path(name), file_name))[0]
        return found

    def tq3_config(self, name):
        return json.loads(self.read(os.path.join(name, "tq_config.json")))

    def pack(self, model, *args, out="out", **options):
        return self.tq("pack-weights", model, "-o", out, "--quiet", *args, **options)

    def pack_json(self, model, *args, out="out", **options):
        return self.json("pack-weights", model, "-o", out, "--quiet", "--json", *args, **options)

    def remove(self, name):
        shutil.rmtree(self.path(name), ignore_errors=True)


class CheckpointTest(CliTest):
    """A test that edits checkpoints: one file in a directory each."""

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
        shutil.copytree(os.path.join(PUBLISHED, name), self.path(to))
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


def bf16_tensor(values, shape):
    return tensor_from_bits([bf16_bits(v) for v in values], shape)


def tensor_from_bits(bits, shape):
    return Tensor("BF16", shape, struct.pack(f"<{len(bits)}H", *bits))


# A decoder of native TQ3 at group size 128, from the published description.
SIGNS = ("2242d73f177cab01f6ba4affe75f6b65", "07d021a85ce6402438d201c5cbbf2514")  # bit 1: +1, lowest bit first
LEVELS = {2: (.040039923042058945, .13346640765666962),
          3: (.021663449704647064, .06682200729846954, .11878585070371628, .1902068555355072),
          4: (.011133652180433273, .03366998955607414, .05705346167087555, .08200152218341827, .10954663157463074,
              .14143800735473633, .18133202195167542, .24016323685646057)}


def decode_line(codes, norm, bits):
    """One group: 128 values."""
    number = int.from_bytes(codes, "little")
    levels = [-x for x in reversed(LEVELS[bits])] + list(LEVELS[bits])
    signs = [[1 if bytes.fromhex(text)[i // 8] >> i % 8 & 1 else -1 for i in range(128)] for text in SIGNS]
    t = [s * levels[number >> i * bits & (1 << bits) - 1] for i, s in enumerate(signs[1])]
    stride = 1
    while stride < 128:
        for i in range(128):
            if i & stride == 0:
                t[i], t[i + stride] = t[i] + t[i + stride], t[i] - t[i + stride]
        stride *= 2
    return [norm * s * x / math.sqrt(128) for s, x in zip(signs[0], t)]


def decode_row(tensors, name, row, bits, length):
    """A row of a quantized tensor: `length` values."""
    packed, norms = tensors[name + PACKED], tensors[name + NORMS]
    groups, size = norms.shape[1], packed.shape[1]
    lines = range(row * groups, (row + 1) * groups)
    return sum((decode_line(packed.data[i * size:(i + 1) * size], norms.values[i], bits) for i in lines), [])[:length]


def decode_tensor(packed, norms, in_dim, bits):
    """[rows][in_dim]"""
    rows, groups = norms.shape
    size = 16 * bits
    lines = [packed.data[i * size:(i + 1) * size] for i in range(rows * groups)]
    decoded = [decode_line(line, norm, bits) for line, norm in zip(lines, norms.values)]
    return [sum(decoded[r * groups:(r + 1) * groups], [])[:in_dim] for r in range(rows)]
