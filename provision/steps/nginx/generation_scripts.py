"""The scripts that read, install and load a generation of nginx's configuration. Constants: data comes as words.

Before nginx reads its files, at every start and reload, the unit or LOAD notes in /run/provision-nginx/loaded the time
of each file's last change. nginx may run with another version of a file that changed after the note, even if the file's
content is right again: somebody may have edited the file, reloaded nginx and undone the edit. No clocks are compared.
"""

from provision.command import Script
from provision.steps.system.file_scan import CONTENTS, RECORD, SUMS

STAMP = r"at %C@ %p\n"
"""The note of one file, in the format of `find -printf`. It has the inode's time, which an editor of the file cannot
set."""

# $1 link, $2 pid file, $3 status port where the files name none, $4 folder of our builds, $5 unit. The script asks the
# pid file and not systemd, because while an old nginx lets its streams finish, systemd still names the old process;
# without the pid file nothing reloads. All files are of one generation, even if the link is swapped meanwhile.
_READ = r"""
at=$1
if [ -L "$1" ]; then at=$(readlink -- "$1"); printf 'kind link\ntarget %s\n' "$at"
elif [ -d "$1" ]; then echo "kind directory"
elif [ -e "$1" ]; then echo "kind file"
else echo "kind absent"
fi
pid=$(cat -- "$2" 2>/dev/null) || :
lost=''
if [ -z "$pid" ]; then
  lost='unknown: there is no pid file'
  pid=$(systemctl show --property=MainPID --value -- "$5" 2>/dev/null) || :
fi
exe=''
case $pid in ''|0|*[!0-9]*) ;; *) exe=$(readlink -- "/proc/$pid/exe") || : ;; esac
case $exe in "$4"/*) ;; *) exe='' ;; esac
port=$3
{ while read -r word value rest; do
  case $word:$value in listen:127.0.0.1:*\;) value=${value#*:}; port=${value%;}; break ;; esac
done <"$at/status.conf"; } 2>/dev/null || :
case $port in ''|*[!0-9]*) port=$3 ;; esac
if [ -n "$exe" ]; then
  command -v curl >/dev/null || { echo 'curl is not there to ask with' >&2; exit 77; }
  loaded=$(curl --noproxy '*' -s --max-time 3 "http://127.0.0.1:$port/generation" | head -c 64 | tr -cd 0-9a-f) || :
  printf 'exe %s\nloaded %s\n# noted\n' "$exe" "${lost:-$loaded}"
  cat -- "${2%/*}/loaded" 2>/dev/null || :
  echo '# now'
  find "$1/" -printf STAMP 2>/dev/null || :
fi
echo '# files'
[ -d "$at/" ] || exit 0
exec find "$at/" -mindepth 1 -printf 'RECORD' \( \
  -type f -size -4097k -printf 'later %s\n\n' CONTENTS -o -type f -printf 'sum\n\n' SUMS -o -printf '\n' \)
"""
READ = Script(
    "nginx/read-generation",
    _READ.replace("STAMP", f"'{STAMP}'").replace("RECORD", RECORD).replace("CONTENTS", CONTENTS).replace("SUMS", SUMS),
)

PREPARE = Script(
    "nginx/prepare",
    """
umask 022
rm -rf -- "$1"
mkdir -p -m 0700 -- "${1%/*}"
mkdir -- "$1"
""",
)

# A generation kept on the host, whose bytes are not known any more.
COPY = Script(
    "nginx/copy-generation",
    """
[ -d "$2" ] || { echo "generation ${2##*/} is not kept on this host any more" >&2; exit 1; }
rm -rf -- "$1"
cp -a -- "$2" "$1"
""",
)

# $1 new generation, $2 generations, $3 file, $4 its sha256, $5 its mode. Only the host has the bytes of such a file.
CARRY = Script(
    "nginx/carry-file",
    """
for at in "$2"/*/"$3"; do
  [ -f "$at" ] && [ "$(sha256sum <"$at" | cut -c1-64)" = "$4" ] || continue
  install -m "$5" -o root -g root -- "$at" "$1/$3"
  exit 0
done
echo "no generation on this host has $3 with sha256 $4 any more" >&2
exit 1
""",
)

