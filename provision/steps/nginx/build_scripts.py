"""The scripts by which nginx is built on a host. Constants: their data comes as words."""

from provision.command import Script
from provision.steps.system.proxy import OUTSIDE

MODULE = "modules/ngx_http_js_module.so"  # below the prefix

# $1 prefix. A prefix without a stamp was never finished. Root runs the prefix's program, so only root may write there.
READ = Script(
    "nginx/read-build",
    """
[ -e "$1" ] || [ -L "$1" ] || { echo absent; exit 0; }
[ ! -f "$1/.provision" ] || cat -- "$1/.provision"
now=''
[ ! -x "$1/sbin/nginx" ] || now=$(sha256sum <"$1/sbin/nginx" | cut -c1-64)
printf 'now %s\\n' "$now"
[ ! -f "$1/MODULE" ] || { printf 'has '; sha256sum <"$1/MODULE"; }
find "$1/" ! -type l \\( -perm /022 -o ! -user root -o ! -group root \\) -printf 'open %p: %m %u:%g\\n' 2>/dev/null || :
""".replace("MODULE", MODULE),
)

# $1 prefix
CLOSE = Script(
    "nginx/close-build",
    """
chown -R -h root:root -- "$1"
chmod -R go-w -- "$1"
""",
)

# Functions of MAKE, tested by themselves (tests/unit/test_nginx_patches.py). `as` runs a command as the builder.
# A patch applies exactly: no fuzz, one folder stripped, and no file outside the source. `--unified` keeps `patch` from
# handing an ed script to ed. A series is Debian's: the patches that debian/patches/series of a tarball names, in order.
APPLY = """
# $1 the file, $2 its name
one_patch() {
  echo "==> applying $2"
  beyond=$(as grep -aE "$BEYOND" -- "$1" | grep -avE '^(---|[+][+][+]) /dev/null' | head -n 1 || :)
  if [ -n "$beyond" ]; then
    echo "$2 is refused: it reaches beyond the files of the source: $(printf %.200s "$beyond")" >&2
    exit 1
  fi
  if as env LC_ALL=C patch --batch --forward --unified --fuzz=0 --strip=1 --reject-file=- --no-backup-if-mismatch \
    --input="$1" >"$log" 2>&1 && grep -q '^patching file ' "$log"; then
    return 0
  fi
  where=$(awk '
    /^(patching|checking) file / { file = substr($0, 15) ": " }
    /^Hunk #.*FAILED|^Reversed|^can.t find file|malformed patch|garbage was found|refusing|[Ii]gnoring potentially/ {
      found = found (found ? "; " : "") file $0
    }
    END { print substr(found ? found : "patch names no file", 1, 600) }' "$log")
  echo "$2 does not apply to the source of nginx: $where" >&2
  exit 1
}
# $1 the tarball, $2 its name
series() {
  rm -rf -- ../series
  as mkdir ../series
  if ! as tar -xf "$1" -C ../series debian/patches || ! names=$(as cat ../series/debian/patches/series); then
    echo "$2 has no debian/patches/series: a tarball in nginx.patches has the layout of Debian's debian.tar.xz" >&2
    exit 1
  fi
  applied=0
  while read -r name rest; do
    case $name in '' | '#'*) continue ;; esac
    case $name$rest in
      */../* | ../* | /*) echo "$2 is refused: debian/patches/series names $(printf %.200s "$name")" >&2; exit 1 ;;
    esac
    case $rest in '' | '#'* | -p1 | '-p1 #'*) ;; *)
      echo "$2: debian/patches/series has the option $(printf %.200s "$rest") for $name, and only -p1 is known" >&2
      exit 1 ;;
    esac
    one_patch "../series/debian/patches/$name" "$name of $2"
    applied=$((applied + 1))
  done <<END
$names
END
  [ "$applied" -gt 0 ] || { echo "$2: debian/patches/series names no patch" >&2; exit 1; }
}
# $1 version of nginx. Takes the module of the distribution's package, without installing the package, which would bring
# a second nginx along: apt checks the package against the signed index, and nginx whether the module is for its build.
packaged_njs() {
  package=libnginx-mod-http-js
  echo "==> taking the module of the package $package"
  made_for=$(apt-cache show --no-all-versions "$package" 2>/dev/null |
    sed -n 's/^Depends:.* nginx-abi-\\([0-9.]*\\)-.*/\\1/p' | head -n 1)
  if [ "$made_for" != "$1" ]; then
    echo "the package $package is for nginx ${made_for:-of no known version}, and nginx $1 is built: give the source" \
      "of the module in nginx.njs, or take balancer.router out: clients reach every model at /models/NAME/ too" >&2
    exit 1
  fi
  mkdir -- "$out/.package" "$out/modules"
  (cd "$out/.package" && apt-get -q download "$package" >"$log" 2>&1) || { tail -n 5 "$log" >&2; exit 1; }
  as dpkg-deb --extract "$out"/.package/*.deb ../package
  as cat ../package/usr/lib/nginx/modules/ngx_http_js_module.so >"$out/MODULE"
}
# $1 url, $2 sha256. The module is compiled into nginx, without the part for XML.
njs_of_source() {
  fetch "$1" "$2" ../njs.tar.gz
  as mkdir ../njs
  as tar -xzf ../njs.tar.gz --strip-components=1 -C ../njs
  [ -f ../njs/nginx/config ] || { echo "$1 is no source of njs: it has no file nginx/config" >&2; exit 1; }
}
# $1 nginx, $2 module. nginx refuses a module of another version or of other settings.
loads() {
  printf 'load_module %s;\\npid %s/test.pid;\\nerror_log stderr;\\nevents {}\\n' "$2" "$work" >"$work/test.conf"
  as "$1" -t -q -e stderr -c "$work/test.conf"
}
NAMES='^(---|[+][+][+]|diff --git|Index:|(rename|copy) (from|to))[[:blank:]]+'
BEYOND="$NAMES(\\"?/|.*[.][.]/)|^new (file )?mode 1[26]0000"
""".replace("MODULE", MODULE)

