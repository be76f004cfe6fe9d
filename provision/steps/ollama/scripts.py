"""The shell scripts for models: constants, with data only as arguments.

POSIX sh under `set -eu`. The scripts run on the host, because a client that goes away cancels a pull and a load
(docs/facts.md#ollama-pull, docs/facts.md#ollama-load), and with the host's curl, because the image has none
(docs/facts.md#ollama-image). The host's proxy for the outside world is not for its own instances: `--noproxy '*'`.
"""

from provision.command import Script
from provision.steps.docker.gpu_processes import LIMIT, SHARE
from provision.steps.instance.scripts import ready
from provision.steps.ollama import kept_size
from provision.steps.ollama.server_state import MARKS, MENDED, MIB, PROBE
from provision.steps.system import content

READY = ready(PROBE.health)

# The address of a container's server, and the folder of its models on the host.
PLACE = r"""
at() {
  docker inspect --type container --format \
    '{{with index .HostConfig.PortBindings "11434/tcp"}}{{with index . 0}}{{.HostIp}}:{{.HostPort}}{{end}}{{end}}' "$1"
}
folder() {
  docker inspect --type container --format \
    '{{range .Mounts}}{{if eq .Destination "/root/.ollama"}}{{.Source}}{{end}}{{end}}' "$1"
}
"""

# The text of the last error in a server's answer, with JSON's escapes taken out, or the end of the answer.
REASON = r"""
reason() {
  { sed -n 's/.*"error" *: *"\(\([^"\\]\|\\.\)*\)".*/\1/p' "$1" | tail -n 1 | sed -e 's/\\\\/\n/g' -e 's/\\"/"/g' \
    -e 's/\\u003c/</g' -e 's/\\u003e/>/g' -e 's/\\u0026/\&/g' -e 's/\\[nrt]/ /g' -e 's/\n/\\/g' | grep . ||
    tail -n 1 "$1"; } | head -c 600
}
"""

# Removes blobs that do not match their name: Ollama never checks a blob again, and pulls only missing blobs. The blobs
# that `verify --deep` found damaged go before the pull, so that the whole model is hashed once.
BLOBS = r"""
digests() { grep -o 'sha256:[0-9a-f]\{64\}' "$1" | sort -u | sed 's/:/-/'; }
verify() { # folder, manifest: 1 where a blob is missing or was wrong
  whole=0
  for blob in $(digests "$2"); do
    echo "verifying $blob"
    is=$(sha256sum 2>/dev/null <"$1/models/blobs/$blob" | cut -c1-64) || is=
    [ "sha256-$is" != "$blob" ] || continue
    echo "blob $blob is damaged; it is pulled again"
    rm -f "$1/models/blobs/$blob"
    whole=1
  done
  return $whole
}
known() { # folder, manifest
  damaged | while read -r is path; do
    blob=${path##*/}
    [ "$path" = "$1/models/blobs/$blob" ] && digests "$2" | grep -q -x -F -e "$blob" || continue
    echo "blob $blob is damaged; it is pulled again"
    rm -f "$path"
  done
}
"""

# A pulling server sends a frame every 60 ms, even without progress, and restarts a stalled part without end:
# `completed` then goes back by the bytes of the part, up to 1 GB (server/download.go; measured with 0.33). So only a
# count beyond the greatest count of the blob is progress. Bytes that come a second time are no progress, but their
# seconds are no silence either: a part fetched again slowly is not given up, and a part that stalls over and over is,
# because its silences add up.
PROGRESS = r"""
began() { phase=begin most=0 before=0 silent=0; seconds; last=$now; }
seconds() { read -r now rest </proc/uptime; now=${now%%.*}; }
progress() { # file of frames: shows the newest whole one and counts the seconds of silence
  frame=$(tail -n 2 "$1" | grep '}$' | tail -n 1) || frame=
  [ -z "$frame" ] || printf '%s\n' "$frame"
  count=$(printf '%s\n' "$frame" | sed -n 's/.*"completed" *: *\([0-9]\{1,15\}\)[^0-9].*/\1/p')
  status=$(printf '%s\n' "$frame" | sed -n 's/.*"status" *: *"\([^"]\{1,200\}\)".*/\1/p')
  count=${count:-0}
  seconds
  if [ "$status" != "$phase" ] || [ "$count" -gt "$most" ]; then
    phase=$status most=$count silent=0
  elif [ "$count" -le "$before" ]; then
    silent=$((silent + now - last))
  fi
  before=$count last=$now
}
"""

