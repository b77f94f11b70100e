"""tq pack-weights: what a user must be told of, and results that only seem to be whole."""
import json
import os

import helpers
from helpers import COULD_NOT, GATE_FAILED, USAGE, tensor
from weights_helpers import WeightsTest, small_model


def config(**more):
    """The text of a config.json."""
    return json.dumps({"model_type": "llama", "hidden_size": 192, **more})


class Warnings(WeightsTest):
    def warned(self, words, *args, code=helpers.DONE):
        done = self.tq("pack-weights", *args, code=code)
        said = [line for line in done.stderr.splitlines() if line.startswith("tq: warning:")]
        for word in words:
            self.assertTrue(any(word in line for line in said), (word, said))
        return said

    def test_patterns_that_match_nothing(self):
        model = self.model()
        self.warned(["--skip nomatch.*: matches no tensor", "--sensitive-pattern o_proy: is part of no"], model, "-o", "a", "--dry-run", "--skip",
                    "nomatch.*", "--sensitive-bits", 4, "--sensitive-pattern", "o_proy")
        said = self.warned([], model, "-o", "b", "--dry-run", "--skip", "weight")
        self.assertFalse([line for line in said if "matches no tensor" in line])

    def test_no_warning_of_sensitive_tensors_where_there_are_none(self):
        said = self.warned([], self.model(), "-o", "a", "--dry-run", "--sensitive-bits", 4, "--sensitive-pattern", "o_proy")
        self.assertFalse([line for line in said if "vLLM loader decodes such tensors wrongly" in line])

    def test_a_source_that_is_quantized_already(self):
        model = self.model(config=None, files={"config.json": config(quantization_config={"quant_method": "gptq"})})
        self.warned(["quantized already (gptq)"], model, "-o", "a")

    def test_no_quantization_is_none(self):
        model = self.model(config=None, files={"config.json": config(quantization_config=None)})
        said = self.warned([], model, "-o", "a")
        self.assertFalse([line for line in said if "quantized already" in line])

    def test_files_of_another_model(self):
        model = self.model()
        os.mkdir(self.path("a"))
        with open(self.path("a/tokenizer_config.json"), "w") as file:
            file.write("{}")
        self.warned(["a file that this model did not bring: tokenizer_config.json"], model, "-o", "a")

    def test_names_that_readers_take_for_codes(self):
        model = self.model(tensors={"x.tq_packed": tensor([4, 4], 1), **small_model()})
        self.refused(COULD_NOT, ["x.tq_packed", ".tq_packed"], "pack-weights", model, "-o", "a")

    def test_text_that_is_no_utf8(self):
        wrong = b"\xff".decode(errors="surrogateescape")
        for option in ("--skip", "--sensitive-pattern"):
            self.refused(USAGE, ["UTF-8"], "pack-weights", self.model(), "-o", "a", "--sensitive-bits", 4, option, wrong)
        self.refused(USAGE, ["MODEL_DIR", "UTF-8"], "pack-weights", self.model("m" + wrong), "-o", "a")

    def test_config_with_numbers_that_python_writes(self):
        text = config(time_step_limit=[0.0, 1.5]).replace("1.5", "Infinity").replace("0.0", "NaN")
        model = self.model(config=None, files={"config.json": text})
        self.pack(model, out="a")
        self.assertEqual(self.tree("a")["config.json"], text.encode())
        broken = self.model("broken", config=None, files={"config.json": text.replace("Infinity", "Infinite")})
        self.refused(COULD_NOT, ["config.json", "JSON"], "pack-weights", broken, "-o", "b", "--quiet")
        both = self.model("both", config=None, files={"config.json": text[:-1] + ', "quantization_config": {}}'})
        self.refused(COULD_NOT, ["config.json", "Infinity", "quantization_config"], "pack-weights", both, "-o", "c", "--quiet")


class NothingMeasured(WeightsTest):
    def test_why_nothing_is_quantized(self):
        norms = self.model("norms", tensors={"model.norm.weight": tensor([64], 1)})
        self.assertIn("none is a large 2-D", self.pack(norms, out="n").stderr)
        self.assertIn("what --skip and --skip-router leave", self.pack(self.model(), "--skip", ".", out="s").stderr)

    def test_an_empty_pattern_is_refused(self):
        for option in (["--skip", ""], ["--sensitive-bits", "4", "--sensitive-pattern", ""]):
            self.refused(USAGE, ["is empty"], "pack-weights", self.model(), "-o", "e", *option)
            self.assertFalse(os.path.exists(self.path("e")))

    def test_gates_and_verify_need_a_quantized_tensor(self):
        model = self.model(tensors={"model.norm.weight": tensor([64], 1)})
        done = self.pack(model, "--max-rel-mse", 1, out="a", code=GATE_FAILED)
        self.assertIn("no tensor is quantized", done.stdout)
        self.tq("verify", "--weights", "a", "--against", model, code=COULD_NOT)


class Whole(WeightsTest):
    def test_a_damaged_result_is_not_complete(self):
        model = self.model(files={"tokenizer.json": '{"a": 1}'})
        self.pack(model)
        self.assertIn("is complete already", self.tq("pack-weights", model, "-o", "out", "--resume").stderr)
        for name, damage in (("model.safetensors", lambda data: data[:1000]), ("config.json", lambda data: b"{}"),
                             ("tokenizer.json", lambda data: None)):
            whole = self.tree("out")[name]
            damaged = damage(whole)
            os.remove(self.path(f"out/{name}"))
            if damaged is not None:
                with open(self.path(f"out/{name}"), "wb") as file:
                    file.write(damaged)
            self.refused(COULD_NOT, [name, "--force"], "pack-weights", model, "-o", "out", "--resume", "--quiet")
            with open(self.path(f"out/{name}"), "wb") as file:
                file.write(whole)
        self.tq("pack-weights", model, "-o", "out", "--resume")

    def test_public_keys_agree_with_tqs_own(self):
        model = self.model()
        self.pack(model, "--sensitive-bits", 4, "--sensitive-pattern", "o_proj")
        path = self.path("out/tq_config.json")
        text = self.read("out/tq_config.json").decode()
        for key, value in (("quantizer_seed", 43), ("sensitive_patterns", ["down_proj"]), ("bits", 2)):
            changed = json.loads(text)
            changed[key] = value
            with open(path, "w") as file:
                json.dump(changed, file)
            self.refused(COULD_NOT, ["tq_config.json", '"tq" says'], "inspect", "out")
        with open(path, "w") as file:
            file.write(text)
        self.tq("inspect", "out")

    def test_inspect_takes_any_safetensors_file(self):
        helpers.write_safetensors(self.path("x.safetensors"), {"v.bias": tensor([4], 1), "k.proj.weight": tensor([4, 4], 2)})
        self.assertIn("k.proj.weight", self.tq("inspect", "x.safetensors").stdout)
        self.tq("inspect", "x.safetensors", "--json")


if __name__ == "__main__":
    helpers.main()
