#!/usr/bin/env bash
# What a machine with a GPU is asked: is it right (op conformance, the engine against its oracle), then how
# fast is it (prefill of published shapes, dense and pruned, against the cost model; decode with the whole KV
# on the device and with a quarter of it). Closes on one table.
#
#   tests/gpu.sh                       builds here and runs
#   tests/gpu.sh --pack DIR            builds here and gathers in DIR what another machine needs, no run
#   DIR/gpu.sh                         runs what was gathered: no compiler, no package registry
#
# DIR holds gpu.sh, bin/ (libsliminfer_cuda.so, sliminfer-bench), tests/ (the two test programs) and lib/
# (every shared library they need but those of the C library and the driver). libcublasLt is half a gigabyte:
# --without-cublaslt leaves it out where the other machine has CUDA 13's.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

usage() {
  cat <<'TEXT'
usage: tests/gpu.sh [--pack DIR [--without-cublaslt]] [--geometries LIST] [--lengths LIST] [--runs N]
                    [--decode_context N] [--chunk_tokens N] [--results DIR] [--sanitizer]
  --geometries  default llama-3.1-8b,qwen2.5-7b,llama-3.2-1b
  --lengths     default 2048,8192,32768,131072
  --decode_context  default 32768, of the first geometry
  --results     where JSON and logs go, default gpu-results
  --sanitizer   also run the conformance cases under compute-sanitizer (memcheck, racecheck)
TEXT
}
pack="" without_cublaslt=0 sanitizer=0 runs=5 chunk_tokens=8192 results=gpu-results
geometries=llama-3.1-8b,qwen2.5-7b,llama-3.2-1b lengths=2048,8192,32768,131072 decode_context=32768
while (($#)); do
  case $1 in
    --pack) pack=${2:?--pack needs a folder}; shift ;;
    --without-cublaslt) without_cublaslt=1 ;;
    --geometries) geometries=${2:?}; shift ;;
    --lengths) lengths=${2:?}; shift ;;
    --decode_context) decode_context=${2:?}; shift ;;
    --runs) runs=${2:?}; shift ;;
    --chunk_tokens) chunk_tokens=${2:?}; shift ;;
    --results) results=${2:?}; shift ;;
    --sanitizer) sanitizer=1 ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown argument: $1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done

programs=(tests/backend_device_conformance_test tests/engine_test bin/sliminfer-bench)
if [[ -x $here/bin/sliminfer-bench ]]; then
  root=$here  # gathered elsewhere
  export LD_LIBRARY_PATH=$root/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
else
  cd "$here/.."
  root=$PWD/build
  cmake --preset release -DSLIM_BUILD_TESTS=ON -DSLIM_CUDA=ON
  cmake --build build --target sliminfer_cuda backend_device_conformance_test engine_test sliminfer-bench
fi

if [[ -n $pack ]]; then
  mkdir -p "$pack/bin" "$pack/tests" "$pack/lib"
  cp "$here/gpu.sh" "$pack/"
  for program in "${programs[@]}" bin/libsliminfer_cuda.so; do
    cp "$root/$program" "$pack/$program"
    ldd "$root/$program" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }'
  done | sort -u | grep -Ev '/(libc|libm|libdl|libpthread|librt|libcuda)\.so' |
    { if ((without_cublaslt)); then grep -v libcublasLt; else cat; fi; } |
    while read -r library; do cp -L "$library" "$pack/lib/"; done
  du -sh "$pack"
  exit 0
fi

mkdir -p "$results"
results=$(cd "$results" && pwd)
summary=()
failed=0
check() {  # check NAME LOG COMMAND...: a GoogleTest program; cases that skip are not passes
  local name=$1 log=$results/$2 ok=0
  shift 2
  "$@" >"$log" 2>&1 && ok=1
  local passed skipped
  passed=$(grep -c '^\[       OK' "$log" || true)
  skipped=$(grep -c '^\[  SKIPPED \].*ms)' "$log" || true)
  if ((!ok)); then
    summary+=("$name|FAILED, see $log")
    failed=1
  elif ((passed == 0)); then
    summary+=("$name|nothing ran: $(grep -m1 -E '^(UNAVAILABLE|NOT_FOUND|FAILED_PRECONDITION)' "$log" || echo "see $log")")
    failed=1
  else
    summary+=("$name|$passed passed, $skipped skipped")
  fi
}

check "op conformance" conformance.log "$root/tests/backend_device_conformance_test" --gtest_filter='*cuda*'
check "engine against the oracle" engine.log "$root/tests/engine_test" --gtest_filter='*cuda*'
if ((sanitizer)); then
  for tool in memcheck racecheck; do
    check "compute-sanitizer $tool" "$tool.log" compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$root/tests/backend_device_conformance_test" --gtest_filter='*cuda*'
  done
fi

if ((!failed)); then
  IFS=, read -ra names <<<"$geometries"
  for geometry in "${names[@]}"; do
    "$root/bin/sliminfer-bench" --json "$results/prefill-$geometry.json" prefill --backend cuda \
      --geometry "$geometry" --random_weights --lengths "$lengths" --pruning off,paper \
      --runs "$runs" --chunk_tokens "$chunk_tokens" >"$results/prefill-$geometry.txt" 2>&1 || {
      failed=1
      summary+=("prefill $geometry|FAILED, see $results/prefill-$geometry.txt")
    }
  done
  # The first shape once more in decode: the whole KV on the device, then a quarter of it, with and without
  # fetching ahead.
  decode() {  # decode NAME OPTION...
    "$root/bin/sliminfer-bench" --json "$results/decode-$1.json" decode --backend cuda --geometry "${names[0]}" \
      --random_weights --contexts "$decode_context" --streams 1 --chunk_tokens "$chunk_tokens" "${@:2}" \
      >"$results/decode-$1.txt" 2>&1 || {
      failed=1
      summary+=("decode $1|FAILED, see $results/decode-$1.txt")
    }
  }
  quarter=(--kv_tier discrete --device_share 0.25)
  decode full --pruning off,paper
  decode quarter-frozen --pruning off,paper "${quarter[@]}"
  decode quarter-reselect --pruning paper --decode reselect "${quarter[@]}"
  decode quarter-no-prefetch --pruning off,paper --kv_tier discrete_no_prefetch --device_share 0.25
fi

printf '\n%-40s %s\n' check result
for row in "${summary[@]}"; do printf '%-40s %s\n' "${row%%|*}" "${row#*|}"; done
for table in "$results"/{prefill,decode}-*.txt; do
  [[ -e $table ]] && printf '\n%s\n' "$(basename "$table" .txt)" && cat "$table"
done
exit "$failed"
