"""Decodes what tq pack-weights writes from the published description of native TQ3 alone, with numpy and safetensors, and
compares with the source. Nothing of tq's own keys or code is used.

    python3 tests/interop/test_tq3_numpy.py PATH_TO_TQ     (exit code 77: numpy or safetensors is not there, skipped)

The description: a group of group_size values w is stored as codes and a norm. Levels: Lloyd-Max of N(0, 1/group_size), 100
steps from the quantiles. Signs: the lowest bit of each output of MT19937 with seed 42, first s1, then s2. With H the
Walsh-Hadamard matrix in natural order, w = norm * s1 * H (s2 * level[code]) / sqrt(group_size).
"""
import json
import os
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import save_file
except ImportError as error:
    print(f"skipped: {error}; 'pip install numpy safetensors' runs this test")
    sys.exit(77)

TQ = os.path.abspath(sys.argv.pop(1))


def make_levels(bits, group_size):
    """Lloyd-Max levels as the published code has them; 2 bits are constants there."""
    sigma = 1 / np.sqrt(group_size)
    if bits == 2:
        return np.array([-1.51, -.453, .453, 1.51]) * sigma
    from statistics import NormalDist
    normal, count = NormalDist(), 1 << bits
    edges = np.array([normal.inv_cdf(i / count) for i in range(1, count)])
    for _ in range(100):
        bounds = [-np.inf, *edges, np.inf]
        density = [0.0 if np.isinf(b) else normal.pdf(b) for b in bounds]
        share = [0.0 if b == -np.inf else 1.0 if b == np.inf else normal.cdf(b) for b in bounds]
        levels = np.array([(density[i] - density[i + 1]) / (share[i + 1] - share[i]) for i in range(count)])
        edges = (levels[1:] + levels[:-1]) / 2
    return levels * sigma


def make_signs(group_size):
    generator = np.random.RandomState(42)  # MT19937 by init_genrand
    outputs = generator.randint(0, 2**32, size=2 * group_size, dtype=np.uint32)
    signs = (outputs & 1).astype(np.float64) * 2 - 1
    return signs[:group_size], signs[group_size:]


def transform(x):
    stride, size = 1, x.shape[-1]
    while stride < size:
        y = x.reshape(-1, size // (2 * stride), 2, stride)
        x = np.stack([y[:, :, 0] + y[:, :, 1], y[:, :, 0] - y[:, :, 1]], 2).reshape(-1, size)
        stride *= 2
    return x


def decode(packed, norms, bits, group_size, in_dim):
    codes = np.unpackbits(packed, axis=1, bitorder="little").reshape(-1, group_size, bits) @ (1 << np.arange(bits))
    s1, s2 = make_signs(group_size)
    rows = norms.reshape(-1, 1) * s1 * transform(s2 * make_levels(bits, group_size)[codes]) / np.sqrt(group_size)
    return rows.reshape(norms.shape[0], -1)[:, :in_dim]


def to_bf16(x):
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16)


class Interop(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.dir = directory.name
        generator = np.random.default_rng(1)
        self.source = {"model.layers.0.mlp.up_proj.weight": generator.standard_normal((96, 320)).astype(np.float32),
                       "model.layers.0.mlp.experts.down_proj": generator.standard_normal((3, 40, 256)).astype(np.float16),
                       "model.layers.0.self_attn.o_proj.weight": (0.02 * generator.standard_t(5, (128, 512))).astype(np.float32),
                       "model.norm.weight": generator.standard_normal(320).astype(np.float32)}
        os.mkdir(f"{self.dir}/model")
        save_file(self.source, f"{self.dir}/model/model.safetensors", {"format": "pt"})
        with open(f"{self.dir}/model/config.json", "w") as file:
            json.dump({"model_type": "llama"}, file)

    def read(self):
        with open(f"{self.dir}/out/tq_config.json") as file:
            config = json.load(file)
        tensors = {}
        for name in sorted(os.listdir(f"{self.dir}/out")):
            if name.endswith(".safetensors"):
                with safe_open(f"{self.dir}/out/{name}", "np") as file:
                    self.assertEqual(file.metadata()["format"], "pt")
                    tensors |= {key: file.get_tensor(key) for key in file.keys()}
        return config, tensors

    def test_every_width_and_group_size(self):
        expected = {2: .117, 3: .0345, 4: .0095}
        for group_size in (64, 128, 256):
            for bits in (2, 3, 4):
                options = ["--bits", str(bits), "--group-size", str(group_size), "--max-shard-size", "40KB", "--sensitive-bits", "4",
                           "--force", "--quiet"]
                subprocess.run([TQ, "pack-weights", f"{self.dir}/model", "-o", f"{self.dir}/out", *options], check=True,
                               capture_output=True)
                config, tensors = self.read()
                self.assertEqual((config["format"], config["bits"], config["group_size"]), ("tq3_native", bits, group_size))
                for name, values in self.source.items():
                    if name + ".tq_packed" not in tensors:
                        np.testing.assert_array_equal(tensors[name], values)
                        continue
                    sensitive = any(pattern in name for pattern in config["sensitive_patterns"])
                    width = config["sensitive_bits"] if sensitive else bits
                    rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
                    decoded = decode(tensors[name + ".tq_packed"], tensors[name + ".tq_norms"], width, group_size, rows.shape[1])
                    mse = np.sum((rows - decoded) ** 2) / np.sum(rows ** 2)
                    self.assertTrue(.85 * expected[width] < mse < 1.1 * expected[width], f"{name}, {width} bits, {group_size}: {mse}")
                    groups = -(-rows.shape[1] // group_size)
                    if rows.shape[1] % group_size == 0:  # the norm of every group is kept
                        before = np.linalg.norm(rows.reshape(-1, groups, group_size), axis=2)
                        after = np.linalg.norm(decoded.reshape(-1, groups, group_size), axis=2)
                        np.testing.assert_allclose(after, before, rtol=1e-5)

    def test_bf16_source(self):
        values = np.random.default_rng(2).standard_normal((64, 256)).astype(np.float32)
        bits = to_bf16(values)
        header = json.dumps({"a.weight": {"dtype": "BF16", "shape": [64, 256], "data_offsets": [0, bits.nbytes]}}).encode()
        with open(f"{self.dir}/model/model.safetensors", "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header + bits.tobytes())
        subprocess.run([TQ, "pack-weights", f"{self.dir}/model", "-o", f"{self.dir}/out", "--quiet"], check=True, capture_output=True)
        _, tensors = self.read()
        decoded = decode(tensors["a.weight.tq_packed"], tensors["a.weight.tq_norms"], 3, 128, 256)
        exact = (bits.astype(np.uint32) << 16).view(np.float32)
        self.assertTrue(.030 < np.sum((exact - decoded) ** 2) / np.sum(exact ** 2) < .038)


if __name__ == "__main__":
    unittest.main()