# $1 archive, $2 platform, $3 sha256, $4 url, $5 jobs, $6 recipe, $7 prefix; then url and sha256 of each patch; then
# configure's arguments, of which the first begins with `--`.
# Downloaded and compiled as a user without files and without further processes; root packs a single file of the result.
MAKE = Script(
    "nginx/make-build",
    OUTSIDE
    + APPLY
    + """
umask 022
archive=$1 platform=$2 sha256=$3 url=$4 jobs=$5 recipe=$6 prefix=$7
shift 7
[ "$jobs" != 0 ] || jobs=$(nproc)
here=$(. /etc/os-release; printf '%s-%s-%s' "$ID" "${VERSION_ID:-rolling}" "$(dpkg --print-architecture)")
if [ "$here" != "$platform" ]; then
  echo "this host is $here and cannot build for $platform: set nginx.build_host to a host of that platform" >&2
  exit 1
fi
builder=59173  # in the range that Debian policy 9.2.2 reserves and nobody allocates
root=${prefix%/*}  # where programs must be able to run; on hardened hosts they do not below /tmp and /var/tmp
install -d -m 0755 -- "$root"
work=$root/.new.$$.work out=$root/.new.$$.out
rm -rf -- "$work" "$out"
mkdir -- "$work" "$out"
leave() { # of a full disk curl says only that it cannot write
  free=$(df -Pk -- "$root" | awk 'NR==2{print int($4/1024)}')
  if [ "$1" != 0 ] && [ "$free" -lt 8 ]; then echo "full disk: $root has $free MB left" >&2; fi
  rm -rf -- "$work" "$out"
}
trap 'leave $?' EXIT
trap 'exit 129' HUP INT TERM
chmod 0700 "$work"
chown "$builder:$builder" "$work"
cd "$work"
as() { setpriv --reuid="$builder" --regid="$builder" --clear-groups --no-new-privs env "HOME=$work" "$@" </dev/null; }
fetch() { # $1 url, $2 sha256, $3 file
  echo "==> downloading $1"
  outside as curl --fail --location --silent --show-error --proto =http,https --retry 3 --connect-timeout 15 \
    --speed-limit 1000 --speed-time 60 --max-time 1200 -o "$3" -- "$1"
  got=$(sha256sum <"$3" | cut -c1-64)
  if [ "$got" != "$2" ]; then
    echo "$1 has sha256 $got, and $2 is expected: it is another file, or it was tampered with" >&2
    exit 1
  fi
}
fetch "$url" "$sha256" source.tar.gz
as mkdir source
as tar -xzf source.tar.gz --strip-components=1 -C source
cd source
log=$out/.log
: >"$out/.patches"
while [ "${1#--}" = "$1" ]; do
  case $1 in
    njs:) packaged_njs "$(sed -n 's/^#define NGINX_VERSION *"\\(.*\\)"/\\1/p' src/core/nginx.h)" ;;
    njs:*) njs_of_source "${1#njs:}" "$2" ;;
    *)
      fetch "$1" "$2" ../patch
      case $1 in *.tar.gz | *.tar.xz) series ../patch "$1" ;; *) one_patch ../patch "$1" ;; esac
      printf 'patch %s\n' "$2" >>"$out/.patches"
      ;;
  esac
  shift 2
done
echo '==> configuring'
if ! as env NJS_LIBXSLT=NO NJS_QUICKJS=NO ./configure "$@" >../configure.log 2>&1; then
  tail -n 20 ../configure.log >&2
  exit 1
fi
echo "==> compiling with $jobs jobs"
as make -j"$jobs"
echo '==> packing'
install -D -m 0755 -- objs/nginx "$out/sbin/nginx"
sum=$(sha256sum <"$out/sbin/nginx" | cut -c1-64)
printf 'recipe %s\\nplatform %s\\nsha256 %s\\n' "$recipe" "$platform" "$sum" >"$out/.provision"
modules=''
if [ -f "$out/MODULE" ]; then
  modules=modules
  loads "$out/sbin/nginx" "$out/MODULE"
  printf 'module %s\\n' "$(sha256sum <"$out/MODULE" | cut -c1-64)" >>"$out/.provision"
fi
cat -- "$out/.patches" >>"$out/.provision"
tar --owner=0 --group=0 --numeric-owner -C "$out" -cf "$archive.new" -- sbin $modules .provision
mv -fT -- "$archive.new" "$archive"
""".replace("MODULE", MODULE),
)

