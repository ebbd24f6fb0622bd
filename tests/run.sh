#!/usr/bin/env bash
# Everything that is checked, on a fresh Debian bookworm machine: installs missing packages, builds, runs
# the tests, closes on ctest's summary. Stages: lint, clang and sanitizers if asked for, release build, ctest.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'TEXT'
usage: ./tests/run.sh [--sanitizers] [-R REGEX]
  --sanitizers   first build everything with clang, its warnings and its thread-safety analysis, then the
                 core libraries' tests with address, undefined-behaviour and thread sanitizers, and run them
  -R REGEX       only tests whose name matches
TEXT
}
sanitizers=0
select=()
while (($#)); do
  case $1 in
    --sanitizers) sanitizers=1 ;;
    -R) select=(-R "${2:?-R needs a regular expression}"); shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown argument: $1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
stage() { printf '\n== %s (%(%H:%M:%S)T)\n' "$1" -1; }

stage "packages and model"
source deploy/packages.sh
packages=("${slim_build_packages[@]}" "${slim_test_packages[@]}")
((!sanitizers)) || packages+=("${slim_sanitizer_packages[@]}")
slim_install "${packages[@]}"
./deploy/fetch_model.sh
# Made again when the requirements change; otherwise no network is needed.
if ! cmp -s tests/e2e/requirements.txt .venv-test/ready; then
  rm -rf .venv-test
  python3 -m venv .venv-test
  .venv-test/bin/pip install --quiet --disable-pip-version-check -r tests/e2e/requirements.txt || {
    echo "cannot install the Python test packages: is there a network?" >&2
    exit 1
  }
  cp tests/e2e/requirements.txt .venv-test/ready
fi

stage "lint"  # again in ctest; here because it takes a second and the build minutes
.venv-test/bin/python tests/lint/check.py

build() {  # build PRESET TARGET...
  # Said outright: deploy/quickstart.sh leaves the tests off in the folder that it shares with us.
  cmake --preset "$1" -DSLIM_BUILD_TESTS=ON >"build-$1.log" 2>&1 && cmake --build --preset "$1" ${2:+--target "${@:2}"} \
    >>"build-$1.log" 2>&1 || {
    grep -E 'error|FAILED' -A 5 "build-$1.log" | head -n 60 >&2
    echo "building preset $1 failed; the log is in build-$1.log" >&2
    exit 1
  }
  rm -f "build-$1.log"
}

check() {  # check PRESET CTEST_ARGUMENT...: runs what was built
  ctest --test-dir "build-$1" --output-on-failure --stop-on-failure --no-tests=error -j 2 "${@:2}" >"build-$1/ctest.log" || {
    tail -n 150 "build-$1/ctest.log" >&2
    exit 1
  }
  grep 'tests passed' "build-$1/ctest.log"
}

if ((sanitizers)); then
  stage "clang's warnings and thread-safety analysis"
  build dev
  stage "address and undefined-behaviour sanitizers"
  build asan-ubsan
  check asan -LE heavy
  stage "thread sanitizer"
  # What threads share, and nothing that only computes. A race can destroy what the test then waits for, so the
  # first one ends it.
  threaded=(bounded_queue_test log_test kv_service_stress_test kv_transfer_fault_test kv_prefetch_test
    discrete_kv_manager_test backend_thread_pool_test server_core_test worker_test)
  build tsan "${threaded[@]}"
  TSAN_OPTIONS=halt_on_error=1 check tsan -R "^($(IFS='|'; echo "${threaded[*]}"))\$"
fi

stage "release build"
build release
stage "tests"
# One at a time: several of them start servers and measure.
exec ctest --test-dir build --output-on-failure --no-tests=error "${select[@]}"
