import errno
import hashlib
import multiprocessing as mp
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from faults.stored import Damages, damages, feature_damages, tries
from rad_lightning.common import locks
from rad_lightning.common.errors import UserError
from rad_lightning.common.progress import Progress
from rad_lightning.features.backbone import FrozenBackbone
from rad_lightning.features.cache import FeatureSet, compute_features
from rad_lightning.features.entries import read_entry
from rad_lightning.features.extract import FeatureSpec, extract, place
from support import HANG

SPEC = FeatureSpec("patch", (32, 32), "stretch", ("identity", "hflip"))
CPU = torch.device("cpu")


def demo() -> FrozenBackbone:
    return FrozenBackbone("test_resnet", (1, 2), "untrained")


@pytest.fixture(scope="module")
def backbone() -> FrozenBackbone:
    return demo()


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Five different images in ``tmp_path/images``."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    paths = [tmp_path / "images" / f"{i}.png" for i in range(5)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return paths


def featurise(
    paths: list[Path], backbone: FrozenBackbone, store: Path | None, **changes: Any
) -> FeatureSet:
    options = {"spec": SPEC, "batch_size": 2, "quiet": True} | changes
    hashes = [hashlib.sha256(p.read_bytes()).hexdigest() for p in paths]
    return compute_features(
        paths, hashes, backbone, options["spec"], cache_dir=store,
        batch_size=options["batch_size"], device=CPU, progress=Progress(quiet=options["quiet"]),
    )  # fmt: skip


def entries(store: Path) -> list[Path]:
    return sorted(store.rglob("*.safetensors"))


def test_features_are_those_of_the_placed_images_in_order(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone
) -> None:
    found = featurise(images, backbone, tmp_path / "store")
    for row in (3, 0):
        placed, box = place(np.asarray(Image.open(images[row])), SPEC.size, SPEC.fit)
        batch = torch.from_numpy(placed).permute(2, 0, 1)[None].float()
        expected = extract(backbone, batch, [box], SPEC).float()
        torch.testing.assert_close(found.read([row]), expected, atol=2e-3, rtol=1e-2)
    assert found.read([3, 0]).shape == (2, *found.shape()) == (2, 2, 80, 4, 4)
    assert found.read([3, 0]).dtype == torch.float32


def test_the_second_call_computes_nothing_and_gives_the_same(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone
) -> None:
    first = featurise(images, backbone, tmp_path / "store")
    again = featurise(images, backbone, tmp_path / "store")
    assert (first.computed, again.computed) == (5, 0)
    assert torch.equal(first.read(range(5)), again.read(range(5)))


def test_only_what_is_missing_is_computed(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone
) -> None:
    featurise(images[:2], backbone, tmp_path / "store")
    assert featurise(images, backbone, tmp_path / "store").computed == 3


def test_without_a_store_the_numbers_are_equal(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone
) -> None:
    stored = featurise(images, backbone, tmp_path / "store")
    in_memory = featurise(images, backbone, None)
    assert in_memory.computed == 5 and in_memory.shape() == stored.shape()
    assert torch.equal(in_memory.read(range(5)), stored.read(range(5)))


def test_a_moved_or_renamed_image_is_found_again(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone
) -> None:
    before = featurise(images[:1], backbone, tmp_path / "store")
    moved = images[0].rename(tmp_path / "elsewhere.png")
    after = featurise([moved], backbone, tmp_path / "store")
    assert after.computed == 0 and torch.equal(after.read([0]), before.read([0]))


def test_a_changed_image_is_computed_anew(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone
) -> None:
    before = featurise(images[:1], backbone, tmp_path / "store")
    Image.new("RGB", (20, 24), (9, 99, 199)).save(images[0])
    after = featurise(images[:1], backbone, tmp_path / "store")
    assert after.computed == 1 and not torch.equal(after.read([0]), before.read([0]))