# $1 archive, $2 prefix, $3 recipe, $4 platform; then the sha256 of each patch. The build in use and its successor stay;
# older builds go.
INSTALL = Script(
    "nginx/install-build",
    """
umask 022
root=${2%/*}
install -d -m 0755 -- "$root"
rm -rf -- "$root"/.new.*
new=$(mktemp -d "$root/.new.XXXXXXXXXX")
trap 'rm -rf -- "$new" "$new.old"' EXIT
chmod 0755 "$new"
tar -xf "$1" --no-same-owner -C "$new"
sum=$(sha256sum <"$new/sbin/nginx" | cut -c1-64)
{
  printf 'recipe %s\\nplatform %s\\nsha256 %s\\n' "$3" "$4" "$sum"
  [ ! -f "$new/MODULE" ] || printf 'module %s\\n' "$(sha256sum <"$new/MODULE" | cut -c1-64)"
  shift 4
  [ $# = 0 ] || printf 'patch %s\\n' "$@"
} | cmp -- - "$new/.provision"
"$new/sbin/nginx" -v 2>/dev/null || { ldd "$new/sbin/nginx" >&2; exit 1; }
if [ -e "$2" ]; then mv -T -- "$2" "$new.old"; fi
mv -T -- "$new" "$2"
rm -f -- "$1"
used=$(readlink -- "$root/current" || :)
for old in "$root"/*-*; do
  case $old in "$2"|"$used") ;; *) rm -rf -- "$old" ;; esac
done
""".replace("MODULE", MODULE),
)

# $1 root of the builds, $2 cache
REMOVE_ALL = Script(
    "nginx/remove-builds",
    """
rm -rf -- "$1" "$2"
rmdir --ignore-fail-on-non-empty -- "${1%/*}" || :
""",
)

LIST = Script("nginx/list-builds", '[ ! -e "$1" ] || ls -1A -- "$1"')
