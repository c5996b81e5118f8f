"""``export`` as a user runs it, and the file it writes against torch and against ``predict``."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rad_lightning import Detector
from rad_lightning.cli import main
from rad_lightning.commands import export
from rad_lightning.inference.detector import batch, read_placed
from support import SMALL, Cli, one_error, result_of, rewrite, rows_of

pytestmark = pytest.mark.slow
LACKING = [n for n in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(n)]
needs_onnx = pytest.mark.skipif(bool(LACKING), reason=f"needs the extra onnx, without {LACKING}")
KINDS = {
    "patch": (),
    "padded": ("data.fit=pad", "head.views=[identity,hflip]"),
    "pooled": ("head=pooled", "head.channels=4"),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of several proportions, some with a dark square."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for kind, count in (("good", 8), ("bad", 4)):
        (root / kind).mkdir()
        for i in range(count):
            pixels = rng.integers(110, 146, (48, 48 + 12 * (i % 3), 3), dtype=np.uint8)
            if kind == "bad":
                pixels[8:30, 8:30] = 0
            Image.fromarray(pixels).save(root / kind / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def runs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run directory of each of ``KINDS``, trained when first asked for."""
    known: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in known:
            folder = tmp_path_factory.mktemp(kind)
            data = ("data=folder", f"data.root={photos}", "backbone.weights=untrained", *SMALL)
            places = (f"output={folder}", f"cache.dir={folder / 'cache'}", "progress=false")
            share = ("data.test_fraction=0.4", "evaluation.pictures=0")
            main([*data, *places, *share, *KINDS[kind]])
            (result,) = folder.glob("*/result.json")
            known[kind] = result.parent
        return known[kind]

    return run


