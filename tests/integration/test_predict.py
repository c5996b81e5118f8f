"""``predict`` as a user runs it: what it writes, says, and survives."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from faults.stored import Damages, checkpoint_damages, damages, object_damages, tries
from rad_lightning import Detector
from rad_lightning.cli import main
from rad_lightning.common.errors import UserError
from rad_lightning.common.runs import RunDirectory
from rad_lightning.inference.detector import Detector as DetectorClass
from support import (
    HANG,
    SMALL,
    SMALL_SYNTHETIC,
    WEIGHTS,
    Cli,
    one_error,
    only_run,
    result_of,
    rewrite,
    rows_of,
)

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def trained(folder: Path, *settings: str) -> Path:
    """The run directory of a small training whose output and cache are in ``folder``."""
    places = (f"output={folder / 'runs'}", f"cache.dir={folder / 'cache'}", "progress=false")
    main([*SMALL_SYNTHETIC, "evaluation.pictures=0", *places, *settings])
    run = only_run(folder / "runs")
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("patch"))


@pytest.fixture(scope="module")
def test_images(run: Path) -> dict[str, Path]:
    """The run's test images by their path in its tables."""
    (root,) = (run.parents[1] / "cache" / "synthetic").glob("*")
    rows = [r for r in rows_of(run / "scores.csv") if r["role"] == "test"]
    return {r["path"]: root / r["path"] for r in rows}


def test_images_of_the_run_get_the_scores_of_the_run(
    run: Path, test_images: dict[str, Path]
) -> None:
    recorded = {r["path"]: r for r in rows_of(run / "scores.csv")}
    limits = result_of(run)["threshold"]
    for found, name in zip(
        Detector.load(run).predict(test_images.values()), test_images, strict=True
    ):
        wanted = float(recorded[name]["score"])
        assert found.score == pytest.approx(wanted, rel=1e-4)
        assert found.flagged == (recorded[name]["flagged"] == "1")
        z = (found.score - limits["median"]) / limits["spread"]
        assert found.robust_z == pytest.approx(z)


def test_the_reference_of_robust_z_is_that_of_the_held_out_images(run: Path) -> None:
    rows = [r for r in rows_of(run / "scores.csv") if r["role"] == "train"]
    held = np.array([float(r["score"]) for r in rows if r["held_out"] == "1"])
    every = np.array([float(r["score"]) for r in rows])
    spreads = [1.4826 * np.median(np.abs(x - np.median(x))) for x in (held, every)]
    limits = result_of(run)["threshold"]
    assert limits["median"] == pytest.approx(np.median(held))
    assert limits["spread"] == pytest.approx(max(spreads), rel=1e-6)
    assert limits["value"] == pytest.approx(limits["median"] + 3 * limits["spread"])


def test_a_checkpoint_file_loads_like_its_run(run: Path, test_images: dict[str, Path]) -> None:
    one = next(iter(test_images.values()))
    (by_file,) = Detector.load(run / "last.ckpt").predict(one)
    (by_run,) = Detector.load(str(run), device="cpu").predict(str(one))
    assert by_file.score == by_run.score


def test_a_folder_of_images_gives_scores_overlays_and_a_page(
    cli: Cli, capsys: pytest.CaptureFixture[str], run: Path, test_images: dict[str, Path]
) -> None:
    inbox = Path("inbox")
    for number, path in enumerate(test_images.values()):
        target = inbox / ("a" if number % 2 else "b") / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    assert cli("predict", f"checkpoint={run}", "input=inbox", "output=out", "batch_size=3") == 0
    rows = rows_of(Path("out/scores.csv"))
    assert list(rows[0]) == ["path", "score", "threshold", "verdict", "robust_z"]
    assert [r["path"] for r in rows] == sorted(str(p) for p in inbox.rglob("*.png"))
    limit = result_of(run)["threshold"]["value"]
    for row in rows:
        assert float(row["threshold"]) == limit
        assert row["verdict"] == ("flagged" if float(row["score"]) > limit else "passed")
        overlay = Path("out/overlays", Path(row["path"]).relative_to(inbox).as_posix() + ".jpg")
        with Image.open(overlay) as picture:
            assert picture.size == (2 * 128, 128)  # the image beside its map, at its own size
    text = Path("out/index.html").read_text()
    order = re.findall(r'data-name="([^"]+)"', text)
    by_score = sorted(rows, key=lambda r: -float(r["score"]))
    assert order == [Path(r["path"]).relative_to(inbox).as_posix() for r in by_score]
    out = capsys.readouterr().out
    flagged = sum(r["verdict"] == "flagged" for r in rows)
    assert f"{flagged} of {len(rows)} images flagged" in out and "out/index.html" in out
    assert not Path("out/unreadable.csv").exists()

    # Again, with the output inside the input: what we wrote is not judged.
    assert cli("predict", f"checkpoint={run}", "input=.", "output=out", "overlays=flagged") == 0
    assert len(rows_of(Path("out/scores.csv"))) == len(rows)


