"""A look into a container for its cards: nothing else shows that it lost them while it runs (FACTS 2.5)."""

LIMIT = 30  # seconds for a look: a busy host may take many
NO_ANSWER = "(no answer)"  # of a look, in that time

# `docker exec` has the container's runtime do the same, over a client and two daemons. So the runtime is asked without
# them, and only its success counts: whatever else it says, Docker is asked. A process that the driver does not let go
# keeps the pipe open that it answers into: the reader stops at the code.
SHELL = rf"""
nl='
'
runtime=/run/docker/runtime-runc/moby
directly() {{
  [ -f "$runtime/$1/state.json" ] && command -v runc >/dev/null || {{ echo '# code 127'; return; }}
  {{ timeout -k 1 {LIMIT} runc --root "$runtime" exec "$1" nvidia-smi -L 2>/dev/null; printf '\n# code %s\n' $?; }} |
    sed '/^# code /q' | head -c 3000
}}
sees() {{
  id=$1; set -f
  cards=$(directly "$1")
  case $cards in
    GPU\ *"$nl# code 0") set -- ${{cards%"$nl"*}} ;;
    *'# code 124') set -- '{NO_ANSWER}' ;;
    *) set -- $({{ timeout -k 1 {LIMIT} sh -c 'docker exec "$1" nvidia-smi -L || echo "(exit code $?)"' sh "$1" ||
      echo '{NO_ANSWER}'; }} 2>&1 | head -c 3000) ;;
  esac
  printf '%s sees %s\n' "$id" "$*"
}}
"""
