#!/usr/bin/env bash
# Builds the server's image with the container engine that is there, starts it the way deploy/compose.yaml
# does, and checks what an operator relies on: the user, a read-only root, health, an answer, metrics, drain.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'TEXT'
usage: ./docker/check_image.sh [--kind cpu|cuda] [--engine docker|podman|buildah] [--image NAME] [--no-build]
                               [-- BUILD_FLAG...]
  --kind      which Dockerfile, default: cpu; cuda is checked as it serves without a GPU
  --engine    default: the first of these that answers
  --image     default: sliminfer-server:KIND
  --no-build  check the image that is there
  --          everything after it goes to the build, e.g. -- --pull=never
Needs curl, and the default model (./deploy/fetch_model.sh fetches it).
TEXT
}
engine=
image=
kind=cpu
build=1
build_flags=()
while (($#)); do
  case $1 in
    --kind) kind=${2:?--kind needs a name}; shift ;;
    --engine) engine=${2:?--engine needs a name}; shift ;;
    --image) image=${2:?--image needs a name}; shift ;;
    --no-build) build=0 ;;
    --) shift; build_flags=("$@"); break ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown argument: $1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
dockerfile=docker/$kind.Dockerfile
[[ -e $dockerfile ]] || { echo "--kind: there is no $dockerfile" >&2; usage >&2; exit 2; }
image=${image:-sliminfer-server:$kind}
if [[ -z $engine ]]; then
  for candidate in docker podman buildah; do
    if command -v "$candidate" >/dev/null && "$candidate" info >/dev/null 2>&1; then
      engine=$candidate
      break
    fi
  done
fi
case $engine in
  docker | podman | buildah) ;;
  "") echo "neither docker nor podman nor buildah works here" >&2; exit 1 ;;
  *) echo "unknown engine: $engine" >&2; usage >&2; exit 2 ;;
esac

work=$(mktemp -d)
box=     # the container
runner=  # buildah only: the process that runs it
clean_up() {
  if [[ -n $box && $engine == buildah ]]; then
    [[ -z $runner ]] || signal KILL 2>/dev/null || true
    buildah rm "$box" >/dev/null || true
  elif [[ -n $box ]]; then
    "$engine" rm --force "$box" >/dev/null || true
  fi
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
fail() {
  [[ -z $box ]] || show_log >&2 || true
  echo "FAILED: $1" >&2
  exit 1
}
passed() { echo "ok      $1"; }

# What differs between the engines. buildah has no daemon and no containers that run by themselves: its
# `run` is started in the background, without namespaces, so ports are those of this machine.
build_image() {
  case $engine in
    docker) docker build -f "$dockerfile" -t "$image" "${build_flags[@]}" . ;;
    # The format that knows HEALTHCHECK.
    podman) podman build --format docker -f "$dockerfile" -t "$image" "${build_flags[@]}" . ;;
    buildah)
      buildah bud --isolation chroot --format docker -f "$dockerfile" -t "$image" \
        "${build_flags[@]}" . ;;
  esac
}
start_server() {
  if [[ $engine == buildah ]]; then
    box=$(buildah from --pull=never "$image")
    mkdir -m 777 "$work/run"
    touch "$work/started"
    buildah run --isolation chroot -v "$PWD/models:/models:ro" -v "$work/run:/run/sliminfer" "$box" -- \
      sliminfer-server --listen 127.0.0.1:0 --http_listen 127.0.0.1:0 \
      --port_file /run/sliminfer/ports >"$work/log" 2>&1 &
    runner=$!
  else
    box=$("$engine" run --detach --read-only --cap-drop ALL --security-opt no-new-privileges \
      -v "$PWD/models:/models:ro" -p 127.0.0.1::9464 "$image")
  fi
}
addresses() {  # sets grpc (as seen inside) and http (as seen here); fails while there are none
  if [[ $engine == buildah ]]; then
    [[ -s $work/run/ports ]] || return 1
    grpc=$(sed -n 's/^grpc=//p' "$work/run/ports") http=$(sed -n 's/^http=//p' "$work/run/ports")
  else
    grpc=127.0.0.1:50051 http=$("$engine" port "$box" 9464/tcp | head -n 1)
  fi
}
inside() {  # inside COMMAND...: in the container, with our standard input
  case $engine in
    buildah) buildah run --isolation chroot "$box" -- "$@" ;;
    *) "$engine" exec --interactive "$box" "$@" ;;
  esac
}
server_pid() {  # buildah: the server itself, a descendant of the runner
  local pids=("$runner") pid child
  while ((${#pids[@]})); do
    pid=${pids[0]} pids=("${pids[@]:1}")
    if [[ $(cat "/proc/$pid/comm" 2>/dev/null) == sliminfer-serve ]]; then echo "$pid"; return; fi
    for child in $(cat "/proc/$pid/task/"*/children 2>/dev/null); do pids+=("$child"); done
  done
  return 1
}
signal() {  # signal NAME
  case $engine in
    buildah) kill "-$1" "$(server_pid)" ;;
    *) "$engine" kill --signal "$1" "$box" >/dev/null ;;
  esac
}
running() {
  case $engine in
    buildah) kill -0 "$runner" 2>/dev/null ;;
    *) [[ $("$engine" inspect --format '{{.State.Running}}' "$box") == true ]] ;;
  esac
}
wait_for_end() {  # sets code
  code=0
  case $engine in
    buildah) wait "$runner" || code=$?; runner= ;;
    *) code=$("$engine" wait "$box") ;;
  esac
}
changes() {  # files that the server made or changed in the container
  case $engine in
    buildah)
      local root
      root=$(buildah mount "$box")
      find "$root" -xdev -type f -newer "$work/started" -printf '%P\n'
      buildah umount "$box" >/dev/null ;;
    *) "$engine" diff "$box" ;;
  esac
}
show_log() {
  case $engine in
    buildah) cat "$work/log" ;;
    *) "$engine" logs "$box" ;;
  esac
}

