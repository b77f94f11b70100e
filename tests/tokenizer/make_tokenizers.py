#!/usr/bin/env python3
"""Trains the small tokenizers of this directory and writes the ids that Hugging Face's library gives.

    pip install tokenizers==0.23.3
    python3 tests/tokenizer/make_tokenizers.py         # rewrites NAME/tokenizer.json and expected.json

Each NAME is the form of a published tokenizer: its normalizer, pre-tokenizer, added tokens and post-processor around a
vocabulary of some hundred pieces, trained on docs/samples/passage.txt and the strings of strings.py.
"""
import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

import strings

HERE = Path(__file__).resolve().parent
PASSAGE = HERE.parent.parent / "docs" / "samples" / "passage.txt"
VOCABULARY = 700
# Special tokens before and after a text; none where nothing is said.
FRAMES = {"roberta": (1, 1), "llama3": (1, 0), "deepseek": (1, 0), "deepseek-v3": (0, 1), "llama2": (1, 0), "mistral": (1, 0),
          "metaspace": (1, 1), "gemma": (1, 0)}

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK_V3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
               r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# Possessive quantifiers, and an interval followed by +, which Oniguruma repeats.
TIKTOKEN = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
            r"|\s*[\r\n]|\s+(?!\S)|\s")


def special(content, **options):
    return AddedToken(content, special=True, normalized=options.pop("normalized", False), **options)


