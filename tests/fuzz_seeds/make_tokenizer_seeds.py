#!/usr/bin/env python3
"""Writes tokenizer-*.bin beside itself: small tokenizer.json files with every part that tq reads, NUL, a text."""
import json
from pathlib import Path

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
SEEDS = {
    "bytes": {
        "added_tokens": [{"id": 9, "content": "<s>", "special": True, "lstrip": True, "rstrip": True, "single_word": False}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}, {"type": "StripAccents"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+"},
             "behavior": "Isolated", "invert": False},
            {"type": "Digits", "individual_digits": True}, BYTES]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [9]}}},
        "model": {"type": "BPE", "ignore_merges": True, "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġa": 4},
                  "merges": [["a", "b"], "Ġ a"]}},
    "sentencepiece": {
        "added_tokens": [{"id": 3, "content": "He", "normalized": True, "single_word": True}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Strip", "strip_left": True}, {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
        "post_processor": {"type": "BertProcessing", "sep": ["a", 0], "cls": ["b", 1]},
        "model": {"type": "BPE", "unk_token": "?", "fuse_unk": True, "byte_fallback": True,
                  "vocab": {"a": 0, "b": 1, "?": 2, "▁": 3, "▁a": 4, "<0xC3>": 5, "<0xA9>": 6}, "merges": [["▁", "a"]]}},
    "words": {
        "normalizer": {"type": "NFKD"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "MergedWithNext"}, {"type": "Whitespace"},
            {"type": "CharDelimiterSplit", "delimiter": "-"},
            {"type": "Split", "pattern": {"String": "l"}, "behavior": "MergedWithPrevious", "invert": True}]},
        "model": {"continuing_subword_prefix": "#", "end_of_word_suffix": "$", "vocab": {"a": 0, "#b$": 1, "ab$": 2},
                  "merges": ["a #b$"]}},
}

for name, state in SEEDS.items():
    text = "ab a'S <s>  x12 caf\u00e9 e\u0301 \u2581He, He-llo\r\n\n\U0001f600"
    data = json.dumps(state, ensure_ascii=False, separators=(",", ":")).encode() + b"\0" + text.encode()
    (Path(__file__).resolve().parent / f"tokenizer-{name}.bin").write_bytes(data)