# Texts of Ollama in a pull's error frame (server/images.go, server/download.go, net/http), in words, and whether a
# further try is useless.
JUDGEMENT = r"""
judge() { # text of an error: sets `final`, empty where a further try may help, and `advice`
  final=yes advice=
  case $1 in
    *'no Location header in response'* | *'unexpected status code 30'*)
      advice='Ollama pulls only from a registry that redirects to blobs (307) at another host name: docs/models.md' ;;
    *'Proxy Authentication Required'*) advice='the proxy demands another login: proxy.https, or ollama.https_proxy' ;;
    *'realm host '* | *unauthorized*) advice='the registry demands a login, and Ollama has none for this registry' ;;
    *'gave HTTP response to HTTPS client'* | *'not look like a TLS handshake'*)
      advice='the registry speaks plain http: set models.insecure: true' ;;
    *'failed to verify certificate'*) advice='the container does not know the issuer of this certificate' ;;
    'pull model manifest: file does not exist'*) advice='the registry has no model of this name and tag' ;;
    *'file does not exist'*) advice='the registry lacks a blob of the model: publish the model there again' ;;
    *'no space left'* | *'invalid model name'* | *'requires a newer version'*) ;;
    *) final= ;;
  esac
  [ -z "$final" ] || return 0
  case $1 in
    *"invalid character '<'"*) advice='a web page came in place of a manifest: is a portal or a proxy in between?' ;;
    *'max retries exceeded'*) advice='the registry broke off the blob in each of six tries' ;;
    *'context deadline exceeded'*) advice='the registry refused a blob for 30 s' ;;
    *'digest mismatch'*) advice='the registry sent other bytes than its manifest says' ;;
    *proxyconnect*) advice='the proxy (proxy.https, or ollama.https_proxy) does not answer' ;;
    *'no such host'*) advice='the name server does not know the registry; without internet: docs/models.md' ;;
  esac
}
"""

# $1 container, $2 model, $3 request, $4 its manifest below models/manifests, $5 tries, $6 seconds of silence that end a
# try, $7 name of the mark, $8 not empty for a known damaged blob. Success is the last frame, never the status
# (docs/facts.md#ollama-pull); a failure that no further try can mend ends the pull at once. The first
# pull that only finds damaged blobs is no try. Servers running while a
# blob is damaged are noted by the time of their start, including servers with the same folder: each may take the model
# for useless until it restarts. A server that goes meanwhile is not noted.
PULL = Script(
    "ollama/pull",
    PLACE
    + REASON
    + content.STILL_DAMAGED
    + BLOBS
    + PROGRESS
    + JUDGEMENT
    + rf"""
frames=$(mktemp) said=$(mktemp)
pid=
trap 'rm -f "$frames" "$said"; [ -z "$pid" ] || kill "$pid" 2>/dev/null || :' EXIT
trap 'exit 143' TERM INT HUP
at=$(at "$1"); folder=$(folder "$1"); manifest=$folder/models/manifests/$4
marks=$folder/{MARKS}
mended() {{ # name of the mark
  mkdir -p "$marks"
  docker ps -q --no-trunc --filter label=provision.managed=1 |
    xargs -r docker inspect --type container --format '{{{{.State.StartedAt}}}}' >"$marks/$1{MENDED}" 2>/dev/null || :
}}
umask 077
[ -z "$8" ] || {{ mended "$7"; known "$folder" "$manifest"; }}
try=1 again=
while :; do
  : >"$frames"; why=; began
  printf '%s' "$3" | curl --noproxy '*' -sS -N --data-binary @- -o "$frames" "http://$at/api/pull" 2>"$said" &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.5; progress "$frames"
    [ "$silent" -lt "$6" ] || {{ why="nothing came for $silent s (models.stall) at: ${{phase:-the answer}}"; break; }}
  done
  [ -z "$why" ] || kill "$pid" 2>/dev/null || :
  rc=0; {{ wait "$pid"; }} 2>/dev/null || rc=$? # the shell itself says `Terminated`
  pid=
  case $why:$(tail -n 1 "$frames" | tr -d ' ') in
    *'"status":"success"'*) if verify "$folder" "$manifest"; then break; fi
      why='a blob was damaged'; mended "$7"
      [ "$again" ] || {{ again=yes; continue; }} ;; # this try brought nothing: the server took the blob for whole
    :*'"error":'*) why=$(reason "$frames") ;;
    :*) case $rc in
        0) why="the server's answer ended without success: $(reason "$frames")" ;;
        *) progress "$frames" >/dev/null # frames that came after the last look
          why="the connection to the server broke: $(head -n 1 "$said") at: ${{phase:-the answer}}" ;;
      esac ;;
  esac
  judge "$why"
  why=$why${{advice:+" ($advice)"}}
  if [ "$final" ] || [ "$try" -ge "$5" ]; then echo "$1 could not pull $2: $why" >&2; exit 1; fi
  echo "try $try failed: $why; again in 5 s"
  try=$((try + 1)); sleep 5
done
mkdir -p "$marks"
printf '%s\n' "$2" >"$marks/$7"
""",
)

