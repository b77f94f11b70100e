"""tq tokenize: where the text comes from, what is printed, and what is refused."""
import json
import os
import shutil
import subprocess

import helpers
from helpers import COULD_NOT, USAGE, CliTest

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tokenizer")
LLAMA3 = os.path.join(FOLDER, "llama3")


class Tokenize(CliTest):
    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data)
        return name

    def model(self, **files):
        """A directory with these files: tokenizer="..." is tokenizer.json."""
        os.makedirs(self.path("model"), exist_ok=True)
        for name, text in files.items():
            self.write(f"model/{name}.json", text.encode())
        return "model"

    def test_ids_and_pieces(self):
        result = self.json("tokenize", "--model", LLAMA3, "--text", "and 😀", "--json")
        self.assertEqual(list(result), ["ids", "pieces"])
        self.assertEqual(len(result["ids"]), len(result["pieces"]))
        self.assertEqual(result["pieces"][0], "<|begin_of_text|>")
        self.assertEqual("".join(result["pieces"][1:]), "andĠðŁĺĢ")
        bare = self.json("tokenize", "--model", LLAMA3, "--text", "and 😀", "--json", "--no-special")
        self.assertEqual(bare["ids"], result["ids"][1:])
        lines = self.tq("tokenize", "--model", LLAMA3, "--text", "and 😀").stdout.splitlines()
        self.assertEqual(lines[0].split(), ["id", "piece"])
        self.assertEqual([line.split(maxsplit=1) for line in lines[1:]],
                         [[str(i), piece] for i, piece in zip(result["ids"], result["pieces"])])

    def test_an_empty_value_after_an_equals_sign_is_empty(self):
        wanted = self.json("tokenize", "--model", LLAMA3, "--text", "", "--json")
        self.assertEqual(self.json("tokenize", "--model", LLAMA3, "--text=", "--json"), wanted)
        self.assertEqual(self.json("tokenize", "--text=", f"--model={LLAMA3}", "--json"), wanted)
        self.assertEqual(self.json("tokenize", "--model", LLAMA3, "--text=a=", "--json"),
                         self.json("tokenize", "--model", LLAMA3, "--text", "a=", "--json"))
        self.refused(COULD_NOT, "no such directory", "tokenize", "--model=", "--text", "a")
        self.refused(COULD_NOT, ": ", "tokenize", "--model", LLAMA3, "--file=", "--json")
        self.refused(USAGE, "--bits", "verify", "--synthetic", "--bits=", "--json")
        self.refused(USAGE, "", "verify", "--synthetic", "--json=", "--quiet")

    def test_a_piece_is_one_line(self):
        lines = self.tq("tokenize", "--model", os.path.join(FOLDER, "gemma"), "--text", "a\n\nb").stdout.splitlines()
        self.assertEqual([line.split()[1] for line in lines[1:]], ["<s>", "a", "\\x0a\\x0a", "b"])

    def test_file_stdin_and_text_agree(self):
        text = "Ça va?\r\n\t<|eot_id|> end \n"
        self.write("text.txt", text.encode())
        wanted = self.json("tokenize", "--model", LLAMA3, "--text", text, "--json")
        self.assertEqual(self.json("tokenize", "--model", LLAMA3, "--file", "text.txt", "--json"), wanted)
        for way in (["-"], ["--file", "-"]):
            done = subprocess.run([helpers.TQ, "tokenize", "--model", LLAMA3, "--json", *way], input=text.encode(), stdout=subprocess.PIPE,
                                  check=True, timeout=60)
            self.assertEqual(json.loads(done.stdout), wanted)

    def test_empty_text(self):
        self.write("empty", b"")
        self.assertEqual(self.json("tokenize", "--model", LLAMA3, "--text", "", "--json")["pieces"], ["<|begin_of_text|>"])
        self.assertEqual(self.json("tokenize", "--model", LLAMA3, "--file", "empty", "--json", "--no-special"), {"ids": [], "pieces": []})

    def test_a_hub_id_in_the_cache(self):
        snapshot = self.path("hub/models--some--model/snapshots/abc")
        os.makedirs(snapshot)
        shutil.copy(os.path.join(LLAMA3, "tokenizer.json"), snapshot)
        found = self.json("tokenize", "--model", "some/model", "--text", "a", "--json", env={"HF_HUB_CACHE": self.path("hub")})
        self.assertEqual(found, self.json("tokenize", "--model", LLAMA3, "--text", "a", "--json"))

    def test_usage(self):
        self.refused(USAGE, "--model", "tokenize", "--text", "a")
        self.refused(USAGE, "text", "tokenize", "--model", LLAMA3)
        self.refused(USAGE, "text", "tokenize", "--model", LLAMA3, "--text", "a", "-")
        self.refused(USAGE, "word", "tokenize", "--model", LLAMA3, "word")

    def test_bad_text(self):
        self.write("latin1", "naïf".encode("latin-1"))
        self.refused(COULD_NOT, ["latin1", "not UTF-8 at byte offset 2 (0xef)", "iconv"], "tokenize", "--model", LLAMA3, "--file", "latin1")
        self.refused(COULD_NOT, "not UTF-8 at byte offset 1", "tokenize", "--model", LLAMA3, "--text", b"a\xff".decode(errors="surrogateescape"))
        self.refused(COULD_NOT, "gone", "tokenize", "--model", LLAMA3, "--file", "gone")

    def test_bad_model(self):
        say = lambda words: self.refused(COULD_NOT, words, "tokenize", "--model", "model", "--text", "a")
        say("model")
        self.model()
        say("model: has no tokenizer.json")
        self.write("model/tokenizer.model", b"\n")
        say(["has tokenizer.model but no tokenizer.json", "convert it", "save_pretrained"])
        self.model(tokenizer="{")
        say(["model/tokenizer.json: is not valid JSON at byte offset", "copied whole"])
        self.model(tokenizer='{"model": {"type": "Unigram", "vocab": [["a", -1.0]]}}')
        say(['model/tokenizer.json: model: type "Unigram" is not supported'])
        shutil.copy(os.path.join(LLAMA3, "tokenizer.json"), self.path("model/tokenizer.json"))
        self.model(tokenizer_config="[")
        say("tokenizer_config.json")
        os.remove(self.path("model/tokenizer.json"))
        os.mkdir(self.path("model/tokenizer.json"))
        say("is a directory")


if __name__ == "__main__":
    helpers.main()
