#!/usr/bin/env python3
"""Makes the fixtures of tests/test_prefill.cpp: tiny random decoders, and what transformers computes.

Each directory holds config.json, the weights, and expected.safetensors: input_ids [T], and of a
float32 forward pass q.L [heads, T, head_dim], k.L, v.L [kv_heads, T, head_dim] as the attention
receives them, and logits [T, vocab]. Every parameter is random, norms and biases too, so that one
that is left out shows. Needs torch, transformers 5 and safetensors; the same versions make the same
files.

  python tests/prefill/make_fixtures.py [NAME ...]
"""

import json
import os
import shutil
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
TOKENS = 24
SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
             bos_token_id=1, eos_token_id=2, pad_token_id=0)
MOE = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24)
MLA = dict(q_lora_rank=None, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8,
           v_head_dim=12, num_key_value_heads=4, n_routed_experts=8, n_shared_experts=2,
           num_experts_per_tok=3, moe_intermediate_size=24, first_k_dense_replace=1)
SLIDING = dict(use_sliding_window=True, sliding_window=8)


def rope(kind, theta=10000.0, **more):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **more))


# name: (model_type, config, {dtype, shards, old, nested})
FIXTURES = {
    "llama-biases": ("llama", dict(attention_bias=True, mlp_bias=True, head_dim=16), {}),
    "llama-linear": ("llama", rope("linear", factor=4.0), {"old": True}),
    "llama-dynamic": ("llama", dict(rope("dynamic", factor=4.0), max_position_embeddings=16), {}),
    "llama-yarn": ("llama", rope("yarn", factor=4.0, original_max_position_embeddings=16),
                   {"dtype": torch.float16}),
    "mistral-old": ("mistral", dict(sliding_window=8, num_hidden_layers=2), {"old": True}),
    "qwen2-yarn": ("qwen2", dict(rope("yarn", theta=1e6, factor=4.0, attention_factor=1.25,
                                      original_max_position_embeddings=16), tie_word_embeddings=True),
                   {"dtype": torch.float32}),
    "qwen2-swa": ("qwen2", dict(SLIDING, max_window_layers=1), {"shards": True}),
    "qwen3-layer-types": ("qwen3", dict(SLIDING, head_dim=16, attention_bias=True,
                                        layer_types=["sliding_attention", "full_attention"]), {}),
    "phi3-longrope-short": ("phi3", dict(rope("longrope", short_factor=[1.0, 1.1, 1.3],
                                              long_factor=[2.0, 3.0, 5.0],
                                              partial_rotary_factor=0.75),
                                         max_position_embeddings=128,
                                         original_max_position_embeddings=32), {}),
    "phi3-longrope-long": ("phi3", dict(rope("longrope", short_factor=[1.0, 1.1, 1.2, 1.4],
                                             long_factor=[2.0, 2.5, 3.0, 5.0]), sliding_window=12,
                                        max_position_embeddings=64,
                                        original_max_position_embeddings=16), {"old": True}),
    "gemma2-layer-types": ("gemma2", dict(head_dim=16, query_pre_attn_scalar=10, sliding_window=6,
                                          layer_types=["full_attention", "sliding_attention"],
                                          final_logit_softcapping=5.0,
                                          attn_logit_softcapping=3.0), {}),
    "gemma3-nested": ("gemma3_text", dict(
        head_dim=16, query_pre_attn_scalar=12, sliding_window=6, num_hidden_layers=3,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters=dict(
            full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
            sliding_attention=dict(rope_type="default", rope_theta=1e4))), {"nested": True}),
    "qwen2-moe": ("qwen2_moe", dict(MOE, shared_expert_intermediate_size=40, num_hidden_layers=3,
                                    decoder_sparse_step=2, norm_topk_prob=False), {}),
    "qwen2-moe-swa": ("qwen2_moe", dict(MOE, **SLIDING, shared_expert_intermediate_size=40,
                                        max_window_layers=2, norm_topk_prob=True,
                                        qkv_bias=False), {}),
    "qwen3-moe-mixed": ("qwen3_moe", dict(MOE, **SLIDING, mlp_only_layers=[0], head_dim=16,
                                          norm_topk_prob=False), {"dtype": torch.float16}),
    "smollm3": ("smollm3", dict(num_hidden_layers=4, no_rope_layer_interval=2), {}),
    "smollm3-swa": ("smollm3", dict(SLIDING, no_rope_layers=[0, 1], attention_bias=True), {}),
    "olmo2": ("olmo2", {}, {}),
    "granite": ("granite", dict(embedding_multiplier=12.0, residual_multiplier=0.22,
                                attention_multiplier=0.2, logits_scaling=8.0), {}),
    "glm4": ("glm4", dict(head_dim=16), {}),
    "stablelm": ("stablelm", dict(hidden_size=64, use_qkv_bias=True), {}),
    "stablelm-parallel": ("stablelm", dict(hidden_size=64, use_parallel_residual=True,
                                           qk_layernorm=True), {}),
    "phi": ("phi", {}, {}),
    "phi-qk-norm": ("phi", dict(qk_layernorm=True, hidden_size=64), {}),
    "gpt-oss": ("gpt_oss", dict(rope("yarn", theta=150000.0, factor=32.0, beta_fast=32.0,
                                     beta_slow=1.0, truncate=False,
                                     original_max_position_embeddings=4096), head_dim=16,
                                max_position_embeddings=131072, sliding_window=8,
                                num_local_experts=4, num_experts_per_tok=2), {}),
    "deepseek-v2": ("deepseek_v2", dict(MLA), {}),
    "deepseek-v2-grouped": ("deepseek_v2", dict(MLA, q_lora_rank=20, attention_bias=True,
                                                topk_method="group_limited_greedy", n_group=4,
                                                topk_group=2, routed_scaling_factor=4.0,
                                                **rope("yarn", factor=4.0, mscale=0.7,
                                                       mscale_all_dim=0.5,
                                                       original_max_position_embeddings=16)), {}),
    "deepseek-v3": ("deepseek_v3", dict(MLA, q_lora_rank=20, n_group=4, topk_group=2,
                                        n_shared_experts=1, routed_scaling_factor=2.5,
                                        **rope("yarn", factor=4.0, mscale=1.0, mscale_all_dim=1.0,
                                               original_max_position_embeddings=16)), {}),
    "deepseek-v3-halves": ("deepseek_v3", dict(MLA, rope_interleave=False, n_group=2, topk_group=1,
                                               norm_topk_prob=False), {}),
}