# $1 link, $2 generations, $3 id, $4 nginx, $5 pid file. `nginx -t` opens the pid file, so its folder must be there.
INSTALL = Script(
    "nginx/install-generation",
    """
umask 022
install -d -m 0755 -- "${5%/*}" "${1%/*}"
"$4" -t -q -c "$2/.new/nginx.conf"
[ -s "$5" ] || rm -f -- "$5"
if [ -e "$2/$3" ]; then
  rm -rf -- "$2/.old"
  mv -T -- "$2/$3" "$2/.old"
fi
mv -T -- "$2/.new" "$2/$3"
ln -sfn -- "$2/$3" "$1.provision-new"
mv -fT -- "$1.provision-new" "$1"
[ ! -e "$2/.old" ] || rm -rf -- "$2/.old"
cd "$2"
ls -1t | grep -x '[0-9a-f]\\{12\\}' | tail -n +6 | while read -r old; do [ "$old" = "$3" ] || rm -rf -- "$old"; done
""",
)

# $1 link, $2 generations, $3 id, $4 previous id or empty, $5 nginx, $6 pid file, $7 status port, $8 unit, $9 reload or
# restart. A stopped nginx is left to its service's step. Another binary takes over the sockets of the old process
# (USR2), which then lets its streams finish (QUIT): see "Upgrading Executable on the Fly", nginx.org control.html.
LOAD = Script(
    "nginx/load",
    """
link=$1 generations=$2 id=$3 before=$4 nginx=$5 pidfile=$6 port=$7 unit=$8 how=$9
systemctl is-active --quiet -- "$unit" || exit 0
log=/var/log/provision-nginx/error.log
logged=$(wc -c <"$log" || echo 0)
[ -s "$pidfile" ] || systemctl show --property=MainPID --value -- "$unit" >"$pidfile"
exe() { readlink -- "/proc/$(cat -- "$pidfile" 2>/dev/null)/exe" || :; }
loaded() { curl --noproxy '*' -s --max-time 2 "http://127.0.0.1:$port/generation" || :; }
children() { cat "/proc/$1/task/$1/children" 2>/dev/null || :; }
workers=$(children "$(cat -- "$pidfile")")
accepting() { # the workers of before that still take requests: those that finish theirs have another title
  for pid in $workers; do
    title=''
    read -r title <"/proc/$pid/cmdline" || :
    [ "$title" != 'nginx: worker process' ] || echo "$pid"
  done 2>/dev/null
}
uptime() { read -r now rest </proc/uptime; echo "${now%%.*}"; }
wait_for() {
  until=$(($(uptime) + 20 * ${patience:-1}))
  while [ "$("$1")" != "$2" ]; do
    [ "$(uptime)" -lt "$until" ] || return 1
    sleep 0.02
  done
}
relink() {
  if [ -n "$before" ] && [ -d "$generations/$before" ]; then
    ln -sfn -- "$generations/$before" "$link.provision-new"
    mv -fT -- "$link.provision-new" "$link"
  fi
}
back() {
  relink
  echo "$1; it goes on with what it had. Its log says:" >&2
  tail -c "+$((logged + 1))" -- "$log" | grep -E '\\[(emerg|alert|crit)\\]' | tail -n 5 >&2 || :
  mounts=/proc/$(cat -- "$pidfile")/mountinfo
  if [ -e "$mounts" ] && ! grep -q " ${log%/*} " "$mounts"; then
    echo "it lost its log folder, which was moved or removed: systemctl restart $unit (open streams end)" >&2
  fi
  exit 1
}
stamps=$(find "$link/" -printf STAMP)
if [ "$how" = restart ]; then
  systemctl restart -- "$unit" || {
    relink
    systemctl restart -- "$unit" || :
    back "nginx did not start with the new configuration"
  }
elif [ "$(exe)" != "$nginx" ]; then
  old=$(cat -- "$pidfile")
  kill -USR2 "$old"
  wait_for exe "$nginx" || back "the new nginx did not take over"
  kill -QUIT "$old"
else
  # what INSTALL has just checked is not checked again, as the unit's own reload would
  [ -n "$before" ] || "$nginx" -t -q -c "$link/nginx.conf" || back "nginx refuses the configuration"
  kill -HUP "$(cat -- "$pidfile")"
fi
wait_for loaded "$id" || back "nginx did not load the new configuration"
printf '%s\\n' "$stamps" >"${pidfile%/*}/loaded"
wait_for accepting '' || :  # or what is asked next may still be answered by the old configuration
""".replace("STAMP", f"'{STAMP}'"),
)

# $1 link, $2 generations
REMOVE = Script(
    "nginx/remove-generations",
    """
rm -rf -- "$2"
rm -f -- "$1"
rmdir --ignore-fail-on-non-empty -- "${1%/*}" || :
""",
)
