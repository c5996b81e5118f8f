"""Named random streams: each purpose draws from its own, so that none can disturb another."""

from __future__ import annotations

from zlib import crc32

import numpy as np


def stream_seed(name: str, *parts: int) -> int:
    """A 63-bit seed for the stream ``name`` (split, init, batches, ...) at ``parts``.

    ``parts`` are what the stream depends on: seed, rank, step. Equal inputs give equal seeds on
    every machine; different ones give unrelated seeds.
    """
    words = np.random.SeedSequence([crc32(name.encode()), *parts]).generate_state(2)
    return int(words[0]) << 31 ^ int(words[1])
