"""Settings on the command line that are text arrive as they were written.

Hydra reads every value by its own grammar: ``2024_05_17`` is a number to it, ``1e5`` and ``true``
are too or nearly so, and ``(1)``, ``#``, quotes and most letters beyond ASCII are refused. Which
settings are text follows from the types of the dataclasses.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

# What Hydra does with a value of a sweep before it reads it as one.
SWEPT = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag)\(.*\)", re.DOTALL)
OPENING, CLOSING = "([{", ")]}"


def text_keys(schema: Any, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Dotted keys of the settings that hold text, and whether each is a list of it."""
    for name, kind in get_type_hints(schema).items():
        options = {k for k in (get_args(kind) or (kind,)) if k is not type(None)}
        if get_origin(kind) is list:
            options = {kind}
        (only,) = options if len(options) == 1 else (Any,)
        if dataclasses.is_dataclass(only):
            yield from text_keys(only, f"{prefix}{name}.")
        elif only is str:
            yield prefix + name, False
        elif get_origin(only) is list and get_args(only) == (str,):
            yield prefix + name, True


def as_written(override: str, schema: Any, sweeps: bool) -> str:
    """``data.root=2024_05_17 -> data.root='2024_05_17'`` where ``schema`` has text there.

    Values that Hydra would read as they stand, those in quotes, ``null``, and those with ``${}``
    stay as they are. With ``sweeps``, commas part the values of a sweep.
    """
    key, equal, value = override.partition("=")
    several = _text_settings(schema).get(key.lstrip("+"))
    if several is None or not equal or (sweeps and SWEPT.fullmatch(value)):
        return override
    values = [v.strip() for v in parted(value)] if sweeps else [value]
    return key + equal + ",".join(_listed(v) if several else _text(v) for v in values)


@cache  # of a handful of dataclasses, for every setting of a command line
def _text_settings(schema: Any) -> dict[str, bool]:
    return dict(text_keys(schema))


def _listed(value: str) -> str:
    """Each text of a list in brackets; anything else is for Hydra to refuse."""
    if not (value.startswith("[") and value.endswith("]") and value[1:-1].strip()):
        return value
    return "[" + ",".join(_text(v.strip()) for v in parted(value[1:-1])) + "]"


def _text(value: str) -> str:
    """The value, quoted unless Hydra reads it as this very text, or it means something else."""
    if value in ("", "null") or "${" in value:
        return value
    try:
        read = OverridesParser.create().parse_override(f"key={value}").value()
    except HydraException:
        return quoted(value)
    # A backslash before a sign of the grammar is the grammar's own way to write that sign.
    escaped = isinstance(read, str) and "\\" in value
    return value if read == value or value[0] in "'\"" or escaped else quoted(value)


def parted(values: str) -> list[str]:
    """The parts between the commas that no quotes or brackets hold."""
    parts, depth, quote, begun = list[str](), 0, "", 0
    for place, sign in enumerate(values):
        if quote:
            quote = "" if sign == quote and values[place - 1] != "\\" else quote
        elif sign in "'\"" and not values[begun:place].strip(" [("):
            quote = sign  # elsewhere it is an apostrophe
        elif sign in OPENING:
            depth += 1
        elif sign in CLOSING:
            depth -= 1
        elif sign == "," and depth <= 0 and values[place - 1 : place] != "\\":
            parts.append(values[begun:place])
            begun = place + 1
    return [*parts, values[begun:]]


def quoted(text: str) -> str:
    """A value that Hydra's grammar reads back as this very text, without interpolation."""
    # In quotes, Hydra takes backslashes as they are but for those before a quote or the end.
    doubled = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return "'" + doubled.replace("${", "\\${") + "'"
