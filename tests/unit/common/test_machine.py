"""What a machine may lack, in one line; a full disk for real where one can be had."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from faults.boundaries import small_disk
from rad_lightning.common.files import atomic, named, write_bytes, write_text
from rad_lightning.common.histograms import bin_edges
from rad_lightning.common.machine import lack, memory_bytes


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    try:
        with small_disk(tmp_path / "disk", 4) as folder:
            yield folder
    except OSError as error:
        if "can be mounted" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left", "a.csv"), "a.csv: No space left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded"),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file"), "PytorchS"),
        (MemoryError("Unable to allocate 3.64 TiB for an array"), "memory (3.64 TiB asked"),
        (
            RuntimeError("[alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to "
                         "allocate 1099511627776 bytes."),
            "not enough memory (1.02e+03 GiB asked for)",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB."), "(20.00 GiB asked for)"),
    ],
)  # fmt: skip
def test_what_the_machine_lacks_is_a_line(error: Exception, line: str) -> None:
    told = lack(error)
    assert told and line in told and "\n" not in told


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("shapes"), BrokenPipeError()])
def test_other_errors_keep_their_traceback(error: Exception) -> None:
    assert lack(error) is None


def test_the_cause_of_an_error_counts() -> None:
    error = ValueError("wrapped")
    error.__cause__ = MemoryError()
    assert "not enough memory" in (lack(error) or "")


def test_a_full_disk_names_the_file_and_leaves_nothing(full: Path) -> None:
    target = full / "table.csv"
    with pytest.raises(OSError) as caught:
        write_text(target, "x" * 10_000)
    assert lack(caught.value) == f"{target}: {os.strerror(errno.ENOSPC)}"
    with pytest.raises(OSError) as caught, atomic(target) as aside, aside.open("wb") as file:
        np.save(file, np.zeros(10_000))
    assert caught.value.filename == str(target)
    assert list(full.iterdir()) == []


def test_a_library_s_word_for_it_names_the_file(full: Path) -> None:
    target = full / "weights.pt"
    with pytest.raises(OSError) as caught, atomic(target) as aside:
        torch.save(torch.zeros(10_000), aside)
    assert caught.value.filename == str(target)


def test_errors_about_other_files_keep_their_names(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, named(tmp_path / "target"):
        (tmp_path / "other").read_bytes()
    assert caught.value.filename == str(tmp_path / "other")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as taken:
        write_bytes(tmp_path / "folder", b"")
    assert lack(taken.value) == f"{tmp_path / 'folder'}: Is a directory"


def test_memory_is_some() -> None:
    assert 2**28 < memory_bytes() < 2**60


@pytest.mark.parametrize(
    "values", [[1.5] * 5, [1.5, 1.5000001], [-3e7, -3e7 + 2], [0.0, 1e-45], [0, 9]]
)
def test_bins_of_nearly_equal_values(values: list[float]) -> None:
    edges = bin_edges(np.float32(values), 40)
    assert len(edges) == 41 and (np.diff(edges) > 0).all()
    assert edges[0] <= min(values) and max(np.float32(values)) <= edges[-1]
