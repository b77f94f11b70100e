"""A llama of random BF16 weights, by default with the shapes of Llama-3-8B (16 GB): something to time a forward pass on.

    python3 tests/gpu/make_random_model.py DIR [LAYERS HIDDEN INTERMEDIATE HEADS KV_HEADS VOCABULARY]

Writes DIR/config.json, model.safetensors and ids.txt, 4096 token ids. Weights have magnitudes of 1/128 to 1/32 and either sign; tensors
are cut from one pool of random bytes, at places of their own. There is no tokenizer:

    tq verify --model DIR --token-ids DIR/ids.txt --tokens 2048 --bits 4 --allow-random
    gpu_forward 0 DIR 2048 seconds
"""

import json
import os
import random
import sys

POOL = 256 << 20


def shapes(layers, hidden, intermediate, heads, kv_heads, vocabulary):
    dim = hidden // heads
    yield "model.embed_tokens.weight", [vocabulary, hidden]
    for i in range(layers):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", [hidden]
        yield layer + "self_attn.q_proj.weight", [hidden, hidden]
        yield layer + "self_attn.k_proj.weight", [kv_heads * dim, hidden]
        yield layer + "self_attn.v_proj.weight", [kv_heads * dim, hidden]
        yield layer + "self_attn.o_proj.weight", [hidden, hidden]
        yield layer + "post_attention_layernorm.weight", [hidden]
        yield layer + "mlp.gate_proj.weight", [intermediate, hidden]
        yield layer + "mlp.up_proj.weight", [intermediate, hidden]
        yield layer + "mlp.down_proj.weight", [hidden, intermediate]
    yield "model.norm.weight", [hidden]
    yield "lm_head.weight", [vocabulary, hidden]


def count(shape):
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def main():
    folder = sys.argv[1]
    numbers = [int(word) for word in sys.argv[2:]] or [32, 4096, 14336, 32, 8, 128256]
    layers, hidden, intermediate, heads, kv_heads, vocabulary = numbers
    tensors = list(shapes(*numbers))
    header, at = {}, 0
    for name, shape in tensors:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + 2 * count(shape)]}
        at += 2 * count(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    generator = random.Random(1)
    largest = max(2 * count(shape) for _, shape in tensors)
    pool = bytearray(min(POOL, 2 * largest))
    high = bytes(0x3C | (byte & 0x80) for byte in range(256))
    pool[0::2] = generator.randbytes(len(pool) // 2)
    pool[1::2] = generator.randbytes(len(pool) // 2).translate(high)
    ones = (0x3F80).to_bytes(2, "little")

    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors:
            left = 2 * count(shape)
            if len(shape) == 1:
                file.write(ones * shape[0])
                continue
            start = 2 * generator.randrange(len(pool) // 2)
            while left > 0:
                piece = memoryview(pool)[start:start + left]
                file.write(piece)
                left -= len(piece)
                start = 0
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": intermediate,
                   "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
                   "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu",
                   "tie_word_embeddings": False, "torch_dtype": "bfloat16"}, file)
    with open(os.path.join(folder, "ids.txt"), "w") as file:
        file.write(" ".join(str(generator.randrange(vocabulary)) for _ in range(4096)) + "\n")


main()
