"""Commands as a user types them: what they print, their exit codes, one line for a mistake."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from rad_lightning.common.progress import Progress
from support import (
    SMALL,
    SMALL_SYNTHETIC,
    WEIGHTS,
    Cli,
    command,
    one_error,
    only_run,
    result_of,
    rows_of,
)


def test_module_runs_from_any_folder(tmp_path: Path) -> None:
    done = command(tmp_path, "--cfg", "job")
    assert "name: synthetic" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_help_is_short_and_names_the_commands(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--help") == 0
    text = capsys.readouterr().out
    assert "train" in text and "prepare" in text and "examples" in text
    assert len(text.splitlines()) < 45


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tarin"], "'tarin' is neither a command"),
        (
            ["--method", "robust"],
            "'--method' is not an option: settings have no dashes, method=VALUE",
        ),
        (["predict", "--checkpoint=RUN", "input=DIR"], "no dashes, checkpoint=VALUE"),
        (
            ["seed=1", "--cfg", "job", "seed=2"],
            "'seed=2': put options before or after all settings",
        ),
        (["prepare", "photos"], "'photos' is not a setting key=value"),
        (["seed=1", "audit"], "'audit': the command comes first, then its settings"),
        (["head.chanels=3"], "unknown key 'head.chanels' (did you mean 'channels'?)"),
        (["sed=1"], "unknown key 'sed' (did you mean 'seed'?)"),
        (["data=nowhere"], "data=nowhere: choose one of btad, csv, folder,"),
        (["head.channels=many"], "head.channels: Value 'many' of type 'str'"),
        (["head.top_fraction=2"], "head.top_fraction = 2.0: use a value > 0 and <= 1"),
        (["data=mvtec"], "data=mvtec needs the folder of the dataset: data.root=DIR"),
        (["data=csv"], "data=csv needs the table: data.csv=FILE"),
        (["data=mvtec", "data.root=missing"], "missing"),
        (["data.category=wood"], "synthetic category 'wood' does not exist: choose one of weave"),
        (["backbone.name=resnet9000"], "backbone.name = 'resnet9000': not a timm model"),
        (["backbone.weights=missing.pt"], "backbone.weights = missing.pt: no such file"),
        (["backbone.out_indices=[1,9]"], "backbone.out_indices = [1, 9]"),
        (["head.channels=4000"], "head.channels = 4000"),
        (["trainer.devices=foo"], "trainer: "),
        (["seed=null"], "seed = null: a value is needed"),
        (["head.views=identity"], "head.views: Invalid value assigned: str is not a"),
        (["data=null"], "data=null: Config group override must be"),
        (
            ["data.root=photos"],
            "data.root is not read by data=synthetic: use it with data=btad, data=csv, data=folder",
        ),
        (["method.lr=1e30"], "training diverged"),
        (["head.hidden=3000000000"], "GiB or more of memory"),
        (["method.batch_size=1000000000000"], "GiB or more of memory"),
        (["backbone.name=vit_tiny_patch16_224"], "does not take (64, 64) pixels"),
        (["trainer.accelerator=abacus"], "trainer: "),
        (
            ["prepare", "archive=none.zip", "data=folder", "data.root=new"],
            "archive none.zip is not a file",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_mistake_ends_in_one_line_and_exit_code_2(
    cli: Cli, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    takes_small = "=" in arguments[0]  # a train setting; the mistake under test comes last
    assert cli(*(SMALL_SYNTHETIC if takes_small else ()), *arguments) == 2
    assert told in one_error(capsys)


def test_an_empty_folder_is_one_line(
    cli: Cli, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert cli("data=folder", "data.root=empty") == 2
    assert "empty" in one_error(capsys)


def test_a_tilde_is_the_home_folder(
    cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli("data=folder", "data.root=~/photos", "--cfg", "job") == 0
    assert f"root: {tmp_path / 'photos'}\n" in capsys.readouterr().out


def test_an_output_that_is_a_file_is_one_line(
    cli: Cli, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    assert cli(*SMALL_SYNTHETIC, "output=taken") == 2
    assert "taken" in one_error(capsys)


def test_a_multirun_goes_on_after_a_failed_run_and_says_so(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*SMALL_SYNTHETIC, "-m", "head.channels=4000,5000,4") == 1
    assert "2 of 3 cells have no result: head.channels = 4000" in (told := one_error(capsys))
    assert "(and 1 more)" in told
    assert len(list(Path("outputs/runs").glob("*/result.json"))) == 1


def own_images(photos: Path, *more: str) -> tuple[str, ...]:
    settings = ("data=folder", f"data.root={photos}", "backbone.weights=untrained")
    return (*settings, *SMALL, "data.test_fraction=0.4", *more)


def test_a_folder_of_photos_trains(
    cli: Cli, capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    assert cli(*own_images(photos)) == 0
    out = capsys.readouterr().out
    assert "image AUROC" in out
    assert "UNTRAINED" in out


def test_one_class_in_the_test_set_succeeds_and_says_what_is_absent(
    cli: Cli, capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    for bad in (photos / "bad").iterdir():
        bad.unlink()
    (photos / "bad").rmdir()
    assert cli(*own_images(photos)) == 0
    out = capsys.readouterr().out
    assert "no image AUROC, AP, F1: the test set has only normal images" in out
    assert "image AUROC  " not in out


def test_a_dollar_in_a_file_name_is_only_a_dollar(cli: Cli, photos: Path) -> None:
    for bad in sorted((photos / "bad").iterdir()):
        bad.rename(bad.with_name(f"img_$1_$^{bad.name}"))
    assert cli(*own_images(photos)) == 0


def test_unlabelled_train_and_test_folders_are_kept_apart(cli: Cli, photos: Path) -> None:
    (photos / "good").rename(photos / "train")
    (photos / "bad").rename(photos / "test")
    assert cli(*own_images(photos)) == 0
    (manifest,) = Path("outputs/runs").glob("*/manifest.csv")
    roles = {(row["path"].split("/")[0], row["role"]) for row in rows_of(manifest)}
    assert roles == {("train", "train"), ("test", "test")}


def test_a_diverged_training_on_unlabelled_images_is_one_line_and_leaves_no_scores(
    cli: Cli, capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    assert cli(*own_images(photos / "good", "method.lr=1e6", "method.keep=last")) == 2
    assert "not finite: training diverged" in one_error(capsys)
    assert not list(Path("outputs/runs").glob("*/scores.csv"))


def test_equal_images_give_a_result(cli: Cli, photos: Path) -> None:
    for number, image in enumerate([*(photos / "good").iterdir(), *(photos / "bad").iterdir()]):
        noted = PngInfo()
        noted.add_text("number", str(number))  # no copies: equal pixels in files that differ
        Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(image, pnginfo=noted)
    assert cli(*own_images(photos, "evaluation.pictures=1", "evaluation.worst=1")) == 0
    assert result_of(only_run())["metrics"]["image_auroc"] == 0.5


def test_a_picture_that_cannot_be_drawn_is_a_note(
    cli: Cli, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no such font")

    monkeypatch.setattr("rad_lightning.evaluation.pictures.score_histogram", broken)
    assert cli(*own_images(photos, "evaluation.pictures=1", "evaluation.worst=1")) == 0
    result = result_of(only_run())
    assert "no histogram and overlays: no such font" in result["notes"]
    assert result["worst"] and result["metrics"]


def test_text_with_what_hydra_reads_as_numbers_is_a_path(
    cli: Cli, capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    photos.rename(photos.with_name("2024_05_17"))
    assert cli(*own_images(Path("2024_05_17")), "output=1_0 (größe)") == 0
    assert only_run("1_0 (größe)")
    assert cli("data=folder", "data.root=2024_05_18") == 2
    assert "data root 2024_05_18 does not exist" in one_error(capsys)


def test_unlabelled_images_are_scored_and_not_evaluated(
    cli: Cli, capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    assert cli(*own_images(photos / "good")) == 0
    assert "unlabelled test images are scored but not evaluated" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no image at all", None], ids=["empty", "text", "cut"])
def test_a_bad_image_is_named_or_skipped(
    cli: Cli, capsys: pytest.CaptureFixture[str], photos: Path, content: bytes | None
) -> None:
    victim = photos / "good" / "2.png"
    victim.write_bytes(victim.read_bytes()[:200] if content is None else content)
    assert cli(*own_images(photos)) == 2
    told = one_error(capsys)
    assert str(victim) in told and "data.on_bad_image=skip" in told
    assert cli(*own_images(photos, "data.on_bad_image=skip")) == 0
    assert f"skipped  {victim}" in capsys.readouterr().out


def test_a_mask_that_does_not_fit_costs_pixel_metrics_and_nothing_else(
    cli: Cli, capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    masks = photos / "masks" / "bad"
    masks.mkdir(parents=True)
    for i in range(3):
        marked = np.zeros((48, 64), np.uint8)
        marked[10:30, 10:30] = 255
        Image.fromarray(marked).save(masks / f"{i}.png")
    whole = (masks / "0.png").read_bytes()
    damages = {"9x9 but its image is 48x64": b"", "the image is damaged": whole[:-30]}
    for said, content in damages.items():
        (masks / "0.png").write_bytes(content)
        if not content:
            Image.fromarray(np.ones((9, 9), np.uint8)).save(masks / "0.png")
        assert cli(*own_images(photos, "resume=false", f"output={len(said)}")) == 0
        out = capsys.readouterr().out
        assert f"note: no pixel metrics: {masks / '0.png'}: " in out and said in out
        if not content:  # its header says so: before the training
            assert out.index("note  no pixel metrics") < out.index("features")
        metrics = result_of(only_run(f"{len(said)}"))["metrics"]
        assert "image_auroc" in metrics and "pixel_auroc" not in metrics
    (masks / "0.png").write_bytes(whole)
    assert cli(*own_images(photos, f"output={len('9x9 but its image is 48x64')}")) == 0
    assert "pixel AUROC" in capsys.readouterr().out  # no result of before the mend


@pytest.mark.usefixtures("shared")
def test_weights_of_another_architecture_are_one_line(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("backbone.name=resnet34", f"backbone.weights={WEIGHTS}")
    assert cli(*SMALL_SYNTHETIC, *arguments) == 2
    assert "weights of another architecture than resnet34" in one_error(capsys)


def test_no_network_for_hub_weights_is_one_line(
    cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert cli(*SMALL_SYNTHETIC, "backbone.weights=hub") == 2
    told = one_error(capsys)
    assert "backbone.weights=FILE" in told and "backbone.weights=untrained" in told


def test_prepare_reports_what_a_dataset_holds(
    cli: Cli, capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    (photos / "good" / "copy.png").write_bytes((photos / "good" / "0.png").read_bytes())
    (photos / "bad" / "broken.png").write_bytes(b"no image")
    (photos / "good" / "a.jfif").touch()
    Image.new("L", (64, 48)).save(photos / "good" / "5_mask.png")
    assert cli("prepare", "data=folder", f"data.root={photos}") == 0
    out = capsys.readouterr().out
    assert "unreadable or misfitting files: 1" in out and "broken.png" in out
    assert "identical files: 1" in out and "copy.png" in out
    assert "physical parts: 11 for 12 images" in out  # a copy is none of its own
    assert "note: not read, for their suffix: 1 .jfif" in out
    assert "look like something else: 1\n    good/5_mask.png: a mask, by its name" in out


def test_prepare_unpacks_an_archive_first(
    cli: Cli, capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path
) -> None:
    archive = shutil.make_archive(str(tmp_path / "images"), "zip", photos)
    assert cli("prepare", f"archive={archive}", "data=folder", "data.root=unpacked") == 0
    assert "physical parts: 9 for 9 images" in capsys.readouterr().out


def wrapped() -> None:
    class Field:
        def __set_name__(self, *_: object) -> None:
            signal.raise_signal(signal.SIGTERM)

    class Library:  # Python 3.11 makes a RuntimeError of what is raised here
        field = Field()


def caught() -> None:
    with contextlib.suppress(RuntimeError, KeyboardInterrupt):
        wrapped()


def lost() -> None:
    class Closed:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    Closed()


def imported(folder: Path) -> None:
    (folder / "library.py").write_text(
        "import signal; signal.raise_signal(signal.SIGINT); done = 1"
    )
    sys.path.insert(0, str(folder))
    try:
        assert __import__("library").done
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("library", None)


@pytest.mark.parametrize(
    ("loses", "code"), [("wrapped", 143), ("caught", 143), ("lost", 130), ("imported", 130)]
)
def test_a_signal_whose_exception_a_library_loses_still_ends_the_command(
    cli: Cli,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    loses: str,
    code: int,
) -> None:
    ways = {
        "wrapped": wrapped,
        "caught": caught,
        "lost": lost,
        "imported": partial(imported, tmp_path),
    }

    def works(_: object) -> None:
        ways[loses]()
        with Progress(quiet=True).stage("data"):
            pytest.fail("it went on")

    monkeypatch.setattr("rad_lightning.commands.prepare.prepare", works)
    assert cli("prepare") == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("terminated: " if code == 143 else "interrupted: ")
