"""Damages to files that are read back: a failing disk, a bad copy, an edit. Each function takes the
content of a file and a generator, and gives the name of the damage with the damaged content."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np

Damage = tuple[str, bytes]
Damages = Callable[[bytes, np.random.Generator], Damage]


def damages(data: bytes, rng: np.random.Generator) -> Damage:
    """Of any file: bits, bytes and lengths. The content always differs from ``data``."""
    at = int(rng.integers(len(data)))
    span = int(rng.integers(1, 4096))
    noise = rng.integers(0, 256, span, dtype=np.uint8).tobytes()
    kinds: dict[str, Callable[[], bytes]] = {
        "flipped bit": lambda: _flipped(data, at, rng),
        "flipped bit near the start": lambda: _flipped(data, at % min(len(data), 256), rng),
        "flipped bit near the end": lambda: _flipped(data, -1 - at % min(len(data), 256), rng),
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
    return (name, found) if found != data else ("flipped bit", _flipped(data, at, rng))


def _flipped(data: bytes, at: int, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def feature_damages(data: bytes, rng: np.random.Generator) -> Damage:
    """Of a feature-cache entry: a valid file with other features, under the old checksum."""
    import torch
    from safetensors.torch import load, save

    (name, old), about = next(iter(load(data).items())), _safetensors_metadata(data)
    values = old.clone()
    one = int(rng.integers(values.numel()))
    flat = values.view(-1)
    kinds: dict[str, Callable[[], Any]] = {
        "NaN": lambda: flat.index_fill(0, torch.tensor([one]), torch.nan).view_as(values),
        "all NaN": lambda: torch.full_like(values, torch.nan),
        "infinity": lambda: flat.index_fill(0, torch.tensor([one]), torch.inf).view_as(values),
        "zeros": lambda: torch.zeros_like(values) - 1,
        "another dtype": lambda: values.to(torch.bfloat16),
        "wider": lambda: values.float(),
        "integers": lambda: values.view(torch.int16),
        "another shape": lambda: values.flatten(),
        "turned": lambda: values.transpose(-1, -2).contiguous() + 1,
        "fewer channels": lambda: values[:, :-1].contiguous(),
    }
    kind = str(rng.choice(list(kinds)))
    return kind, save({name: kinds[kind]()}, about)


def _safetensors_metadata(data: bytes) -> dict[str, str]:
    size = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    return found


def checkpoint_damages(data: bytes, rng: np.random.Generator) -> Damage:
    """Of ``last.ckpt``: a valid checkpoint with other content, under the old checksum."""
    import torch

    content = torch.load(BytesIO(data), weights_only=True)
    state = content["state_dict"]
    floats = sorted(k for k, v in state.items() if v.is_floating_point() and v.numel())
    key = str(rng.choice(floats))
    state[key] = state[key].contiguous()
    flat = state[key].view(-1)
    one = int(rng.integers(flat.numel()))
    kinds: dict[str, Callable[[], Any]] = {
        "NaN": lambda: flat.__setitem__(one, torch.nan),
        "NaN in the whitening": lambda: state["head.whitening.mean"].fill_(torch.nan),
        "infinity": lambda: flat.__setitem__(one, torch.inf),
        "another weight": lambda: flat.__setitem__(one, flat[one] + 1),
        "a weight lost": lambda: state.pop(key),
        "another step": lambda: content.update(global_step=content["global_step"] + 1),
        "no optimiser": lambda: content.update(optimizer_states=[]),
        "no state": lambda: content.pop("state_dict"),
        "another run's": lambda: content.update(rad_lightning_run="another"),
        "no checksum": lambda: content.pop("rad_lightning_sha256"),
    }
    kind = str(rng.choice(list(kinds)))
    kinds[kind]()
    buffer = BytesIO()
    torch.save(content, buffer)
    return kind, buffer.getvalue()


def object_damages(data: bytes, rng: np.random.Generator) -> Damage:
    """Of ``result.json``, ``sweep.json`` or ``detector.onnx.json``: JSON that is something else."""
    content = json.loads(data)
    key = str(rng.choice([k for k in content if k != "content_sha256"]))
    lacking = {k: v for k, v in content.items() if k != key}
    others: dict[str, Any] = {
        "null": None,
        "a string": "done",
        "a number": 1,
        "a list": [content],
        "empty": {},
        "a key lost": lacking,
        "a value lost": content | {key: None},
        "another kind of value": content | {key: [[]]},
        "deeply nested": content | {key: json.loads("[" * 200 + "]" * 200)},
        "no checksum": {k: v for k, v in content.items() if k != "content_sha256"},
    }
    if content[key] is None:
        del others["a value lost"]
    kind = str(rng.choice([*others, "NaN", "endless nesting"]))
    if kind == "NaN":
        return kind, json.dumps(content | {key: float("nan")}).encode()
    if kind == "endless nesting":
        return kind, b'{"a":' * 100_000
    return f"{kind} ({key})", json.dumps(others[kind]).encode()


def tries() -> int:
    """How many damages a test tries: a sample, or as many as ``RAD_FAULTS`` says."""
    return int(os.environ.get("RAD_FAULTS", "24"))
