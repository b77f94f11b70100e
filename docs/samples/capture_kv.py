#!/usr/bin/env python3
"""Captures the queries, keys and values of a Hugging Face decoder into a KV dump for tq.

One float32 forward pass over one text. The tensors are taken where the attention itself receives
them: after bias, QK norm and rotary embedding, before the key heads are repeated for the query
groups. Unless --no-queries is given, each layer is then recomputed from the captured tensors alone
and compared with what the model's attention returned; a dump that fails this is not written.

Needs: torch, transformers 5, safetensors; for --gguf also gguf and accelerate.
"""

import argparse
import json
import math
import os
import sys

EXAMPLE = """\
example:
  python capture_kv.py --model Qwen/Qwen3-0.6B --text passage.txt --tokens 256 \\
      --layers 0,13,27 -o qwen3-0.6b.safetensors
"""

ATTENTION = "tq_capture"  # the name under which transformers finds recording_attention()
REPRODUCTION_LIMIT = 1e-3  # relative RMS error; a float32 forward reaches about 1e-6


class CaptureError(Exception):
    """Could not be done; the message is the one line the user sees."""


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR_OR_HUB_ID",
                        help="model directory, or name on the Hugging Face hub")
    parser.add_argument("--gguf", metavar="FILE",
                        help="name of a GGUF file inside --model; its weights are dequantized")
    parser.add_argument("--text", required=True, metavar="FILE", help="UTF-8 text to read")
    parser.add_argument("--tokens", required=True, type=int, metavar="N",
                        help="use the first N tokens of the text, 2 or more; memory grows with N^2")
    parser.add_argument("--layers", required=True, type=parse_layers, metavar="L,L,...|all",
                        help="layers to capture, counted from 0")
    parser.add_argument("-o", "--output", required=True, metavar="DUMP.safetensors",
                        help="file to write; must not exist yet")
    parser.add_argument("--dtype", choices=("bf16", "f16", "f32"), default="bf16",
                        help="storage of the dump, rounded from float32 (default: bf16)")
    parser.add_argument("--no-queries", action="store_true",
                        help="leave the queries out: a smaller dump, without attention metrics")
    parser.add_argument("--max-perplexity", type=float, default=40.0, metavar="X",
                        help="refuse a model that reads the text worse than this: its weights or "
                             "its tokenizer are probably broken (default: 40)")
    parser.add_argument("--name", help="model name to record (default: --model)")
    parser.add_argument("--license", help="licence to record (default: what the model states)")
    arguments = parser.parse_args()
    if arguments.tokens < 2:
        parser.error("--tokens must be 2 or more")
    return arguments


def parse_layers(text):
    """'0,15,29' -> [0, 15, 29]; 'all' -> None."""
    if text == "all":
        return None
    try:
        layers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is neither 'all' nor numbers like 0,15,29")
    if layers[0] < 0:
        raise argparse.ArgumentTypeError(f"layer {layers[0]} is negative")
    return layers


def main():
    arguments = parse_arguments()
    try:
        check_output(arguments.output)
        import_libraries(arguments.gguf)
        tokenizer, model = load_model(arguments.model, arguments.gguf)
        tokens = read_tokens(tokenizer, arguments.text, arguments.tokens)
        layers = choose_layers(model, arguments.layers)
        captured, perplexity = run_model(model, tokens, layers)
        print(f"perplexity {perplexity:.3f} over {arguments.tokens} tokens")
        if not perplexity < arguments.max_perplexity:
            raise CaptureError(
                f"perplexity {perplexity:.1f} of {arguments.text} is not below "
                f"{arguments.max_perplexity:g}: the weights or the tokenizer are probably broken; "
                "if the text is merely hard, raise --max-perplexity")
        if not arguments.no_queries:
            check_reproduction(captured)
        metadata = describe(arguments, model, captured, perplexity)
        write_dump(arguments, captured, metadata)
    except CaptureError as error:
        sys.exit(f"capture_kv.py: {error}")
    except KeyboardInterrupt:
        sys.exit("capture_kv.py: interrupted, nothing written")


def check_output(path):
    if os.path.exists(path):
        raise CaptureError(f"{path} exists; remove it or choose another name")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise CaptureError(f"there is no directory {os.path.dirname(path)} to write {path} into")


