import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rad_lightning.common.errors import UserError
from rad_lightning.config import (
    BackboneConfig,
    DataConfig,
    HeadConfig,
    MethodConfig,
    NoiseConfig,
    TrainConfig,
    number_fields,
)
from rad_lightning.report.collect import read_sweep
from rad_lightning.report.results import flatten, silent_keys


def labels(folder: Path) -> list[str]:
    return [series.label for series in read_sweep(folder).series]


def test_no_folder_and_no_result_are_one_clear_line(fake, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_sweep(tmp_path / "nowhere")
    fake.fail("a")
    with pytest.raises(UserError, match="no readable"):
        read_sweep(fake.folder)


def test_seeds_levels_and_categories_share_a_series(fake) -> None:
    for seed in (0, 1):
        for ratio in (0.0, 0.3):
            for category in ("gear", "mesh"):
                fake.run(seed=seed, ratio=ratio, category=category)
    (series,) = read_sweep(fake.folder).series
    assert len(series.runs) == 8 and series.label == "plain"


def test_the_head_is_named_where_there_are_several(fake) -> None:
    fake.run(head="patch")
    fake.run(head="pooled", method="rad")
    assert labels(fake.folder) == ["plain · patch", "rad · pooled"]


def test_settings_are_named_where_two_series_would_share_a_label(fake) -> None:
    fake.run(lr=0.001)
    fake.run(lr=0.002)
    fake.run(method="rad")
    assert labels(fake.folder) == ["plain · method.lr=0.001", "plain · method.lr=0.002", "rad"]


def test_noise_of_another_protocol_is_another_series(fake) -> None:
    fake.run(mode="replace", ratio=0.3)
    fake.run(mode="add", ratio=0.3)
    assert labels(fake.folder) == ["plain · noise.mode=add", "plain · noise.mode=replace"]


def test_other_weights_are_another_series_though_no_setting_that_changes_numbers(fake) -> None:
    fake.run(seed=0)
    fake.run(seed=1, backbone="resnet18 (UNTRAINED demo weights)")
    assert len(labels(fake.folder)) == 2


def test_folders_and_devices_are_not_part_of_a_series(fake) -> None:
    first = json.loads(fake.run(seed=0).read_text())
    config = first["config"] | {"output": "elsewhere", "cache": {"dir": "y"}}
    config["trainer"] = {"accelerator": "gpu"}
    config["claims"] = {"RAD": {"0.0": 95.4}}
    config["data"] = config["data"] | {"root": "/another/disk"}
    fake.run(seed=1, config=config | {"seed": 1})
    assert labels(fake.folder) == ["plain"]


def test_silent_keys_are_what_number_fields_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = TrainConfig(
        data=DataConfig(name="folder"),
        noise=NoiseConfig(),
        backbone=BackboneConfig(),
        head=HeadConfig(name="patch"),
        method=MethodConfig(),
    )
    # A part that is off changes nothing, whatever it holds: all are switched on.
    for part in vars(cfg.method).values():
        if hasattr(part, "on"):
            monkeypatch.setattr(type(part), "on", True)
    every, kept = keys(dataclasses.asdict(cfg)), keys(number_fields(cfg))
    assert silent_keys() - {"claims"} == every - kept  # the claims are empty here
    assert {"output", "data.root", "trainer.accelerator", "cache.dir"} <= silent_keys()


def keys(node: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in node.items():
        found |= keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found


def test_an_unknown_setting_may_change_numbers() -> None:
    assert dict(flatten({"future": {"knob": 1}, "output": "x"})) == {"future.knob": "1"}


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[1, 2]",
        '"text"',
        "{}",
        '{"schema_version": 99}',
        '{"schema_version": 2, "config": 3}',
        '{"schema_version": 2, "dataset": "a", "category": "b", "head": "c", "method": "d", '
        '"seed": "x", "metrics": {}}',
        '{"schema_version": 2, "dataset": "a", "category": "b", "head": "c", "method": "d", '
        '"seed": 0, "metrics": [1]}',
        '{"schema_version": 2, "dataset": "a", "category": "b", "head": "c", "method": "d", '
        '"seed": 0, "metrics": {}, "noise": {"requested": NaN}}',
        "[" * 100_000,
    ],
)
def test_a_foreign_result_is_noted_and_skipped(fake, content: str) -> None:
    fake.run()
    fake.write("odd/result.json", content)
    sweep = read_sweep(fake.folder)
    assert len(sweep.runs) == 1
    assert [note for note in sweep.notes if note.startswith("odd/result.json was skipped: ")]


def test_bytes_that_are_no_text_are_noted_and_skipped(fake) -> None:
    fake.run()
    fake.write("odd/result.json", "").write_bytes(b"\xff\xfe\x00")
    assert len(read_sweep(fake.folder).notes) == 1


