"""tq on a GPU writes and measures what it does on the CPU: files byte for byte, reports number for
number, but for rounding in what attention makes of it.

    python3 tests/gpu/same_files.py TQ DUMP [MB]

TQ is the binary, DUMP a KV dump, MB the size of a checkpoint of random weights that is made for this (default 256). Prints a line
a check, and how long both took; exit 1 if any differs. Seconds are of single runs, and nothing depends on them.
"""

import filecmp
import json
import os
import random
import subprocess
import sys
import tempfile
import time

TQ, DUMP = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
MEGABYTES = int(sys.argv[3]) if len(sys.argv) > 3 else 256
failed = 0


def run(*args):
    """What tq printed, its seconds, and the most memory that was resident, in MB."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen([TQ, *args], stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        if child.returncode not in (0, 1):
            raise SystemExit(f"tq {' '.join(args)}: exit {child.returncode}: {err.read().decode()}")
        return out.read().decode(), time.monotonic() - start, usage.ru_maxrss / 1024


def report(what, same, seconds):
    global failed
    failed += not same
    print(f"{'same     ' if same else 'DIFFERENT'} {what}: CPU {seconds[0]:.2f} s, GPU {seconds[1]:.2f} s", flush=True)


def write_model(path, megabytes):
    """A checkpoint of BF16 values of magnitude 2^-7 to 1, in rows of 4096, and a config.json."""
    generator = random.Random(1)
    high = bytes((0x3C + byte % 4) | (byte & 0x80) for byte in range(256))
    rows = 1024
    count = max(1, megabytes * 2**20 // (rows * 4096 * 2))
    size = rows * 4096 * 2
    tensors = {f"model.layers.{i}.mlp.up_proj.weight": {"dtype": "BF16", "shape": [rows, 4096], "data_offsets": [i * size, (i + 1) * size]}
               for i in range(count)}
    header = json.dumps(tensors).encode()
    header += b" " * (-len(header) % 8)
    os.mkdir(path)
    with open(os.path.join(path, "config.json"), "w") as file:
        json.dump({"model_type": "llama"}, file)
    with open(os.path.join(path, "model.safetensors"), "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(count):
            values = bytearray(size)
            values[0::2] = generator.randbytes(size // 2)
            values[1::2] = generator.randbytes(size // 2).translate(high)
            file.write(values)


def differences(a, b, place="$", rounded=False):
    """Where two reports differ, but for backends and seconds. What attention and models make of it may differ by rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        names = (a.keys() | b.keys()) - {"backend", "seconds", "speed", "bytes_per_second"}
        return [line for name in sorted(names) for line in
                differences(a.get(name), b.get(name), f"{place}.{name}", rounded or name in ("attention", "control_attention", "effect", "gates"))]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [line for i, (x, y) in enumerate(zip(a, b)) for line in differences(x, y, f"{place}[{i}]", rounded)]
    if a == b or rounded and isinstance(a, float) and isinstance(b, float) and abs(a - b) <= 1e-9 + 1e-3 * abs(a):
        return []
    return [f"{place}: {a} and {b}"]


def same_files(what, *args, out):
    seconds = []
    for device in ("cpu", "cuda"):
        seconds.append(run(*args, "-o", f"{out}.{device}", "--device", device)[1])
    if os.path.isdir(f"{out}.cpu"):
        names = sorted(os.listdir(f"{out}.cpu"))
        same = names == sorted(os.listdir(f"{out}.cuda")) and all(
            filecmp.cmp(f"{out}.cpu/{name}", f"{out}.cuda/{name}", shallow=False) for name in names)
    else:
        same = filecmp.cmp(f"{out}.cpu", f"{out}.cuda", shallow=False)
    report(what, same, seconds)


def same_report(what, *args):
    reports, seconds = [], []
    for device in ("cpu", "cuda"):
        out, spent, _ = run(*args, "--json", "--device", device)
        reports.append(json.loads(out))
        seconds.append(spent)
    different = differences(*reports)
    report(what, not different, seconds)
    print("".join(f"  {line}\n" for line in different[:10]), end="")


def main():
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        model, packed = f"{folder}/model", f"{folder}/packed"
        write_model(model, MEGABYTES)
        for bits in ("3", "4"):
            same_files(f"pack-kv at {bits} bits", "pack-kv", DUMP, "--bits", bits, out=f"{folder}/{bits}.tq3")
        same_files("pack-kv, corrected norms, a sketch of the keys", "pack-kv", DUMP, "--norm", "corrected", "--qjl-keys", out=f"{folder}/s.tq3")
        same_files("unpack-kv", "unpack-kv", f"{folder}/3.tq3.cpu", out=f"{folder}/u.safetensors")
        same_files("pack-weights", "pack-weights", model, "--bits", "3", out=packed)
        same_files("pack-weights, groups of 64, effort 1", "pack-weights", model, "--group-size", "64", "--effort", "1", out=f"{folder}/g64")
        same_files("unpack-weights", "unpack-weights", f"{packed}.cpu", out=f"{folder}/back")
        same_report("verify --kv", "verify", "--kv", DUMP, "--k-bits", "4", "--v-bits", "3")
        same_report("verify --synthetic", "verify", "--synthetic", "--bits", "3")
        same_report("verify --weights", "verify", "--weights", f"{packed}.cpu", "--against", model)
        for threads in ("1", "4", str(os.cpu_count())):
            for device in ("cpu", "cuda"):
                out, _, resident = run("pack-weights", model, "-o", f"{folder}/t{threads}{device}", "--threads", threads, "--device", device, "--json")
                speed = json.loads(out)["speed"]
                rate = speed["bytes_per_second"] / 1e9
                print(f"pack-weights, {threads} threads, {speed['backend']}: {rate:.2f} GB/s of BF16, {resident:.0f} MB resident, bound by {speed['bound_by']}: "
                      f"{ {k: round(v, 3) for k, v in speed['thread_seconds'].items()} }", flush=True)
    sys.exit(1 if failed else 0)


main()
