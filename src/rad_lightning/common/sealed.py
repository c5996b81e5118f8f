"""What is read back from disk: regular files of a bounded size, and JSON objects that carry a
sha256 of their own content. A changed bit is then a refusal, not another number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SEAL = "content_sha256"  # the key in a JSON object
MOST_BYTES = 64 * 2**20  # of a JSON file: ours have some kB


def read_regular(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a file. A pipe or a device is not opened: reading it may never end.

    Raises:
        ValueError: not a regular file, or more than ``most`` bytes; without the file's name.
        OSError: not there, or not readable.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most} bytes")
    return content


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; a sha256 in it is that of its content.

    Raises:
        ValueError: anything else; without the file's name.
        OSError: not there, or not readable.
    """
    try:
        content = json.loads(read_regular(path).decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    if SEAL in content and content[SEAL] != _seal_of(content):
        raise ValueError("it is damaged or was changed: its sha256 is not that of its content")
    return content


def sealed(content: Mapping[str, Any]) -> str:
    """``content`` as JSON text with its sha256, for ``read_object``.

    Raises:
        ValueError: NaN or infinity in it.
    """
    plain = json.loads(json.dumps(content, allow_nan=False))
    return json.dumps(plain | {SEAL: _seal_of(plain)}, indent=2) + "\n"


def _seal_of(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