def import_libraries(gguf):
    """Imports late, so that --help needs nothing installed."""
    global gguf_library, safetensors_torch, torch, transformers
    try:
        import safetensors.torch as safetensors_torch
        import torch
        import transformers
        if gguf:
            import accelerate  # noqa: F401  transformers needs it to load a GGUF
            import gguf as gguf_library
    except ImportError as error:
        raise CaptureError(f"{error}; install it with pip")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def load_model(name, gguf):
    """Returns the tokenizer and the float32 model, whose attention is recording_attention()."""
    if gguf and not os.path.isfile(os.path.join(name, gguf)):
        raise CaptureError(f"there is no file {gguf} in {name}")
    transformers.AttentionInterface.register(ATTENTION, recording_attention)
    transformers.AttentionMaskInterface.register(ATTENTION, transformers.masking_utils.eager_mask)
    source = {"gguf_file": gguf} if gguf else {}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **source)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, attn_implementation=ATTENTION, **source)
    except Exception as error:  # loaders raise whatever they like
        raise CaptureError(f"cannot load {name}: {first_line(error)}")
    return tokenizer, model.eval()


def first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def read_tokens(tokenizer, path, count):
    """Returns the first `count` token ids of the text, shape [1, count]."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise CaptureError(f"cannot read {path}: {first_line(error)}")
    ids = tokenizer(text).input_ids
    if len(ids) < count:
        raise CaptureError(f"{path} has only {len(ids)} tokens; lower --tokens")
    return torch.tensor([ids[:count]])


def choose_layers(model, wanted):
    count = model.config.get_text_config().num_hidden_layers
    layers = list(range(count)) if wanted is None else wanted
    if layers[-1] >= count:
        raise CaptureError(f"there is no layer {layers[-1]}: the model has layers 0 to {count - 1}")
    return layers


class Recorder:
    """What recording_attention has seen, per layer."""

    def __init__(self, layers):
        self.layers = layers
        self.captured = {}


recorder = None


def recording_attention(module, query, key, value, attention_mask, scaling=None, **options):
    """An attention function for transformers: runs the model's own eager attention and records."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if eager is None:
        eager = transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS["sdpa"]
    scale = float(query.shape[-1] ** -0.5 if scaling is None else scaling)
    result = eager(module, query, key, value, attention_mask, scaling=scaling, **options)
    layer = getattr(module, "layer_idx", None)
    if recorder is not None and layer in recorder.layers:
        if layer in recorder.captured:
            raise CaptureError(f"layer {layer} ran its attention twice; no dump can hold that")
        recorder.captured[layer] = {
            "q": query[0].clone(), "k": key[0].clone(), "v": value[0].clone(),
            "output": result[0][0].clone(),  # [tokens, heads, head_dim], as it reaches o_proj
            "scale": scale,
            "softcap": options.get("softcap"),
            "window": options.get("sliding_window"),
        }
    return result


def run_model(model, tokens, layers):
    """Returns what each layer's attention received and returned, and the perplexity."""
    global recorder
    recorder = Recorder(layers)
    try:
        with torch.inference_mode():
            logits = model(tokens, use_cache=False).logits[0]
    except CaptureError:
        raise
    except Exception as error:  # for example out of memory, or a text beyond the model's context
        raise CaptureError(f"the forward pass failed: {first_line(error)}")
    captured = recorder.captured
    recorder = None
    missing = [layer for layer in layers if layer not in captured]
    if missing and len(missing) == len(layers):
        raise CaptureError("the model does not call its attention through transformers' "
                           "AttentionInterface, so nothing could be captured")
    if missing:
        raise CaptureError(f"layer {missing[0]} has no attention over keys; name layers that "
                           f"have, for example --layers {','.join(map(str, captured))}")
    loss = torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:])
    return captured, math.exp(min(loss.item(), 700.0))


def check_reproduction(captured):
    """Refuses a layer whose attention is more than what the dump says of it."""
    for layer, record in captured.items():
        expected = record["output"]
        actual = attend(record).transpose(0, 1)
        error = ((actual - expected).norm() / expected.norm()).item()
        if not error < REPRODUCTION_LIMIT:
            raise CaptureError(
                f"layer {layer}: softmax(scale * q k^T) v differs from the model's attention by "
                f"{error:.1e}; it has sinks, a position bias or a mask that a dump cannot hold; "
                "use --no-queries to capture keys and values alone")


