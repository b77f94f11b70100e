#!/usr/bin/env bash
# All that needs a GPU, on a machine that has one: parity of every byte, the same files and reports from whole commands,
# compute-sanitizer on small cases, then the benchmark.
#
#   tests/gpu/run.sh FOLDER_OF_BINARIES OUT [STEPS]
#
# FOLDER_OF_BINARIES holds tq, gpu_parity, gpu_calls and gpu_forward, built here or elsewhere with -DTQ_CUDA=ON; logs, and the benchmarks'
# JSON, go to the folder OUT. Takes about ten minutes. Ends with 0 only if every step passed. STEPS is an extended regular expression:
# steps that it does not find in their names are left out, and the end says how many.
set -uo pipefail
if [ $# -lt 2 ] || [ $# -gt 3 ] || [ ! -x "$1/tq" ]; then
  echo "usage: $0 FOLDER_OF_BINARIES OUT [STEPS]; the folder must hold tq, gpu_parity, gpu_calls and gpu_forward" >&2
  exit 2
fi
binaries=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
out=$2
mkdir -p "$out"
wanted=${3:-}
failed=0
done=0
left_out=0
step() {
  local name=$1 start=$SECONDS
  shift
  if ! [[ $name =~ $wanted ]]; then
    left_out=$((left_out + 1))
    return
  fi
  done=$((done + 1))
  if "$@" > "$out/$name.log" 2>&1; then
    echo "passed  $name ($((SECONDS - start)) s)"
  else
    echo "FAILED  $name ($((SECONDS - start)) s), exit $?: $out/$name.log"
    tail -5 "$out/$name.log"
    failed=1
  fi
}

# A benchmark: its JSON goes to a file of its own.
bench() {
  local name=$1
  shift
  step "$name" bash -c '"$@" > "$0"' "$out/$name.json" "$binaries/tq" bench --device cuda --quiet --json "$@"
}

nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem --format=csv | tee "$out/device.csv"
step parity "$binaries/gpu_parity"
step calls "$binaries/gpu_calls"
step forward env TQ_TEST_MODELS="$here/../prefill" "$binaries/gpu_forward"
step same-files python3 "$here/same_files.py" "$binaries/tq" "$here/../../docs/samples/smollm2-135m-instruct.safetensors" 1024
cat "$out"/{forward,same-files}.log 2> /dev/null
bench bench-raw --dim 64,96,128,256 --mb 512 --repeat 25
bench bench-weights --op encode --weights 14336x4096 --norm raw,corrected --repeat 25
bench bench-unpack --op decode --weights 28672x8192 --repeat 25
bench bench-plain --dim 80 --bits 3 --mb 64 --repeat 5
bench bench-search --op encode --dim 128 --bits 3 --effort 1,2,3 --mb 64 --repeat 5
bench bench-norms --dim 96,128 --norm corrected,least-squares --mb 512 --repeat 25
small=("$binaries/tq" bench --device cuda --mb 1 --repeat 1 --quiet)
if command -v compute-sanitizer > /dev/null; then
  step memcheck compute-sanitizer --tool memcheck --error-exitcode 9 "${small[@]}" --dim 64,96,128,256 --norm raw,corrected,least-squares
  weights=("${small[@]}" --weights 64x4096 --op encode)
  step memcheck-weights compute-sanitizer --tool memcheck --error-exitcode 9 "${weights[@]}" --dim 64,128,256 --norm raw,corrected
  step memcheck-search compute-sanitizer --tool memcheck --error-exitcode 9 "${small[@]}" --op encode --dim 96,128 --bits 3 --effort 2
  types=("$binaries/gpu_parity" 0 "dim  128 rht2     bits 1-8 F32" "dim   96 rht2     bits 1-8 F32" "turns norm corrected")  # F32 and F16, which bench has not; many turns
  dense=("$binaries/gpu_parity" 0 "dim  100 sketch" "dim   31 qr")
  step memcheck-types compute-sanitizer --tool memcheck --error-exitcode 9 "${types[@]}"
  step memcheck-dense compute-sanitizer --tool memcheck --error-exitcode 9 "${dense[@]}"
  step racecheck-dense compute-sanitizer --tool racecheck --error-exitcode 9 "${dense[@]}"
  step memcheck-calls compute-sanitizer --tool memcheck --error-exitcode 9 "$binaries/gpu_calls"
  step racecheck-types compute-sanitizer --tool racecheck --error-exitcode 9 "${types[@]}"
  step racecheck-search compute-sanitizer --tool racecheck --error-exitcode 9 "${small[@]}" --op encode --dim 96,128 --bits 3 --effort 2
  step racecheck-weights compute-sanitizer --tool racecheck --error-exitcode 9 "${weights[@]}" --dim 64,128,256 --bits 3 --norm raw,corrected
  step racecheck compute-sanitizer --tool racecheck --error-exitcode 9 "${small[@]}" --dim 64,96,128,256 --bits 3 --norm raw,corrected,least-squares
else
  echo "FAILED  compute-sanitizer is not installed"
  failed=1
fi
python3 - "$out" <<'END' || failed=1
import json, os, sys
for name in ("bench-raw", "bench-weights", "bench-unpack", "bench-plain", "bench-search", "bench-norms"):
    path = os.path.join(sys.argv[1], name + ".json")
    if not os.path.exists(path):
        continue  # left out
    report = json.load(open(path))
    print(report["machine"]["gpu"], "copy", round(2 * report["device_copy"][0]["gb_per_s"]), "GB/s read plus written")
    for c in report["cases"]:
        share = "-" if c["of_copy"] is None else "%.3f" % c["of_copy"]
        print(c["op"], c["dim"], c["bits"], c["norm"], c["codebook"][:4], c["effort"], share, c["median_us"], c["failure"] or "")
END
echo "$done steps, $left_out left out"
[ $done -gt 0 ] || failed=1
exit $failed
