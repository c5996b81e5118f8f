"""Named random streams: each purpose draws from its own, so that none can disturb another."""

from __future__ import annotations

from hashlib import sha256


def stream_seed(name: str, *parts: int) -> int:
    """A 63-bit seed for the stream ``name`` (split, init, batches, ...) at ``parts``.

    ``parts`` are what the stream depends on: seed, rank, step. Equal inputs give equal seeds on
    every machine; different ones give unrelated seeds.
    """
    text = "/".join([name, *(str(int(p)) for p in parts)])
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1
