#!/usr/bin/env bash
# Everything that is checked, on a fresh Debian bookworm machine: installs missing packages, builds, runs
# the tests, closes on ctest's summary. Stages: lint, sanitizers if asked for, release build, ctest.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'TEXT'
usage: ./tests/run.sh [--sanitizers] [-R REGEX]
  --sanitizers   first build the core libraries' tests with address, undefined-behaviour and thread
                 sanitizers and run them
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
slim_install "${slim_build_packages[@]}" "${slim_test_packages[@]}"
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

if ((sanitizers)); then
  stage "address and undefined-behaviour sanitizers"
  build asan-ubsan
  ctest --test-dir build-asan --output-on-failure --stop-on-failure --no-tests=error -j 2 -LE heavy >build-asan/ctest.log ||
    { tail -n 60 build-asan/ctest.log >&2; exit 1; }
  grep 'tests passed' build-asan/ctest.log
  stage "thread sanitizer"
  # What threads share, and nothing that only computes.
  threaded=(bounded_queue_test kv_service_stress_test kv_transfer_fault_test)
  build tsan "${threaded[@]}"
  for test in "${threaded[@]}"; do
    build-tsan/tests/$test >build-tsan/$test.log 2>&1 || { tail -n 60 build-tsan/$test.log >&2; exit 1; }
    printf '%s: %s\n' "$test" "$(tail -n 1 build-tsan/$test.log)"
  done
fi

stage "release build"
build release
stage "tests"
# One at a time: several of them start servers and measure.
exec ctest --test-dir build --output-on-failure --no-tests=error "${select[@]}"
