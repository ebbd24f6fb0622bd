#!/usr/bin/env bash
# What a machine with a GPU is asked: is it right (op conformance, the engine against its oracle, the default
# model's text, compute-sanitizer), then how fast is it (prefill of published shapes, dense and pruned, against
# the cost model, with each op's share; decode with the whole KV on the device and with a quarter of it; PyTorch
# beside it). Closes on one table of all checks and of the goals of tests/bench/gpu_verdict.py.
# What says most comes first, each measurement has a time limit, and what is done is written at once, so
# that a machine that is taken away early has still answered.
#
#   tests/gpu.sh                       builds here and runs
#   tests/gpu.sh --pack DIR            builds here and gathers in DIR what another machine needs, no run
#   DIR/gpu.sh                         runs what was gathered: no compiler, no package registry
#
# DIR holds the scripts, bin/ and tests/ (module and programs), lib/ (every shared library they need but those
# of the C library and the driver), data/ (reference values) and model/ (the default model, in pieces). Without
# model/ it is below 64 MiB, and no piece of the model is larger than 48 MiB, for machines that files reach in
# portions; libcublasLt alone is half a gigabyte: --without-cublaslt leaves it out where the other machine has
# CUDA 13's.
#
# Exit status: 0 everything that ran passed, 1 a check or a measurement failed, 2 wrong arguments,
# 3 nothing can run on a GPU here. Goals that were missed do not change it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

usage() {
  cat <<'TEXT'
usage: tests/gpu.sh [--pack DIR [--without-cublaslt] [--without-model]] [--stages LIST] [--geometries LIST]
                    [--lengths LIST] [--runs N] [--decode_context N] [--long_context N] [--chunk_tokens N]
                    [--results DIR] [--minutes N]
  --stages      default conformance,prefill,decode,peers,geometries,engine,golden,sanitizer; the order is fixed
  --geometries  default llama-3.1-8b,qwen2.5-7b,llama-3.2-1b; decode and peers: the first one
  --lengths     default 2048,8192,32768,131072
  --decode_context  default 32768
  --long_context    also decoded with a quarter of the KV, default 131072; 0: not
  --results     where JSON and logs go, default gpu-results; with --stages, what is there stays in the last
                table, without it is removed
  --minutes     no measurement begins after so many minutes, default 25
TEXT
}
all_stages=conformance,prefill,decode,peers,geometries,engine,golden,sanitizer stages=""
pack="" without_cublaslt=0 without_model=0 runs=5 chunk_tokens=8192 results=gpu-results minutes=25
geometries=llama-3.1-8b,qwen2.5-7b,llama-3.2-1b lengths=2048,8192,32768,131072
decode_context=32768 long_context=131072
while (($#)); do
  case $1 in
    --pack) pack=${2:?--pack needs a folder}; shift ;;
    --without-cublaslt) without_cublaslt=1 ;;
    --without-model) without_model=1 ;;
    --stages) stages=${2:?--stages needs a list}; shift ;;
    --geometries) geometries=${2:?--geometries needs a list}; shift ;;
    --lengths) lengths=${2:?--lengths needs a list}; shift ;;
    --decode_context) decode_context=${2:?--decode_context needs a number}; shift ;;
    --long_context) long_context=${2:?--long_context needs a number}; shift ;;
    --runs) runs=${2:?--runs needs a number}; shift ;;
    --chunk_tokens) chunk_tokens=${2:?--chunk_tokens needs a number}; shift ;;
    --results) results=${2:?--results needs a folder}; shift ;;
    --minutes) minutes=${2:?--minutes needs a number}; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown argument: $1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
fresh=0
if [[ -z $stages ]]; then stages=$all_stages fresh=1; fi
for stage in ${stages//,/ }; do
  case $stage in
    conformance | prefill | decode | peers | geometries | engine | golden | sanitizer) ;;
    *) echo "--stages: '$stage' is no stage" >&2; usage >&2; exit 2 ;;
  esac