def test_images_of_every_mode_and_size_are_judged(cli: Cli, run: Path) -> None:
    rng = np.random.default_rng(0)
    base = Image.fromarray(rng.integers(0, 255, (70, 90, 3), np.uint8))
    Path("in").mkdir()
    for mode in ("L", "P", "LA", "RGBA", "1", "RGB"):
        base.convert(mode).save(f"in/{mode}.png")
    base.convert("CMYK").save("in/cmyk.jpg")
    base.convert("YCbCr").save("in/ycbcr.jpg")
    Image.fromarray(rng.integers(0, 65535, (50, 40), np.uint16)).save("in/sixteen.tif")
    exif = Image.Exif()
    exif[0x0112] = 8
    base.save("in/turned.jpg", exif=exif)
    base.resize((1, 1)).save("in/dot.png")
    base.resize((3, 2000)).save("in/strip.png")
    base.resize((2500, 1700)).save("in/large.bmp")
    base.save("in/animated.webp", save_all=True, append_images=[base.rotate(90)])
    assert cli("predict", f"checkpoint={run}", "input=in", "output=out") == 0
    rows = rows_of(Path("out/scores.csv"))
    assert len(rows) == len(list(Path("in").iterdir())) == 14
    assert all(np.isfinite(float(r["score"])) for r in rows)
    with Image.open("out/overlays/turned.jpg.jpg") as picture:
        assert picture.size == (2 * 70, 90)  # upright: the file holds 90 x 70


def test_unreadable_files_are_listed_and_the_rest_is_done(
    cli: Cli, capsys: pytest.CaptureFixture[str], run: Path, photos: Path
) -> None:
    (photos / "good" / "empty.png").touch()
    (photos / "bad" / "junk.jpg").write_text("no image")
    (photos / "bad" / "cut.png").write_bytes((photos / "bad" / "0.png").read_bytes()[:200])
    assert cli("predict", f"checkpoint={run}", f"input={photos}", "output=out") == 0
    out = capsys.readouterr().out
    assert "empty.png: the file is empty" in out and "3 in all, see out/unreadable.csv" in out
    assert len(rows_of(Path("out/scores.csv"))) == 9
    listed = rows_of(Path("out/unreadable.csv"))
    assert [Path(r["path"]).name for r in listed] == ["cut.png", "junk.jpg", "empty.png"]
    assert all(r["reason"] for r in listed)
    assert "3 files could not be read" in Path("out/index.html").read_text()

    assert cli("predict", f"checkpoint={run}", f"input={photos}/*/?.png", "output=out") == 0
    assert not Path("out/unreadable.csv").exists()  # of an earlier prediction


def test_names_of_any_length_and_bytes(
    cli: Cli, capsys: pytest.CaptureFixture[str], run: Path, photos: Path
) -> None:
    source, names = photos / "good" / "0.png", ["l" * 251 + ".png", "m" * 251 + ".png"]
    for name in [*names, "=1\n<b>.png", os.fsdecode(b"\xff.png")]:
        shutil.copy(source, Path("photos", "good", name))
    assert cli("predict", f"checkpoint={run}", "input=photos/good", "output=out") == 0
    assert "good/\\udcff.png: its name is not UTF-8; rename it" in capsys.readouterr().out
    found = [Path(r["path"]).name for r in rows_of(Path("out/scores.csv"))]
    assert len(found) == 9 and {*names, "=1\n<b>.png"} < set(found)
    drawn = {file.name for file in Path("out/overlays").iterdir()}
    assert len(drawn) == 9 and {"=1\n<b>.png.jpg", "0.png.jpg"} < drawn
    assert "good/\\udcff.png" in rows_of(Path("out/unreadable.csv"))[0]["path"]
    page = Path("out/index.html").read_text()
    assert page.count('<a href="overlays/') == 9 and "<b>.png" not in page


