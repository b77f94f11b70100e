"""tq capture and tq verify --model: what they must not overwrite, must not measure, and say before they run."""
import json
import os
import shutil
import struct

import helpers
from helpers import COULD_NOT, DONE, USAGE, Tensor, read_safetensors, write_safetensors
from test_model_cli import ModelTest, fixture

TOKENIZERS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tokenizer")


class GuardTest(ModelTest):
    def write_tokenizer(self, directory):
        """One that has the printable characters of ASCII as tokens, and no merges."""
        pieces = {chr(c): i for i, c in enumerate(range(32, 127))}
        with open(os.path.join(directory, "tokenizer.json"), "w", encoding="utf-8") as file:
            json.dump({"model": {"type": "BPE", "vocab": pieces, "merges": []}}, file)


class Outputs(GuardTest):
    def test_a_file_that_is_read_is_not_overwritten(self):
        directory = self.model("llama")
        shutil.copy(os.path.join(TOKENIZERS, "llama3", "tokenizer.json"), directory)
        ids = self.ids([3, 4, 5])
        os.symlink("model/model.safetensors", self.path("link"))
        os.link(os.path.join(directory, "config.json"), self.path("hard"))
        for output in ("model/model.safetensors", "model/config.json", "model/tokenizer.json", "ids.json", "./ids.json", "link",
                       "hard"):
            with self.subTest(output):
                before = self.read(output)
                self.refused(COULD_NOT, ["this run reads", output], "capture", "--model", directory, "--token-ids", ids, "-o", output,
                             "--force")
                self.assertEqual(self.read(output), before)
        self.tq("capture", "--model", directory, "--token-ids", ids, "-o", "model/dump.safetensors")

    def test_shards_their_index_and_what_would_hide_them(self):
        directory = self.model("qwen2-swa")
        shard = next(name for name in sorted(os.listdir(directory)) if name.startswith("model-"))
        for name in (shard, "model.safetensors.index.json", "model.safetensors", "tq_config.json"):
            self.refused(COULD_NOT, "this run reads", "capture", "--model", directory, "--token-ids", self.ids([3]), "-o",
                         os.path.join("model", name), "--force")
        self.json("verify", "--model", directory, "--check", "--json")

    def test_a_text_is_not_overwritten(self):
        directory = self.model("llama")
        self.write_tokenizer(directory)
        with open(self.path("text"), "w", encoding="utf-8") as file:
            file.write("0")
        for source in (["--prompt-file", "text"], ["--token-ids", "text"]):
            self.refused(COULD_NOT, ["text", "this run reads"], "capture", "--model", directory, *source, "-o", "text", "--force")
        self.assertEqual(self.read("text"), b"0")


class Numbers(ModelTest):
    def broken(self, name, value):
        """llama with one value of that tensor changed."""
        directory = self.model("llama")
        path = os.path.join(directory, "model.safetensors")
        tensors, metadata = read_safetensors(path)
        old = tensors[name]
        tensors[name] = Tensor(old.dtype, old.shape, struct.pack("<H", value) + old.data[2:])
        write_safetensors(path, tensors, metadata)
        return directory

    def test_logits_that_are_not_finite(self):
        ids = self.ids([3 + i % 300 for i in range(128)])
        for name in ("model.norm.weight", "lm_head.weight"):
            for value in (0x7FC0, 0x7F80):  # NaN, infinity
                directory = self.broken(name, value)
                self.refused(COULD_NOT, ["logits are not finite", "token 0"], "capture", "--model", directory, "--token-ids", ids,
                             "-o", "x", "--quiet")
                self.refused(COULD_NOT, "logits are not finite", "verify", "--model", directory, "--token-ids", ids,
                             "--allow-random", "--quiet")

    def test_one_token_has_no_perplexity(self):
        ids = self.ids([5])
        said = self.tq("capture", "--model", fixture("llama"), "--token-ids", ids, "-o", "one").stderr
        self.assertIn("1 token of", said)
        self.assertIn("no predictions", said)
        self.assertNotIn("perplexity", read_safetensors(self.path("one"))[1])
        done = self.tq("verify", "--model", fixture("llama"), "--token-ids", ids, "--allow-random", "--threshold", "-1", "--quiet",
                       code=COULD_NOT)
        self.assertIn(", 1 token of", done.stdout)
        self.assertIn("Reads    no predictions", done.stdout)
        self.assertNotRegex(done.stdout + done.stderr, r"\bnan\b")
        self.refused(COULD_NOT, ["1 token, so 0 predictions"], "verify", "--model", fixture("llama"), "--token-ids", ids)

    def test_a_longer_list_is_cut_and_it_is_said(self):
        for count in (400, 600):  # within the context of 512, and beyond
            ids = self.ids([3 + i % 200 for i in range(count)])
            said = self.tq("capture", "--model", fixture("llama"), "--token-ids", ids, "-o", "x", "--force").stderr
            self.assertIn(f"the first 128 of {count} tokens of", said)
            text = self.tq("verify", "--model", fixture("llama"), "--token-ids", ids, "--allow-random").stdout
            self.assertIn(f"Run      llama, 3 layers, the first 128 of {count} tokens of", text)
            run = self.verify("--model", fixture("llama"), "--token-ids", ids, "--allow-random")["model_run"]
            self.assertEqual((run["tokens"], run["tokens_available"]), (128, count))