def byte_level(pre_tokenizer, normalizer=None, specials=(), added=(), post=None, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    return finish(tokenizer, trainer, specials, added, post)


def sentencepiece(normalizer=None, pre_tokenizer=None, specials=(), added=(), post=None, fuse_unk=True, byte_fallback=True):
    """Trained on words, for a trainer that sees whole lines would learn whole lines; then without the split."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse_unk, byte_fallback=byte_fallback))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    pieces = ["<unk>", "<s>", "</s>"] + ([f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else [])
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=pieces, limit_alphabet=120, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    state["normalizer"] = state["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(state))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    return finish(tokenizer, None, specials, added, post)


def finish(tokenizer, trainer, specials, added, post):
    if trainer:
        tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens(list(specials))
    tokenizer.add_tokens(list(added))
    if post:
        tokenizer.post_processor = post(tokenizer)
    return tokenizer


def corpus():
    return PASSAGE.read_text(encoding="utf-8").splitlines() + strings.ALL


def template(single, *tokens):
    return lambda tokenizer: processors.TemplateProcessing(
        single=single, special_tokens=[(token, tokenizer.token_to_id(token)) for token in tokens])


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def after_split(pattern, *before):
    return pre_tokenizers.Sequence([*before, split(pattern), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def make_all():
    spaced = [AddedToken(" " * n, normalized=False) for n in (2, 3, 4, 8)]
    legacy = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bos = template("<s> $A", "<s>")
    yield "gpt2", byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), specials=[special("<|endoftext|>")],
                             post=lambda _: processors.ByteLevel(trim_offsets=False))
    yield "roberta", byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True),
                                specials=[special("<s>"), special("</s>"), special("<mask>", lstrip=True)],
                                post=lambda t: processors.RobertaProcessing(("</s>", t.token_to_id("</s>")),
                                                                            ("<s>", t.token_to_id("<s>"))))
    yield "llama3", byte_level(after_split(LLAMA3), ignore_merges=True,
                               specials=[special("<|begin_of_text|>"), special("<|eot_id|>"), special("<|start_header_id|>")],
                               post=lambda t: processors.Sequence([
                                   processors.ByteLevel(trim_offsets=False),
                                   template("<|begin_of_text|> $A", "<|begin_of_text|>")(t)]))
    yield "qwen2", byte_level(after_split(QWEN2), normalizer=normalizers.NFC(),
                              specials=[special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>")],
                              added=[AddedToken("<think>", normalized=False), AddedToken("café", normalized=True)])
    yield "o200k", byte_level(after_split(O200K), specials=[special("<|endoftext|>"), special("<|end|>")])
    yield "tiktoken", byte_level(after_split(TIKTOKEN), added=spaced, specials=[special("<|endoftext|>")])
    yield "smollm", byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                        pre_tokenizers.ByteLevel(add_prefix_space=False)]),
                               specials=[special("<|im_start|>"), special("<repo_name>"), special("<reponame>")])
    yield "deepseek", byte_level(
        pre_tokenizers.Sequence([split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(r"\s+$"),
                                 split("[一-龥ࠀ-一가-퟿]+"), pre_tokenizers.Digits(individual_digits=True),
                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        specials=[special("<｜begin▁of▁sentence｜>"), special("<｜end▁of▁sentence｜>")],
        added=[AddedToken("<｜User｜>", normalized=False)], post=template("<｜begin▁of▁sentence｜> $A", "<｜begin▁of▁sentence｜>"))
    yield "deepseek-v3", byte_level(after_split(DEEPSEEK_V3, split(r"\p{N}{1,3}"), split(r"[一-龥\u3040-ゟ゠-ヿ]+")),
                                    specials=[special("<｜end▁of▁sentence｜>")],
                                    post=template("$A <｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>"))
    yield "llama2", sentencepiece(legacy, post=bos, specials=[special("<s>"), special("</s>"), special("<unk>", normalized=True)],
                                  added=[AddedToken("<extra>", normalized=True)])
    yield "mistral", sentencepiece(None, pre_tokenizers.Metaspace("▁", "first", split=False), post=bos,
                                   specials=[special("[INST]"), special("[/INST]")])
    yield "metaspace", sentencepiece(normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), normalizers.Lowercase()]),
                                     pre_tokenizers.Metaspace("▁", "always", split=True), fuse_unk=False, byte_fallback=False,
                                     added=[AddedToken("Hello", single_word=True, normalized=True), AddedToken("ing", single_word=True)],
                                     post=lambda t: processors.BertProcessing(("</s>", 2), ("<s>", 1)))
    yield "gemma", sentencepiece(normalizers.Replace(" ", "▁"), split(" ", "merged_with_previous"), post=bos,
                                 added=[AddedToken("\n" * n, normalized=False) for n in range(1, 6)]
                                 + [AddedToken("▁" * n, normalized=False) for n in range(2, 6)] + [AddedToken("<h1>", normalized=False)],
                                 specials=[special("<start_of_turn>"), special("<end_of_turn>")])
    yield "phi3", sentencepiece(legacy, specials=[special("</s>", rstrip=True), special("<|endoftext|>"),
                                                  special("<|assistant|>", rstrip=True), special("<|user|>", rstrip=True),
                                                  special("<|end|>", rstrip=True), special("<|mid|>", lstrip=True, rstrip=True)])
    yield "words", byte_level(
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("merged_with_previous"),
                                 pre_tokenizers.Digits(individual_digits=False), split("[aeiou]+", "contiguous"),
                                 split("st|zz", "merged_with_next"), split("[^x]+", "removed", invert=True),
                                 pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.NFKD(),
                                         normalizers.Replace(Regex(r"\s{2,}"), " "), normalizers.Replace("''", '"'),
                                         normalizers.Strip(left=True, right=False)]))
    yield "whitespace", sentencepiece(None, pre_tokenizers.Sequence([pre_tokenizers.Whitespace(),
                                                                     pre_tokenizers.BertPreTokenizer()]),
                                      fuse_unk=False, byte_fallback=False)


def main():
    expected = {"tokenizers": tokenizers.__version__, "strings": strings.ALL, "frames": {}, "ids": {}}
    for name, tokenizer in make_all():
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        state = json.loads(tokenizer.to_str())
        if name in ("gpt2", "llama2"):  # older files write a merge as one string
            state["model"]["merges"] = [" ".join(merge) for merge in state["model"]["merges"]]
        text = json.dumps(state, ensure_ascii=False, separators=(",", ":"))
        (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
        again = Tokenizer.from_str(text)
        before, after = FRAMES.get(name, (0, 0))
        expected["frames"][name] = [before, after]
        expected["ids"][name] = [again.encode(text).ids for text in strings.ALL]
        for text, ids in zip(strings.ALL, expected["ids"][name]):
            assert again.encode(text, add_special_tokens=False).ids == ids[before:len(ids) - after], (name, text)
        print(f"{name:12} {again.get_vocab_size():5} pieces {len(text):7} bytes")
    lines = ",\n".join(f'"{name}":' + json.dumps(ids, separators=(",", ":")) for name, ids in expected["ids"].items())
    (HERE / "expected.json").write_text(
        '{"tokenizers":' + json.dumps(expected["tokenizers"]) + ',\n"strings":' + json.dumps(strings.ALL)
        + ',\n"frames":' + json.dumps(expected["frames"]) + ',\n"ids":{\n' + lines + "}}\n")


if __name__ == "__main__":
    main()
