"""One image of the Docker engine, pulled by a job of the host, and the finder of images that we pulled.

Nobody can label an image by its puller, so a file on the host marks our images.
"""

import hashlib
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import Command, Script, sh
from provision.steps.base import Check, Fact, Owned, State, Step
from provision.steps.docker import image_room, inspect
from provision.steps.docker.inspect import MANAGED, MARKS, Docker
from provision.steps.facts import HostFacts
from provision.steps.room import Filling
from provision.steps.wording import Vocabulary, Words
from provision.terminal_text import ending

PULL_TIMEOUT = 4 * 3600.0
TRIES = "4"
AS_PULLED = "as pulled"
NO_ID = "pulled by an earlier version, which kept no id"

# Only the daemon's log has a mirror's error, as a quoted string: docker itself prints the error of the registry that it
# tried after the mirror; with the containerd image store it prints the mirror's error, and the log has the registry's.
MIRROR = r"""
sed -nE -e 's/.*(Attempting next endpoint [a-z ]*|Download failed[^:"]*): (([^"\\]|\\.)*)".*/a mirror said: \2/p' \
  -e 's/.* msg="trying next host" error="(([^"\\]|\\.)*)".*/a mirror said: \1/p' \
  -e 's/.* msg="trying next host[^"]*(status: |was )([^"\\]*)".* host="?([^" ]+).*/a mirror said: \2 from \3/p' \
  -e 's/.* msg="fetch failed" error="(([^"\\]|\\.)*)".*/the last registry said: \1/p' |
  sed -E 's/\\(["\\])/\1/g' | cut -c-300 | sort -u
"""
# `docker pull` keeps whole layers for its next call. An error that no retry can mend ends the job at once. The script
# marks the images of present containers anew: these become the images replaced last, which stay for a rollback.
PULL = Script(
    "docker/pull",
    f"""
mirror() {{{MIRROR}}}
pull() {{ if [ "$2" ]; then docker --config "$2" pull "$1"; else docker pull "$1"; fi; }}
why=$(mktemp); trap 'rm -f -- "$why"' EXIT
tries=0
until since=$(date +%s); pull "$1" "${{4:-}}" 2>"$why"; do
  journalctl -u docker.service --since "@$since" -o cat --no-pager 2>/dev/null | mirror >>"$why"
  cat -- "$why" >&2
  if grep -q -i -E \
    'not found|manifest unknown|access denied|unauthorized|proxy authentication required|no space left' -- "$why"
  then exit 1; fi
  tries=$((tries + 1))
  [ "$tries" -lt "$3" ] || exit 1
  echo "try $tries failed; again in 10 s"; sleep 10
done
umask 077
mkdir -p {MARKS}
docker ps -a --filter label={MANAGED}=1 --format '{{{{.Image}}}}' | sort -u | while IFS= read -r used; do
  mark={MARKS}/$(printf %s "$used" | sha256sum | cut -c1-24)
  [ ! -f "$mark" ] || touch -- "$mark"
done
printf '%s %s\\n' "$1" "$(docker image inspect --format '{{{{.Id}}}}' "$1")" >{MARKS}/"$2"
""",
)
RECORD = Script(
    "docker/record-image",
    f"""
umask 077
printf '%s %s\\n' "$1" "$2" >{MARKS}/"$3"
""",
)
# An image in use by a foreign container stays: Docker refuses the removal.
REMOVE = Script(
    "docker/remove-image",
    f"""
docker image rm "$1" >/dev/null 2>&1 || echo "image $1 is still used or gone; left as it is"
rm -f {MARKS}/"$2"
rmdir {MARKS} 2>/dev/null || :
""",
)


