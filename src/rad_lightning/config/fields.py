"""Fields that carry what they accept, and what can be done with a dataclass of such fields.

The YAML files, the checks and the error messages then cannot disagree.
``setting(..., numbers=False)`` marks a field that changes how a run is done but none of its
numbers; such fields stay out of the run key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import field
from typing import Any, get_args, get_type_hints

from omegaconf import MISSING

LARGEST, LARGEST_WHOLE = 1e30, 2**62  # numbers: single precision ends at 3e38


def setting(
    default: Any = MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[Any, ...] | None = None,
    numbers: bool = True,
) -> Any:
    """A dataclass field with the range it accepts: ``low <= x <= high``, ``x > above``."""
    rules = {"low": low, "high": high, "above": above, "choices": choices, "numbers": numbers}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=rules)
    return field(default=default, metadata=rules)


def faults(node: Any, prefix: str = "") -> Iterator[str]:
    """One line per value outside what its field accepts."""
    for f in dataclasses.fields(node):
        key, value = f"{prefix}{f.name}", getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            yield from faults(value, f"{key}.")
            continue
        if value == [] and not f.metadata.get("empty"):
            yield f"{key} = []: give at least one value"
        for item in value if isinstance(value, list) else [value]:
            if item is not None and not _accepted(item, f.metadata):
                yield f"{key} = {value!r}: {_describe(f.metadata, isinstance(value, list), item)}"
                break


def _accepted(value: Any, rules: Any) -> bool:
    choices, low, high, above = (rules.get(k) for k in ("choices", "low", "high", "above"))
    return (
        (choices is None or value in choices)
        and not _beyond(value)
        and (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
    )


def _beyond(value: Any) -> bool:
    """Whether a number is none, or so large that no computation can take it."""
    if isinstance(value, float):
        return not abs(value) <= LARGEST
    return isinstance(value, int) and abs(value) > LARGEST_WHOLE


def _describe(rules: Any, several: bool, wrong: Any) -> str:
    """What to do about a wrong value, or about a list with a wrong value in it."""
    free = rules.get("choices") is None and rules.get("high") is None
    if free and _beyond(wrong) and abs(wrong) < math.inf:
        largest = f"{LARGEST:g}" if isinstance(wrong, float) else f"{LARGEST_WHOLE}"
        return f"use numbers up to {largest}"
    if rules.get("choices") is not None:
        choices = ", ".join(map(str, rules["choices"]))
        return f"choose from {choices}" if several else f"choose one of {choices}"
    kind = "values" if several else "a value"
    low, high = rules.get("low"), rules.get("high")
    if low is not None and high is not None:
        return f"use {kind} from {low:.12g} to {high:.12g}"
    bounds = [
        f"{sign} {rules[rule]:.12g}"
        for rule, sign in (("above", ">"), ("low", ">="), ("high", "<="))
        if rules.get(rule) is not None
    ]
    return f"use {kind} {' and '.join(bounds)}" if bounds else "use finite numbers"


class Part:
    """A part of a config that can be switched off; then it changes nothing, whatever it holds."""

    @property
    def on(self) -> bool:
        raise NotImplementedError


def number_fields(node: Any) -> dict[str, Any]:
    """The part of a config that changes the numbers of a run, as plain nested dicts, without each
    ``Part`` that is switched off."""
    kept: dict[str, Any] = {}
    for f in dataclasses.fields(node):
        value = getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            off = isinstance(value, Part) and not value.on
            if not off and (inner := number_fields(value)):
                kept[f.name] = inner
        elif f.metadata.get("numbers", True) and value != {}:
            kept[f.name] = value
    return kept


def number_types(schema: Any) -> dict[str, str]:
    """Dotted keys of the numbers in a dataclass, with those of the dataclasses in it."""
    found: dict[str, str] = {}
    for name, kind in get_type_hints(schema).items():
        if dataclasses.is_dataclass(kind):
            found |= {f"{name}.{key}": inner for key, inner in number_types(kind).items()}
        for plain in {int, float} & set(get_args(kind) or (kind,)):
            found[name] = plain.__name__
    return found


def replaced(node: Any, key: str, value: Any) -> Any:
    """A copy of a nested dataclass with another value at the dotted ``key``."""
    name, _, rest = key.partition(".")
    inner = replaced(getattr(node, name), rest, value) if rest else value
    return dataclasses.replace(node, **{name: inner})


def digest(content: Any, length: int = 10) -> str:
    """A short stable hash of anything JSON can hold."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