@pytest.mark.parametrize(
    "change",
    [
        {"form": "pooled"},
        {"size": (64, 32)},
        {"fit": "pad"},
        {"views": ("hflip", "identity")},
        {"local_pool": 1},
        {"scales": (0.5,)},
        {"precision": "bfloat16"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_another_spec_is_another_store(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone, change: dict[str, Any]
) -> None:
    featurise(images[:1], backbone, tmp_path / "store")
    other = replace(SPEC, **change)
    assert featurise(images[:1], backbone, tmp_path / "store", spec=other).computed == 1
    assert featurise(images[:1], backbone, tmp_path / "store").computed == 0


def test_other_weights_or_indices_are_another_store(tmp_path: Path, images: list[Path]) -> None:
    changed, fewer = demo(), FrozenBackbone("test_resnet", (1,), "untrained")
    featurise(images[:1], changed, tmp_path / "store")
    changed.model.state_dict()["conv1.0.weight"][0, 0, 0, 0] += 1
    assert featurise(images[:1], changed, tmp_path / "store").computed == 1
    assert featurise(images[:1], fewer, tmp_path / "store").computed == 1


def test_identical_files_are_computed_once(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone
) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(images[1].read_bytes())
    for store in (tmp_path / "store", None):
        found = featurise([*images[:2], copy], backbone, store)
        assert found.computed == 2
        assert torch.equal(found.read([2]), found.read([1]))
        assert not torch.equal(found.read([2]), found.read([0]))


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("bad", [(0,), (2, 3), (0, 1, 2, 3, 4)])
def test_unreadable_images_are_reported_and_the_others_done(
    tmp_path: Path,
    images: list[Path],
    backbone: FrozenBackbone,
    stored: bool,
    bad: tuple[int, ...],
) -> None:
    for i in bad:
        images[i].write_bytes(images[i].read_bytes()[:60])
    images[bad[0]].write_bytes(b"")
    found = featurise(images, backbone, tmp_path / "store" if stored else None)
    assert tuple(sorted(found.unreadable)) == bad
    assert all(str(images[i]) in found.unreadable[i] for i in bad)
    good = [i for i in range(5) if i not in bad]
    assert found.computed == len(good)
    for i in good:
        assert found.read([i]).isfinite().all()
    with pytest.raises(KeyError, match="unreadable"):
        found.read([bad[0]])


def test_an_interrupted_run_leaves_whole_files_and_the_next_one_finishes(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = Path.write_bytes, iter(range(99))

    def dies_at_the_third(path: Path, content: bytes) -> int:
        if next(calls) == 2:
            write(path, content[:60])
            raise KeyboardInterrupt
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        featurise(images, backbone, tmp_path / "store")
    assert len(entries(tmp_path / "store")) == 2
    assert all(read_entry(p).shape == (2, 80, 4, 4) for p in entries(tmp_path / "store"))
    monkeypatch.undo()
    again = featurise(images, backbone, tmp_path / "store")
    assert again.computed == 3
    assert torch.equal(again.read(range(5)), featurise(images, backbone, None).read(range(5)))


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        write(path, content[:60])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        featurise(images, backbone, tmp_path / "store")
    left = {p.name for p in (tmp_path / "store").rglob("*") if p.is_file()}
    assert left <= {"about.json", ".lock"}


@pytest.mark.parametrize("kind", [damages, feature_damages])
def test_a_damaged_entry_is_computed_again(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone, kind: Damages
) -> None:
    wanted = featurise(images[:1], backbone, tmp_path / "store").read([0])
    (entry,) = entries(tmp_path / "store")
    whole = entry.read_bytes()
    for seed in range(tries()):
        name, content = kind(whole, np.random.default_rng(seed))
        entry.write_bytes(content)
        found = featurise(images[:1], backbone, tmp_path / "store")
        assert torch.equal(found.read([0]), wanted), (seed, name)
        assert entry.read_bytes() == whole or not found.computed, (seed, name)


def test_the_entry_of_another_image_is_computed_again(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone
) -> None:
    wanted = featurise(images, backbone, tmp_path / "store").read(range(5))
    one, other = entries(tmp_path / "store")[:2]
    one.write_bytes(other.read_bytes())
    found = featurise(images, backbone, tmp_path / "store")
    assert found.computed == 1 and torch.equal(found.read(range(5)), wanted)


def test_the_entry_of_another_store_is_computed_again(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone
) -> None:
    wanted = featurise(images[:1], backbone, tmp_path / "store").read([0])
    (entry,) = entries(tmp_path / "store")
    spec = replace(SPEC, views=("hflip", "identity"))  # features of the same shape
    featurise(images[:1], backbone, tmp_path / "other", spec=spec)
    (other,) = entries(tmp_path / "other")
    entry.write_bytes(other.read_bytes())
    found = featurise(images[:1], backbone, tmp_path / "store")
    assert found.computed == 1 and torch.equal(found.read([0]), wanted)


def test_a_pipe_in_place_of_an_entry_does_not_hang(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone
) -> None:
    featurise(images[:1], backbone, tmp_path / "store")
    (entry,) = entries(tmp_path / "store")
    entry.unlink()
    os.mkfifo(entry)
    assert featurise(images[:1], backbone, tmp_path / "store").computed == 1


@pytest.mark.parametrize("stored", [True, False])
def test_a_file_that_is_replaced_after_it_was_hashed_does_not_reach_the_cache(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone, stored: bool
) -> None:
    old = hashlib.sha256(images[0].read_bytes()).hexdigest()
    Image.new("RGB", (20, 24), (9, 99, 199)).save(images[0])
    with pytest.raises(UserError, match=r"0\.png: changed while it was being read"):
        compute_features(
            images[:1], [old], backbone, SPEC, cache_dir=tmp_path / "store" if stored else None,
            batch_size=2, device=CPU, progress=Progress(quiet=True),
        )  # fmt: skip
    assert not entries(tmp_path / "store")


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be written; root, who runs tests in a container, may write anywhere."""
    opened = os.open

    def refused(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, flags, *rest, **more)

    def never(path: Path, *_: object, **__: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    def unmade(path: Any, *_: object, **__: object) -> None:
        known = os.path.lexists(path)
        raise OSError(errno.EEXIST if known else errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(os, "open", refused)
    monkeypatch.setattr(os, "mkdir", unmade)
    for write in ("write_bytes", "write_text"):
        monkeypatch.setattr(Path, write, never)


@pytest.mark.parametrize("there", [5, 3, 0])
def test_a_read_only_cache_gives_what_it_has_and_the_rest_is_kept_in_memory(
    tmp_path: Path,
    images: list[Path],
    backbone: FrozenBackbone,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    there: int,
) -> None:
    (tmp_path / "store").mkdir()
    if there:
        featurise(images[:there], backbone, tmp_path / "store")
    before = sorted((tmp_path / "store").rglob("*"))
    request.getfixturevalue("read_only")
    found = featurise(images, backbone, tmp_path / "store", quiet=False)
    assert found.computed == 5 - there
    assert torch.equal(found.read(range(5)), featurise(images, backbone, None).read(range(5)))
    assert sorted((tmp_path / "store").rglob("*")) == before
    notes = [line for line in capsys.readouterr().out.splitlines() if "note" in line]
    assert [("Read-only file system" in n, "kept in memory" in n) for n in notes] == (
        [] if there == 5 else [(True, True)]
    )


def test_an_unreadable_image_needs_no_place_in_a_read_only_cache(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone, request: pytest.FixtureRequest
) -> None:
    images[4].write_bytes(b"no image")
    featurise(images, backbone, tmp_path / "store")
    request.getfixturevalue("read_only")
    found = featurise(images, backbone, tmp_path / "store")
    assert found.computed == 0 and list(found.unreadable) == [4]


def test_who_waited_at_the_lock_finds_everything_done(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AnotherProcessWasFirst(locks.FileLock):  # type: ignore[misc]
        def acquire(self, **options: Any) -> Any:
            monkeypatch.undo()
            assert featurise(images, backbone, tmp_path / "store").computed == 5
            return super().acquire(**options)

    monkeypatch.setattr(locks, "FileLock", AnotherProcessWasFirst)
    found = featurise(images, backbone, tmp_path / "store")
    assert found.computed == 0 and found.read(range(5)).isfinite().all()


def child(paths: list[Path], store: Path, start: Any, answers: Any) -> None:
    torch.set_num_threads(1)
    backbone = demo()
    start.wait(HANG)
    found = featurise(paths, backbone, store, batch_size=1)
    answers.put((found.computed, found.read(range(len(paths))).sum().item()))


def test_two_processes_at_once_compute_each_image_once(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone
) -> None:
    context = mp.get_context("spawn")
    start, answers = context.Barrier(2), context.Queue()
    worker = context.Process(
        target=child, args=(images, tmp_path / "store", start, answers), daemon=True
    )
    worker.start()
    start.wait(HANG)
    try:
        here = featurise(images, backbone, tmp_path / "store", batch_size=1)
    finally:
        worker.join(HANG)
    assert worker.exitcode == 0
    computed, total = answers.get(timeout=HANG)
    assert computed + here.computed == 5
    assert total == here.read(range(5)).sum().item()


class Scaled(FrozenBackbone):
    """The demo backbone with its features multiplied by ``factor``."""

    factor = 1.0

    def forward(self, images: Tensor) -> list[Tensor]:
        return [m * self.factor for m in super().forward(images)]


@pytest.fixture
def scaled() -> Iterator[type[Scaled]]:
    yield Scaled
    Scaled.factor = 1.0


@pytest.mark.parametrize(
    "factor",
    [
        1e9,
        torch.nan,
    ],
)
@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize("form", ["patch", "pooled"])
def test_features_that_are_no_half_precision_numbers_are_refused(
    tmp_path: Path, images: list[Path], scaled: type[Scaled], factor: float, form: str, fit: str
) -> None:
    scaled.factor = factor
    backbone = scaled("test_resnet", (1, 2), "untrained")
    with pytest.raises(UserError, match=r"\.png"):
        featurise(images, backbone, tmp_path / "store", spec=replace(SPEC, form=form, fit=fit))
    assert not entries(tmp_path / "store")


def test_no_images_are_no_work(tmp_path: Path, backbone: FrozenBackbone) -> None:
    assert featurise([], backbone, tmp_path / "store").computed == 0
    assert featurise([], backbone, None).computed == 0


@pytest.mark.parametrize("stored", [True, False])
def test_padding_stays_missing(
    tmp_path: Path, images: list[Path], backbone: FrozenBackbone, stored: bool
) -> None:
    Image.new("RGB", (16, 32)).save(images[0])  # fills the middle half of the canvas
    store = tmp_path / "store" if stored else None
    found = featurise(images[:1], backbone, store, spec=replace(SPEC, fit="pad"))
    missing = torch.tensor([True, False, False, True]).expand(1, 2, 80, 4, 4)
    assert torch.equal(found.read([0]).isnan(), missing)
