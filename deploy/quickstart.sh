#!/usr/bin/env bash
# From a fresh Debian bookworm machine to a streamed answer: installs missing packages, builds, fetches
# the default model, starts the server, asks one question about a long document, and goes on serving.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'TEXT'
usage: ./deploy/quickstart.sh [--once] [-- SERVER_FLAG...]
  --once   stop after the answer
  --       everything after it goes to the server, e.g. -- --threads 2
Ports: 50051 (gRPC) and 9464 (HTTP), or free ones where those are taken.
TEXT
}
once=0
server_flags=()
while (($#)); do
  case $1 in
    --once) once=1 ;;
    -h | --help) usage; exit 0 ;;
    --) shift; server_flags=("$@"); break ;;
    *) echo "unknown argument: $1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done

work=
server=
# The server has a process group of its own, so a terminal's Ctrl-C reaches only us: one signal drains it,
# a second one ends it at once.
stop() {
  trap '' HUP TERM
  if [[ -n $server ]] && kill -0 "$server" 2>/dev/null; then
    ((once)) || echo "stopping; answers under way are finished first, Ctrl-C ends at once" >&2
    trap 'kill "$server" 2>/dev/null' INT
    kill "$server"
    while kill -0 "$server" 2>/dev/null; do wait "$server" 2>/dev/null || true; done
  fi
  [[ -z $work ]] || rm -rf "$work"
}
trap stop EXIT
trap 'exit 129' HUP
trap 'echo >&2; exit 130' INT
trap 'exit 143' TERM

# The build's output goes to the log; a terminal sees how far it is.
log_build() {
  local line
  while IFS= read -r line; do
    printf '%s\n' "$line" >&3
    if [[ -t 1 && $line =~ ^\[([0-9]+/[0-9]+)\] ]]; then printf '\r  %s' "${BASH_REMATCH[1]}"; fi
  done 3>build/quickstart.log
  [[ ! -t 1 ]] || printf '\r\033[K'
}

source deploy/packages.sh
slim_install "${slim_build_packages[@]}"
[[ -f build/build.ninja ]] || cmake --preset release -DSLIM_BUILD_TESTS=OFF >/dev/null
echo "building (a few minutes the first time)"
cmake --build build --target sliminfer-server sliminfer 2>&1 | log_build || {
  tail -n 30 build/quickstart.log >&2
  echo "the build failed; the whole log is in build/quickstart.log" >&2
  exit 1
}
./deploy/fetch_model.sh

# A port that answers is taken.
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
grpc=127.0.0.1:50051 http=127.0.0.1:9464
if taken 50051 || taken 9464; then
  echo "port 50051 or 9464 is taken; using free ports"
  grpc=127.0.0.1:0 http=127.0.0.1:0
fi
work=$(mktemp -d)
give_up() {  # give_up MESSAGE: with what the server had to say
  cat "$work/server.log" >&2
  echo "$1" >&2
  exit 1
}
set -m
build/bin/sliminfer-server --model models/SmolLM2-135M-Instruct.Q4_1.gguf --listen "$grpc" \
  --http_listen "$http" --port_file "$work/ports" "${server_flags[@]}" </dev/null 2>"$work/server.log" &
server=$!
set +m
# Up to 60 s: the model is read from a cold disk the first time.
ready=0
for ((i = 0; i < 600; ++i)); do
  kill -0 "$server" 2>/dev/null || break
  if [[ -s $work/ports ]]; then
    grpc=$(sed -n 's/^grpc=//p' "$work/ports") http=$(sed -n 's/^http=//p' "$work/ports")
    # Where there is no HTTP endpoint, having written the ports is the sign.
    if [[ $http == off ]] || curl -fsS -o /dev/null --max-time 2 "http://$http/readyz" 2>/dev/null; then
      ready=1
      break
    fi
  fi
  sleep 0.1
done
((ready)) || give_up "the server did not become ready"

document=deploy/examples/expedition.txt
question="What is the special magic number for the depot mentioned in the log?"
echo
echo "question about $document ($(wc -w <"$document") words): $question"
echo
{ cat "$document"; printf '\n\n%s\n' "$question"; } |
  build/bin/sliminfer --address "$grpc" generate --chat --file - --temperature 0 --max_tokens 48 ||
  give_up "the question was not answered"
printf '\ngRPC      %s\n' "$grpc"
[[ $http == off ]] || printf 'metrics   http://%s/metrics\nhealth    http://%s/readyz\n' "$http" "$http"
echo "try       build/bin/sliminfer --address $grpc chat"
if ((once)); then
  echo "stopped again, because of --once"
  exit 0
fi
echo "serving until Ctrl-C; its log is $work/server.log"
wait "$server" || give_up "the server ended by itself"
