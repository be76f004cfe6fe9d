"""Write docs/json.md from the schema of the JSON documents: `make example`."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).parents[1] / "provision" / "report" / "schema.json"
HEAD = """\
# JSON

A command with `--json` prints exactly one JSON document on standard output, on success and on failure. Progress and
errors in words stay on standard error. `exit` equals the exit code of the command. `make example` writes this page
from the schema.

    provision plan --json | jq -r '.hosts[] | select(.result == "change") | .host'
    provision deploy --yes --json > result.json || jq -r '.error.message // (.hosts[].why)' result.json

The schema is `provision/report/schema.json` (JSON Schema, draft 2020-12). An installed `provision` has the same file:

    from importlib.resources import files
    schema = files("provision.report").joinpath("schema.json").read_text()

Rules for every document:

* `hosts` is a list of objects with `host`, in the order of the inventory. Where hosts are asked, each object also has
  `result` and `why`.
* `changes` is a list of objects with `step`, `role`, `action` and `reason`. `changed` is a list of ids of steps.
* A list without entries is empty and never left out. Later releases add fields; a renamed or removed field raises
  `schema`.
* A command that ends before its hosts prints the document of a failure, with `error`.
* Secrets are masked: `[secret]`.

Hooks get the fields of `deploy`, `rollback`, `drain` and `undrain` on standard input.

## In every document

"""
COMMON = ("schema", "command", "exit", "warnings")


def text(schema: Mapping[str, Any]) -> str:
    """The page.

    Args:
        schema: the JSON Schema of all documents.
    """
    definitions = schema["$defs"]
    names = [one["$ref"].rpartition("/")[2] for one in schema["anyOf"]]
    first = definitions[names[0]]["properties"]
    lines = [HEAD, "| field | type | meaning |", "|---|---|---|"]
    lines += [_row(name, first[name], definitions) for name in COMMON]
    for name in names:
        document = definitions[name]
        own = {key: value for key, value in document["properties"].items() if key not in COMMON}
        exits = ", ".join(map(str, document["properties"]["exit"]["enum"]))
        lines += ["", f"## {document['description'].rstrip('.')}", "", f"Exit codes: {exits}.", ""]
        lines += ["| field | type | meaning |", "|---|---|---|"]
        seen: dict[str, str] = {}
        lines += [row for key, value in own.items() for row in _rows(key, value, definitions, seen)]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def _rows(path: str, value: Mapping[str, Any], definitions: Mapping[str, Any], seen: dict[str, str]) -> Iterator[str]:
    """The row of a field, and the rows of the fields inside, which are listed once in a document.

    Args:
        path: where the field stands, such as `hosts[].why`.
        value: the schema of the field.
        definitions: the schemas that others refer to.
        seen: name of a definition -> the path where the page lists its fields.
    """
    items = _resolved(value, definitions).get("items", {})
    inner, below = (items, f"{path}[]") if items else (value, path)
    name = _reference(inner)
    known = seen.get(name, "")
    row = _row(path, value, definitions)
    yield row.removesuffix(" |") + f" Fields as in `{known}`. |" if known else row
    if known:
        return
    if name:
        seen[name] = below
    for key, field in _resolved(inner, definitions).get("properties", {}).items():
        yield from _rows(f"{below}.{key}", field, definitions, seen)


def _row(path: str, value: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    meaning = value.get("description") or _resolved(value, definitions).get("description", "")
    return f"| `{path}` | {_kind(value, definitions)} | {meaning.replace('|', chr(92) + '|')} |"


def _kind(value: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    inner = _resolved(value, definitions)
    if "const" in inner:
        return f"`{json.dumps(inner['const'])}`"
    kinds = inner.get("type", "string" if "enum" in inner else "any")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    null = [] if "anyOf" not in value else ["null"]
    return " or ".join([*kinds, *null])


def _resolved(value: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that another refers to, or the schema itself."""
    name = _reference(value)
    return definitions[name] if name else value


def _reference(value: Mapping[str, Any]) -> str:
    """The name of the definition that a schema refers to; empty without one."""
    first: Mapping[str, Any] = value["anyOf"][0] if "anyOf" in value else value
    return str(first.get("$ref", "")).rpartition("/")[2]


if __name__ == "__main__":
    sys.stdout.write(text(json.loads(SCHEMA.read_text())))
