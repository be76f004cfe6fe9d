"""The dimensions of a model: by the begin of its weights on the host, else in the registry, else by our table.

The begin of a file tells what `/api/show` tells, and needs no running server. The model's own parameters are a layer
beside the weights. Sources: the names of manifests and blobs, docs/facts.md#ollama-files; the header,
docs/facts.md#gguf-header; `num_ctx`, docs/facts.md#memory-of-a-model.
"""

import base64
import binascii
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from provision.artifacts import gguf, model_begin
from provision.capacity import catalogue
from provision.capacity.dimensions import MOST_CONTEXT, Dimensions, MetadataError, Source, from_metadata
from provision.command import Answer, Run, Script, look
from provision.errors import GuardError, UnreachableError
from provision.steps import room
from provision.steps.docker import image_room
from provision.steps.ollama import model_room, server_state
from provision.steps.system.proxy import OUTSIDE

PREFIX = 1 << 16  # bytes of the weights
_WEIGHTS = "application/vnd.ollama.image.model"
_ON_CARDS = (_WEIGHTS, "application/vnd.ollama.image.projector", "application/vnd.ollama.image.adapter")
_PARAMETERS = "application/vnd.ollama.image.params"
_VOCABULARY = "tokenizer.ggml.tokens"

# $1 address of the model in its registry, $2 tag, $3 Docker's declared folder or empty, $4 manifest below
# models/manifests; then two words for each instance of the host with the model: $1 and $2 of `FOLDER`. Prints who told,
# the manifest, the begin of the weights, and the model's own parameters, if any. A registry that ignores the range is
# cut off after the same bytes.
HEADER = Script(
    "ollama/model-header",
    OUTSIDE
    + f"place() {{{model_room.FOLDER}}}"
    + rf"""
umask 077
work=$(mktemp -d) || exit 1; trap 'rm -rf -- "$work"' EXIT
layer() {{ # media type: the digest of the first such layer
  tr -d ' \t\r\n' <"$work/manifest" | tr '{{}}' '\n\n' | grep -F "\"$1\"" |
    grep -o 'sha256:[0-9a-f]\{{64\}}' | head -n 1
}}
tell() {{ # who
  printf 'source %s\nmanifest ' "$1"; tr -d '\r\n' <"$work/manifest"
  printf '\nheader '; base64 -w 0 <"$work/header"
  printf '\nparameters '; base64 -w 0 <"$work/parameters"; echo
}}
fetch() {{ outside curl -sS -L --proto '=http,https' --connect-timeout 5 -m 10 "$@" 2>"$work/why"; }}
address=$1 tag=$2 data=$3 manifest=$4
shift 4
: >"$work/parameters"
while [ $# -gt 1 ]; do
  place "$1" "$2" "$data"
  [ "$1" ] || data=${{root:-{image_room.DATA_ROOT}}}
  shift 2
  [ -f "$folder/models/manifests/$manifest" ] || continue
  head -c 1000000 -- "$folder/models/manifests/$manifest" >"$work/manifest"
  blob=$folder/models/blobs/$(layer {_WEIGHTS} | tr : -)
  [ -f "$blob" ] && head -c {PREFIX} -- "$blob" >"$work/header" || continue
  own=$folder/models/blobs/$(layer {_PARAMETERS} | tr : -)
  [ ! -f "$own" ] || head -c {PREFIX} -- "$own" >"$work/parameters"
  tell host; exit 0
done
code=$(fetch --max-filesize 4000000 -o "$work/manifest" -w '%{{http_code}}' \
  -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' "$address/manifests/$tag") || code=
case $code in
  200) ;;
  '') tail -n 1 "$work/why" >&2; exit 1 ;;
  *) echo "HTTP $code from $address/manifests/$tag" >&2; exit 1 ;;
esac
digest=$(layer {_WEIGHTS})
[ "$digest" ] || {{ echo 'the manifest names no weights' >&2; exit 1; }}
fetch -f -r 0-{PREFIX - 1} "$address/blobs/$digest" | head -c {PREFIX} >"$work/header"
[ -s "$work/header" ] || {{ tail -n 1 "$work/why" >&2; exit 1; }}
digest=$(layer {_PARAMETERS})
[ -z "$digest" ] || fetch -f -r 0-{PREFIX - 1} "$address/blobs/$digest" | head -c {PREFIX} >"$work/parameters"
tell registry
""",
)


