#!/usr/bin/env bash
# All that needs a GPU, on a machine that has one: parity of every byte, the same files and reports from whole commands,
# compute-sanitizer on small cases, then the benchmark.
#
#   tests/gpu/run.sh FOLDER_OF_BINARIES OUT
#
# FOLDER_OF_BINARIES holds tq, gpu_parity, gpu_calls and gpu_forward, built here or elsewhere with -DTQ_CUDA=ON; results go to the
# folder OUT. Takes about six minutes. Ends with 0 only if every step passed.
set -uo pipefail
binaries=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
out=$2
mkdir -p "$out"
failed=0
step() {
  local name=$1 start=$SECONDS
  shift
  if "$@" > "$out/$name.log" 2>&1; then
    echo "passed  $name ($((SECONDS - start)) s)"
  else
    echo "FAILED  $name ($((SECONDS - start)) s), exit $?: $out/$name.log"
    tail -5 "$out/$name.log"
    failed=1
  fi
}

nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem --format=csv | tee "$out/device.csv"
step parity "$binaries/gpu_parity"
step calls "$binaries/gpu_calls"
step forward env TQ_TEST_MODELS="$here/../prefill" "$binaries/gpu_forward"
cat "$out/forward.log"
step same-files python3 "$here/same_files.py" "$binaries/tq" "$here/../../docs/samples/smollm2-135m-instruct.safetensors" 1024
cat "$out/same-files.log"
step bench-raw "$binaries/tq" bench --device cuda --dim 64,96,128,256 --mb 512 --repeat 25 --quiet --json
step bench-weights "$binaries/tq" bench --device cuda --op encode --weights 14336x4096 --norm raw,corrected --repeat 25 --quiet --json
step bench-unpack "$binaries/tq" bench --device cuda --op decode --weights 28672x8192 --repeat 25 --quiet --json
step bench-plain "$binaries/tq" bench --device cuda --dim 80 --bits 3 --mb 64 --repeat 5 --quiet --json
step bench-search "$binaries/tq" bench --device cuda --op encode --dim 128 --bits 3 --effort 1,2,3 --mb 64 --repeat 5 --quiet --json
step bench-norms "$binaries/tq" bench --device cuda --dim 96,128 --norm corrected,least-squares --mb 512 --repeat 25 --quiet --json
small=("$binaries/tq" bench --device cuda --mb 1 --repeat 1 --quiet)
if command -v compute-sanitizer > /dev/null; then
  step memcheck compute-sanitizer --tool memcheck --error-exitcode 9 "${small[@]}" --dim 64,96,128,256 --norm raw,corrected,least-squares
  weights=("${small[@]}" --weights 64x4096 --op encode)
  step memcheck-weights compute-sanitizer --tool memcheck --error-exitcode 9 "${weights[@]}" --dim 64,128,256 --norm raw,corrected
  step memcheck-search compute-sanitizer --tool memcheck --error-exitcode 9 "${small[@]}" --op encode --dim 96,128 --bits 3 --effort 2
  types=("$binaries/gpu_parity" 0 "dim  128 rht2     bits 1-8 F32" "dim   96 rht2     bits 1-8 F32" "turns")  # F32 and F16, which bench has not; many turns
  step memcheck-types compute-sanitizer --tool memcheck --error-exitcode 9 "${types[@]}"
  step racecheck-types compute-sanitizer --tool racecheck --error-exitcode 9 "${types[@]}"
  step racecheck-search compute-sanitizer --tool racecheck --error-exitcode 9 "${small[@]}" --op encode --dim 96,128 --bits 3 --effort 2
  step racecheck-weights compute-sanitizer --tool racecheck --error-exitcode 9 "${weights[@]}" --dim 64,128,256 --bits 3 --norm raw,corrected
  step racecheck compute-sanitizer --tool racecheck --error-exitcode 9 "${small[@]}" --dim 64,96,128,256 --bits 3 --norm raw,corrected,least-squares
else
  echo "skipped compute-sanitizer: it is not installed"
fi
python3 - "$out" <<'END' || true
import json, os, sys
for name in ("bench-raw", "bench-weights", "bench-unpack", "bench-plain", "bench-search", "bench-norms"):
    text = open(os.path.join(sys.argv[1], name + ".log")).read()
    report = json.loads(text[text.index("{"):text.rindex("}") + 1])
    print(report["machine"]["gpu"], "copy", round(2 * report["device_copy"][0]["gb_per_s"]), "GB/s read plus written")
    for c in report["cases"]:
        share = "-" if c["of_copy"] is None else "%.3f" % c["of_copy"]
        print(c["op"], c["dim"], c["bits"], c["norm"], c["codebook"][:4], c["effort"], share, c["median_us"], c["failure"] or "")
END
exit $failed