RESTART = Script(
    "ollama/restart",
    PLACE
    + READY
    + r"""
docker restart "$1" >/dev/null
ready "$1" "$(at "$1")" 120
""",
)

# $1 container, $2 model, $3 request, $4 request to unload or empty, $5 name of the mark, $6 the manifest below
# models/manifests. A missing container or model is no failure: neither is wanted. A stopped server is started for the
# request, and stopped again. A server that does not start, hangs or is ill must not block a removal from the inventory:
# then its manifest goes, and the blobs go at its next start (docs/facts.md#shared-models-folder).
DELETE = Script(
    "ollama/delete",
    PLACE
    + rf"""
docker inspect --type container "$1" >/dev/null 2>&1 || exit 0
folder=$(folder "$1"); at=$(at "$1")
code=000 started=
case $(docker inspect --type container --format '{{{{.State.Status}}}}' "$1") in
  running) up=yes ;;
  *) if timeout 60 docker start "$1" >/dev/null; then up=yes started=yes; else up=; fi ;;
esac
if [ "$up" ]; then
  path=/api/version
  [ -z "$4" ] || path=/api/generate
  printf '%s' "$4" | curl --noproxy '*' -sS -m 30 --retry 40 --retry-delay 1 --retry-max-time 40 --retry-connrefused \
    -o /dev/null ${{4:+--data-binary @-}} "http://$at$path" || :
  code=$(printf '%s' "$3" | curl --noproxy '*' -sS -m 60 -o /dev/null -w '%{{http_code}}' -X DELETE --data-binary @- \
    "http://$at/api/delete") || code=000
fi
[ -z "$started" ] || timeout 60 docker stop "$1" >/dev/null || :
[ "$folder" ] || exit 0
case $code in
  200|404) ;;
  *) echo "$1 could not be asked to delete $2 (it answered $code): its manifest is removed, its blobs go at a start"
    rm -f -- "$folder/models/manifests/$6" ;;
esac
rm -f -- "$folder/{MARKS}/$5" "$folder/{MARKS}/$5{MENDED}"
rmdir "$folder/{MARKS}" 2>/dev/null || :
""",
)

# An empty request loads a model, and only while the client waits (docs/facts.md#ollama-load). A model without text
# needs the second request. Afterwards the script reads whether the model is wholly on the cards: a partial load
# succeeds too.
LOADING = r"""
post() { printf '%s' "$1" | curl --noproxy '*' -sS -m "$3" -o "$2" -w '%{http_code}' --data-binary @- "$4"; }
load() { # address:port, request, request for models that only embed, file for answers, seconds
  code=$(post "$2" "$4" "$5" "http://$1/api/generate") || return 1
  if [ "$code" = 400 ] && grep -q 'does not support generate' "$4"; then
    code=$(post "$3" "$4" "$5" "http://$1/api/embed") || return 1
  fi
  [ "$code" = 200 ] && ! grep -q '"error" *:' "$4"
}
"""

