"""The images, volumes and networks in the answer of the look at Docker. Pure."""

import json
from collections.abc import Mapping
from typing import Any


def parse(sections: Mapping[str, list[str]]) -> tuple[dict[str, str], dict[str, dict[str, str]], dict[str, Any]]:
    """Reference -> image id, volume -> labels, and image id -> configuration: of Docker's API or of its client.

    Args:
        sections: name -> lines, of the answer.
    """
    if "api" in sections:
        images, volumes, *more = map(json.loads, sections["api"])
        configs = [item for item in more if isinstance(item, dict)]
        references = {
            reference: image["Id"]
            for image in images
            for reference in (*(image["RepoTags"] or ()), *(image["RepoDigests"] or ()))
            if "<none>" not in reference
        }
        labels = {item["Name"]: item["Labels"] or {} for item in volumes["Volumes"] or ()}
        return references, labels, {image["Id"]: image["Config"] for image in configs}
    configs = [json.loads(line) for line in sections.get("image configs", ())]
    volumes = [json.loads(line) for line in sections["volumes"]]
    return (
        _images([json.loads(line) for line in sections["images"]]),
        {item["name"]: _labels(item["labels"]) for item in volumes},
        {image["id"]: image["config"] for image in configs},
    )


def networks(sections: Mapping[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Name -> network, in the words of Docker's API, with which the client's words agree.

    Args:
        sections: see `parse`.
    """
    lists = [item for item in map(json.loads, sections.get("api", ())) if isinstance(item, list)]
    items = lists[1] if len(lists) > 1 else [json.loads(line) for line in sections.get("networks", ())]
    return {item["Name"]: item for item in items}


def _images(rows: list[dict[str, str]]) -> dict[str, str]:
    references = {}
    for row in rows:
        for separator, part in ((":", row["tag"]), ("@", row["digest"])):
            if "<none>" not in (row["repository"], part) and part:
                references[f"{row['repository']}{separator}{part}"] = row["id"]
    return references


def _labels(text: str) -> dict[str, str]:
    return dict(item.partition("=")[::2] for item in text.split(",") if item)


def familiar(reference: str) -> str:
    """An image reference in Docker's own form: without Docker's registry and namespace, with a tag or only a digest.

    Args:
        reference: reference in an inventory, such as `docker.io/library/debian`.
    """
    name, _, digest = reference.partition("@")
    for prefix in ("docker.io/", "index.docker.io/", "library/"):
        name = name.removeprefix(prefix)
    head, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    if digest:
        return f"{head}{slash}{last}@{digest}"
    return f"{head}{slash}{last}:{tag if colon else 'latest'}"
