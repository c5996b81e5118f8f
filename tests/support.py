"""What tests share: small settings, where the development images are, nobody logged in, how what
a command wrote is read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from rad_lightning.common.tables import read_rows

Cli = Callable[..., int]  # the fixture ``cli``

SHARED = Path(__file__).resolve().parents[2] / "shared"
WEIGHTS = SHARED / "weights" / "resnet18_tv_in1k_layers1to3.safetensors"

# Seconds after which something hangs. Nothing here takes a tenth of it, on an idle machine.
HANG = 600

# A training that takes a second or two: tiny images, a tiny flow, few steps.
SMALL = (
    "data.size=[64,64]",
    "backbone.out_indices=[1,2]",
    "head.channels=8",
    "head.blocks=2",
    "head.hidden=16",
    "method.steps=6",
    "method.batch_size=64",
    "logger=csv",  # W&B's service takes seconds to start
    "evaluation.pictures=0",  # drawing takes longer than training; tests of pictures ask for them
    "evaluation.worst=0",
)
SMALL_SYNTHETIC = (
    "data.train_images=6",
    "data.test_normal_images=3",
    "data.test_images_per_defect=1",
    *SMALL,
)


def nobody(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Nobody is logged in to W&B, whoever runs the tests."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(home / "none"))
    monkeypatch.setenv("HOME", str(home))


def end_all(process: subprocess.Popen[Any]) -> None:
    """End a process that was started in a session of its own, and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def heed_interrupts() -> None:
    """For a child: Ctrl-C interrupts, also where whoever runs the tests ignores it (as a shell
    does for what it starts in the background), which children would inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def started(folder: Path, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """``python -m rad_lightning`` in ``folder``; ended with all its processes at the latest with
    the context."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rad_lightning", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
        **options,
    )
    try:
        yield process
    finally:
        end_all(process)


def command(
    folder: Path, *arguments: str, succeeds: bool = True, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m rad_lightning`` in ``folder`` as a user would."""
    with started(folder, *arguments, **options) as process:
        out, err = process.communicate(timeout=HANG)
    assert process.returncode == 0 or not succeeds, out + err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def only_run(folder: str | Path = "outputs/runs") -> Path:
    """The directory of the only run in ``folder``."""
    (run,) = Path(folder).iterdir()
    return run


def result_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "result.json").read_text())
    return content


def rewrite(file: Path, content: dict[str, Any]) -> None:
    """Write ``result.json`` or ``detector.onnx.json`` as if the product had written ``content``."""
    from rad_lightning.common.sealed import SEAL, sealed

    file.write_text(sealed({key: value for key, value in content.items() if key != SEAL}))


def rows_of(table: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by column."""
    with table.open(newline="", encoding="utf-8") as lines:
        return list(read_rows(lines))


def one_error(captured: pytest.CaptureFixture[str]) -> str:
    """The single line on stderr, without its prefix."""
    lines = captured.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0].removeprefix("error: ")