# For the function `serve` of the script that starts instances at boot; uses LOADING.
BOOT = r"""
  for model do
    echo "$name: loading $model"
    request="{\"model\":\"$model\",\"keep_alive\":-1,\"stream\":false}"
    embedding="{\"model\":\"$model\",\"keep_alive\":-1,\"input\":\".\"}"
    load "$at" "$request" "$embedding" "$answer/$name" 7200 || {
      echo "$name could not load $model: $(head -c 500 "$answer/$name")" >&2; return 1
    }
  done
"""

# The lines of a server's log that tell of its cards, of the memory of a model, and of failures, in the order of the
# log: a request writes up to 81 other lines after them (docs/facts.md#ollama-variables). Bounded: a step shows the last
# 30 lines of an error. A log without such a line is shown by its end.
EVIDENCE = r"""
evidence() { # container
  since=$(docker inspect --type container --format '{{.State.StartedAt}}' "$1" 2>/dev/null) || since=0
  told=$(timeout 60 docker logs --since "$since" "$1" 2>&1 | awk -v most=6 '
    { kind = "" }
    /level=(WARN|ERROR|FATAL)/ { kind = "bad" }
    /projected to use|buffer size|offloaded/ { kind = "memory" }
    /inference compute|library=/ { kind = "cards" }
    kind { place = kind " " n[kind]++ % most; at[place] = NR; line[place] = substr($0, 1, 220) }
    END { for (place in at) printf "%d\t%s\n", at[place], line[place] }' | sort -n | cut -f 2-) || :
  [ -n "$told" ] || told=$(timeout 60 docker logs --tail 15 "$1" 2>&1 | cut -c 1-220) || :
  printf '%s\n' "$told"
}
"""

# The sizes of the loaded models are kept first, whatever the judgement.
# A model that does not fit, or a server that found no card, uses the CPU without an error, and a server on the CPU may
# report all bytes on the cards (docs/facts.md#model-memory). So nvidia-smi's list of processes is asked too, by the
# rules of `gpu_processes.holding`.
WHOLE = (
    EVIDENCE
    + kept_size.KEEP
    + rf"""
whole() {{ # container, address:port
  loaded=$(curl --noproxy '*' -fsS -m 20 "http://$2/api/ps") || loaded=
  keep_sizes "$1" "$loaded"
  sizes=$(printf '%s\n' "$loaded" | tr ',' '\n' |
    sed -n 's/.*"\(size\|size_vram\)" *: *\([0-9]*\).*/\1 \2/p')
  partly=$(printf '%s\n' "$sizes" | awk '$1 == "size" {{size = $2}}
    $1 == "size_vram" {{vram = $2; if (vram != size) print vram " of " size " bytes"}}')
  if [ -n "$partly" ]; then
    echo "only $partly of a model are on the cards of $1: the server found no card, or the model and its context" \
      "(ollama.context_length times num_parallel) do not fit; its log:" >&2
    evidence "$1" >&2
    return 1
  fi
  claim=$(printf '%s\n' "$sizes" | awk '$1 == "size_vram" {{sum += $2}} END {{printf "%d\n", sum / {MIB}}}')
  held "$1" "$claim" || {{ evidence "$1" >&2; return 1; }}
}}
held() {{ # container, MiB that its server says are on its cards
  [ "$2" -gt 0 ] || return 0
  id=$(docker inspect --type container --format '{{{{.Id}}}}' "$1")
  cards=$(docker inspect --type container --format \
    '{{{{range .HostConfig.DeviceRequests}}}}{{{{range .DeviceIDs}}}}{{{{.}}}},{{{{end}}}}{{{{end}}}}' "$1")
  rows=$(smi --query-compute-apps=gpu_uuid,pid,used_gpu_memory) && [ -n "$id" ] ||
    {{ unasked 'lists no processes'; return 0; }}
  found=$(printf '%s\n' "$rows" | while IFS=', ' read -r card pid mib; do
    [ -n "$card" ] || continue
    group=
    case $pid in *[!0-9]*) ;; *) group=$(cat "/proc/$pid/cgroup" 2>/dev/null) || : ;; esac
    case $group in
      *"$id"*) case $mib in '' | *[!0-9]*) echo unknown ;; *) echo "$mib" ;; esac ;;
      '') case ,$cards in *",$card,"*) echo unknown ;; *) echo other ;; esac ;;
      *) echo other ;;
    esac
  done)
  sum=$(printf '%s\n' "$found" | awk '/^[0-9]/ {{sum += $1}} END {{print sum + 0}}')
  if enough "$sum" "$2"; then return 0; fi
  case $found in
    *unknown*) unasked 'does not tell the memory of a process on its cards'; return 0 ;;
    '') used=$(smi --query-gpu=memory.used -i "${{cards%,}}" |
        awk '/^[0-9]+$/ {{sum += $1; next}} {{odd = 1}} END {{if (NR && !odd) print sum + 0}}')
      if [ -z "$used" ] || enough "$used" "$2"; then unasked 'lists no process at all'; return 0; fi ;;
  esac
  echo "the processes of $1 hold $sum MiB of its cards, and its server says $2 MiB: it works on the CPU; its log:" >&2
  return 1
}}
enough() {{ awk -v held="$1" -v claim="$2" 'BEGIN {{exit !(held >= claim * {SHARE})}}'; }}
smi() {{ timeout -k 1 {LIMIT} nvidia-smi --format=csv,noheader,nounits "$@" 2>/dev/null; }}
unasked() {{ echo "not asked: whether the model is on the cards of its processes: nvidia-smi of the host $1"; }}
"""
)

