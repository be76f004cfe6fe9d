"""The room that an image needs: its size by its registry, its place by Docker.

A registry tells the compressed layers. The disk takes the layers and their files: `TIMES` the size, a decision of ours.
From Engine 29 on a fresh host keeps images in containerd's store, which `data-root` does not move, and a host with an
older store keeps that (docs/facts.md#docker-reload).
Sources: the registry's API, https://distribution.github.io/distribution/spec/api/ and spec/auth/token/.
"""

import json
from collections.abc import Sequence
from functools import partial

from provision.command import Answer, Script, look
from provision.steps import room
from provision.steps.room import Filling, Room
from provision.steps.system.proxy import OUTSIDE

TIMES = 3
CONTAINERD, CONTAINERD_CONFIG = "/var/lib/containerd", "/etc/containerd/config.toml"
HUB = "https://registry-1.docker.io"
DATA_ROOT = "/var/lib/docker"
LOGINS = "/etc/provision/docker/login/config.json"
"""The logins of registries, see `registry_login`."""

# $1 repository, $2 tag or digest; then base addresses of registries, asked in order. Prints the manifest for the host's
# platform. A token stays in a file, and so does a login: only an address by https:// gets the login of its registry.
SIZE = Script(
    "docker/image-size",
    OUTSIDE
    + rf"""
logins={LOGINS}
"""
    + r"""
umask 077
repository=$1 wanted=$2; shift 2
work=$(mktemp -d) || exit 1; trap 'rm -rf -- "$work"' EXIT
kinds='application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.index.v1+json'
kinds="$kinds, application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
case $(uname -m) in x86_64) platform=amd64 ;; aarch64) platform=arm64 ;; *) platform=unknown ;; esac
fetch() { outside curl -sS --connect-timeout 5 -m 10 --max-filesize 4000000 "$@" 2>"$work/why"; }
part() { sed -n "s/^[Ww][Ww][Ww]-[Aa]uthenticate: *Bearer .*$1=\"\([^\"]*\)\".*/\1/p" "$work/head" | head -n 1; }
login() { # base address: the header of the login, or nothing
  name=${1#https://}
  [ "$name" != registry-1.docker.io ] || name=https://index.docker.io/v1/
  case $1 in https://*) [ ! -O "$logins" ] || while IFS= read -r line; do
      case $line in *"\"$name\": {"*) line=${line##*\"auth\": \"}; echo "Authorization: Basic ${line%%\"*}" ;; esac
    done <"$logins" ;;
  esac
}
ask() { # address of a manifest
  code=$(fetch -o "$work/body" -D "$work/head" -w '%{http_code}' -H "@$work/headers" "$1") || return 1
  if [ "$code" = 401 ] && [ -z "$asked" ]; then
    asked=yes
    if grep -qi '^www-authenticate: *basic' "$work/head" && [ -s "$work/login" ]; then
      cat "$work/login" >>"$work/headers"
      ask "$1"; return
    fi
    realm=$(part realm); service=$(part service)
    case $realm in https://* | "${1%%:*}"://*) ;; *) return 1 ;; esac
    fetch -o "$work/token" -H "@$work/login" -G --data-urlencode "service=$service" \
      --data-urlencode "scope=repository:$repository:pull" "$realm" || return 1
    sed -n 's/.*"token" *: *"\([^"]*\)".*/Authorization: Bearer \1/p' "$work/token" >>"$work/headers"
    ask "$1"; return
  fi
  [ "$code" = 200 ] || { echo "HTTP $code from $1" >"$work/why"; return 1; }
}
echo 'no registry to ask' >"$work/why"
for base do
  printf 'Accept: %s\n' "$kinds" >"$work/headers"; asked=
  login "$base" >"$work/login"
  at=$base/v2/$repository/manifests
  ask "$at/$wanted" || continue
  if grep -q '"manifests"' "$work/body"; then
    digest=$(tr -d ' \t\n' <"$work/body" | sed 's/},{/}\n{/g' | grep "\"architecture\":\"$platform\"" |
      grep -o 'sha256:[0-9a-f]\{64\}' | head -n 1)
    [ "$digest" ] && ask "$at/$digest" || continue
  fi
  cat "$work/body"; exit 0
done
tail -n 1 "$work/why" >&2
exit 1
""",
)