@pytest.fixture(scope="module")
def exported(
    runs: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The ONNX file of each of ``KINDS``."""
    known: dict[str, Path] = {}

    def file(kind: str) -> Path:
        if kind not in known:
            folder = tmp_path_factory.mktemp(f"{kind}-onnx")
            main(["export", f"checkpoint={runs(kind)}", f"output={folder}", "progress=false"])
            known[kind] = folder / "detector.onnx"
        return known[kind]

    return file


@needs_onnx
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_gives_the_scores_and_maps_of_torch_in_batches_of_any_size(
    runs: Callable[[str], Path], exported: Callable[[str], Path], photos: Path, kind: str
) -> None:
    original, other = Detector.load(runs(kind)), Detector.load(exported(kind))
    assert other.metadata == original.metadata
    network = original.backend.network  # type: ignore[attr-defined]
    network.rounded = False
    files = sorted(photos.rglob("*.png"))
    for size in (1, 3, len(files)):
        images, boxes = batch([read_placed(f, original.metadata) for f in files[:size]])
        wanted, found = original.backend(images, boxes), other.backend(images, boxes)
        assert len(found) == len(wanted) == (1 if kind == "pooled" else 2)
        for one, two in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


@needs_onnx
@pytest.mark.parametrize("kind", KINDS)
def test_predict_with_the_file_judges_like_the_run(
    cli: Cli, runs: Callable[[str], Path], exported: Callable[[str], Path], photos: Path, kind: str
) -> None:
    for checkpoint, output in ((runs(kind), "a"), (exported(kind), "b")):
        call = (f"checkpoint={checkpoint}", f"input={photos}", f"output={output}")
        assert cli("predict", *call, "batch_size=5") == 0
    one, two = rows_of(Path("a/scores.csv")), rows_of(Path("b/scores.csv"))
    assert [r["path"] for r in one] == [r["path"] for r in two]
    for a, b in zip(one, two, strict=True):
        assert float(a["score"]) == pytest.approx(float(b["score"]), rel=5e-3, abs=5e-3)
        assert a["threshold"] == b["threshold"]
    assert Path("b/overlays").is_dir() == (kind != "pooled")


@needs_onnx
def test_the_facts_beside_the_file_suffice_to_use_it_without_this_package(
    exported: Callable[[str], Path], photos: Path, tmp_path: Path
) -> None:
    """A script with onnxruntime and Pillow alone, as docs/predict.md tells it."""
    file = exported("patch")
    page = Path(__file__).parents[2] / "docs" / "predict.md"
    (example,) = re.findall(r"```python\n(import json\n.*?)```", page.read_text(), re.S)
    script = example.replace('"detector.onnx', 'sys.argv[1] + "').replace('"a.png"', "sys.argv[2]")
    script = "import sys\n" + script.replace("print(", "answer = (")
    script += """
score, flagged, z = answer
print(json.dumps([float(score), bool(flagged), float(z), maps.shape]))
assert "rad_lightning" not in sys.modules and "torch" not in sys.modules
"""

    def told(photo: Path) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "-c", script, str(file), str(photo)]
        return subprocess.run(call, capture_output=True, text=True)

    photo = photos / "bad" / "0.png"
    judge = Detector.load(file)
    for name, image in forms(photo).items():
        image.save(tmp_path / name, exif=image.getexif())
        score, flagged, z, shape = json.loads(told(tmp_path / name).stdout)
        (wanted,) = judge.predict(tmp_path / name)
        assert score == pytest.approx(wanted.score, rel=1e-5), name
        assert z == pytest.approx(wanted.robust_z, rel=1e-4), name
        assert flagged == wanted.flagged and shape == [1, 64, 64]
    Image.fromarray(np.full((48, 48), 30_000, np.uint16)).save(tmp_path / "deep.png")
    assert "not an 8-bit image" in told(tmp_path / "deep.png").stderr


def forms(photo: Path) -> dict[str, Image.Image]:
    """A photo as cameras and editors write it, by file name."""
    with Image.open(photo) as opened:
        plain = opened.convert("RGB")
    clear = plain.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(plain.size))
    turned = plain.copy()
    turned.getexif()[0x0112] = 6
    return {"plain.png": plain, "grey.png": plain.convert("L"), "clear.png": clear,
            "palette.png": plain.quantize(32), "turned.png": turned}  # fmt: skip


@needs_onnx
def test_the_facts_say_what_was_compared(exported: Callable[[str], Path]) -> None:
    facts = json.loads(exported("padded").with_name("detector.onnx.json").read_text())
    compared = facts["compared"]
    assert compared["images"] > 1 and compared["batch_sizes"][0] == 1
    assert 0 <= compared["largest_difference"] <= compared["tolerance"] == 1e-4
    assert facts["input"].keys() == {"images", "boxes"} and facts["preprocessing"]["fit"] == "pad"
    assert facts["output"].keys() == {"score", "map"}


@needs_onnx
def test_a_file_without_its_facts_or_with_others_is_refused(
    cli: Cli,
    capsys: pytest.CaptureFixture[str],
    exported: Callable[[str], Path],
    photos: Path,
) -> None:
    def told() -> str:
        assert cli("predict", "checkpoint=detector.onnx", f"input={photos}") == 2
        return one_error(capsys)

    assert "detector.onnx: no such file" in told()
    shutil.copy(exported("patch"), ".")
    assert "detector.onnx.json: no such file" in told()
    facts = json.loads(exported("patch").with_name("detector.onnx.json").read_text())
    beside = Path("detector.onnx.json")
    beside.write_text("{")
    assert "detector.onnx.json: " in told()
    beside.write_text(json.dumps(facts | {"format": "torch"}))
    assert "detector.onnx.json: it is damaged or was changed" in told()
    rewrite(beside, facts | {"sha256": "0" * 64})
    assert "describes another file than detector.onnx" in told()
    rewrite(beside, facts | {"detector": {}})
    assert "detector.onnx.json: not the metadata of a detector" in told()
    Path("detector.onnx").write_bytes(b"torn")
    from rad_lightning.data.splits import file_hashes

    (torn,) = file_hashes([Path("detector.onnx")])
    rewrite(beside, facts | {"sha256": torn})
    assert "detector.onnx: not readable by onnxruntime" in told()


@pytest.mark.long
def test_a_torch_program_loads_without_this_package(
    cli: Cli, runs: Callable[[str], Path], photos: Path
) -> None:
    run = runs("padded")
    assert cli("export", f"checkpoint={run}", "format=torch", "output=out") == 0
    facts = json.loads(Path("out/detector.pt2.json").read_text())
    assert facts["compared"]["largest_difference"] <= 1e-4
    detector = Detector.load(run)
    images, boxes = batch(
        [read_placed(f, detector.metadata) for f in sorted(photos.rglob("*.png"))[:5]]
    )
    np.savez("in.npz", images=images, boxes=boxes)
    script = """
import numpy as np, torch, sys
given = np.load("in.npz")
module = torch.export.load("out/detector.pt2").module()
score, maps = module(*(torch.from_numpy(given[k]) for k in ("images", "boxes")))
np.savez("out.npz", score=score.detach(), maps=maps.detach())
assert "rad_lightning" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    network = detector.backend.network  # type: ignore[attr-defined]
    network.rounded = False
    wanted = network(torch.from_numpy(images), torch.from_numpy(boxes))
    found = np.load("out.npz")
    np.testing.assert_allclose(found["score"], wanted[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["maps"], wanted[1], rtol=1e-4, atol=1e-4)


def test_an_export_that_gives_other_numbers_is_not_there(
    cli: Cli,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    runs: Callable[[str], Path],
) -> None:
    class Off(export.ProgramBackend):
        def __call__(self, *given: Any) -> tuple[np.ndarray, ...]:
            score, *maps = super().__call__(*given)
            return (score + np.float32(1e-2), *maps)

    monkeypatch.setitem(export.WRITERS, "torch", (export.write_torch, Off))
    assert cli("export", f"checkpoint={runs('patch')}", "format=torch", "output=out") == 2
    assert "differs from the original by" in capsys.readouterr().err
    assert list(Path("out").iterdir()) == []


def test_images_that_are_gone_can_be_named(
    cli: Cli,
    capsys: pytest.CaptureFixture[str],
    runs: Callable[[str], Path],
    photos: Path,
) -> None:
    copy = Path(shutil.copytree(runs("patch"), "copy"))
    result = result_of(copy)
    result["config"]["data"]["root"] = "gone"
    rewrite(copy / "result.json", result)
    call = ("export", f"checkpoint={copy}", "format=torch", "output=out")
    assert cli(*call) == 2
    line = one_error(capsys)
    assert "gone" in line and "name images to compare on with input=DIR" in line
    assert cli(*call, f"input={photos}") == 0
    assert Path("out/detector.pt2").is_file()


def test_a_bfloat16_run_is_refused(
    cli: Cli, capsys: pytest.CaptureFixture[str], runs: Callable[[str], Path]
) -> None:
    copy = Path(shutil.copytree(runs("patch"), "copy"))
    result = result_of(copy)
    result["config"]["backbone"]["precision"] = "bfloat16"
    rewrite(copy / "result.json", result)
    assert cli("export", f"checkpoint={copy}", "format=torch") == 2
    assert "use a run in float32" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["export", "predict"])
def test_without_the_extra_one_line_names_it(
    cli: Cli,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    runs: Callable[[str], Path],
    photos: Path,
    command: str,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    real = importlib.util.find_spec
    absent = lambda name: None if name == "onnxruntime" else real(name)  # noqa: E731
    monkeypatch.setattr(export, "find_spec", absent)
    if command == "export":
        assert cli("export", f"checkpoint={runs('patch')}") == 2
    else:
        from rad_lightning.data.splits import file_hashes

        Path("d.onnx").touch()
        metadata = Detector.load(runs("patch")).metadata.as_dict()
        facts = {"detector": metadata, "sha256": file_hashes([Path("d.onnx")])[0]}
        rewrite(Path("d.onnx.json"), facts)
        assert cli("predict", "checkpoint=d.onnx", f"input={photos}") == 2
    line = one_error(capsys)
    assert "onnxruntime" in line and "pip install 'rad-lightning[onnx]'" in line


@pytest.mark.parametrize(
    ("found", "wanted", "gap"),
    [
        ([1.0, 200.0], [1.0, 100.0], 1.0),
        ([0.0, 0.5], [0.0, 0.25], 0.25),
        ([float("nan")], [1.0], float("inf")),
        ([1.0], [1.0, 1.0], float("inf")),
    ],
)
def test_the_difference_is_relative_above_one_and_never_hides_a_nan(
    found: list[float], wanted: list[float], gap: float
) -> None:
    assert export.difference((np.array(found),), (np.array(wanted),)) == gap
