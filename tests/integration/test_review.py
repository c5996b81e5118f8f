"""A person judges the images of an audit in its page, and the verdicts come back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from browser import CHROMIUM, Browser, browsing
from rad_lightning.audit.page import RankedImage, SuspectCard, page
from rad_lightning.audit.ranking import rank
from rad_lightning.data.splits import Roles, file_hashes
from rad_lightning.data.verdicts import Review, Verdict, read_verdicts, write_verdicts
from rad_lightning.evaluation.overlays import heat_png, jpeg, jpeg_uri, png_uri
from rad_lightning.robust.contamination import Contamination
from support import SMALL, Cli, one_error, rows_of

pytestmark = pytest.mark.slow
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to use the page")
HOSTILE = '=1</script>, "é"\'.png'
BAD, GOOD, UNSURE = Verdict.MISLABELLED, Verdict.GOOD, Verdict.UNSURE


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve photos called good, two of which have a dark square; one has a nasty name."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(12):
        pixels = rng.integers(120, 136, (48, 64, 3), dtype=np.uint8)
        if i in (7, 11):
            pixels[12:34, 20:42] = 0
        name = HOSTILE if i == 7 else f"{i}.png"
        file = tmp_path / "photos" / name
        file.parent.mkdir(exist_ok=True)  # the name holds a slash
        Image.fromarray(pixels).save(file)
    return tmp_path / "photos"


def settings(photos: Path) -> tuple[str, ...]:
    data = ("data=folder", f"data.root={photos}", "backbone.weights=untrained", *SMALL)
    return (*data, "method.trust.steps=3", "method.trust.folds=2", "count=2", "shown=6")


def page_of(folder: str = "outputs/audit") -> Path:
    (found,) = Path(folder).resolve().iterdir()
    return found / "index.html"


def saved(browser: Browser, folder: Path) -> tuple[Review, ...]:
    """What "Save verdicts" saves."""
    file = folder / "downloads" / "verdicts.csv"
    file.unlink(missing_ok=True)
    browser.click(".bar [data-do=save]")
    browser.wait("document.querySelector('.told').textContent.includes('saved as')")
    while not file.is_file() or not file.read_text(encoding="utf-8").endswith("\n"):
        browser.run("0")
    return read_verdicts(file)


def progress(browser: Browser) -> str:
    return str(browser.run("document.querySelector('.bar .sum').textContent"))


def undone(browser: Browser) -> bool:
    """Whether there is something to undo."""
    return not browser.run("document.querySelector('.bar [data-do=undo]').disabled")


def assert_at(browser: Browser, rank: str) -> None:
    """The focus comes to the image at ``rank``: after a dialog, a moment later."""
    browser.wait(f"document.activeElement.dataset.rank === '{rank}'")


def sha256_of(rank: int) -> str:
    return f"{rank:064x}"


def path_of(rank: int) -> str:
    return HOSTILE if rank == 2 else f"good/{rank}.png"


def drawn(file: Path, reviews: tuple[Review, ...] = ()) -> Path:
    """The page of twelve ranked images, of which it shows six; nothing is trained for it."""
    suspicion = torch.arange(12, 0, -1).double() / 13
    ranking = rank(suspicion, Contamination(0.2, 0.1, 0.3), count=2)
    names = [(i, path_of(i), sha256_of(i)) for i in range(1, 13)]
    lines = [
        RankedImage(*name, float(share), ranking.verdict(name[0] - 1), name[1], False)
        for name, share in zip(names, suspicion, strict=True)
    ]
    picture = jpeg_uri(jpeg(np.full((30, 40, 3), 99, np.uint8)))
    heat = png_uri(heat_png(np.eye(8), 0, 1))
    cards = [SuspectCard(line, 0, picture, heat, picture, lines[8]) for line in lines[:6]]
    words = ("backbone", "ranked_by", "apply_command", "train_command", "review_command")
    facts = dict.fromkeys(words, "x") | {"untrained": False, "asked_count": True, "notes": ()}
    file.write_text(page("t/c", ranking, lines, cards, None, reviews, cleaned=None, **facts))
    return file


@needs_chromium
def test_images_are_judged_by_keyboard_mouse_and_touch_and_saved(tmp_path: Path) -> None:
    with browsing(drawn(tmp_path / "index.html"), tmp_path) as browser:
        browser.press("1", "1", "2", "3")
        assert progress(browser) == "4 of 6 judged · 2 mislabelled · 1 good · 1 unsure"
        assert_at(browser, "5")
        # Back, judged otherwise, and both taken back; what is said twice is taken back as well.
        browser.press("k", "ArrowUp", "1", "u", "u")
        assert progress(browser) == "3 of 6 judged · 2 mislabelled · 1 good"
        assert_at(browser, "4")
        browser.press("2", "ArrowLeft", "2")
        assert progress(browser) == "3 of 6 judged · 2 mislabelled · 1 good"
        # The large view: on, its map, a verdict in it, off.
        browser.press("Enter", "m")
        look = "document.querySelector('dialog.large')"
        assert browser.run(f"{look}.open && !{look}.classList.contains('no-map')")
        browser.press("3")
        assert browser.run(f"{look}.querySelector('.name').textContent") == path_of(5)
        browser.press("Escape")
        assert_at(browser, "5")
        browser.wait(f"!{look}.open")
        # The mouse: on a picture, and on a verdict, after which the keyboard goes on from there.
        browser.click("article[data-rank='6'] .frame")
        browser.wait(f"{look}.open && {look}.querySelector('.rank').textContent === '6'")
        browser.click("dialog [data-do=close]")
        browser.wait(f"!{look}.open")
        browser.screen(360, 740)
        browser.click("article[data-rank='5'] [data-say=good]")
        browser.wait("document.querySelector('.bar .sum').textContent.startsWith('5 of 6')")
        assert_at(browser, "6")
        assert browser.run("document.documentElement.scrollWidth") == 360
        # Closed before saving: the browser has kept it.
        browser.visit(tmp_path / "index.html")
        assert progress(browser) == "5 of 6 judged · 2 mislabelled · 2 good · 1 unsure"
        reviews = saved(browser, tmp_path)
        browser.visit(tmp_path / "index.html")
        assert progress(browser).startswith("5 of 6")
    assert {r.rank: r.verdict for r in reviews} == {1: BAD, 2: BAD, 3: GOOD, 4: UNSURE, 5: GOOD}
    for i, review in enumerate(sorted(reviews, key=lambda r: r.rank or 0)):
        assert (review.path, review.sha256) == (path_of(i + 1), sha256_of(i + 1))
        assert review.suspicion == (12 - i) / 13 and review.time.endswith("Z")


@needs_chromium
def test_verdicts_come_back_to_the_next_page_and_none_is_lost(tmp_path: Path) -> None:
    gone = Review("sold.png", "f" * 64, UNSURE, None, None, "")
    first = Review(f"old/{HOSTILE}", sha256_of(2), GOOD, 3, 0.75, "2026-01-01T00:00:00Z")
    file = drawn(tmp_path / "index.html", (first, gone))
    with browsing(file, tmp_path) as browser:
        assert progress(browser) == "1 of 6 judged · 1 good · 1 of other images"
        assert saved(browser, tmp_path) == (first, gone)
        browser.click("article[data-rank='2'] [data-say=mislabelled]")
        browser.press("ArrowRight", "ArrowRight", "3")
        changed = saved(browser, tmp_path)
        # The file is edited and given again: it holds, not what the browser has from before.
        browser.visit(drawn(file, (Review("", sha256_of(2), UNSURE, None, None, ""),)))
        assert progress(browser) == "1 of 6 judged · 1 unsure"
    assert [(r.path, r.verdict, r.rank) for r in changed] == [
        (HOSTILE, BAD, 2), ("sold.png", UNSURE, None), ("good/4.png", UNSURE, 4),
    ]  # fmt: skip


@needs_chromium
def test_the_trusted_image_beside_it_may_be_the_wrong_one(tmp_path: Path) -> None:
    with browsing(drawn(tmp_path / "index.html"), tmp_path) as browser:
        caption = "document.querySelector('[data-rank=\"4\"] .twin figcaption').textContent"
        browser.press("t")
        assert browser.run(caption) == "✕ called mislabelled: good/9.png"  # on every card
        assert progress(browser) == "0 of 6 judged · 1 of other images" and undone(browser)
        browser.press("u")
        assert browser.run(caption) == "nearest trusted: good/9.png" and not undone(browser)
        browser.press("Enter")
        browser.click("dialog [data-do=distrust]")
        assert browser.run(caption).startswith("✕")
        browser.press("2", "Escape")
        reviews = saved(browser, tmp_path)
    assert {(r.path, r.verdict, r.rank) for r in reviews} == {
        ("good/9.png", BAD, 9), ("good/1.png", GOOD, 1),
    }  # fmt: skip


@needs_chromium
def test_what_a_browser_has_kept_may_be_anything(tmp_path: Path) -> None:
    """Every page on the disk shares one store: another may have written there."""
    file = drawn(tmp_path / "index.html")
    key = "`rad_lightning verdicts ${document.querySelector('#suspects').dataset.images}`"
    foreign = ("{", "null", "[]", '{"marks": 3}', '{"marks": [["a", {"verdict": "<img>"}], 7]}')
    with browsing(file, tmp_path) as browser:
        for text in foreign:
            browser.run(f"localStorage.setItem({key}, {json.dumps(text)})")
            browser.visit(file)
            assert progress(browser) == "0 of 6 judged", text
            browser.press("1")
            assert progress(browser) == "1 of 6 judged · 1 mislabelled", text
        browser.run("Storage.prototype.setItem = () => { throw new Error('full') }")
        browser.press("2")
        told = browser.run("document.querySelector('.told').textContent")
        assert told == "This browser keeps nothing: save before you close the page."


def test_a_persons_word_counts_more_than_the_ranking(
    cli: Cli, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("audit", *settings(photos)) == 0
    text, ranked = page_of().read_text(), rows_of(page_of().parent / "suspects.csv")
    paths = [row["path"] for row in ranked]
    hashes = file_hashes([photos / path for path in paths])
    verdicts = {0: GOOD, 1: UNSURE, 8: BAD}
    reviews = [Review(paths[i], hashes[i], v, i + 1, None, "") for i, v in verdicts.items()]
    write_verdicts(Path("v.csv"), reviews)
    again = (*settings(photos), "verdicts=v.csv", "output=b")
    assert cli("audit", *again, "apply=out.csv") == 0
    out = capsys.readouterr().out
    assert "1 mislabelled, 1 good, 1 unsure, by v.csv" in out
    assert "1 of the last 2 judged images are mislabelled: judge the next 10" in out
    roles = {row["path"]: row["role"] for row in rows_of(Path("out.csv"))}
    assert roles[paths[8]] in (Roles.REVIEWED_ANOMALY, Roles.UNUSED)  # the latter of a test image
    assert roles[paths[0]] in (Roles.REVIEWED_GOOD, Roles.TEST)
    # What is still open is ranked anew, and the page says what to do with the verdicts.
    anew = {r["path"]: r["judged"] for r in rows_of(page_of("b").parent / "suspects.csv")}
    assert anew.keys() == set(paths) and "judged" in out
    assert {path: said for path, said in anew.items() if said} == {
        paths[i]: str(verdict) for i, verdict in verdicts.items()
    }
    assert "verdicts=verdicts.csv apply=cleaned.csv" in text
    assert "verdicts=v.csv apply=cleaned.csv" in page_of("b").read_text()
    assert cli(*settings(photos)[:-2], "noise=manifest", "noise.manifest=out.csv") == 0
    capsys.readouterr()
    write_verdicts(Path("v.csv"), [Review("x.png", "0" * 64, GOOD, None, None, "")])
    assert cli("audit", *settings(photos), "verdicts=v.csv") == 2
    assert "v.csv: x.png is not in" in one_error(capsys)
    assert cli("audit", *settings(photos), "verdicts=none.csv") == 2
    assert "verdicts none.csv is not a file" in one_error(capsys)


def test_verdicts_about_images_that_are_trained_on_no_more_are_kept(cli: Cli, photos: Path) -> None:
    """A second round: what the first one left out is in the data set, but not in the ranking."""
    assert cli("audit", *settings(photos), "apply=out.csv") == 0
    row = rows_of(page_of().parent / "suspects.csv")[0]
    (sha256,) = file_hashes([photos / row["path"]])
    review = Review(row["path"], sha256, BAD, 1, float(row["suspicion"]), "")
    write_verdicts(Path("v.csv"), [review])
    round_two = ("noise=manifest", "noise.manifest=out.csv", "verdicts=v.csv", "output=b")
    assert cli("audit", *settings(photos), *round_two) == 0
    text = page_of("b").read_text()
    given = text[text.index("const given = new Map(") :].splitlines()[0]
    listed = json.loads(given[given.index("(") + 1 : given.index(".map(")])
    assert [(r["sha256"], r["verdict"]) for r in listed] == [(sha256, "mislabelled")]
    assert row["path"] not in {r["path"] for r in rows_of(page_of("b").parent / "suspects.csv")}
