# shellcheck shell=bash disable=SC2034
# Debian bookworm packages that SlimInfer Server needs, and a function that installs what is missing.
# Sourced by deploy/quickstart.sh and tests/run.sh.

slim_build_packages=(
  build-essential cmake ninja-build ccache pkg-config git ca-certificates
  python3 python3-pip python3-venv unzip curl
  libabsl-dev libgrpc-dev libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  prometheus-cpp-dev libcivetweb-dev zlib1g-dev libcurl4-openssl-dev libssl-dev
  nlohmann-json3-dev libcli11-dev libpcre2-dev
)
# What the built programs load; the container's last stage installs only these.
slim_run_packages=(
  libgrpc++1.51 libprotobuf32 libabsl20220623 libprometheus-cpp-core1.0 libcivetweb1
  libpcre2-8-0 libssl3 zlib1g
)
slim_test_packages=(
  libgtest-dev libgmock-dev libbenchmark-dev prometheus openssl haproxy shellcheck
)
# Only for ./tests/run.sh --sanitizers; llvm-16 has the program that turns a report's addresses into lines.
slim_sanitizer_packages=(clang-16 libclang-rt-16-dev llvm-16)

# slim_install PACKAGE...: installs what dpkg does not know as installed; needs no network when
# nothing is missing.
slim_install() {
  local missing=() package status
  for package in "$@"; do
    status=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
    [[ $status == "install ok installed" ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  local sudo=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || {
      echo "missing packages: ${missing[*]}; run as root or install sudo" >&2
      return 1
    }
    sudo=(sudo)
  fi
  echo "installing: ${missing[*]}"
  # Neither the Prometheus server nor the proxy shall start on this machine: only their tools and
  # their configuration checks are wanted.
  "${sudo[@]}" apt-get update -qq || {
    echo "apt-get update failed: is there a network? Missing packages: ${missing[*]}" >&2
    return 1
  }
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
