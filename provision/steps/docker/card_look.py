"""A look into a container for its cards: nothing else shows that the cards are lost (docs/facts.md#lost-cards)."""

LIMIT = 30  # seconds for a look: a busy host may take many
NO_ANSWER = "(no answer)"  # instead of the cards, after a look of LIMIT seconds
BUNDLES = (
    "/run/containerd/io.containerd.runtime.v2.task/moby"  # containerd's folder of the configuration of each container
)

# `docker exec` starts two runtimes and asks two daemons, five times the price of nvidia-smi itself. So the look first
# enters the container's namespaces without Docker, and the container's cgroup, because the cgroup decides which devices
# a process may open. nvidia-smi is a file of the container and may be hostile: the program runs as nobody, with
# no_new_privs, and with PATH alone as environment. The look has no seccomp and no AppArmor profile, unlike a process of
# the container: Docker alone knows how to apply the container's profiles.
#
# Only a list of cards counts as an answer. In every other case Docker is asked, also where the container's root is no
# longer mounted on the host: a Docker that fails to start unmounts the root, the container runs on, and `docker exec`
# fails. The check of the cgroup's path ties the process id to the container. A process that hangs in the driver keeps
# its pipe open, so the reader stops at the line with the exit code. `hung` is set by `nvidia_smi.STUCK`.
SHELL = rf"""
nl='
'
bundles={BUNDLES}
rooted() {{
  root=$(sed -n 's/.*"root":{{"path":"\([^"]*\)".*/\1/p' "$bundles/$1/config.json") || return
  case $root in '') return 1 ;; /*) [ -d "$root" ] ;; *) [ -d "$bundles/$1/$root" ] ;; esac
}} 2>/dev/null
cgroup_of() {{
  folder=
  while IFS=: read -r _ controllers path; do
    case $controllers:$path in
      devices:*"$1"*) folder=/sys/fs/cgroup/devices$path; break ;;
      :*"$1"*) folder=/sys/fs/cgroup$path ;;
    esac
  done <"/proc/$2/cgroup"
  [ -n "$folder" ]
}} 2>/dev/null
inside() {{
  rooted "$1" && cgroup_of "$1" "$2" || return 0
  {{
    (
      echo 0 >"$folder/cgroup.procs" || exit 127
      set -- timeout -k 1 $(({LIMIT} * ${{patience:-1}})) env -i "PATH=$PATH" setpriv --no-new-privs nsenter -t "$2"
      exec "$@" -m -u -i -n -p -S 65534 -G 65534 nvidia-smi -L
    ) 2>/dev/null
    printf '\n# code %s\n' $?
  }} | sed '/^# code /q' | head -c 3000
}}
sees() {{
  [ -z "${{hung:-}}" ] || {{ printf '%s sees %s\n' "$1" '{NO_ANSWER}'; return; }}
  id=$1; set -f
  cards=$(inside "$1" "$2")
  case $cards in
    GPU\ *"$nl# code 0") set -- ${{cards%"$nl"*}} ;;
    *'# code 124') set -- '{NO_ANSWER}' ;;
    *) set -- $({{ timeout -k 1 {LIMIT} sh -c 'docker exec "$1" nvidia-smi -L || echo "(exit code $?)"' sh "$1" ||
      echo '{NO_ANSWER}'; }} 2>&1 | head -c 3000) ;;
  esac
  printf '%s sees %s\n' "$id" "$*"
}}
"""