def attend(record):
    """Causal attention from the recorded tensors alone; returns [heads, tokens, head_dim]."""
    query, key, value = record["q"], record["k"], record["v"]
    group = query.shape[0] // key.shape[0]
    row = torch.arange(query.shape[1])[:, None]
    column = torch.arange(key.shape[1])[None, :]
    visible = column <= row
    if record["window"]:
        visible &= row - column < record["window"]
    heads = []
    for head in range(query.shape[0]):
        logits = record["scale"] * (query[head] @ key[head // group].T)
        if record["softcap"]:
            logits = record["softcap"] * torch.tanh(logits / record["softcap"])
        weights = logits.masked_fill(~visible, -math.inf).softmax(dim=-1)
        heads.append(weights @ value[head // group])
    return torch.stack(heads)


def describe(arguments, model, captured, perplexity):
    """The dump's metadata; safetensors allows strings only."""
    scale = only_value(captured, "scale")
    softcap = only_value(captured, "softcap")
    metadata = {
        "format": "tq-kv-dump",
        "model": arguments.name or arguments.model,
        "source": describe_source(arguments, model),
        "license": arguments.license or find_license(arguments) or "unknown",
        "tokens": str(arguments.tokens),
        "text": os.path.basename(arguments.text),
        "perplexity": f"{perplexity:.4f}",
        "attention_scale": repr(scale),
    }
    if softcap:
        metadata["attention_softcap"] = repr(float(softcap))
    for layer, record in captured.items():
        if record["window"]:
            metadata[f"sliding_window.{layer}"] = str(record["window"])
    return metadata


def only_value(captured, key):
    values = {record[key]: layer for layer, record in captured.items()}
    if len(values) > 1:
        first, second = list(values.items())[:2]
        raise CaptureError(f"layers {first[1]} and {second[1]} differ in attention {key} "
                           f"({first[0]}, {second[0]}); capture them into separate dumps")
    return next(iter(values))


def describe_source(arguments, model):
    """What the weights really were before they became float32."""
    if arguments.gguf:
        counts = {}
        for tensor in open_gguf(arguments).tensors:
            counts[tensor.tensor_type.name] = counts.get(tensor.tensor_type.name, 0) + 1
        parts = ", ".join(f"{count} {name}" for name, count in
                          sorted(counts.items(), key=lambda item: -item[1]))
        return f"{arguments.gguf} ({parts} tensors) dequantized to float32"
    stored = transformers.AutoConfig.from_pretrained(arguments.model)
    quantization = getattr(stored, "quantization_config", None)
    if quantization:
        return f"weights quantized by {quantization.get('quant_method', 'an unnamed method')}"
    dtype = stored.dtype or stored.get_text_config().dtype
    name = str(dtype).removeprefix("torch.") if dtype else "unstated type"
    return f"weights of {name}, computed in float32"


def open_gguf(arguments):
    return gguf_library.GGUFReader(os.path.join(arguments.model, arguments.gguf))


def find_license(arguments):
    """The licence a GGUF states, or the one in the model card of a local directory."""
    if arguments.gguf:
        field = open_gguf(arguments).get_field("general.license")
        return field.contents() if field else None
    try:
        with open(os.path.join(arguments.model, "README.md"), encoding="utf-8") as card:
            for line in card:
                if line.startswith("license:"):
                    return line.removeprefix("license:").strip()
    except OSError:
        pass
    return None


def write_dump(arguments, captured, metadata):
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[arguments.dtype]
    tensors = {}
    for layer, record in captured.items():
        for name in "kv" if arguments.no_queries else "qkv":
            stored = record[name].to(dtype).contiguous()
            if not torch.isfinite(stored).all():
                raise CaptureError(
                    f"{name}.{layer} is not finite in {arguments.dtype}; use --dtype f32")
            tensors[f"{name}.{layer}"] = stored
    partial = arguments.output + ".part"
    try:
        with open(partial, "wb") as file:
            file.write(sort_metadata(safetensors_torch.save(tensors, metadata)))
        os.replace(partial, arguments.output)
    except Exception as error:
        raise CaptureError(f"cannot write {arguments.output}: {first_line(error)}")
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    for name, tensor in tensors.items():
        print(f"{name:6} {list(tensor.shape)} {arguments.dtype}")
    print(f"wrote {arguments.output}, {os.path.getsize(arguments.output)} bytes")


def sort_metadata(blob):
    """safetensors writes metadata in an arbitrary order; sorted, equal dumps are equal files."""
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors start on a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + blob[8 + length:]


if __name__ == "__main__":
    main()
