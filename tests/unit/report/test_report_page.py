import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rad_lightning.commands.report import report
from rad_lightning.common.errors import UserError
from rad_lightning.config import ReportConfig
from rad_lightning.report import write_report
from rad_lightning.report.files import load
from rad_lightning.report.page import LARGEST_PICTURE, SHOWN_WORST
from rad_lightning.report.page import page as render_page

HOSTILE = "<script>alert('1')</script>\"'&|ü✓=\\$x$.png"


class Reader(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(content)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] for _, attrs in self.tags if attrs.get(name)]


def page(fake) -> Reader:
    return Reader(render_page(*load(fake.folder, "image_auroc")))


def picture(file: str, path: str, margin: float, **more: Any) -> dict[str, Any]:
    return {"file": file, "path": path, "label": 1, "defect_type": "blob", "score": 3.2,
            "flagged": False, "margin": margin} | more  # fmt: skip


def thumbnail(file: Path, shade: int = 90) -> None:
    Image.new("RGB", (40, 20), (shade, 60, 60)).save(file, format="JPEG")


def test_the_page_loads_nothing(full) -> None:
    raw = render_page(*load(full.folder, "image_auroc"))
    found = Reader(raw)
    for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
        assert not [v for v in found.attributes(name) if not v.startswith(("#", "data:"))]
    assert not re.search(r"(@import|url\(\s*[\"']?(?!#))", raw)
    (policy,) = (a["content"] for t, a in found.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_every_tag_is_closed_and_no_id_given_twice(full) -> None:
    found = page(full)
    assert found.open == []
    ids = found.attributes("id")
    assert len(ids) == len(set(ids))
    assert {h[1:] for h in found.attributes("href") if h.startswith("#")} <= set(ids)


def test_hostile_names_are_shown_and_not_obeyed(fake) -> None:
    file = fake.run(
        category=HOSTILE, method="m<b>", backbone="<img src=x onerror=1>", notes=[HOSTILE],
        name="run", worst=[picture("worst_0.jpg", f"x/{HOSTILE}", -1.0)],
    )  # fmt: skip
    thumbnail(file.parent / "worst_0.jpg")
    fake.fail("bad", reason=HOSTILE, traceback=HOSTILE, kind="</td>")
    cells = [{"run": "run", "category": HOSTILE}, {"run": "bad"}]
    fake.plan(cells, title=HOSTILE, command=HOSTILE, claims={HOSTILE: {"0": 90}})
    found = page(fake)
    assert found.open == [] and [t for t, _ in found.tags].count("script") == 1
    assert not [a for _, a in found.tags if "onerror" in a]
    assert found.text.count(HOSTILE) >= 8
    (image,) = (a for t, a in found.tags if t == "img")
    assert image["alt"] == f"missed: x/{HOSTILE}"


def test_the_uncertainty_of_a_series_is_well_formed_and_between_gap_and_comparisons(full) -> None:
    curves = {"step": [0, 1], "nll": [1, 1], "uncertainty": [0.2, 0.4], "lambda": [0.1, 9.0]}
    for ratio in (0.0, 0.4):
        ended = {"uncertainty": 0.3 + ratio, "lambda": 2.0, "curves": curves}
        full.run(method=HOSTILE, ratio=ratio, name=f"run{ratio}", **ended)
    found = page(full)
    assert found.open == [] and [t for t, _ in found.tags].count("script") == 1
    ids = found.attributes("id")
    assert len(ids) == len(set(ids))
    sections = [attrs["id"] for tag, attrs in found.tags if tag == "section"]
    place = sections.index("uncertainty")
    assert sections[place - 1 : place + 2] == ["gap", "uncertainty", "comparisons"]
    assert (
        f"{HOSTILE} 0.30* 0.70* 1.00" in found.text
        and "0 means that the training images" in found.text
    )


def test_a_partial_sweep_says_so_and_lists_what_failed(fake) -> None:
    fake.run(name="a")
    fake.fail("b", reason="a score is NaN")
    problem = {"run": None, "ratio": 0.5, "problem": "the largest feasible ratio is 0.4"}
    fake.plan([{"run": "a"}, {"run": "b"}, {"run": "c"}, problem])
    text = page(fake).text
    assert "1 of 4 cells finished, 1 failed, 1 cannot run, 1 to go – this report is partial" in text
    assert "a score is NaN" in text and "the largest feasible ratio is 0.4" in text


def test_a_finished_sweep_is_not_called_partial(fake) -> None:
    fake.run(name="a")
    fake.plan([{"run": "a"}])
    text = page(fake).text
    assert "1 of 1 cells finished." in text and "partial" not in text


@pytest.mark.parametrize("weights", ["UNTRAINED demo weights", "local weights"])
def test_an_untrained_backbone_is_called_what_it_is(fake, weights: str) -> None:
    fake.run(backbone=f"resnet18 ({weights})")
    assert ("say nothing about the methods" in page(fake).text) == weights.startswith("UNTRAINED")


def test_a_pipe_in_place_of_a_thumbnail_does_not_hang_the_page(fake) -> None:
    file = fake.run(worst=[picture("w.jpg", "x.png", -1.0)])
    os.mkfifo(file.parent / "w.jpg")
    assert not [
        a for t, a in page(fake).tags if t == "img" and a.get("alt", "").startswith("missed")
    ]


def test_the_worst_images_each_once_and_worst_first(fake) -> None:
    for seed in range(3):
        pictures = [picture(f"w{k}.jpg", f"{k}.png", -k - seed / 10) for k in range(8)]
        file = fake.run(seed=seed, worst=[*pictures, picture("gone.jpg", "gone.png", -99.0)])
        for k in range(8):
            thumbnail(file.parent / f"w{k}.jpg", 10 * seed)
    found = page(fake)
    names = [a["alt"] for t, a in found.tags if t == "img"]
    assert names == [f"missed: {k}.png" for k in reversed(range(8))]
    assert "margin −7.2" in found.text and "margin −7.1" not in found.text
    assert "seed 2 · among the worst of 3 runs" in found.text


def test_no_more_pictures_than_a_page_can_hold(fake) -> None:
    worst = [picture("w.jpg", f"{k}.png", -k) for k in range(SHOWN_WORST + 5)]
    thumbnail(fake.run(worst=worst).parent / "w.jpg")
    assert [t for t, _ in page(fake).tags].count("img") == SHOWN_WORST


def test_only_pictures_of_sane_size_go_into_the_page(fake) -> None:
    names = ("text.jpg", "huge.jpg", "folder.jpg", "fine.jpg")
    folder = fake.run(worst=[picture(name, name, -1.0) for name in names]).parent
    (folder / "text.jpg").write_text("<svg onload=alert(1)>")
    (folder / "huge.jpg").write_bytes(b"\xff\xd8\xff" + bytes(LARGEST_PICTURE))
    (folder / "folder.jpg").mkdir()
    thumbnail(folder / "fine.jpg")
    images = [a for t, a in page(fake).tags if t == "img"]
    assert [a["alt"] for a in images] == ["missed: fine.jpg"]
    assert images[0]["src"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    ("label", "flagged", "verdict"),
    [(1, False, "missed"), (0, True, "false alarm"), (1, True, "right, but close")],
)
def test_verdicts(fake, label: int, flagged: bool, verdict: str) -> None:
    file = fake.run(worst=[picture("w.jpg", "x.png", 0.2, label=label, flagged=flagged)])
    thumbnail(file.parent / "w.jpg")
    assert verdict in page(fake).text


def test_the_page_says_how_to_do_it_again(full) -> None:
    full.plan([{"run": "x"}], command="python -m rad_lightning -m seed=0,1")
    text = page(full).text
    for part in ("python -m rad_lightning -m seed=0,1", "c0ffee", "torch 2.11", "ab" * 32):
        assert part in text


def test_ink_follows_the_page_and_colours_its_palette(full) -> None:
    raw = render_page(*load(full.folder, "image_auroc"))
    drawings = "".join(re.findall(r"<svg.*?</svg>", raw, flags=re.S))
    assert "currentColor" in drawings and "var(--c1)" in drawings
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawings)) <= {"#ffffff"}


def test_all_files_are_there_and_nothing_half_written(full, tmp_path: Path) -> None:
    out = tmp_path / "out"
    index = report(ReportConfig(sweep=str(full.folder), output=str(out), progress=False))
    assert index == out / "index.html"
    assert {p.name for p in out.iterdir()} == {
        "index.html", "table.md", "table.csv", "table.tex", "cells.csv", "comparisons.csv",
        "curve.png", "uncertainty.csv",
    }  # fmt: skip
    assert not (full.folder / "report").exists()
    with Image.open(out / "curve.png") as image:
        assert image.width > 1000


def test_a_second_report_does_not_read_the_first(fake) -> None:
    fake.run()
    first = write_report(fake.folder).read_bytes()
    assert write_report(fake.folder).read_bytes() == first


def test_the_terminal_shows_the_main_table(fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.run(0.877, method="[bold]x")
    report(ReportConfig(sweep=str(fake.folder)))
    shown = capsys.readouterr().out
    assert "87.7" in shown and "[bold]x" in shown and "index.html" in shown


def test_a_folder_without_results_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no readable"):
        write_report(tmp_path)
    assert not (tmp_path / "report").exists()