def test_an_overlay_that_cannot_be_written_costs_no_score(
    cli: Cli, capsys: pytest.CaptureFixture[str], run: Path, photos: Path
) -> None:
    Path("out/overlays/bad").mkdir(parents=True)
    Path("out/overlays/good").touch()
    assert cli("predict", f"checkpoint={run}", "input=photos", "output=out") == 0
    assert "note  no overlay of good/0.png: File exists (and 5 more)" in capsys.readouterr().out
    assert len(rows_of(Path("out/scores.csv"))) == 9


def test_none_readable_is_one_line_and_leaves_no_table(
    cli: Cli, capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    Path("a.png").touch()
    Path("b.png").touch()
    assert cli("predict", f"checkpoint={run}", "input=*.png", "output=out", "progress=false") == 2
    line = one_error(capsys)
    assert "a.png: the file is empty" in line and "(and 1 more)" in line
    assert not Path("out/scores.csv").exists()


@pytest.mark.parametrize("earlier", [True, False])
def test_an_interruption_leaves_whole_tables_or_none(
    cli: Cli,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    run: Path,
    photos: Path,
    earlier: bool,
) -> None:
    call = ("predict", f"checkpoint={run}", f"input={photos}", "output=out", "batch_size=2")
    if earlier:
        assert cli(*call) == 0
    before = {p: p.read_bytes() for p in Path("out").glob("*.*")}
    whole = DetectorClass.stream

    def cut(self: DetectorClass, *arguments: Any) -> Iterator[Any]:
        for number, found in enumerate(whole(self, *arguments)):
            if number == 4:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(DetectorClass, "stream", cut)
    assert cli(*call) == 130
    assert "no table was written" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in Path("out").glob("*.*")} == before


def test_a_run_and_an_unfinished_one_and_none(
    cli: Cli, capsys: pytest.CaptureFixture[str], run: Path, photos: Path
) -> None:
    def told(*arguments: str) -> str:
        assert cli("predict", f"input={photos}", *arguments) == 2
        return one_error(capsys)

    assert "checkpoint: a value is needed" in told("output=out")
    assert "no such run directory" in told("checkpoint=nowhere")
    assert "give a run directory, the last.ckpt in it" in told(f"checkpoint={run / 'config.yaml'}")
    assert f"holds 1 runs, name one: {run.name}" in told(f"checkpoint={run.parent}")
    assert "the folder of a training" in told(f"checkpoint={run}", f"output={run}")
    copy = Path(shutil.copytree(run, "copy"))
    (copy / "last.ckpt").write_bytes(b"torn")
    assert "last.ckpt: it is damaged" in told(f"checkpoint={copy}")
    (copy / "last.ckpt").unlink()
    assert "last.ckpt: no such file" in told(f"checkpoint={copy}")
    result = result_of(copy)
    del result["threshold"]["spread"], result["threshold"]["median"]
    (copy / "result.json").write_text(json.dumps(result))
    assert "result.json: it is damaged or was changed" in told(f"checkpoint={copy}")
    rewrite(copy / "result.json", result)
    assert "not the metadata of a detector" in told(f"checkpoint={copy}")
    del result["files"]
    rewrite(copy / "result.json", result | {"schema_version": 2})
    assert "written by an older version" in told(f"checkpoint={copy}")
    (copy / "result.json").unlink()
    assert "no finished run" in told(f"checkpoint={copy}")


def test_another_backbone_than_the_runs_is_refused(
    cli: Cli, capsys: pytest.CaptureFixture[str], run: Path, photos: Path
) -> None:
    import torch

    from rad_lightning.features.backbone import FrozenBackbone

    backbone = FrozenBackbone("resnet18", (1, 2), "untrained")
    torch.save(backbone.model.state_dict(), "same.pt")
    call = ("predict", f"checkpoint={run}", f"input={photos}", "output=out")
    assert cli(*call, "backbone.weights=same.pt") == 0
    next(backbone.model.parameters()).data[0, 0, 0, 0] += 1
    torch.save(backbone.model.state_dict(), "other.pt")
    assert cli(*call, "backbone.weights=other.pt") == 2
    line = one_error(capsys)
    assert "backbone.weights = other.pt: not the weights that" in line
    assert "give those with backbone.weights=FILE" in line