captured = {}


def record(module, query, key, value, attention_mask, scaling=None, **options):
    """The model's own eager attention; what it receives is kept."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    layer = module.layer_idx
    captured.update({f"q.{layer}": query[0].clone(), f"k.{layer}": key[0].clone(),
                     f"v.{layer}": value[0].clone()})
    return eager(module, query, key, value, attention_mask, scaling=scaling, **options)


def randomize(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in list(model.named_parameters()) + list(model.named_buffers()):
        if "inv_freq" in name or "embed_scale" in name:
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            plus_one = model.config.get_text_config().model_type.startswith("gemma")
            tensor.data = 0.2 * noise + (0.0 if plus_one else 1.0)
        elif tensor.dim() < 2:
            tensor.data = 0.3 * noise
        else:
            tensor.data = noise * 1.2 / tensor.shape[-1] ** 0.5


def write_old_config(path):
    """rope_theta, rope_scaling and torch_dtype in the place of rope_parameters and dtype."""
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    parameters = config.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    config["rope_theta"] = parameters.pop("rope_theta")
    if "partial_rotary_factor" in parameters:
        config["partial_rotary_factor"] = parameters.pop("partial_rotary_factor")
    parameters.pop("original_max_position_embeddings", None)
    kind = parameters.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else dict(parameters, type=kind)
    for key in ("layer_types", "transformers_version"):
        config.pop(key, None)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)


def nest(directory):
    """As the text part of a model that also sees: config in text_config, tensors under a prefix."""
    path = os.path.join(directory, "config.json")
    with open(path, encoding="utf-8") as file:
        text = json.load(file)
    text.pop("architectures")
    tied = text.pop("tie_word_embeddings")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
                   "tie_word_embeddings": tied, "text_config": text, "vision_config": {}}, file, indent=2)
    weights = os.path.join(directory, "model.safetensors")
    tensors = load_file(weights)
    save_file({"language_model." + name: tensor for name, tensor in tensors.items()}, weights,
              {"format": "pt"})


def make(name, model_type, settings, extra):
    directory = os.path.join(HERE, name)
    shutil.rmtree(directory, ignore_errors=True)
    config = transformers.AutoConfig.for_model(model_type, **{**SMALL, **settings})
    config.dtype = extra.get("dtype", torch.bfloat16)
    config._attn_implementation = "tq_record"
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    randomize(model, sum(map(ord, name)))
    model = model.to(config.dtype)
    model.save_pretrained(directory, **({"max_shard_size": "12KB"} if extra.get("shards") else {}))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="tq_record").eval()
    ids = torch.randint(3, SMALL["vocab_size"], (1, TOKENS), generator=torch.Generator().manual_seed(5))
    captured.clear()
    with torch.inference_mode():
        logits = model(ids, use_cache=False).logits[0]
    expected = {key: value.contiguous().float() for key, value in captured.items()}
    expected.update(input_ids=ids[0].to(torch.int32), logits=logits.contiguous())
    save_file(expected, os.path.join(directory, "expected.safetensors"))
    if extra.get("old"):
        write_old_config(os.path.join(directory, "config.json"))
    if extra.get("nested"):
        nest(directory)
    generation = os.path.join(directory, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)
    print(f"{name}: {sum(os.path.getsize(os.path.join(directory, f)) for f in os.listdir(directory))} bytes, "
          f"logits {logits.std():.3f}")


def main():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.AttentionInterface.register("tq_record", record)
    transformers.AttentionMaskInterface.register("tq_record", transformers.masking_utils.eager_mask)
    torch.manual_seed(0)
    for name in sys.argv[1:] or FIXTURES:
        make(name, *FIXTURES[name])


if __name__ == "__main__":
    main()
