#!/usr/bin/env python3
"""Registers and stack of every CUDA kernel against the bounds in kernel_resources.json: a kernel that begins to spill says so here,
without a GPU.

    kernel_resources.py CUOBJDUMP VERSION_OF_NVCC OBJECT ... [--write]

A spill is stack beyond a kernel's own arrays, so the bounds of stack are those arrays, and those of registers what decides how many
warps run at once. Bounds hold for one version of nvcc and the architectures that the file lists. Skipped (exit 77) without CUDA,
without cuobjdump, with another nvcc, or where no architecture is listed. --write puts what is measured into the file, for a person to
read before it is committed.
"""
import json
import re
import subprocess
import sys
from pathlib import Path

BOUNDS = Path(__file__).resolve().with_name("kernel_resources.json")


def skip(why):
    print("SKIPPED:", why)
    sys.exit(77)


def name_kernel(symbol):
    """A kernel's own name and the first two numbers that it is made for: "encode_tiles<16, 3>"."""
    name, rest = symbol, symbol.removeprefix("_ZN").removeprefix("_Z")
    while match := re.match(r"(\d+)", rest):
        length = int(match[1])
        name, rest = rest[len(match[1]):][:length], rest[len(match[1]) + length:]
    numbers = re.findall(r"Li(\d+)E", rest)[:2]
    return name + ("<%s>" % ", ".join(numbers) if numbers else "")


def parse(text):
    """cuobjdump's report -> {architecture: {kernel: {"registers": most, "stack": most}}}; variants of one size count together."""
    found, architecture, kernel = {}, None, None
    for line in text.splitlines():
        if match := re.match(r"\s*arch = (sm_\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            kernel = name_kernel(match[1])
        elif match := re.match(r"\s*REG:(\d+) STACK:(\d+)", line):
            most = found.setdefault(architecture, {}).setdefault(kernel, {"registers": 0, "stack": 0})
            most["registers"] = max(most["registers"], int(match[1]))
            most["stack"] = max(most["stack"], int(match[2]))
    return found


def compare(found, bounds):
    """What is beyond its bound, without one, or gone."""
    problems = []
    for architecture, kernels in bounds.items():
        if architecture not in found:
            continue
        for kernel in sorted(kernels.keys() | found[architecture].keys()):
            bound, here = kernels.get(kernel), found[architecture].get(kernel)
            if bound is None or here is None:
                problems.append(f"{architecture} {kernel}: " + ("has no bound" if bound is None else "is not there"))
                continue
            for what in ("registers", "stack"):
                if here[what] > bound[what]:
                    problems.append(f"{architecture} {kernel}: {here[what]} {what}, and the bound is {bound[what]}")
    return problems


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--write"]
    if len(arguments) < 3:
        skip("this build has no CUDA kernels")
    cuobjdump, version, objects = arguments[0], arguments[1], arguments[2:]
    if not Path(cuobjdump).is_file():
        skip("there is no cuobjdump; -DTQ_CUOBJDUMP names one")
    text = ""
    for path in objects:
        done = subprocess.run([cuobjdump, "--dump-resource-usage", path], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{path}: {done.stderr.strip()}")
        text += done.stdout
    found = parse(text)
    if "--write" in sys.argv:
        stored = json.loads(BOUNDS.read_text())["bounds"] if BOUNDS.exists() else {}
        stored.update(found)
        rows = [f' "{architecture}": {{\n' + ",\n".join(f'  "{k}": {json.dumps(v)}' for k, v in sorted(kernels.items())) + "\n }"
                for architecture, kernels in sorted(stored.items())]
        BOUNDS.write_text(f'{{"nvcc": "{version}", "bounds": {{\n' + ",\n".join(rows) + "\n}}\n")
        return
    stored = json.loads(BOUNDS.read_text())
    if stored["nvcc"] != version:
        skip(f"the bounds are for nvcc {stored['nvcc']}, and this is {version}")
    listed = sorted(found.keys() & stored["bounds"].keys())
    if not listed:
        skip("bounds are stored for %s, and this build is for %s" % (", ".join(stored["bounds"]), ", ".join(found) or "none"))
    problems = compare(found, stored["bounds"])
    # The control: with every bound one lower, every kernel at its bound must be a problem.
    lowered = {a: {k: {w: n - 1 for w, n in b.items()} for k, b in kernels.items()} for a, kernels in stored["bounds"].items()}
    at_bound = [(a, k, w) for a in listed for k, b in stored["bounds"][a].items() for w, n in b.items()
                if found[a].get(k, {}).get(w, -1) >= n]
    if len(compare(found, lowered)) < len(at_bound) or not at_bound:
        problems.append("the control passed: bounds that are one too low were not noticed")
    for architecture in listed:
        print(f"{architecture}: {len(found[architecture])} kernels, up to {max(k['registers'] for k in found[architecture].values())} registers")
    if problems:
        sys.exit("\n".join(problems))


main()