def test_a_checkpoint_that_would_run_code_is_not_loaded(run: Path, tmp_path: Path) -> None:
    import torch

    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    mark = tmp_path / "mark"
    content = torch.load(copy / "last.ckpt", weights_only=True)

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return Path.touch, (mark,)

    torch.save(content | {"extra": Evil()}, copy / "last.ckpt")
    for recorded in (False, True):  # whoever forges the file may forge the result too
        if recorded:
            files = RunDirectory(copy).file_hashes()
            rewrite(copy / "result.json", result_of(copy) | {"files": files})
        with pytest.raises(ValueError, match=r"last\.ckpt: it is damaged"):
            Detector.load(copy)
    assert not mark.exists()


@pytest.mark.parametrize("file", ["last.ckpt", "result.json"])
@pytest.mark.parametrize("edited", [False, True])
def test_no_damage_gives_another_score(
    run: Path, test_images: dict[str, Path], tmp_path: Path, file: str, edited: bool
) -> None:
    structured = checkpoint_damages if file == "last.ckpt" else object_damages
    kind: Damages = structured if edited else damages
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    whole = (run / file).read_bytes()
    image = next(iter(test_images.values()))
    (wanted,) = Detector.load(run).predict(image)
    for seed in range(tries()):
        name, content = kind(whole, np.random.default_rng(seed))
        (copy / file).write_bytes(content)
        try:
            (found,) = Detector.load(copy).predict(image)
        except UserError as error:
            assert "\n" not in str(error) and file in str(error), (seed, name)
        else:  # nothing that counts was changed, a blank in the JSON for example
            assert file == "result.json", (seed, name)
            assert (found.score, found.robust_z) == (wanted.score, wanted.robust_z), (seed, name)


@pytest.mark.parametrize("file", ["last.ckpt", "result.json"])
def test_a_pipe_in_a_runs_folder_does_not_hang(run: Path, tmp_path: Path, file: str) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    (copy / file).unlink()
    os.mkfifo(copy / file)
    with pytest.raises(UserError, match=f"{file}: it is not a regular file"):
        Detector.load(copy)


def test_weights_that_are_no_numbers_are_refused(run: Path, tmp_path: Path) -> None:
    import torch

    from rad_lightning.training.checkpoint import SealedCheckpoints, read_checkpoint

    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    content = read_checkpoint(copy / "last.ckpt")
    content["state_dict"]["head.whitening.mean"][3] = torch.nan
    SealedCheckpoints().save_checkpoint(content, copy / "last.ckpt")
    rewrite(copy / "result.json", result_of(copy) | {"files": RunDirectory(copy).file_hashes()})
    with pytest.raises(UserError, match=r"whitening\.mean holds NaN or infinity"):
        Detector.load(copy)


@pytest.mark.parametrize("content", ["null", '"text"', "[]", "{}", "1", "{", '{"metrics": {}}'])
def test_json_that_is_no_result_is_one_line(
    cli: Cli, capsys: pytest.CaptureFixture[str], run: Path, photos: Path, content: str
) -> None:
    copy = Path(shutil.copytree(run, "copy"))
    (copy / "result.json").write_text(content)
    for call in (("predict", f"input={photos}"), ("export",)):
        assert cli(*call, f"checkpoint={copy}") == 2
        assert "result.json: " in one_error(capsys)