if [[ ! -f models/SmolLM2-135M-Instruct.Q4_1.gguf ]]; then
  echo "no model in models/: run ./deploy/fetch_model.sh first" >&2
  exit 1
fi
if ((build)); then
  echo "building $image with $engine (minutes)"
  build_image >"$work/build.log" 2>&1 || {
    tail -n 30 "$work/build.log" >&2
    echo "FAILED: the image was not built" >&2
    exit 1
  }
fi
size=$("$engine" images --format '{{.Size}}' "$image" | head -n 1)
[[ -n $size ]] || fail "there is no image $image"
echo "checking $image with $engine: $size"

start_server
for ((i = 0; ; ++i)); do
  running || fail "the server did not start"
  ((i < 600)) || fail "the server was not ready within 60 s"
  if addresses && curl -fsS -o /dev/null --max-time 2 "http://$http/readyz" 2>/dev/null; then break; fi
  sleep 0.1
done
passed "/readyz answers 200"
[[ $(inside id -u) == 65532 ]] || fail "the user is $(inside id -u), not 65532"
passed "runs as user 65532"
inside sliminfer --address "$grpc" --timeout 10 health >/dev/null || fail "the health check says no"
passed "the health check of the Dockerfile"

{ cat deploy/examples/expedition.txt; printf '\n\nWhat is the special magic number for the depot mentioned in the log?\n'; } |
  inside sliminfer --address "$grpc" generate --chat --file - --temperature 0 --max_tokens 48 \
    >"$work/answer" 2>"$work/answer.log" || { cat "$work/answer.log" >&2; fail "the question was not answered"; }
grep -q 58213 "$work/answer" || fail "the answer is wrong: $(cat "$work/answer")"
passed "a question about a document: $(tr '\n' ' ' <"$work/answer")"
curl -fsS --max-time 5 "http://$http/metrics" >"$work/metrics"
grep -Eq '^sliminfer_requests_total\{.*grpc_code="OK".*\} [1-9]' "$work/metrics" || fail "/metrics does not count the request"
passed "/metrics counts it"

# Two seconds of work that are under way when the signal comes must still reach the client.
inside sliminfer --address "$grpc" generate --ignore_eos --max_tokens 400 --temperature 0 "The sea was calm and" \
  >"$work/long" 2>"$work/long.log" &
client=$!
for ((i = 0; i < 100; ++i)); do
  [[ ! -s $work/long ]] || break
  sleep 0.1
done
[[ -s $work/long ]] || fail "no stream within 10 s"
signal TERM
wait_for_end
[[ $code == 0 ]] || fail "SIGTERM: exit code $code"
wait "$client" || { cat "$work/long.log" >&2; fail "the running stream was cut"; }
passed "SIGTERM: the running stream ended well, exit code 0"
[[ -z $(changes) ]] || fail "files were written in the container: $(changes)"
passed "nothing was written outside the mounts"
