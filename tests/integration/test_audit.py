"""An audit as its user meets it: a ranking, a page, a cleaned manifest, a training on it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rad_lightning.data.splits import Roles
from support import (
    HANG,
    SMALL,
    SMALL_SYNTHETIC,
    WEIGHTS,
    Cli,
    one_error,
    only_run,
    result_of,
    rows_of,
)

pytestmark = pytest.mark.slow
FAST = ("method.trust.steps=3", "method.trust.folds=2")
NOISE = ("noise=replace", "noise.ratio=0.3", "data.test_images_per_defect=4")
SYNTHETIC = (*SMALL_SYNTHETIC, "data.train_images=12", *NOISE)
SPOTTED = ("7.png", "11.png")


def only_audit(folder: str = "outputs/audit") -> Path:
    (found,) = Path(folder).iterdir()
    return found


def suspects(folder: Path) -> list[str]:
    return [r["path"] for r in rows_of(folder / "suspects.csv") if r["verdict"] == "suspect"]


class Reader(HTMLParser):
    """The attributes of every tag, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.skip = False
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.skip = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.skip = False

    def handle_data(self, data: str) -> None:
        if not self.skip:
            self.words.append(data)

    def images(self) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == "img"]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of twelve photos called good, two of which have a dark square."""
    root = tmp_path / "mixed"
    rng = np.random.default_rng(0)
    (root / "good").mkdir(parents=True)
    for i in range(12):
        pixels = rng.integers(120, 136, (48, 64, 3), dtype=np.uint8)
        if f"{i}.png" in SPOTTED:
            pixels[12:34, 20:42] = 0
        Image.fromarray(pixels).save(root / "good" / f"{i}.png")
    return root


def folder(root: Path) -> tuple[str, ...]:
    return ("data=folder", f"data.root={root}", "backbone.weights=untrained", *SMALL)


def test_injected_images_are_ranked_left_out_and_trained_without(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("audit", *SYNTHETIC, *FAST, "count=3", "apply=clean/out.csv") == 0
    out = " ".join(capsys.readouterr().out.split())
    found = only_audit()
    ranked = rows_of(found / "suspects.csv")
    assert [int(r["rank"]) for r in ranked] == list(range(1, 13))
    shares = [float(r["suspicion"]) for r in ranked]
    assert shares == sorted(shares, reverse=True) and 0 <= shares[-1] <= shares[0] <= 1
    injected = [r["role"] == Roles.INJECTED for r in ranked]
    summary = json.loads((found / "audit.json").read_text())
    assert sum(injected) == 4 == summary["accuracy"]["true"] == summary["noise"]["injected"]
    assert summary["images"] == 12 and summary["suspects"] == 3
    # Ties aside, of which there are none here, precision is what the file shows.
    assert len(set(shares)) == 12
    for k, value in summary["accuracy"]["precision"].items():
        assert value == pytest.approx(sum(injected[: int(k)]) / int(k))
        assert f"{100 * value:.1f} % at {k}" in out
    assert f"AUROC {100 * summary['accuracy']['auroc']:.1f} %" in out
    assert f"{sum(injected[:3])} of 4 injected images are among the suspects" in out
    # The cleaned manifest: the suspects are unused, everything else is as it was.
    cleaned = {r["path"]: r["role"] for r in rows_of(Path("clean/out.csv"))}
    assert {p for p, role in cleaned.items() if p in suspects(found)} == set(suspects(found))
    command = shlex.split(out.split("train then python -m rad_lightning ")[1])
    train = [word for word in command if "=" in word]
    assert "noise.manifest=clean/out.csv" in train and "noise.ratio=0.3" not in train
    assert cli(*train, "method.steps=2", "logger=csv") == 0
    run = only_run()
    result = result_of(run)
    assert Counter(cleaned.values())["unused"] >= 3
    assert result["images"]["train"] + result["noise"]["injected"] == 9
    used = {r["path"]: r["role"] for r in rows_of(run / "manifest.csv")}
    assert all(used[path] == Roles.UNUSED for path in suspects(found)) and used == cleaned


def test_equal_inputs_give_equal_bytes_and_labels_have_no_say(cli: Cli, mixed: Path) -> None:
    for name in ("a", "b"):
        assert cli("audit", *folder(mixed), *FAST, f"output={name}") == 0
    first, second = only_audit("a"), only_audit("b")
    assert first.name == second.name
    for file in ("suspects.csv", "index.html"):
        # The page quotes its own command, with the output's name.
        contents = [(d / file).read_text().replace("output=b", "output=a") for d in (first, second)]
        assert contents[0] == contents[1]
    names = sorted(p.name for p in (mixed / "good").iterdir())
    for label, kind in ((0, "c"), ("", "d")):
        lines = ["path,label", *(f"good/{name},{label}" for name in names)]
        (mixed / "set.csv").write_text("\n".join(lines) + "\n")
        data = ("data=csv", f"data.csv={mixed / 'set.csv'}", "backbone.weights=untrained")
        assert cli("audit", *data, *SMALL, *FAST, f"output={kind}") == 0
    tables = [(only_audit(d) / "suspects.csv").read_text() for d in ("a", "c", "d")]
    assert tables[0] == tables[1] == tables[2]


def test_the_spotted_images_of_a_plain_folder_are_found(
    cli: Cli, mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("audit", *folder(mixed), "method.trust.steps=20", "count=2", "apply=out.csv") == 0
    out = capsys.readouterr().out
    # Nobody knows the truth, and all twelve are judged, also those that a training would test on.
    assert "precision" not in out and "12 train" in out
    assert {Path(p).name for p in suspects(only_audit())} == set(SPOTTED)
    roles = Counter(r["role"] for r in rows_of(Path("out.csv")))
    assert roles["unused"] == 2 and roles["train"] + roles["test"] == 10
    assert cli(*folder(mixed), "noise=manifest", "noise.manifest=out.csv") == 0
    # As before, with the folder of known bad images beside it: none of them is judged.
    shutil.copytree(mixed / "good", mixed / "bad")
    assert cli("audit", *folder(mixed), "method.trust.steps=20", "count=2", "output=b") == 0
    assert sorted(suspects(only_audit("b"))) == sorted(f"good/{name}" for name in SPOTTED)


def test_every_image_of_an_unlabelled_folder_is_judged(cli: Cli, mixed: Path) -> None:
    root = mixed / "good"
    assert cli("audit", *folder(root), *FAST, "count=1", "apply=out.csv") == 0
    assert len(rows_of(only_audit() / "suspects.csv")) == 12
    assert cli(*folder(root), "noise=manifest", "noise.manifest=out.csv") == 0


def test_the_test_images_of_a_dataset_with_a_split_are_left_alone(cli: Cli, mixed: Path) -> None:
    (mixed / "train").mkdir()
    (mixed / "good").rename(mixed / "train" / "good")
    shutil.copytree(mixed / "train" / "good", mixed / "test" / "good")
    assert cli("audit", *folder(mixed), *FAST, "apply=out.csv") == 0
    ranked = rows_of(only_audit() / "suspects.csv")
    assert len(ranked) == 12 and all(r["path"].startswith("train/") for r in ranked)
    tested = {r["path"] for r in rows_of(Path("out.csv")) if r["role"] == "test"}
    assert len(tested) == 12 and all(path.startswith("test/") for path in tested)


def test_a_finished_run_is_audited_on_its_own_images(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*SYNTHETIC, "seed=3", "logger=csv") == 0
    run = only_run()
    capsys.readouterr()
    assert cli("audit", f"run={run}", *FAST, "apply=out.csv", "count=2") == 0
    assert "the run's own command with noise=manifest" in capsys.readouterr().out
    ranked = {r["path"]: r["role"] for r in rows_of(only_audit() / "suspects.csv")}
    trained = {
        r["path"]: r["role"] for r in rows_of(run / "manifest.csv") if r["role"] in Roles.TRAINED
    }
    assert ranked == trained and Roles.INJECTED in ranked.values()
    # The same ranking as of the data set up by hand.
    assert cli("audit", *SYNTHETIC, "seed=3", *FAST, "count=2", "output=b") == 0
    by_hand = rows_of(only_audit("b") / "suspects.csv")
    assert by_hand == rows_of(only_audit() / "suspects.csv")
    # Elsewhere now: the run's own paths are relative to where it was trained.
    (tree,) = Path("outputs/cache/synthetic").iterdir()
    config = (run / "config.yaml").read_text().replace("name: synthetic", "name: mvtec", 1)
    (run / "config.yaml").write_text(config)
    assert cli("audit", f"run={run}", *FAST) == 2
    assert "config.yaml: not what the run has written" in one_error(capsys)
    (run / "result.json").unlink()  # as of an interrupted run, which nothing says about
    tree.rename("moved")
    moved = (f"run={run}", *FAST, "backbone.weights=untrained")
    assert cli("audit", *moved, "data.root=moved", "count=2", "output=c") == 0
    assert rows_of(only_audit("c") / "suspects.csv") == by_hand
    assert cli("audit", *moved, "data.root=nowhere") == 2
    assert "nowhere" in one_error(capsys)


def test_a_bad_image_is_named_or_skipped(
    cli: Cli, mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mixed / "good" / "3.png").write_bytes(b"no image")
    assert cli("audit", *folder(mixed), *FAST) == 2
    assert "3.png" in one_error(capsys)
    skip = "data.on_bad_image=skip"
    more = "data.test_fraction=0.5"  # one of two test images may be the suspect
    assert cli("audit", *folder(mixed), *FAST, skip, more, "count=1", "apply=out.csv") == 0
    roles = {r["path"]: r["role"] for r in rows_of(Path("out.csv"))}
    assert roles["good/3.png"] == Roles.UNREADABLE
    assert cli(*folder(mixed), skip, "noise=manifest", "noise.manifest=out.csv") == 0


@pytest.mark.parametrize("head", ["patch", "pooled"])
def test_the_page_is_whole_bounded_and_loads_nothing(cli: Cli, mixed: Path, head: str) -> None:
    hostile = "<img src=x onerror=alert(1)>&'$x$.png"
    (mixed / "good" / "7.png").rename(mixed / "good" / hostile)
    channels = ("head.channels=4",) if head == "pooled" else ()
    audit = ("audit", *folder(mixed), f"head={head}", *channels, *FAST)
    assert cli(*audit, "shown=5", "count=3") == 0
    text = (only_audit() / "index.html").read_text(encoding="utf-8")
    page = Reader(text)
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    pictures = [image for image in page.images() if "src" in image]
    assert len(pictures) == 5 * (3 if head == "patch" else 2)
    assert all(re.match("data:image/(jpeg|png);base64,", str(p["src"])) for p in pictures)
    assert all(p["alt"] for p in pictures)
    assert max(len(str(p["src"])) for p in pictures) < 60_000
    assert "of the 12 images look mislabelled" in page.text and "UNTRAINED backbone" in page.text
    assert "The 3 most suspicious ones are called suspects" in page.text
    assert "the cut after 3 suspects" in page.text and hostile in page.text
    assert "onerror" not in {key for _, attrs in page.tags for key in attrs}
    body = text[text.index('<table class="sortable ranking">') :]
    assert body.count('<tr class="suspect">') == 3 and body.count("<tr") == 13
    assert cli(*audit, "shown=0", "count=0", "output=b") == 0
    none = Reader((only_audit("b") / "index.html").read_text(encoding="utf-8"))
    assert none.images() == [] and "None is called a suspect" in none.text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("count=12",), "count = 12: use a value from 0 to 11, of 12 images"),
        (("count=-1",), "count = -1: use a value >= 0"),
        (("cout=3",), "unknown key 'cout' (did you mean 'count'?)"),
        (("method=plain",), "method=plain does not rank training images: use a method with"),
        (("method=oracle_exposed",), "method=oracle_exposed reads which images were injected"),
        (("method=oracle_rate",), "method=oracle_rate reads which images were injected"),
        (("run=nowhere",), "run=nowhere: give the folder of a training run"),
        (
            ("apply=mixed/good/0.png",),
            "apply=mixed/good/0.png would overwrite a file that is not a manifest",
        ),
        (("data.normal_dir=none",), "normal_dir=none is not a folder"),
        (("count=11", "apply=out.csv"), "apply: without 11 suspects no image is left to t"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line(
    cli: Cli,
    mixed: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    told: str,
) -> None:
    before = (mixed / "good" / "0.png").read_bytes()
    assert cli("audit", *folder(mixed), *FAST, *arguments) == 2
    assert told in one_error(capsys)
    assert (mixed / "good" / "0.png").read_bytes() == before and not Path("out.csv").exists()


def test_a_run_and_settings_that_it_has_already_are_one_line(
    cli: Cli, mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*folder(mixed), "method.steps=1") == 0
    run = only_run()
    capsys.readouterr()
    for setting in ("seed=1", "data=mtd", "head.channels=4", "backbone=demo", "noise=replace"):
        assert cli("audit", f"run={run}", setting) == 2
        told = one_error(capsys)
        assert told.startswith(setting.strip("~").split("=")[0]) and "comes from the run" in told
    assert cli("audit", f"run={run}", f"apply={run / 'manifest.csv'}") == 2
    assert "would overwrite the manifest that is read" in one_error(capsys)
    (run / "result.json").write_text("null")
    assert cli("audit", f"run={run}", *FAST) == 2
    assert "result.json: it is not a JSON object" in one_error(capsys)
    (run / "result.json").unlink()
    bomb = "a0: &a0 [1]\n" + "".join(
        f"a{i + 1}: &a{i + 1} [{','.join([f'*a{i}'] * 9)}]\n" for i in range(30)
    )
    broken_ones = (
        "[1, 2]", "data: {name: nothing}", "head: {channels: many}", "{", "", "seed: ${seed}",
        bomb, "[" * 60_000, "# " + "x" * 300_000,
    )  # fmt: skip
    for broken in broken_ones:
        (run / "config.yaml").write_text(broken)
        assert cli("audit", f"run={run}", *FAST) == 2
        assert "config.yaml" in one_error(capsys)


def test_a_foreign_run_resolves_nothing_and_says_not_where_to_write(
    cli: Cli, mixed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    assert cli(*folder(mixed), "method.steps=1") == 0
    run = only_run()
    (run / "result.json").unlink()
    config = (run / "config.yaml").read_text()
    hostile = config.replace("dir: outputs/cache", f"dir: {mixed.parent / 'elsewhere'}")
    hostile = hostile.replace("output: outputs/runs", "output: ${oc.env:SECRET}")
    assert hostile.count("elsewhere") == hostile.count("SECRET") == 1
    (run / "config.yaml").write_text(hostile)
    capsys.readouterr()
    assert cli("audit", f"run={run}", *FAST) == 0
    shown = capsys.readouterr().out
    assert "hunter2" not in shown and not (mixed.parent / "elsewhere").exists()
    assert "hunter2" not in (only_audit() / "audit.json").read_text()
    (run / "config.yaml").write_text(config.replace(str(mixed), "${oc.env:SECRET}"))
    assert cli("audit", f"run={run}", *FAST) == 2
    assert "${oc.env:SECRET} does not exist" in one_error(capsys)


def test_too_few_images_are_one_line(
    cli: Cli, mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for image in sorted((mixed / "good").iterdir())[4:]:
        image.unlink()
    assert cli("audit", *folder(mixed), *FAST) == 2
    assert "4 images to rank; give 5 or more" in one_error(capsys)


def test_stained_hazelnuts_among_good_ones_come_first(
    cli: Cli, tmp_path: Path, shared: Path
) -> None:
    nuts = shared / "data" / "hazelnut_toy" / "hazelnut"
    shutil.copytree(nuts / "train" / "good", tmp_path / "nuts" / "good")
    for name in ("000", "003", "007", "011", "015"):
        stained = nuts / "test" / "colour" / f"{name}.png"
        shutil.copy(stained, tmp_path / "nuts" / "good" / f"stained_{name}.png")
    data = ("data=folder", f"data.root={tmp_path / 'nuts'}", f"backbone.weights={WEIGHTS}")
    ranking = ("method.trust.steps=50", "method.trust.rounds=1")
    assert cli("audit", *data, *ranking, "count=5", "apply=out.csv") == 0
    assert sum("stained" in path for path in suspects(only_audit())) >= 4
    train = ("noise=manifest", "noise.manifest=out.csv", "method.steps=5", "logger=csv")
    assert cli(*data, *train) == 0


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium to draw the page")
def test_a_browser_draws_and_sorts_the_page_without_the_network(
    cli: Cli, mixed: Path, tmp_path: Path
) -> None:
    assert cli("audit", *folder(mixed), *FAST, "count=3") == 0
    page = (only_audit() / "index.html").read_text(encoding="utf-8")
    # The table sorted as a click on "image" sorts it, then what stands there.
    click = "<script>document.querySelector('#ranking th:nth-child(4) button').click();</script>"
    (tmp_path / "page.html").write_text(page.replace("</body>", click + "</body>"))
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom",
         f"file://{tmp_path / 'page.html'}"],
        capture_output=True, text=True, timeout=HANG, check=True,
    )  # fmt: skip
    body = done.stdout[done.stdout.index('<table class="sortable ranking">') :]
    paths = re.findall(r"good/\d+\.png", body[: body.index("</table>")])
    assert len(paths) == 12 and paths == sorted(paths)
    assert 'aria-sort="ascending"' in body