# $1 declared data-root, or empty; $2 reference of an image; $3 `containerd` where the Docker that a deploy installs
# keeps images in containerd's store, unless the host has an older store. Docker's own answer wins where nothing is
# declared.
PLACE = Script(
    "docker/image-place",
    room.FREE
    + rf"""
folder=${{1:-{DATA_ROOT}}}
containerds() {{
  root=$({{ timeout 15 containerd config dump 2>/dev/null || cat {CONTAINERD_CONFIG} 2>/dev/null; }} |
    sed -n "s/^root *= *[\"']\(.*\)[\"'].*/\1/p" | head -n 1)
  folder=${{root:-{CONTAINERD}}}
}}
older() {{
  for driver in overlay2 fuse-overlayfs btrfs zfs; do
    [ -z "$(ls -A "$folder/$driver" 2>/dev/null)" ] || return 0
  done
  return 1
}}
info=$(timeout 15 docker info --format '{{{{.DockerRootDir}}}} {{{{json .DriverStatus}}}}' 2>/dev/null) || info=
case $info in
  '') [ "$3" != containerd ] || older || containerds ;;
  *io.containerd.snapshotter*) containerds ;;
  *) [ "$1" ] || folder=${{info%% [[n]*}} ;;
esac
free "$folder"
if [ "$info" ] && timeout 15 docker image inspect --format present "$2" 2>/dev/null; then :; fi
""",
)


def filling(
    reference: str, data_root: str, mirrors: Sequence[str], *, again: bool, containerd: bool = False
) -> Filling:
    """Return what the pull of an image brings.

    Args:
        reference: of the image.
        data_root: Docker's declared folder; empty for Docker's own.
        mirrors: addresses of mirrors of Docker Hub.
        again: whether the image is pulled although the host has an image of this name.
        containerd: whether the Docker that a deploy installs keeps images in containerd's store.
    """
    store = "containerd" if containerd else ""
    registry, repository, wanted = parts(reference)
    hub = registry == HUB
    bases = (*(mirror.rstrip("/") for mirror in mirrors if hub), registry)
    return Filling(
        f"image {reference}",
        look(SIZE, repository, wanted, *bases, title=f"ask for the size of {reference}", timeout=25.0 * len(bases)),
        look(PLACE, data_root, reference, store, title="look at the room for images", timeout=60),
        partial(_room, again=again),
        f"docker.data_root, or root in {CONTAINERD_CONFIG} where containerd keeps the images",
    )


def parts(reference: str) -> tuple[str, str, str]:
    """Return the address of an image's registry, the repository, and the tag or digest.

    Args:
        reference: such as `debian`, `ollama/ollama:0.34.4` or `host:5000/x@sha256:...`.
    """
    name, _, digest = reference.partition("@")
    head, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    first, _, rest = f"{head}{slash}{last}".partition("/")
    if not rest or not (set(".:") & set(first) or first == "localhost"):
        first, rest = "docker.io", f"{head}{slash}{last}"
    if first in ("docker.io", "index.docker.io"):
        return HUB, rest if "/" in rest else f"library/{rest}", digest or tag or "latest"
    return f"https://{first}", rest, digest or tag or "latest"


def _room(size: Answer, place: Answer, *, again: bool) -> Room:
    if not again and place.text.rstrip().endswith("\npresent"):
        return room.of(place, 0)
    layers = manifest_bytes(size)
    return room.of(place, None, room.unanswered(size)) if layers is None else room.of(place, layers * TIMES)


def manifest_bytes(size: Answer) -> int | None:
    """Return the bytes of all layers of an image manifest; None for any other answer.

    Args:
        size: the answer of a registry.
    """
    found = layers(size)
    return None if found is None else sum(found.values())


def layers(size: Answer) -> dict[str, int] | None:
    """Return digest -> bytes of everything that a manifest names; None for any other answer.

    Args:
        size: the answer of a registry.
    """
    try:
        manifest = json.loads(size.stdout) if size.exit == 0 else {}
        every = [*manifest["layers"], *([manifest["config"]] if manifest.get("config") else [])]
        found = {str(layer["digest"]): layer["size"] for layer in every}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return found if all(isinstance(bytes_, int) and 0 <= bytes_ < 10**15 for bytes_ in found.values()) else None
