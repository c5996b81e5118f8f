import csv
import random
import re
import shutil
from io import StringIO
from pathlib import Path

import pytest

from rad_lightning.report.analysis import analyse
from rad_lightning.report.collect import read_sweep
from rad_lightning.report.files import load, texts
from rad_lightning.report.grids import Cell
from rad_lightning.report.statistics import Estimate
from rad_lightning.report.tables import cells_csv, latex, markdown, number, tex, text


def written(folder: Path) -> dict[str, str]:
    return texts(*load(folder, "image_auroc"))


def rows(content: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(content)))


def test_equal_results_give_equal_bytes_whatever_the_order_of_files(full, tmp_path: Path) -> None:
    first = written(full.folder)
    folders = list(full.folder.iterdir())
    random.Random(0).shuffle(folders)
    other = tmp_path / "elsewhere"
    for folder in folders:  # written in another order, at another time, in another place
        shutil.copytree(folder, other / folder.name, copy_function=shutil.copyfile)
    assert len(first) == 6 and written(other) == first


def test_the_csv_holds_full_numbers_and_what_they_rest_on(full) -> None:
    table = rows(written(full.folder)["table.csv"])
    estimate = analyse(read_sweep(full.folder), "image_auroc").mean.rows[0].cells[1].estimate
    (row,) = (
        r for r in table
        if (r["table"], r["series"], r["ratio"]) == ("mean", "plain", "0.2")
    )  # fmt: skip
    assert (float(row["mean"]), float(row["low"]), float(row["high"])) == (
        estimate.mean,
        estimate.low,
        estimate.high,
    )
    assert (row["n"], row["seeds_fewest"], row["source"]) == ("12", "6", "measured")
    assert {r["table"] for r in table} == {"mean", "category gear", "category mesh", "drop", "gap"}


def test_the_long_form_has_a_row_per_run_with_all_metrics(full) -> None:
    found = rows(written(full.folder)["cells.csv"])
    assert len(found) == 3 * 2 * 3 * 6
    (row,) = (r for r in found if r["run"] == "mesh-patch-rad-4-0.4-0.002-replace-0")
    wobble = 0.002 * ((7 * 4 + 3 * 3 + 4) % 5)
    assert float(row["image_auroc"]) == 0.90 - 0.1 * 0.4 + wobble
    assert (row["image_ap"], row["noise_injected"], row["noise_of"]) == ("0.5", "16", "40")


def test_a_metric_that_a_run_lacks_is_an_empty_field(fake) -> None:
    fake.run(seed=0)
    fake.run(None, seed=1)
    content = cells_csv(read_sweep(fake.folder).series)
    assert [r["image_auroc"] for r in csv.DictReader(StringIO(content))] == ["0.9", ""]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.93249, "93.2"), (-0.023, "−2.3"), (-0.0004, "0.0"), (0.0, "0.0"), (1.0, "100.0")],
)
def test_numbers_are_percent_with_one_decimal(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_cell_in_words() -> None:
    estimate = Estimate(0.932, 0.91, 0.949, 6, 3)
    assert text(Cell(estimate)) == "93.2 [91.0, 94.9]"
    assert text(Cell(estimate, missing=("gear",))) == "93.2* [91.0, 94.9]"
    assert text(Cell(Estimate(0.932, None, None, 1, 1))) == "93.2"
    assert text(Cell()) == "–"


def test_latex_escapes() -> None:
    assert tex(r"a_b % & # $ {x} ~ ^ \ ρ · −") == (
        r"a\_b \% \& \# \$ \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} "
        r"$\rho$ $\cdot$ $-$"
    )


def test_latex_has_as_many_columns_in_every_row(fake) -> None:
    for ratio in (0.0, 0.3):
        for category in ("a & b_1", "50%\\"):
            fake.run(ratio=ratio, category=category, method="x#1")
    content = latex(analyse(read_sweep(fake.folder), "image_auroc"))
    columns = 0
    for line in content.splitlines():
        if spec := re.fullmatch(r"\\begin\{tabular\}\{l(c+)\}", line):
            columns = len(spec.group(1))
        if line.endswith(r" \\"):
            assert line.replace(r"\&", "").count("&") == columns
    assert columns == 1  # the last table: one level above zero
    assert r"x\#1 &" in content and "% a \\& b\\_1" in content


def test_a_pipe_in_a_name_stays_in_its_cell(fake) -> None:
    fake.run(method="a|b\nc", ratio=0.0)
    fake.run(method="a|b\nc", ratio=0.3)
    content = markdown(analyse(read_sweep(fake.folder), "image_auroc"), "done")
    (line, *_) = (line for line in content.splitlines() if line.startswith("| a"))
    assert line == r"| a\|b c | 90.0 | 90.0 |"


def test_the_markdown_names_claims_as_such_and_says_how_far_the_sweep_is(fake) -> None:
    fake.run(name="a")
    fake.plan([{"run": "a"}, {"run": "b"}], claims={"RAD": {"0.0": 95.4}})
    content = written(fake.folder)["table.md"]
    assert "| RAD (claimed, not measured) | 95.4 |" in content
    assert "1 of 2 cells finished, 1 to go." in content