class Json(ModelTest):
    def failure(self, *args):
        done = self.tq("verify", "--json", "--quiet", *args, code=COULD_NOT)
        answer = json.loads(done.stdout)
        self.assertEqual((answer["status"], answer["exit_code"]), ("NOT_MEASURED", 3))
        self.assertEqual(done.stderr, f"tq: {answer['error']}\n")
        return answer

    def test_an_invalid_measurement_tells_its_perplexity(self):
        ids = self.ids([(7 * i * i + 3 * i) % 297 + 3 for i in range(128)])
        answer = self.failure("--model", fixture("llama"), "--token-ids", ids)
        self.assertGreater(answer["perplexity"], 200)
        self.assertEqual(answer["predictions"], 127)
        answer = self.failure("--model", fixture("llama"), "--token-ids", self.ids([3, 4, 5]))
        self.assertEqual((answer["perplexity"], answer["predictions"]), (None, 2))

    def test_every_other_error(self):
        for args in (["--model", "nowhere"], ["--kv", "nowhere"], ["--packed", "nowhere", "--against", "nowhere"],
                     ["--weights", "nowhere", "--against", "nowhere"]):
            answer = self.failure(*args)
            self.assertIn("nowhere", answer["error"])
            self.assertNotIn("perplexity", answer)
        self.refused(USAGE, "exactly one source", "verify", "--json")


class Check(GuardTest):
    def check(self, directory, *args):
        return self.json("verify", "--model", directory, "--check", "--json", *args)

    def test_a_head_that_no_codec_takes(self):
        ids = self.ids([3, 4, 5])
        for dim in (4, 2048):
            directory = self.model("llama", head_dim=dim)
            path = os.path.join(directory, "model.safetensors")
            tensors, metadata = read_safetensors(path)
            for name, old in list(tensors.items()):
                for part, heads in (("q_proj", 4), ("k_proj", 2), ("v_proj", 2), ("o_proj", 4)):
                    if part in name:
                        shape = [64, heads * dim] if part == "o_proj" else [heads * dim, 64]
                        tensors[name] = Tensor(old.dtype, shape, bytes(2 * 64 * heads * dim))
            write_safetensors(path, tensors, metadata)
            words = ["head_dim", f"{dim} channels", "8 to 1024"]
            self.refused(COULD_NOT, words, "verify", "--model", directory, "--check")
            self.refused(COULD_NOT, words, "verify", "--model", directory, "--token-ids", ids, "--allow-random", "--quiet")
            self.refused(COULD_NOT, words, "capture", "--model", directory, "--token-ids", ids, "-o", "x", "--quiet")

    def test_the_tokenizer(self):
        directory = self.model("llama")
        answer = self.check(directory)
        self.assertEqual((answer["supported"], answer["tokenizer"]["supported"]), (True, False))
        self.assertIn("no tokenizer.json", answer["tokenizer"]["reason"])
        text = self.tq("verify", "--model", directory, "--check").stdout
        self.assertRegex(text, r"(?m)^tokenizer +not supported \(--token-ids works without one\): .*no tokenizer.json")
        with open(os.path.join(directory, "tokenizer.json"), "w", encoding="utf-8") as file:
            file.write('{"model": {"type": "Unigram", "vocab": []}}')
        self.assertIn("Unigram", self.check(directory)["tokenizer"]["reason"])
        shutil.copy(os.path.join(TOKENIZERS, "llama3", "tokenizer.json"), directory)  # its ids go beyond 320
        self.assertIn("vocabulary", self.check(directory)["tokenizer"]["reason"])
        self.write_tokenizer(directory)
        self.assertEqual(self.check(directory)["tokenizer"], {"supported": True, "reason": None})
        self.assertRegex(self.tq("verify", "--model", directory, "--check").stdout, r"(?m)^tokenizer +supported$")

    def test_a_latent_cache_needs_latent_attention(self):
        ids = self.ids([3, 4, 5])
        words = ["llama has no multi-head latent attention", "--mla"]
        for command in (["verify", "--check"], ["verify", "--token-ids", ids, "--allow-random"], ["capture", "--token-ids", ids, "-o", "x"]):
            self.refused(COULD_NOT, words, *command, "--model", fixture("llama"), "--mla", "latent")
        self.check(fixture("deepseek-v3"), "--mla", "latent")