done
wanted() { [[ ,$stages, == *,$1,* ]]; }

model_name=SmolLM2-135M-Instruct.Q4_1.gguf
test_programs=(backend_device_conformance_test engine_test golden_test)
programs=("${test_programs[@]/#/tests/}" bin/sliminfer-bench)
# A folder with CUDA 13's libcublasLt where none was gathered: a toolkit's, or what came with a PyTorch.
cublaslt_folder() {
  local folder
  while read -r folder; do
    [[ ! -e $folder/libcublasLt.so.13 ]] || { echo "$folder"; return; }
  done < <(
    printf '%s\n' /usr/local/cuda/lib64 /usr/local/cuda-13*/lib64
    python3 -c 'import nvidia; print(*(f"{path}/cu13/lib" for path in nvidia.__path__), sep="\n")' 2>/dev/null
  )
}
# Only our programs may see the gathered libraries: another machine's Python has its own.
with_libs=(env)
if [[ -x $here/bin/sliminfer-bench ]]; then  # gathered elsewhere
  root=$here
  scripts=$here
  libraries=$root/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  if [[ ! -e $root/lib/libcublasLt.so.13 ]]; then libraries+=:$(cublaslt_folder); fi
  with_libs=(env "LD_LIBRARY_PATH=${libraries%:}" "SLIM_TEST_DATA=$root/data"
    "SLIM_TEST_MODEL=$root/model/$model_name")
else
  root=$(cd "$here/.." && pwd)/build
  scripts=$here/bench
  (
    cd "$here/.."
    cmake --preset release -DSLIM_BUILD_TESTS=ON -DSLIM_CUDA=ON
    cmake --build build --target sliminfer_cuda "${test_programs[@]}" sliminfer-bench
  ) || { echo "gpu.sh: the build failed" >&2; exit 1; }
fi

# ---------------------------------------------------------------- gathering