def read(name: str, places: Sequence[tuple[str, str]], data_root: str, *, insecure: bool) -> Run:
    """Return the read-only command for the dimensions of a model: a single command for all instances of a host.

    The registry is asked where no instance has the model, once, because all instances have the same bytes under a name.

    Args:
        name: of the model.
        places: the instances of the host with the model, each with the name and the storage of its models: `volume`,
            or a directory of the host.
        data_root: Docker's declared folder; empty for Docker's own.
        insecure: whether the registry is asked over plain http.
    """
    words = [model_room.place_words(name, instance, at, data_root) for instance, at in places]
    folders = [word for folder, volume, *_ in words for word in (folder, volume)]
    address, tag = model_room.address(name, insecure=insecure)
    manifest = server_state.manifest_path(name)
    title = f"ask for the dimensions of {name}"
    return look(HEADER, address, tag, data_root, manifest, *folders, title=title, timeout=40)


def dimensions(name: str, answer: Answer) -> Dimensions:
    """Return the dimensions of a model.

    Args:
        name: of the model.
        answer: to `read`.

    Raises:
        MetadataError: neither host nor registry told the dimensions, and our table has no such model. The message says
            who told what.
    """
    try:
        return _told(name, answer)
    except (MetadataError, gguf.GgufError) as error:
        known = catalogue.dimensions(_in_library(name))
        if known is not None:
            return known
        raise MetadataError(str(error)) from None


def from_registry(name: str, *, insecure: bool = False) -> Dimensions:
    """Return the dimensions of a model, asked from its registry by this machine.

    Args:
        name: of the model.
        insecure: whether the registry is asked over plain http.

    Raises:
        UnreachableError: the registry does not answer, or has no such model.
        GuardError: the answer is no model, such as a web page.
    """
    repository, tag = model_room.address(name, insecure=insecure)
    text = model_begin.manifest(repository, tag).decode(errors="replace")
    sizes = _sizes(text)
    data = model_begin.begin(repository, _digest(text, _WEIGHTS), PREFIX)
    try:
        return _with_own(of_header(name, data, sizes, "gguf"), text, _own_parameters(repository, text))
    except gguf.GgufError as error:
        raise GuardError(f"the model {name}: {error}", "is a portal or a proxy in between?") from None


def _digest(text: str, kind: str) -> str:
    """Return the digest of the first layer of a type, by a manifest that `_sizes` has accepted; empty without."""
    layers = json.loads(text)["layers"]
    return str(next((layer.get("digest", "") for layer in layers if layer["mediaType"] == kind), ""))


def _own_parameters(repository: str, text: str) -> bytes:
    """Return the model's own parameters; empty where the registry does not send them, or the model has none."""
    digest = _digest(text, _PARAMETERS)
    try:
        return model_begin.begin(repository, digest, PREFIX) if digest else b""
    except (UnreachableError, GuardError):
        return b""


def _with_own(found: Dimensions, text: str, parameters: bytes) -> Dimensions:
    """Return dimensions with the context by the model's own parameters, or with the note that nobody sent them."""
    unread = bool(_digest(text, _PARAMETERS)) and not parameters
    return dataclasses.replace(found, own_context=own_context(parameters), own_unread=unread)