def test_a_result_of_the_first_schema_is_a_clean_run(fake) -> None:
    file = fake.run(schema_version=1)
    content = json.loads(file.read_text())
    for key in ("noise", "worst", "git_revision", "packages"):
        del content[key]
    file.write_text(json.dumps(content))
    (run,) = read_sweep(fake.folder).runs
    assert run.ratio == 0 and run.git_revision == "unknown" and run.worst == ()


def test_a_metric_that_is_no_number_is_left_out(fake) -> None:
    fake.run(metrics={"image_auroc": 0.5, "bad": None, "worse": float("nan")})
    assert read_sweep(fake.folder).runs[0].metrics == {"image_auroc": 0.5}


def test_of_two_runs_of_one_cell_the_newer_counts_and_is_noted(fake) -> None:
    fake.age(fake.run(0.8, name="old"), 60)
    fake.age(fake.run(0.9, name="new"), 10)
    sweep = read_sweep(fake.folder)
    assert [run.name for run in sweep.runs] == ["new"]
    assert any(note.startswith("old has the settings of new") for note in sweep.notes)


def test_equal_names_in_two_datasets_are_two_categories(fake) -> None:
    fake.run(dataset="a", name="1")
    fake.run(dataset="b", name="2")
    sweep = read_sweep(fake.folder)
    assert len(sweep.runs) == 2
    assert [sweep.category_name(*c) for c in sweep.categories] == ["a/gear", "b/gear"]


def test_completeness_follows_the_plan(fake) -> None:
    fake.run(name="a")
    fake.run(name="b", seed=1)
    fake.run(name="extra", seed=2)
    fake.fail("c")
    fake.fail("b")  # failed once, done later
    fake.fail("unplanned")
    problem = {"run": None, "problem": "the largest feasible ratio is 0.2", "ratio": 0.5}
    fake.plan([{"run": name} for name in ("a", "b", "c", "d")] + [problem])
    sweep = read_sweep(fake.folder)
    assert sweep.completeness == "2 of 5 cells finished, 1 failed, 1 cannot run, 1 to go"
    assert sweep.partial and len(sweep.runs) == 3
    assert {(f.run, f.kind) for f in sweep.failures} == {
        ("c", "NotFiniteError"),
        ("", "cannot run"),
    }
    assert any("1 of the runs are not in the latest plan" in note for note in sweep.notes)
    assert any("1 cells that failed are not in the latest plan" in n for n in sweep.notes)


def test_a_finished_plan_is_not_partial(fake) -> None:
    fake.run(name="a")
    fake.plan([{"run": "a"}])
    sweep = read_sweep(fake.folder)
    assert not sweep.partial and sweep.completeness == "1 of 1 cells finished"


def test_without_a_plan_nobody_knows(fake) -> None:
    fake.run()
    assert "without sweep.json" in read_sweep(fake.folder).completeness


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"cells": [3]}', '{"cells": [], "claims": {"x": {"y": 1}}}', "{"]
)
def test_a_foreign_plan_is_noted_and_skipped(fake, content: str) -> None:
    fake.run()
    fake.write("sweep.json", content)
    sweep = read_sweep(fake.folder)
    assert sweep.plan is None and any("sweep.json was skipped" in note for note in sweep.notes)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"cell": 3, "kind": 4}'])
def test_a_torn_failure_is_still_a_failure(fake, content: str) -> None:
    fake.run()
    fake.write("b/failure.json", content)
    (failure,) = read_sweep(fake.folder).failures
    assert failure.run == "b"


def test_a_category_that_is_planned_counts_before_it_runs(fake) -> None:
    fake.run(name="a")
    fake.plan([{"run": "a"}, {"run": "b", "category": "mesh"},
               {"run": None, "category": "never", "problem": "too few images"}])  # fmt: skip
    assert read_sweep(fake.folder).categories == [("toy", "gear"), ("toy", "mesh")]


def test_a_cell_whose_data_could_not_be_read_goes_by_its_settings(fake) -> None:
    fake.run(name="a")
    overrides = ["data=mvtec", "data.category=screw"]
    unknown = {"run": None, "overrides": overrides, "problem": "no such folder"}
    fake.write("sweep.json", {"cells": [{"run": "a"}, unknown]})
    sweep = read_sweep(fake.folder)
    assert [f.cell for f in sweep.failures] == ["data=mvtec data.category=screw"]
    assert sweep.categories == [("toy", "gear")]


def test_plain_is_first_and_the_oracle_last(fake) -> None:
    for method in ("zeal", "oracle_clean", "plain", "alpha"):
        fake.run(method=method)
    assert labels(fake.folder) == ["plain", "alpha", "zeal", "oracle_clean"]


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/b.jpg", ""])
def test_a_thumbnail_outside_the_run_is_not_read(fake, name: str) -> None:
    good = {"path": "p", "label": 1, "score": 1.0, "flagged": False, "margin": -1.0}
    fake.run(worst=[good | {"file": name}, good | {"file": "ok.jpg"}, {"file": "torn.jpg"}, 3])
    assert [p.file.name for p in read_sweep(fake.folder).runs[0].worst] == ["ok.jpg"]
