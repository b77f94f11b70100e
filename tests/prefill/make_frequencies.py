#!/usr/bin/env python3
"""Makes frequencies.json for tests/test_rope.cpp: what transformers computes of a config.json's RoPE.

Each case has the RoPE part of a config.json, the tokens of the prompt, the bits of the float32 inverse
frequencies, and the factor on cos and sin. Powers are torch's own, without vector instructions: those of its
vector paths differ in the last bit of one value in a hundred, and among processors. Needs torch and
transformers 5.

  ATEN_CPU_CAPABILITY=default python tests/prefill/make_frequencies.py
"""

import json
import os
import random

import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=8192)


def published():
    """(head_dim, context, rope_parameters, tokens) of published models."""
    return [
        (128, 4096, dict(rope_type="default", rope_theta=10000.0), 16),
        (64, 8192, dict(rope_type="default", rope_theta=100000.0), 16),
        (128, 32768, dict(rope_type="default", rope_theta=1000000.0), 16),
        (128, 131072, {**LLAMA3, "factor": 8.0}, 16),
        (64, 131072, {**LLAMA3, "factor": 32.0}, 16),
        (64, 131072, dict(rope_type="yarn", rope_theta=150000.0, factor=32.0, beta_fast=32.0, beta_slow=1.0, truncate=False,
                          original_max_position_embeddings=4096), 16),
        (64, 163840, dict(rope_type="yarn", rope_theta=10000.0, factor=40.0, beta_fast=32.0, beta_slow=1.0, mscale=1.0,
                          mscale_all_dim=1.0, original_max_position_embeddings=4096), 16),
        (128, 131072, dict(rope_type="yarn", rope_theta=1000000.0, factor=4.0, original_max_position_embeddings=32768), 16),
    ]


def drawn(seed):
    r = random.Random(seed)
    for kind in ("linear", "dynamic", "yarn", "longrope", "llama3", "llama3"):
        dim, original = 2 * r.randint(4, 40), r.choice([32, 4096])
        rope = dict(rope_type=kind, rope_theta=round(r.choice([100.0, r.uniform(1e3, 1e6)]), 2), factor=round(r.uniform(1, 40), 3))
        if kind in ("yarn", "longrope", "llama3"):
            rope["original_max_position_embeddings"] = original
        if kind == "llama3":
            rope.update(low_freq_factor=1.7, high_freq_factor=5.1)
        if kind == "yarn":
            rope.update(beta_fast=20.5, beta_slow=0.7, truncate=r.random() < 0.5)
        if kind == "longrope":
            rope.update(short_factor=[round(r.uniform(1, 2), 4) for _ in range(dim // 2)],
                        long_factor=[round(r.uniform(1, 60), 4) for _ in range(dim // 2)])
        yield dim, 4 * original, rope, r.choice([original, 4 * original + 77])


def compute(dim, context, rope, tokens):
    config = transformers.LlamaConfig(hidden_size=dim, num_attention_heads=1, head_dim=dim, max_position_embeddings=context,
                                      rope_parameters=dict(rope))
    kind = rope["rope_type"]
    if kind == "default":
        return transformers.models.llama.modeling_llama.LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    length = None
    if kind == "dynamic" and tokens > context:
        length = torch.tensor(tokens)
    if kind == "longrope" and tokens > rope["original_max_position_embeddings"]:
        length = tokens
    return ROPE_INIT_FUNCTIONS[kind](config, None, seq_len=length)


def main():
    if os.environ.get("ATEN_CPU_CAPABILITY") != "default":
        raise SystemExit("run it with ATEN_CPU_CAPABILITY=default")
    cases = []
    for dim, context, rope, tokens in [*published(), *drawn(1), *drawn(2)]:
        frequencies, factor = compute(dim, context, rope, tokens)
        bits = frequencies.float().view(torch.int32).tolist()
        cases.append(dict(head_dim=dim, max_position_embeddings=context, tokens=tokens, rope_parameters=rope,
                          attention_factor=float(factor), bits=bits))
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "frequencies.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main()