def smaller(name: str) -> tuple[Dimensions, ...]:
    """Return the smaller models of our table under the same name, the largest first.

    Args:
        name: of the model.
    """
    known = catalogue.dimensions(_in_library(name))
    if known is None:
        return ()
    others = (catalogue.dimensions(each) for each in catalogue.MODELS)
    below = [each for each in others if each and each.weights.on_cards < known.weights.on_cards]
    return tuple(sorted(below, key=lambda each: -each.weights.on_cards))


def _in_library(name: str) -> str:
    """Return the name in the library of a model that a mirror of the library serves; else the name itself."""
    _, space, model, tag = server_state.parts(name)
    return f"{model}:{tag}" if space == server_state.DEFAULT_SPACE else server_state.canonical(name)


def _told(name: str, answer: Answer) -> Dimensions:
    """Return the dimensions by an answer of the host or of the registry."""
    if answer.exit:
        raise MetadataError(room.unanswered(answer))
    lines = dict(line.partition(" ")[::2] for line in answer.text.splitlines())
    if not {"source", "manifest", "header"} <= lines.keys():
        raise MetadataError("the answer about the model ends early")
    sizes = _sizes(lines["manifest"])
    try:
        data = base64.b64decode(lines["header"], validate=True)
        parameters = base64.b64decode(lines.get("parameters", ""), validate=True)
    except (binascii.Error, ValueError):
        raise MetadataError("the answer about the model is garbled") from None
    source: Source = "host" if lines["source"] == "host" else "gguf"
    return _with_own(of_header(name, data, sizes, source), lines["manifest"], parameters)


def own_context(parameters: bytes) -> int:
    """Return the tokens of context by a model's own parameters; 0 where they name none that a server can use.

    Source: ollama 0.33 `server/routes.go` `modelOptions`: the parameters of the model win over OLLAMA_CONTEXT_LENGTH.

    Args:
        parameters: the layer of the model, a JSON document; hostile.
    """
    try:
        tokens: Any = json.loads(parameters)["num_ctx"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return 0
    is_count = isinstance(tokens, int) and not isinstance(tokens, bool)
    return tokens if is_count and 1 <= tokens <= MOST_CONTEXT else 0


def of_header(name: str, data: bytes, sizes: dict[str, int], source: Source) -> Dimensions:
    """Return the dimensions by the begin of the weights.

    Args:
        name: of the model.
        data: the first bytes.
        sizes: media type -> bytes of the layers of that type.
        source: who told.

    Raises:
        MetadataError, GgufError: the bytes or the sizes are of no model.
    """
    header = gguf.parse(data, sizes[_WEIGHTS])
    if not header.whole and _VOCABULARY not in header.lengths:  # the tokens follow the dimensions
        raise MetadataError(f"the begin of the model, {len(data)} bytes, ends before the dimensions do")
    values: dict[str, object] = {**header.metadata}
    if _VOCABULARY in header.lengths:
        values[_VOCABULARY] = header.lengths[_VOCABULARY]
    tensors = {tensor.name: tensor.size for tensor in header.tensors}
    if header.whole and None not in tensors.values():
        own = {tensor: size for tensor, size in tensors.items() if size is not None}
        others = sum(size for kind, size in sizes.items() if kind != _WEIGHTS)
        return from_metadata(values, tensors={**own, "v.layers": others}, name=name, source=source)
    return from_metadata(values, weight_bytes=sum(sizes.values()), name=name, source=source)


def _sizes(text: str) -> dict[str, int]:
    """Return media type -> bytes, of the layers of a manifest that go to cards."""
    sizes: dict[str, int] = {}
    try:
        layers: Any = json.loads(text)["layers"]
        for layer in layers:
            kind, size = layer["mediaType"], layer["size"]
            if kind in _ON_CARDS and isinstance(size, int) and 0 < size < 1 << 50:
                sizes[kind] = sizes.get(kind, 0) + size
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise MetadataError("the manifest of the model makes no sense") from None
    if _WEIGHTS not in sizes:
        raise MetadataError("the manifest of the model names no weights")
    return sizes