of_the_system='/(ld-linux-x86-64|libc|libm|libdl|libpthread|librt|libresolv|libcuda)\.so'
gather() {
  local program path library missing=0
  mkdir -p "$pack/bin" "$pack/tests" "$pack/lib" "$pack/data"
  cp "$here/gpu.sh" "$here"/bench/gpu_{peers,verdict}.py "$pack/"
  cp -r "$here/data/reference" "$pack/data/"
  for program in "${programs[@]}" bin/libsliminfer_cuda.so; do
    cp "$root/$program" "$pack/$program"
    strip --strip-unneeded "$pack/$program"
    ldd "$root/$program" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }'
  done | sort -u | grep -Ev "$of_the_system" |
    { if ((without_cublaslt)); then grep -v libcublasLt; else cat; fi; } |
    while read -r path; do cp -L "$path" "$pack/lib/"; done
  # The programs must find all they need there.
  for program in "${programs[@]}" bin/libsliminfer_cuda.so; do
    while read -r library path; do
      [[ $path == "$pack"/lib/* || /$library =~ $of_the_system ]] && continue
      ((without_cublaslt)) && [[ $library == libcublasLt.* ]] && continue
      echo "gpu.sh: $program needs $library, which is not in $pack/lib" >&2
      missing=1
    done < <(LD_LIBRARY_PATH=$pack/lib ldd "$pack/$program" | awk '$2 == "=>" { print $1, $3 }')
  done
  return "$missing"
}
gather_model() {
  local model=$here/../models/$model_name
  mkdir -p "$pack/model"
  rm -f "$pack/model/"*
  if [[ ! -e $model ]]; then
    echo "no model file (deploy/fetch_model.sh fetches it): the stage golden will skip" >&2
    return
  fi
  split --bytes=48M --numeric-suffixes "$model" "$pack/model/$model_name.part-"
  sha256sum <"$model" >"$pack/model/$model_name.sha256"
}
if [[ -n $pack ]]; then
  mkdir -p "$pack"
  pack=$(cd "$pack" && pwd)
  gather
  ((without_model)) || gather_model
  du -sh "$pack"/* && du -sh "$pack"
  exit 0
fi

# ---------------------------------------------------------------- running

mkdir -p "$results"
results=$(cd "$results" && pwd)
((!fresh)) || rm -f "$results"/{prefill,decode,peers}-*.{json,txt,log} "$results/checks.txt"
touch "$results/checks.txt"
failed=0
note() {  # note NAME TEXT: a line of the last table; a stage that runs again replaces its own
  local table=$results/checks.txt
  grep -vF "$1|" "$table" >"$table.new" || true
  printf '%s|%s\n' "$1" "$2" >>"$table.new"
  mv "$table.new" "$table"
}
fail() {  # fail NAME TEXT
  note "$1" "FAILED: $2"
  failed=1
}
reason_of() {  # reason_of STATUS LIMIT LOG
  if (($1 == 124)); then echo "ran past $2 s, see $3"; else echo "status $1, see $3"; fi
}
late() {  # late NAME: true when NAME must be left out
  ((SECONDS > 60 * minutes)) || return 1
  note "$1" "left out after $minutes minutes"
}

check() {  # check NAME SECONDS COMMAND...: a GoogleTest program; cases that skip are not passes
  local name=$1 limit=$2 log=$results/${1// /-}.log status=0 passed skipped
  shift 2
  late "$name" && return
  echo "== $name ($SECONDS s)"
  timeout "$limit" "${with_libs[@]}" "$@" >"$log" 2>&1 || status=$?
  passed=$(grep -c '^\[       OK' "$log" || true)
  skipped=$(grep -c '^\[  SKIPPED \].*ms)' "$log" || true)
  if ((status)); then
    fail "$name" "$(reason_of "$status" "$limit" "$log"); $(grep -c '^\[  FAILED  \].*ms)' "$log" || true) cases failed"
  elif ((passed == 0)); then
    fail "$name" "nothing ran: $(grep -m1 -E '^(UNAVAILABLE|NOT_FOUND|FAILED_PRECONDITION|no model)' "$log" || echo "see $log")"
  else
    note "$name" "$passed passed, $skipped skipped"
  fi
}
measure() {  # measure NAME SECONDS COMMAND...: its output is the table of that name
  local name=$1 limit=$2 status=0 log=$results/$1.txt
  shift 2
  late "$name" && return
  echo "== $name ($SECONDS s)"
  timeout "$limit" "$@" >"$log" 2>&1 || status=$?
  if ((status == 0)); then
    cat "$log"
    note "$name" "$(grep -m1 -o 'skipped: .*' "$log" || echo measured)"
  else
    tail -n 5 "$log"
    mv "$log" "${log%.txt}.log"
    fail "$name" "$(reason_of "$status" "$limit" "${log%.txt}.log")"
  fi
}

# gpu_peers.py calls this one, and so gives it the libraries that its own Python must not have.
bench=$results/sliminfer-bench
{
  printf '#!/bin/sh\nexec'
  printf ' %q' "${with_libs[@]}" "$root/bin/sliminfer-bench"
  printf ' "$@"\n'
} >"$bench"
chmod +x "$bench"

# Loader, cuBLASLt, driver, GPU and a first prompt.
if ! first=$(timeout 120 "$bench" prefill --backend cuda --geometry tiny --random_weights --lengths 64 \
  --pruning off --runs 1 2>&1); then
  first=$(tail -n 1 <<<"$first")
  if [[ ! $first =~ ^error:\ (INTERNAL|RESOURCE_EXHAUSTED) ]]; then
    echo "gpu.sh: nothing can run on a GPU here: ${first:-no answer within 120 s}" >&2
    exit 3
  fi
  fail "first prompt" "$first"
fi

prefill() {  # prefill GEOMETRY
  measure "prefill-$1" 420 "$bench" --json "$results/prefill-$1.json" prefill --backend cuda --geometry "$1" \
    --random_weights --lengths "$lengths" --pruning off,paper --runs "$runs" --chunk_tokens "$chunk_tokens" --op_times
}
decode() {  # decode NAME CONTEXT STEPS OPTION...
  measure "decode-$1" 300 "$bench" --json "$results/decode-$1.json" decode --backend cuda --geometry "${names[0]}" \
    --random_weights --contexts "$2" --streams 1 --max_new_tokens "$3" --chunk_tokens "$chunk_tokens" "${@:4}"
}
IFS=, read -ra names <<<"$geometries"

if wanted conformance; then
  check "op conformance" 300 "$root/tests/backend_device_conformance_test" --gtest_filter='*cuda*'
fi
# The first shape first: its speed is the answer that everything else explains.
if wanted prefill; then prefill "${names[0]}"; fi
if wanted decode; then
  # The whole KV on the device, then a quarter of it, with and without prefetching, by turns.
  decode full "$decode_context" 128 --pruning off,paper
  quarter=(--kv_tier "unified,discrete,discrete_no_prefetch" --device_share 0.25)
  decode quarter-reselect "$decode_context" 128 --pruning paper --decode reselect "${quarter[@]}"
  decode quarter-frozen "$decode_context" 32 --pruning off,paper "${quarter[@]}"
  if ((long_context)); then
    quarter[1]="unified,discrete"
    decode long-reselect "$long_context" 32 --pruning paper --decode reselect "${quarter[@]}"
    decode long-frozen "$long_context" 16 --pruning off,paper "${quarter[@]}"
  fi
fi
if wanted peers; then
  if command -v python3 >/dev/null; then
    measure "peers-${names[0]}" 420 python3 "$scripts/gpu_peers.py" --bench "$bench" --geometry "${names[0]}" \
      --runs 3 --chunk_tokens "$chunk_tokens" --lengths 8192,32768 --decode_context "$decode_context" \
      --json "$results/peers-${names[0]}.json"
  else
    note "peers-${names[0]}" "skipped: no python3"
  fi
fi
if wanted geometries; then
  for geometry in "${names[@]:1}"; do prefill "$geometry"; done
fi
# Minutes of the oracle's time on one core: behind what only this machine can say.
if wanted engine; then
  check "engine against the oracle" 600 "$root/tests/engine_test" --gtest_filter='*cuda*'
fi
if wanted golden; then
  model=$root/model/$model_name
  if [[ ! -e $model && -e $model.sha256 ]]; then
    cat "$model".part-* >"$model.new" 2>/dev/null || true
    if [[ $(sha256sum <"$model.new") == $(<"$model.sha256") ]]; then mv "$model.new" "$model"; else rm -f "$model.new"; fi
  fi
  check "text of the default model" 300 "$root/tests/golden_test" --gtest_filter='*cuda*'
fi
if wanted sanitizer; then
  for tool in memcheck racecheck; do
    if ! command -v compute-sanitizer >/dev/null; then
      note "compute-sanitizer $tool" "skipped: no compute-sanitizer"
      continue
    fi
    filter=()  # racecheck looks at our kernels only: those of cuBLASLt are not ours to judge
    if [[ $tool == racecheck ]] && compute-sanitizer --help 2>&1 | grep -q -e --kernel-name; then
      filter=(--kernel-name kns=slim)
    fi
    check "compute-sanitizer $tool" 600 compute-sanitizer --tool "$tool" "${filter[@]}" --error-exitcode 1 \
      "$root/tests/backend_device_conformance_test" --gtest_filter='*cuda*'
  done
fi

for table in "$results"/{prefill,decode,peers}-*.txt; do
  [[ -e $table ]] && printf '\n%s\n' "$(basename "$table" .txt)" && cat "$table"
done
printf '\n%-40s %s\n' check result
while IFS='|' read -r name text; do printf '%-40s %s\n' "$name" "$text"; done <"$results/checks.txt"
if command -v python3 >/dev/null; then
  echo
  python3 "$scripts/gpu_verdict.py" "$results" --geometry "${names[0]}"
else
  echo "goals: not compared, there is no python3"
fi
exit "$failed"
