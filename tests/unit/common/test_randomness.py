import subprocess
import sys
from itertools import product

import numpy as np
import torch

from rad_lightning.common.randomness import stream_seed


def test_equal_inputs_give_equal_seeds_in_another_process() -> None:
    code = (
        "from rad_lightning.common.randomness import stream_seed;"
        "print(stream_seed('batches', 3, 1, 99))"
    )
    answer = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert int(answer) == stream_seed("batches", 3, 1, 99)


def test_names_seeds_ranks_and_steps_all_matter() -> None:
    names = ("split", "init", "batches", "whitening")
    seeds = [stream_seed(n, *p) for n in names for p in product(range(5), range(4), range(50))]
    assert len(set(seeds)) == len(seeds)


def test_the_order_of_the_parts_matters() -> None:
    assert stream_seed("batches", 1, 2) != stream_seed("batches", 2, 1)


def test_a_trailing_zero_is_another_stream() -> None:
    assert stream_seed("split", 5) != stream_seed("split", 5, 0)
    assert stream_seed("split") != stream_seed("split", 0)


def test_large_parts_do_not_meet_pairs_of_small_ones() -> None:
    assert stream_seed("split", 2**32) != stream_seed("split", 0, 1)


def test_seeds_fit_torch_and_numpy() -> None:
    for seed in (stream_seed("init", i) for i in range(200)):
        assert 0 <= seed < 2**63
        torch.Generator().manual_seed(seed)
        np.random.default_rng(seed)


def test_seeds_use_all_their_bits() -> None:
    seeds = [stream_seed("init", i) for i in range(200)]
    shares = [sum(s >> bit & 1 for s in seeds) / 200 for bit in range(63)]
    assert min(shares) > 0.3 and max(shares) < 0.7


def test_neighbouring_streams_are_unrelated() -> None:
    first, second = (
        torch.randn(2000, generator=torch.Generator().manual_seed(stream_seed("batches", 0, 0, t)))
        for t in (0, 1)
    )
    assert abs(float(torch.corrcoef(torch.stack((first, second)))[0, 1])) < 0.1
