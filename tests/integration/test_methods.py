"""Every method that a user can name, through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from support import SMALL_SYNTHETIC, Cli, only_run, result_of, rows_of

pytestmark = pytest.mark.slow
METHODS = sorted(p.stem for p in (Path(__file__).parents[2] / "conf" / "method").glob("*.yaml"))
NOISY = (
    "noise=replace",
    "noise.ratio=0.3",
    "data.train_images=12",
    "data.test_images_per_defect=4",
)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_noisy_images(cli: Cli, method: str) -> None:
    assert cli(*SMALL_SYNTHETIC, *NOISY, f"method={method}") == 0
    run = only_run()
    result = result_of(run)
    assert result["method"] == method
    assert 0 <= result["metrics"]["image_auroc"] <= 1
    if method in ("sparse_memory", "lof_memory"):
        assert result["held_out_nll"] is None and not (run / "last.ckpt").exists()
    else:
        assert result["held_out_nll"] == pytest.approx(1.4, abs=1)  # nats per dimension
    steered = method in ("weight_decay", "adaptive_l2", "rad", "rad_pseudo")
    assert ("uncertainty" in result) is steered
    assert len(result["curves"]["step"]) == 6 if steered else "lambda" not in result["curves"]
    trusting = method in TRUSTING
    assert ("trust" in result) is trusting is (run / "suspects.csv").is_file()
    if trusting:
        check_trust(run, result)


TRUSTING = (
    "irp", "out_of_fold", "robust", "rad_robust", "oracle_rate", "oracle_exposed", "reweight",
)  # fmt: skip


def check_trust(run: Path, result: dict[str, Any]) -> None:
    """What a run tells of its trust, for 12 training images of which 4 are injected."""
    trust, metrics = result["trust"], result["metrics"]
    suspects = rows_of(run / "suspects.csv")
    manifest = {row["path"]: row["role"] for row in rows_of(run / "manifest.csv")}
    assert len(suspects) == trust["images"] == 12
    assert {s["path"]: s["role"] for s in suspects}.items() <= manifest.items()
    assert sum(s["role"] == "injected" for s in suspects) == 4
    suspicion = [float(s["suspicion"]) for s in suspects]
    assert suspicion == sorted(suspicion, reverse=True) and min(suspicion) >= 0
    assert sum(int(s["suspect"]) for s in suspects) == trust["suspects"]
    found = trust["contamination"]
    assert 0 <= found["low"] <= found["high"] <= 1
    assert metrics["estimated_contamination"] == found["value"]
    assert 0 <= metrics["trust_suspect_auroc"] <= 1
    if result["method"] == "oracle_rate":
        assert trust["assumed_rate"] == pytest.approx(1 / 3)
    if result["method"] == "oracle_exposed":
        assert all((s["role"] == "injected") == (s["suspect"] == "1") for s in suspects)


def test_equal_settings_give_equal_scores(cli: Cli) -> None:
    scores = []
    for folder in "ab":
        rad = (*SMALL_SYNTHETIC, *NOISY, "method=rad_pseudo", f"output={folder}")
        assert cli(*rad) == 0
        run = only_run(folder)
        scores.append((run / "scores.csv").read_bytes())
    assert scores[0] == scores[1]


def test_made_defects_on_supports_are_computed_once_for_all_seeds(cli: Cli) -> None:
    sweep = ("-m", "seed=0,1", "data.split_seed=0", "method=rad_pseudo", "method.holdout=0.3")
    assert cli(*SMALL_SYNTHETIC, *sweep) == 0
    made = list(Path("outputs/cache/made").glob("**/*.bmp"))
    sources = {p.name for p in made}
    assert len(made) == len(sources)  # one per image, whatever the seed
    assert 0 < len(made) <= 6


def test_what_is_made_on_supports_is_never_scored(cli: Cli) -> None:
    assert cli(*SMALL_SYNTHETIC, "method=rad_pseudo") == 0
    run = only_run()
    for name in ("scores.csv", "manifest.csv"):
        assert not [row for row in rows_of(run / name) if row["path"].startswith("made/")]


CROSS = ("method=rad", "method.meta.source=cross_category", "data.category=weave")


def test_tasks_come_from_other_categories_and_the_flow_adapts_to_its_own(cli: Cli) -> None:
    weights = []
    for deploy in ("meta", "adapted"):
        other = (*CROSS, "method.meta.categories=[gear,stone]", f"method.meta.deploy={deploy}")
        assert cli(*SMALL_SYNTHETIC, *other, "method.keep=last", f"output={deploy}") == 0
        run = only_run(deploy)
        weights.append(torch.load(run / "last.ckpt", weights_only=True)["state_dict"])
    changed = [
        k for k in weights[0] if "flow" in k and not torch.equal(weights[0][k], weights[1][k])
    ]
    assert changed


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (CROSS, "need each other"),
        (("method=rad", "method.meta.categories=[gear]"), "need each other"),
        ((*CROSS, "method.meta.categories=[nonsense]"), "nonsense"),
        (("method=rad", "method.meta.order=3"), "method.meta.order = 3: choose one of 1, 2"),
        (("method=rad", "method.batch_size=4"), "method.batch_size = 4"),
        (("method=rad", "method.l2.uncertainty=view_variance"), "needs two views"),
        (("method=adaptive_l2", "method.l2.uncertainty=loss_covariance"), "method.meta.source"),
        (("method=adaptive_l2", "method.l2.where=inner"), "method.meta.source"),
        (("method=rad", "method.l2.lambda_min=1e5"), "method.l2.lambda_max"),
        (("method=rad", "method.holdout=0"), "method.holdout > 0"),
        (("method=rad", "method.meta.adapted_blocks=3"), "method.meta.adapted_blocks = 3"),
        (("method.name=a/b",), "method.name = 'a/b'"),
        (("method=trimmed", "method.memory.form=lof"), "switch off method.memory"),
        (("method=trimmed", "method.trust.source=both"), "switch off method.trust"),
        (("method=loe_hard", "method.meta.source=bootstrap"), "switch off method.meta"),
        (("method=lof_memory", "method.l2.form=constant"), "switch off method.l2"),
        (("method=lof_memory", "method.trust.source=both"), "switch off method.trust"),
        (("method=rad", "method.meta.source=trusted"), "needs method.trust.source: choose one of"),
        (("method=robust", "method.meta.source=bootstrap"), "use trusted"),
        (("method=out_of_fold", "method.trust.known=true"), "set method.trust.use=expose"),
        (("method=rad", "method.meta.inner_lrr=1"), "inner_lrr"),
    ],
)
def test_what_does_not_fit_together_is_one_line(
    cli: Cli, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...], told: str
) -> None:
    assert cli(*SMALL_SYNTHETIC, *settings) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and told in error