def test_a_reference_without_a_flow_is_one_line(
    cli: Cli, capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    assert cli(*SMALL_SYNTHETIC, "method=sparse_memory", "evaluation.pictures=0") == 0
    memory = only_run()
    capsys.readouterr()
    assert cli("predict", f"checkpoint={memory}", f"input={photos}") == 2
    line = one_error(capsys)
    assert "method=sparse_memory is a reference without a flow" in line


@pytest.mark.parametrize(
    "settings", [("head=pooled", "head.channels=4"), ("data.fit=pad",)], ids=["pooled", "padded"]
)
def test_other_heads_and_fits_predict_what_they_scored(
    cli: Cli, photos: Path, settings: tuple[str, ...]
) -> None:
    data = ("data=folder", f"data.root={photos}", "backbone.weights=untrained", *SMALL)
    assert cli(*data, "data.test_fraction=0.4", "evaluation.pictures=0", *settings) == 0
    run = only_run()
    assert cli("predict", f"checkpoint={run}", f"input={photos}", "output=out") == 0
    recorded = {r["path"]: float(r["score"]) for r in rows_of(run / "scores.csv")}
    for row in rows_of(Path("out/scores.csv")):
        name = Path(row["path"]).relative_to(photos).as_posix()
        assert float(row["score"]) == pytest.approx(recorded[name], rel=1e-3)
    assert Path("out/overlays").is_dir() == ("head=pooled" not in settings)


def test_the_command_line_does_not_import_torch_to_refuse(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom rad_lightning.cli import main\n"
        "try:\n    main(['predict', 'bad=1'])\nexcept SystemExit as stop:\n"
        "    assert stop.code == 2\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to look at the page")
def test_the_page_filters_and_sorts_by_keyboard_in_a_browser(
    cli: Cli, run: Path, test_images: dict[str, Path], tmp_path: Path
) -> None:
    folder = next(iter(test_images.values())).parents[1]
    assert cli("predict", f"checkpoint={run}", f"input={folder}", "output=out") == 0
    page = tmp_path / "out" / "index.html"
    probe = """<script>
    addEventListener("load", () => {
      const names = () => [...document.querySelectorAll("#sheet .card")].filter(
        c => c.offsetParent).map(c => c.dataset.name);
      const found = {all: names()}, order = document.getElementById("order");
      const set = v => { order.value = v; order.dispatchEvent(new Event("change")); };
      set("low"); found.low = names(); set("name"); found.name = names(); set("high");
      for (const id of ["flagged", "passed"]) {
        document.getElementById(id).click(); found[id] = names();
      }
      found.focusable = [...document.querySelectorAll("input, select, a")].every(
        e => e.tabIndex >= 0);
      found.overflow = document.documentElement.scrollWidth > innerWidth;
      document.body.dataset.found = JSON.stringify(found);
    });
    </script></body>"""
    page.write_text(page.read_text().replace("</body>", probe))
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900", "--dump-dom",
            f"file://{page}",
        ],
        capture_output=True, text=True, timeout=HANG,
    )  # fmt: skip
    from html import unescape

    (content,) = re.findall(r'data-found="([^"]+)"', done.stdout)
    found = json.loads(unescape(content))
    rows = rows_of(Path("out/scores.csv"))
    name = {r["path"]: Path(r["path"]).relative_to(folder).as_posix() for r in rows}
    ordered = sorted(rows, key=lambda r: -float(r["score"]))
    assert found["all"] == [name[r["path"]] for r in ordered]
    assert found["low"] == found["all"][::-1]
    assert sorted(found["name"]) == sorted(found["all"]) and found["name"][0] == min(found["all"])
    for verdict in ("flagged", "passed"):
        assert found[verdict] == [name[r["path"]] for r in ordered if r["verdict"] == verdict]
    assert found["focusable"] and not found["overflow"]


def test_stained_hazelnuts_are_told_from_clean_ones_and_flagged(cli: Cli, shared: Path) -> None:
    root = shared / "data" / "hazelnut_toy"
    data = ("data=mvtec", f"data.root={root}", "data.category=hazelnut")
    quick = ("head.channels=32", "head.blocks=4", "method.steps=150", "logger=csv")
    assert cli(*data, f"backbone.weights={WEIGHTS}", *quick) == 0
    run = only_run()
    metrics = result_of(run)["metrics"]
    assert metrics["image_auroc"] >= 0.99
    test = root / "hazelnut" / "test"
    assert cli("predict", f"checkpoint={run}", f"input={test}", "output=out") == 0
    rows = rows_of(Path("out/scores.csv"))
    stained = [r["verdict"] for r in rows if Path(r["path"]).parent.name != "good"]
    clean = [r["verdict"] for r in rows if Path(r["path"]).parent.name == "good"]
    assert stained.count("flagged") >= 0.9 * len(stained)
    assert clean.count("flagged") <= 0.2 * len(clean)