# $1 container, $2 seconds; then three words for each model: its name and the two requests.
LOAD = Script(
    "ollama/load",
    PLACE
    + REASON
    + LOADING
    + WHOLE
    + r"""
name=$1; limit=$2; shift 2
answer=$(mktemp); trap 'rm -f "$answer"' EXIT
at=$(at "$name")
while [ $# -ge 3 ]; do
  echo "loading $1"
  if ! load "$at" "$2" "$3" "$answer" "$limit"; then
    echo "$name could not load $1: $(reason "$answer")" >&2
    evidence "$name" >&2
    exit 1
  fi
  shift 3
done
whole "$name" "$at"
""",
)

# $1 container, $2 `restart` for a server with a model on no card; then a request for each model to unload. A server
# that found no card at its start does not look again until a restart. The line of its log that says so is gone after
# some thousand requests, so the line is no more than a second reason.
REFRESH = Script(
    "ollama/refresh",
    PLACE
    + r"""
name=$1 how=$2; shift 2
at=$(at "$name")
for request do
  printf '%s' "$request" | curl --noproxy '*' -sS -m 60 -o /dev/null --data-binary @- "http://$at/api/generate" || :
done
sleep 1
since=$(docker inspect --type container --format '{{.State.StartedAt}}' "$name")
if [ "$how" = restart ] || docker logs --since "$since" "$name" 2>&1 | grep -qi 'library=\(cpu\|vulkan\)'; then
  echo "$name uses no card; restarting it"
  docker restart "$name" >/dev/null
fi
tries=0
until curl --noproxy '*' -fsS -m 3 -o /dev/null "http://$at/api/version" 2>/dev/null; do
  tries=$((tries + 1))
  [ "$tries" -lt $((200 * ${patience:-1})) ] || { echo "$name does not answer on $at" >&2; exit 1; }
  sleep 0.3
done
""",
)

UNLOAD = Script(
    "ollama/unload",
    PLACE
    + REASON
    + r"""
at=$(at "$1"); shift
for request do
  printf '%s' "$request" | curl --noproxy '*' -sS -m 60 -o /dev/null --data-binary @- "http://$at/api/generate"
done
""",
)
