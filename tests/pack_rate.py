"""How fast tq packs a checkpoint, beside how fast this machine reads the same bytes.

    python3 tests/pack_rate.py TQ DIR [--mb 1024] [--model DIR] [--runs 21] [--threads 1] [--bits 3] [--cold]

Makes a checkpoint of one tensor of Gaussian BF16 values in a directory of its own below DIR (or takes that of --model), packs it
again and again, and prints the median and the range of the rates, in GB/s of the source from the first block read to the last file
durable. Between the runs it reads the source alone, 512 KiB at a time into one buffer, which is what `read` is; `of read` is the ratio
of the medians. --cold drops the source from the page cache before every run (not possible in memory-backed file systems). Nothing is
timed before `tq verify --weights` finds at most 1.2 times the codebook's distortion in every tensor of the first output, and every
output has to be the same, to the byte. Exit 1 if not. DIR needs room for the checkpoint, if it is made, and for two outputs.
"""

import argparse
import array
import filecmp
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

BLOCK = 1 << 19
ROW = 16384  # values


def gaussian_bf16(rng, count):
    """As bytes: the upper halves of float32 values, little-endian."""
    values = array.array("f", (rng.gauss(0, 0.02) for _ in range(count)))
    return array.array("H", values.tobytes())[1::2].tobytes()


def make_model(path, megabytes):
    os.mkdir(path)
    rows = max(1, megabytes * 1_000_000 // (2 * ROW))
    header = json.dumps({"model.layers.0.mlp.up_proj.weight":
                         {"dtype": "BF16", "shape": [rows, ROW], "data_offsets": [0, rows * ROW * 2]}}).encode()
    header += b" " * (-len(header) % 8)
    piece = gaussian_bf16(random.Random(1), 64 * ROW)  # 2 MB, again and again: nothing in tq remembers an earlier row
    with open(os.path.join(path, "model.safetensors"), "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for row in range(0, rows, 64):
            file.write(piece[: min(64, rows - row) * ROW * 2])
        os.fsync(file.fileno())
    with open(os.path.join(path, "config.json"), "w") as file:
        json.dump({"model_type": "llama"}, file)


def weight_files(path):
    return sorted(os.path.join(path, name) for name in os.listdir(path) if name.endswith(".safetensors"))


def read_seconds(files):
    buffer = bytearray(BLOCK)
    start = time.perf_counter()
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def drop(files):
    for path in files:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def check_output(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}: {(done.stderr + done.stdout).strip()[-200:]}")
    return done.stdout


def describe(rates):
    return f"{statistics.median(rates):.2f} GB/s ({min(rates):.2f} to {max(rates):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tq")
    parser.add_argument("dir")
    parser.add_argument("--mb", type=int, default=1024)
    parser.add_argument("--model")
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    if args.runs < 1 or args.mb < 1:
        parser.error("--runs and --mb are 1 or more")
    with tempfile.TemporaryDirectory(dir=args.dir) as scratch:
        model = args.model or os.path.join(scratch, "model")
        if not args.model:
            make_model(model, args.mb)
        first, out = os.path.join(scratch, "first"), os.path.join(scratch, "out")
        pack = [args.tq, "pack-weights", model, "--bits", str(args.bits), "--threads", str(args.threads), "--device", "cpu", "--json"]
        check_output(pack + ["-o", first])
        check_output([args.tq, "verify", "--weights", first, "--against", model, "--max-rel-mse-ratio", "1.2"])
        files = weight_files(model)
        rates, reads = [], []
        for _ in range(args.runs):
            for is_read in (False, True):
                if args.cold:
                    drop(files)
                if is_read:
                    reads.append(sum(map(os.path.getsize, files)) / read_seconds(files) / 1e9)
                    continue
                shutil.rmtree(out, ignore_errors=True)
                rates.append(json.loads(check_output(pack + ["-o", out]))["speed"]["bytes_per_second"] / 1e9)
                for path in weight_files(first):
                    if not filecmp.cmp(path, os.path.join(out, os.path.basename(path)), shallow=False):
                        sys.exit(f"{path}: another run of the same command wrote other bytes")
        ratio = statistics.median(rates) / statistics.median(reads)
        print(f"{args.bits} bits, {args.threads} threads, {args.runs} runs: {describe(rates)}; read {describe(reads)}; {ratio:.2f} of read")


main()