class Tensors(ModelTest):
    def test_a_tensor_that_no_part_reads_is_refused(self):
        directory = self.model("llama-biases", attention_bias=False)
        self.refused(COULD_NOT, ["self_attn", ".bias", "no part of a llama"], "capture", "--model", directory, "--token-ids",
                     self.ids([3, 4]), "-o", "x")
        directory = self.model("deepseek-v3")
        path = os.path.join(directory, "model.safetensors")
        tensors, metadata = read_safetensors(path)
        tensors["model.layers.1.mlp.shared_experts.up_proj.bias"] = Tensor("F32", [2], bytes(8))
        write_safetensors(path, tensors, metadata)
        self.refused(COULD_NOT, "model.layers.1.mlp.shared_experts.up_proj.bias", "verify", "--model", directory, "--check")

    def test_tables_and_further_layers_are_harmless(self):
        directory = self.model("llama")
        path = os.path.join(directory, "model.safetensors")
        tensors, metadata = read_safetensors(path)
        for name in ("model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.1.self_attn.masked_bias",
                     "model.layers.7.mlp.up_proj.weight"):
            tensors[name] = Tensor("F32", [2], bytes(8))
        write_safetensors(path, tensors, metadata)
        self.tq("verify", "--model", directory, "--check", code=DONE)

    def test_biases_of_shared_experts(self):
        """deepseek_v2 with mlp_bias: the dense layer and the shared experts have them, the experts do not."""
        directory = self.model("deepseek-v2", mlp_bias=True)
        self.refused(COULD_NOT, "model.layers.0.mlp.gate_proj.bias", "verify", "--model", directory, "--check")
        path = os.path.join(directory, "model.safetensors")
        tensors, metadata = read_safetensors(path)
        for name in list(tensors):
            if ".experts." not in name and any(f"{part}_proj.weight" in name for part in ("gate", "up", "down")):
                old = tensors[name]
                tensors[name.replace(".weight", ".bias")] = Tensor(old.dtype, old.shape[:1], bytes(len(old.data) // old.shape[1]))
        write_safetensors(path, tensors, metadata)
        wanted, got, _ = self.capture("deepseek-v2", directory=directory)  # biases of 0
        for key, tensor in got.items():
            self.assertLess(max(abs(a - b) for a, b in zip(tensor.values, wanted[key].values)), 1e-4)
        tensors["model.layers.0.mlp.down_proj.bias"] = Tensor(
            "F32", [32], struct.pack("<32f", *[1.0] * 16, *[-2.0] * 16))
        write_safetensors(path, tensors, metadata)
        _, moved, _ = self.capture("deepseek-v2", "--force", directory=directory)
        self.assertEqual(moved["k.0"].data, got["k.0"].data)
        self.assertNotEqual(moved["k.1"].data, got["k.1"].data)


if __name__ == "__main__":
    helpers.main()