@dataclass(frozen=True, kw_only=True)
class Image(Step):
    """An image is on the host under this reference. A present image is not pulled again.

    A tag can be given to another image on the host. The step keeps the id of the pulled image, so that plan sees a
    moved tag; only the registry knows the tag's right image, so the image is pulled again. An earlier version kept no
    id: our containers have the id, and where containers have several ids, the image is pulled again too.

    Args:
        reference: reference with a tag or a digest.
        data_root: Docker's declared folder; empty for Docker's own.
        mirrors: addresses of mirrors of Docker Hub.
        login: whether the image's registry has a login in the inventory.
        containerd: whether the Docker that a deploy installs keeps images in containerd's store.
        after: ids of steps that change the image behind our back.
    """

    stands_apart = True
    words: ClassVar[Vocabulary] = {
        "tag": Words("its tag may stand for another image now", "tag"),
    }

    reference: str
    data_root: str = ""
    mirrors: tuple[str, ...] = ()
    login: bool = False
    containerd: bool = False
    after: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`image:REFERENCE`."""
        return f"image:{self.reference}"

    def fact(self) -> Fact:
        """Reads Docker's images."""
        return inspect.fact(self._pick)

    def want(self, facts: HostFacts, have: State) -> State:
        """Present, under the tag as pulled."""
        return {"reference": self.reference, "tag": AS_PULLED}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Pulls the image by a job, or removes it."""
        mark = hashlib.sha256(self.reference.encode()).hexdigest()[:24]
        if want is None:
            return [sh(REMOVE, self.reference, mark, title=f"remove image {self.reference}")]
        if _lacks_id(have):
            title = f"record the id of {self.reference}"
            return [sh(RECORD, self.reference, (have or {})["image_id"], mark, title=title)]
        title = f"docker pull {self.reference}"
        login = (posixpath.dirname(image_room.LOGINS),) if self.login else ()
        words = (self.reference, mark, TRIES, *login)
        return [sh(PULL, *words, title=title, timeout=PULL_TIMEOUT, job=True, progress=pull_progress)]

    def filling(self, have: State) -> Filling | None:
        """The layers and their files. An image without an id in its mark is not pulled."""
        if _lacks_id(have):
            return None
        return image_room.filling(
            self.reference, self.data_root, self.mirrors, again=have is not None, containerd=self.containerd
        )

    def irrevocable(self, before: State, after: State) -> str:
        """An image alone does nothing: a step without its image pulls the image."""
        return "it stays until the next change of the image" if after else "it was removed; nothing has used it"

    def impact(self, have: State, want: State) -> str:
        """The download."""
        if want and _lacks_id(have):
            return ""
        if have and want:
            return f"pulls {self.reference} again"
        return f"pulls {self.reference} (several GB)" if want else f"removes image {self.reference}"

    def check(self, live: Any) -> Iterator[Check]:
        """The engine can use the image."""
        result = live.run("docker image inspect --format ok %s", self.reference)
        yield Check("image present", result.stdout.strip() or ending(result.stderr.strip(), 200), "ok")

    def _pick(self, docker: Docker) -> State:
        image_id = docker.image_id(self.reference)
        if not image_id:
            return None
        return {"reference": self.reference, "image_id": image_id, "tag": self._tag(docker, image_id)}

    def _tag(self, docker: Docker, image_id: str) -> str:
        """The state of the tag since the image was pulled."""
        pulled = docker.pulled_id(self.reference)
        if pulled not in ("", image_id):
            return f"moved on this host: {pulled[:19]} was pulled, the tag now names {image_id[:19]}"
        if docker.recorded_id(self.reference) != "":
            return AS_PULLED
        several = len(docker.used_ids(self.reference)) > 1
        return f"{NO_ID}, and the containers use several images" if several else NO_ID


def _lacks_id(have: State) -> bool:
    return have is not None and have.get("tag") == NO_ID


@dataclass(frozen=True, kw_only=True)
class PulledImage(Image):
    """An image that we pulled, by its mark; the image itself may stay where somebody else uses it."""

    def _pick(self, docker: Docker) -> State:
        return {"reference": self.reference} if self.reference in docker.pulled else None


_LAYER = re.compile(r"([0-9a-f]{12}): (Pulling fs layer|Download complete|Pull complete|Already exists)")


def pull_progress(line: str) -> str | None:
    """The text to show for a line of `docker pull` without a terminal."""
    match = _LAYER.match(line)
    if match:
        return f"layer {match[1]}: {match[2].lower()}"
    return line.strip() if line.startswith(("Status:", "try ", "Error")) else None


@dataclass(frozen=True, kw_only=True)
class OwnedImages(Owned):
    """Finds the images that we pulled. Images go last: a container uses its image until it is made anew from another.

    The last replaced image stays for a further change, so that a rollback needs no registry.
    """

    last: ClassVar[bool] = True

    def fact(self) -> Fact:
        """Reads Docker's images."""
        return inspect.fact(self._pick)

    def step(self, step_id: str) -> Step:
        """The image of that reference, to be removed."""
        return PulledImage(reference=step_id.partition(":")[2])

    def kept(self, things: Mapping[str, Any], declared: Collection[str]) -> Collection[str]:
        """The image in use before the declared image."""
        undeclared = [step_id for step_id in things if step_id not in declared]
        return undeclared[:1] if any(step_id.startswith("image:") for step_id in declared) else ()

    @staticmethod
    def _pick(docker: Docker) -> State:
        """Images in use by containers come first, then the last replaced image."""
        used = {item["image"] for item in docker.containers.values() if (item["labels"] or {}).get(MANAGED) == "1"}
        ordered = sorted(docker.pulled, key=lambda reference: reference not in used)
        return {f"image:{reference}": {"reference": reference} for reference in ordered}
