"""Commands on a disk that is full: one line that names the file, and a rerun that is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from faults.boundaries import small_disk
from support import SMALL, SMALL_SYNTHETIC, Cli, one_error, only_run

Disk = Callable[[int], Path]
DRAWN = (*SMALL_SYNTHETIC, "evaluation.pictures=1", "evaluation.worst=1")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A folder with room for so many KiB."""
    with ExitStack() as stack:

        def made(kib: int) -> Path:
            try:
                return stack.enter_context(small_disk(tmp_path / f"disk{kib}", kib))
            except OSError as error:
                pytest.skip(str(error))

        yield made


@pytest.mark.parametrize("kib", [4, 12, 64])
def test_a_training_names_the_file_and_a_rerun_is_right(
    cli: Cli, capsys: pytest.CaptureFixture[str], disk: Disk, kib: int
) -> None:
    output = disk(kib)
    assert cli(*DRAWN, f"output={output}") == 2
    told = one_error(capsys)
    assert told.startswith(f"{output}/synthetic-weave") and told.endswith("No space left on device")
    assert not list(output.glob("*/result.json"))
    assert cli(*DRAWN, "output=elsewhere") == 0


def test_a_cache_without_room_is_named(
    cli: Cli, capsys: pytest.CaptureFixture[str], disk: Disk, photos: Path
) -> None:
    cache = disk(12)
    own = ("data=folder", f"data.root={photos}", "backbone.weights=untrained", *SMALL)
    assert cli(*own, f"cache.dir={cache}") == 2
    assert one_error(capsys).startswith(f"{cache}/")


@pytest.mark.slow
def test_a_sweep_says_which_cell_was_first_and_stops(
    cli: Cli, capsys: pytest.CaptureFixture[str], disk: Disk
) -> None:
    output = disk(40)
    assert cli("-m", *DRAWN, "seed=0,1", f"output={output}") == 2
    assert "the sweep stops; its first failure: " in one_error(capsys)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_an_export_names_its_file(
    cli: Cli, capsys: pytest.CaptureFixture[str], disk: Disk, format: str
) -> None:
    if format == "onnx":
        pytest.importorskip("onnxscript")
    assert cli(*SMALL_SYNTHETIC) == 0
    output = disk(40)
    capsys.readouterr()
    assert cli("export", f"checkpoint={only_run()}", f"output={output}", f"format={format}") == 2
    assert one_error(capsys).startswith(f"{output}/detector.")
    assert list(output.iterdir()) == []


@pytest.mark.slow
def test_predict_and_audit_name_their_files(
    cli: Cli, capsys: pytest.CaptureFixture[str], disk: Disk, photos: Path
) -> None:
    assert cli(*SMALL_SYNTHETIC) == 0
    run, output = only_run(), disk(8)
    capsys.readouterr()
    assert cli("predict", f"checkpoint={run}", f"input={photos}", f"output={output / 'p'}") == 2
    assert one_error(capsys).startswith(f"{output}/p/")
    assert cli("audit", f"run={run}", f"output={output / 'a'}", "method=robust") == 2
    assert one_error(capsys).startswith(f"{output}/a/")
