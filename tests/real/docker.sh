#!/bin/sh
# Stands in for docker in front of a real Ollama on loopback: a container here is a process of this machine. SIMULATED:
# the container, its card, and the log as docker keeps one. Each container is a folder below $CONTAINERS: at, env, id,
# run (starts the server), log, pid, started.
set -u
for name do :; done
[ "$1" != exec ] || name=$2
here=$CONTAINERS/$name
alive() { # pid
  [ -r "/proc/$1/stat" ] && ! grep -q '^State:.*Z' "/proc/$1/status" 2>/dev/null
}
running() { [ -s "$here/pid" ] && alive "$(cat "$here/pid")"; }
start() {
  ! running || return 0
  date -u +%Y-%m-%dT%H:%M:%S.%NZ >"$here/started"
  : >"$here/log"
  setsid "$here/run" >>"$here/log" 2>&1 </dev/null &
  echo $! >"$here/pid"
}
stop() {
  running || return 0
  pid=$(cat "$here/pid")
  kill -TERM "$pid" 2>/dev/null
  tries=0
  while alive "$pid" && [ "$tries" -lt 100 ]; do tries=$((tries + 1)); sleep 0.1; done
  kill -KILL "-$pid" 2>/dev/null
  : >"$here/pid"
}
status() { if running; then echo running; else echo exited; fi; }
case $1 in ps | version) ;; *) [ -d "$here" ] || { echo "Error: No such object: $name" >&2; exit 1; } ;; esac
case "$*" in
  *PortBindings*) cat "$here/at" ;;
  *Mounts*) echo "$here" ;;
  *Config.Env*) cat "$here/env" ;;
  *State.Status*ExitCode*) echo "$(status) 0" ;;
  *State.Status*) status ;;
  *DeviceRequests*) echo GPU-1, ;;
  *State.Pid*) cat "$here/pid" ;;
  *State.StartedAt*) cat "$here/started" ;;
  inspect*) cat "$here/id" ;;
  ps*) cat "$CONTAINERS"/*/id ;;
  version*) echo 29 ;;
  exec*nvidia-smi*) echo 'GPU 0: a card, simulated (UUID: GPU-1)' ;;
  restart*) stop; start ;;
  start*) start ;;
  stop*) stop ;;
  logs*--tail*) tail -n 15 "$here/log" ;;
  logs*) cat "$here/log" ;;
  *) echo "the stand-in for docker does not know: $*" >&2; exit 125 ;;
esac
