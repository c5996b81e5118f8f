"""Seeded damages: of any file, and of each kind of file that is read back.

Each takes a file's content and a generator, and gives the damage's name with content that differs.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np

Damage = tuple[str, bytes]


def damages(data: bytes, rng: np.random.Generator) -> Damage:
    """Of any file: bits, bytes, lengths."""
    at = int(rng.integers(max(1, len(data))))
    span = int(rng.integers(1, max(2, min(4096, len(data) // 2))))
    noise = rng.integers(0, 256, span, dtype=np.uint8).tobytes()
    near = int(rng.integers(min(len(data), 256)))
    kinds: dict[str, Callable[[], bytes]] = {
        "flipped bit": lambda: flipped(data, at, rng),
        "flipped bit near the start": lambda: flipped(data, near, rng),
        "flipped bit near the end": lambda: flipped(data, -1 - near, rng),
        "zeros": lambda: data[:at] + bytes(len(data[at : at + span])) + data[at + span :],
        "noise": lambda: data[:at] + noise[: len(data) - at] + data[at + span :],
        "cut": lambda: data[:at],
        "empty": lambda: b"",
        "only zeros": lambda: bytes(len(data)),
        "longer": lambda: data + noise,
        "a byte lost": lambda: data[:at] + data[at + 1 :],
        "a byte more": lambda: data[:at] + noise[:1] + data[at:],
        "halves exchanged": lambda: data[len(data) // 2 :] + data[: len(data) // 2],
    }
    name = str(rng.choice(list(kinds)))
    found = kinds[name]()
    return (f"{name} at {at}", found) if found != data else ("flipped", flipped(data, at, rng))


def flipped(data: bytes, at: int, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def feature_damages(data: bytes, rng: np.random.Generator, suffix: str) -> Damage:
    """Of an entry of the feature cache: a valid file with other numbers, or another form."""
    values, write = _opened(data, suffix)
    at = int(rng.integers(values.size))
    kinds: dict[str, Callable[[], np.ndarray]] = {
        "a NaN": lambda: _with(values, at, np.nan),
        "an infinity": lambda: _with(values, at, np.inf),
        "another number": lambda: _with(values, at, 3.5),
        "all NaN": lambda: np.full_like(values, np.nan),
        "all zeros": lambda: np.zeros_like(values),
        "turned": lambda: np.ascontiguousarray(values.swapaxes(-1, -2)) + values.dtype.type(1),
        "double": lambda: values.astype(np.float64),
        "integers": lambda: values.view(np.int16),
        "fewer channels": lambda: values[:, :-1],
        "flat": lambda: values.reshape(-1),
    }
    name = str(rng.choice(list(kinds)))
    return name, write(np.ascontiguousarray(kinds[name]()))


def _opened(data: bytes, suffix: str) -> tuple[np.ndarray, Callable[[np.ndarray], bytes]]:
    """The array in a ``.npy`` or ``.safetensors`` file, and how another one is put in its place."""
    if suffix == ".npy":

        def as_npy(values: np.ndarray) -> bytes:
            buffer = io.BytesIO()
            np.save(buffer, values)
            return buffer.getvalue()

        return np.load(io.BytesIO(data)), as_npy
    from safetensors.numpy import load, save

    ((name, values),) = load(data).items()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about = header.get("__metadata__")  # the checksum of the right content among it
    return values, lambda other: save({name: other}, about)


def _with(values: np.ndarray, at: int, number: float) -> np.ndarray:
    changed = values.copy()
    changed.reshape(-1)[at] = number
    return changed


def checkpoint_damages(data: bytes, rng: np.random.Generator) -> Damage:
    """Of ``last.ckpt``: a checkpoint that torch reads, with other content."""
    import torch

    content = torch.load(io.BytesIO(data), weights_only=True)
    tensors = [t for t in content["state_dict"].values() if t.is_floating_point() and t.numel()]
    tensor = tensors[int(rng.integers(len(tensors)))]
    at = int(rng.integers(tensor.numel()))

    def put(value: float) -> Callable[[], Any]:
        return lambda: tensor.view(-1).__setitem__(at, value)

    kinds: dict[str, Callable[[], Any]] = {
        "a NaN": put(float("nan")),
        "an infinity": put(float("inf")),
        "another number": put(3.5),
        "zeros": lambda: tensor.zero_(),
        "a key lost": lambda: content["state_dict"].pop(next(iter(content["state_dict"]))),
        "another step": lambda: content.__setitem__("global_step", 3),
        "no state": lambda: content.__setitem__("state_dict", {}),
        "no optimiser": lambda: content.pop("optimizer_states", None),
        "no list": lambda: content.__setitem__("callbacks", []),
    }
    name = str(rng.choice(list(kinds)))
    kinds[name]()
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return name, buffer.getvalue()


def json_damages(data: bytes, rng: np.random.Generator) -> Damage:
    """Of a JSON object: another value somewhere, a lost key, or no object at all."""
    values: dict[str, Any] = {
        "null": None,
        "a text": "x",
        "a number": 7,
        "NaN": float("nan"),
        "infinity": float("inf"),
        "1e400": 10**400,
        "a list": [],
        "an object": {},
        "a truth": True,
    }
    name = str(rng.choice(list(values)))
    if rng.random() < 0.2:
        return f"is {name}", json.dumps(values[name]).encode()
    content = json.loads(data)
    node, place = content, "."
    while True:
        key = str(rng.choice(list(node)))
        place = f"{place}{key}."
        if isinstance(node[key], dict) and node[key] and rng.random() < 0.7:
            node = node[key]
            continue
        break
    if rng.random() < 0.3:
        del node[key]
        return f"no {place[1:-1]}", json.dumps(content).encode()
    node[key] = values[name]
    return f"{place[1:-1]} is {name}", json.dumps(content).encode()


def table_damages(data: bytes, rng: np.random.Generator) -> Damage:
    """Of a CSV file: as people and programs spoil tables."""
    lines = data.decode().splitlines()
    row = int(rng.integers(1, len(lines)))
    rows = list(csv.reader(lines))
    column = int(rng.integers(len(rows[0])))
    odd = str(
        rng.choice(["", "2", "nan", "../x.png", "=1+1", '"', "\x00", "é", "a\nb", "0x1", "-0"])
    )

    def cells(change: Callable[[list[list[str]]], Any]) -> bytes:
        change(rows)
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(rows)
        return buffer.getvalue().encode()

    kinds: dict[str, Callable[[], bytes]] = {
        f"cell {odd!r}": lambda: cells(lambda r: r[row].__setitem__(column, odd)),
        "a row lost": lambda: cells(lambda r: r.pop(row)),
        "a row twice": lambda: cells(lambda r: r.append(r[row])),
        "a column lost": lambda: cells(lambda r: [line.pop(column) for line in r]),
        "a cell lost": lambda: cells(lambda r: r[row].pop(column)),
        "a cell more": lambda: cells(lambda r: r[row].append("x")),
        "another header": lambda: cells(lambda r: r[0].__setitem__(column, "x")),
        "header twice": lambda: cells(lambda r: r.insert(1, list(r[0]))),
        "no header": lambda: cells(lambda r: r.pop(0)),
        "semicolons": lambda: data.replace(b",", b";"),
        "tabs": lambda: data.replace(b",", b"\t"),
        "carriage returns": lambda: data.replace(b"\n", b"\r"),
        "windows lines": lambda: data.replace(b"\n", b"\r\n"),
        "utf-16": lambda: data.decode().encode("utf-16"),
        "byte order mark": lambda: b"\xef\xbb\xbf" + data,
        "latin-1": lambda: data.replace(b"good", "gööd".encode("latin-1"), 1),
        "open quote": lambda: data.replace(b"\n", b'\n"', row),
        "blank line": lambda: data.replace(b"\n", b"\n\n", 1),
        "header alone": lambda: lines[0].encode(),
    }
    name = str(rng.choice(list(kinds)))
    found = kinds[name]()
    return (name, found) if found != data else damages(data, rng)
