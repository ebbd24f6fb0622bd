#!/usr/bin/env bash
# What a machine with a GPU is asked: is it right (op conformance, the engine against its oracle), then how
# fast is it (prefill of published shapes, dense and pruned, against the cost model, with each op's share;
# decode with the whole KV on the device and with a quarter of it; PyTorch beside it). Closes on one table.
# What says most comes first, each measurement has a time limit, and what is done is written at once, so
# that a machine that is taken away early has still answered.
#
#   tests/gpu.sh                       builds here and runs
#   tests/gpu.sh --pack DIR            builds here and gathers in DIR what another machine needs, no run
#   DIR/gpu.sh                         runs what was gathered: no compiler, no package registry
#
# DIR holds gpu.sh, gpu_peers.py, bin/ (libsliminfer_cuda.so, sliminfer-bench), tests/ (the two test programs)
# and lib/ (every shared library they need but those of the C library and the driver). libcublasLt is half a gigabyte:
# --without-cublaslt leaves it out where the other machine has CUDA 13's.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

usage() {
  cat <<'TEXT'
usage: tests/gpu.sh [--pack DIR [--without-cublaslt]] [--geometries LIST] [--lengths LIST] [--runs N]
                    [--decode_context N] [--chunk_tokens N] [--results DIR] [--sanitizer] [--minutes N]
  --geometries  default llama-3.1-8b,qwen2.5-7b,llama-3.2-1b
  --lengths     default 2048,8192,32768,131072
  --decode_context  default 32768, of the first geometry
  --results     where JSON and logs go, default gpu-results
  --sanitizer   also run the conformance cases under compute-sanitizer (memcheck, racecheck), last
  --minutes     no measurement begins after so many minutes, default 25
TEXT
}
pack="" without_cublaslt=0 sanitizer=0 runs=5 chunk_tokens=8192 results=gpu-results
minutes=25
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
    --minutes) minutes=${2:?}; shift ;;
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
  cmake --build build --target sliminfer_cuda backend_device_conformance_test engine_test golden_test sliminfer-bench
fi

if [[ -n $pack ]]; then
  mkdir -p "$pack/bin" "$pack/tests" "$pack/lib"
  cp "$here/gpu.sh" "$here/bench/gpu_peers.py" "$pack/"
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
    summary+=("$name|$passed passed, $skipped skipped, $SECONDS s after the start")
  fi
}

late() { ((SECONDS > 60 * minutes)); }
skip_late() {  # skip_late NAME: true when NAME must be left out
  late || return 1
  summary+=("$1|left out after $minutes minutes")
}
measure() {  # measure NAME SECONDS COMMAND...: its output is the table of that name
  local name=$1 limit=$2
  shift 2
  skip_late "$name" && return
  echo "== $name ($SECONDS s)"
  if timeout "$limit" "$@" >"$results/$name.txt" 2>&1; then
    cat "$results/$name.txt"
  else
    failed=1
    summary+=("$name|FAILED, see $results/$name.txt")
  fi
}
bench=$root/bin/sliminfer-bench
prefill() {  # prefill NAME GEOMETRY LENGTHS RUNS OPTION...
  measure "$1" 420 "$bench" --json "$results/$1.json" prefill --backend cuda --geometry "$2" --random_weights \
    --lengths "$3" --pruning off,paper --runs "$4" --chunk_tokens "$chunk_tokens" "${@:5}"
}
decode() {  # decode NAME OPTION...
  measure "decode-$1" 300 "$bench" --json "$results/decode-$1.json" decode --backend cuda \
    --geometry "${names[0]}" --random_weights --contexts "$decode_context" --streams 1 \
    --chunk_tokens "$chunk_tokens" "${@:2}"
}

IFS=, read -ra names <<<"$geometries"
check "op conformance" conformance.log timeout 300 "$root/tests/backend_device_conformance_test" \
  --gtest_filter='*cuda*'
if ((!failed)); then
  # The first shape first: its speed is the answer that everything else explains.
  prefill "prefill-${names[0]}" "${names[0]}" "$lengths" "$runs" --op_times
  quarter=(--kv_tier discrete --device_share 0.25)
  decode full --pruning off,paper
  decode quarter-reselect --pruning paper --decode reselect "${quarter[@]}"
  decode quarter-frozen --pruning off,paper "${quarter[@]}"
  decode quarter-no-prefetch --pruning off,paper --kv_tier discrete_no_prefetch --device_share 0.25
  if [[ -e $here/gpu_peers.py ]]; then peers=$here/gpu_peers.py; else peers=$here/bench/gpu_peers.py; fi
  if command -v python3 >/dev/null; then
    measure "peers-${names[0]}" 420 python3 "$peers" --bench "$bench" --geometry "${names[0]}" --runs 3 \
      --chunk_tokens "$chunk_tokens" --lengths 8192,32768 --decode_context "$decode_context" \
      --json "$results/peers-${names[0]}.json"
  else
    summary+=("peers|skipped: no python3")
  fi
  for geometry in "${names[@]:1}"; do
    prefill "prefill-$geometry" "$geometry" "$lengths" "$runs" --op_times
  done
fi
# Minutes of the oracle's time on one core: behind what only this machine can say.
skip_late "engine against the oracle" ||
  check "engine against the oracle" engine.log timeout 600 "$root/tests/engine_test" --gtest_filter='*cuda*'
if [[ -x $root/tests/golden_test ]]; then
  skip_late "default model's text" ||
    check "default model's text" golden.log timeout 300 "$root/tests/golden_test" --gtest_filter='*cuda*'
fi
if ((sanitizer)); then
  for tool in memcheck racecheck; do
    skip_late "compute-sanitizer $tool" ||
      check "compute-sanitizer $tool" "$tool.log" timeout 600 compute-sanitizer --tool "$tool" \
        --error-exitcode 1 "$root/tests/backend_device_conformance_test" --gtest_filter='*cuda*'
  done
fi

printf '\n%-40s %s\n' check result
for row in "${summary[@]}"; do printf '%-40s %s\n' "${row%%|*}" "${row#*|}"; done
for table in "$results"/{prefill,decode,peers}-*.txt; do
  [[ -e $table ]] && printf '\n%s\n' "$(basename "$table" .txt)" && cat "$table"
done
exit "$failed"
