from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rad_lightning.evaluation.curves import POINTS, Row, read, summary, thin
from rad_lightning.evaluation.pictures import training_curves

HEADER = "epoch,step,train/nll,train/uncertainty,train/lambda,train/weight_penalty,holdout/nll\n"


def written(tmp_path: Path, *lines: str) -> list[Row]:
    file = tmp_path / "metrics.csv"
    file.write_text(HEADER + "".join(f"{line}\n" for line in lines))
    return read(file)


def steps(count: int) -> list[Row]:
    """A training with U rising by 1 per step."""
    return [
        {"step": float(i), "nll": 2.0 - i, "uncertainty": float(i), "lambda": 10.0 * i + 1}
        for i in range(count)
    ]


def test_rows_of_one_step_become_one_and_come_in_order(tmp_path: Path) -> None:
    found = written(tmp_path, "0,1,1.5,0.2,3,4,", "0,0,2.5,0.1,3,4,", "0,1,,,,,0.7")
    assert [row["step"] for row in found] == [0, 1]
    assert found[1] == {
        "step": 1, "nll": 1.5, "uncertainty": 0.2, "lambda": 3, "weight_penalty": 4,
        "held_out_nll": 0.7,
    }  # fmt: skip


@pytest.mark.parametrize("torn", ["0,2", "0,x,1,1,1,1,", "0,2,nan,0.1,1,1,", "0,2,1.0,0.", "\0"])
def test_torn_lines_cost_only_themselves(tmp_path: Path, torn: str) -> None:
    found = written(tmp_path, "0,0,1,0.1,1,1,", torn, "0,3,3,0.3,1,1,")
    assert thin(found)["step"] == [0, 3]
    assert thin(found)["nll"] == [1, 3]


def test_no_file_and_no_rows_are_no_curves(tmp_path: Path) -> None:
    assert read(tmp_path / "gone.csv") == []
    assert written(tmp_path) == [] and thin([]) == {}
    assert summary([]) == {"curves": {}}
    assert thin([{"step": 0.0, "held_out_nll": 1.0}]) == {}


@pytest.mark.parametrize("count", [1, 6, POINTS, POINTS + 1, 1000])
def test_curves_are_thinned_to_means_of_consecutive_steps(count: int) -> None:
    curves = thin(steps(count))
    assert set(curves) == {"step", "nll", "uncertainty", "lambda"}
    assert {len(column) for column in curves.values()} == {min(count, POINTS)}
    parts = np.array_split(np.arange(count), min(count, POINTS))
    assert curves["step"] == pytest.approx([p.mean() for p in parts], rel=1e-5)
    assert curves["uncertainty"] == curves["step"]
    assert curves["nll"] == pytest.approx([2 - p.mean() for p in parts], rel=1e-4, abs=1e-4)


def test_the_end_is_the_mean_of_the_last_quarter_in_full() -> None:
    found = summary(steps(1001))
    assert found["uncertainty"] == np.arange(750, 1001).mean()
    assert found["lambda"] == 10 * found["uncertainty"] + 1


def test_a_method_without_uncertainty_has_the_nll_alone() -> None:
    found = summary([{"step": float(i), "nll": 1.0} for i in range(3)])
    assert found == {"curves": {"step": [0, 1, 2], "nll": [1, 1, 1]}}


def test_the_picture_has_a_panel_per_curve_and_equal_bytes(tmp_path: Path) -> None:
    rows = steps(30)
    rows[4]["held_out_nll"] = 1.0
    plain = [{"step": row["step"], "nll": row["nll"]} for row in rows]
    for name, log in (("rad", rows), ("again", rows), ("plain", plain)):
        training_curves(tmp_path / f"{name}.png", log, "<$x$>")
    assert (tmp_path / "rad.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    with Image.open(tmp_path / "rad.png") as rad, Image.open(tmp_path / "plain.png") as alone:
        assert rad.width == alone.width and rad.height > 1.5 * alone.height
