"""What others add is one file and one YAML: a data set, a selection, an objective, a penalty."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from rad_lightning import methods
from rad_lightning.data import layouts
from rad_lightning.methods.registry import PARTS
from support import SMALL, SMALL_SYNTHETIC, Cli, only_run, result_of, rows_of

READER = """
from pathlib import Path

from rad_lightning.data.layouts.common import build_table, images_in
from rad_lightning.data.layouts.registry import layout
from rad_lightning.data.samples import Sample


@layout("stamps")
def read_stamps(root: Path, category: str | None = None):
    samples = [
        Sample(path=p.name, label=int(p.name[0] != "g"), group=p.name, category="stamps",
               defect_type="good" if p.name[0] == "g" else "torn", mask_path=None)
        for p in images_in(root)
    ]
    return build_table("stamps", "stamps", root, samples, layout="<root>/*.png")
"""
SELECTION = """
from dataclasses import dataclass

import torch

from rad_lightning.config.fields import setting
from rad_lightning.methods.registry import SELECTION, Trust, part, settings_of
from rad_lightning.robust.contamination import Contamination


@dataclass
class FirstOnes:
    count: int = setting(1, low=0)


@part(SELECTION, "not_the_first", settings=FirstOnes)
def not_the_first(method, head, samples, groups, injected, seed, tick, reviewed):
    left_out = torch.arange(len(samples)) < settings_of(method, "not_the_first").count
    weights = (~left_out).float()[:, None, None].expand(samples.shape[:3])
    share = float(left_out.float().mean())
    estimate = Contamination(share, 0.0, 1.0)
    return Trust(0.9 * left_out.float(), left_out, weights, None, estimate, share, 0.0)
"""
OBJECTIVE = """
from dataclasses import dataclass

from rad_lightning.config.fields import setting
from rad_lightning.flows.coupling import nll
from rad_lightning.methods.likelihood import sample_batches
from rad_lightning.methods.module import FlowModule
from rad_lightning.methods.registry import OBJECTIVE, part, settings_of


@dataclass
class Bound:
    most: float = setting(3.0, above=0.0)


class Bounded(FlowModule):
    def training_step(self, batch, _):
        samples, positions = batch
        losses = nll(self.head.flow, None, samples, self.head.condition(positions))
        self.log("train/most", settings_of(self.method, "bounded").most)
        return self.finish_step(
            losses.clamp(max=settings_of(self.method, "bounded").most).mean(), losses
        )


@part(OBJECTIVE, "bounded", settings=Bound)
def bounded(method, head, training, seed):
    return Bounded(head, method), sample_batches(method, training)
"""
PENALTY = """
from torch import nn

from rad_lightning.methods.registry import PENALTY, part


class Constant(nn.Module):
    inner = None

    def step(self, module, loss, normal, uncertainty):
        module.log("train/constant", 7.0)
        return loss + 7.0


@part(PENALTY, "constant")
def constant(method):
    return Constant()
"""


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for modules that both packages look into; what they register is forgotten again."""
    folder = tmp_path / "added"
    folder.mkdir()
    known = dict(PARTS), dict(layouts.LAYOUTS)
    modules = set(sys.modules)
    yield folder
    for name in set(sys.modules) - modules:
        if (name.startswith("rad_lightning.") and ".toy_" in name) or name.endswith(
            "stamps_layout"
        ):
            del sys.modules[name]
    for registry, before in zip((PARTS, layouts.LAYOUTS), known, strict=True):
        registry.clear()
        registry.update(before)  # type: ignore[attr-defined]


def look_into(package: object, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])  # type: ignore[attr-defined]
    package.discover()  # type: ignore[attr-defined]


def yaml(tmp_path: Path, group: str, name: str, text: str) -> tuple[str, str]:
    """Writes a YAML; the options that make Hydra find it."""
    file = tmp_path / "conf" / group / f"{name}.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"defaults: [schema]\nname: {name}\n{text}")
    return "--config-dir", str(tmp_path / "conf")


def test_a_data_set(cli: Cli, tmp_path: Path, added: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (added / "stamps_layout.py").write_text(READER)
    look_into(layouts, added, monkeypatch)
    (tmp_path / "photos").mkdir()
    for i in range(12):
        name = f"{'g' if i < 9 else 't'}{i}.png"
        Image.new("RGB", (64, 64), (20 * i, 90, 120)).save(tmp_path / "photos" / name)
    where = yaml(tmp_path, "data", "stamps", "")
    data = ("data=stamps", "data.root=photos", "data.test_fraction=0.4")
    assert cli(*where, *data, *SMALL, "backbone.weights=untrained") == 0
    result = result_of(only_run())
    assert result["dataset"] == "stamps" and 0 <= result["metrics"]["image_auroc"] <= 1


def test_a_selection(
    cli: Cli, tmp_path: Path, added: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (added / "toy_selection.py").write_text(SELECTION)
    look_into(methods, added, monkeypatch)
    where = yaml(tmp_path, "method", "toy", "parts: {not_the_first: {count: 2}}\n")
    assert cli(*where, *SMALL_SYNTHETIC, "method=toy") == 0
    run = only_run()
    assert sum(int(row["suspect"]) for row in rows_of(run / "suspects.csv")) == 2
    assert result_of(run)["trust"]["suspects"] == 2
    # Its settings are part of what a run is named after.
    assert cli(*where, *SMALL_SYNTHETIC, "method=toy", "method.parts.not_the_first.count=1") == 0
    assert len(list(run.parent.iterdir())) == 2


def test_an_objective_with_a_built_in_penalty_and_a_selection(
    cli: Cli, tmp_path: Path, added: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (added / "toy_objective.py").write_text(OBJECTIVE)
    look_into(methods, added, monkeypatch)
    where = yaml(tmp_path, "method", "toy", "parts: {bounded: {most: 2.5}}\n")
    both = ("method.l2.form=constant", "method.l2.uncertainty=tail_weight")
    chosen = ("method.trust.source=out_of_fold", "method.trust.steps=2", "method.trust.rate=0.2")
    assert cli(*where, *SMALL_SYNTHETIC, "method=toy", *both, *chosen) == 0
    rows = rows_of(only_run() / "metrics.csv")
    assert {float(row["train/most"]) for row in rows if row["train/most"]} == {2.5}
    assert all(float(row["train/lambda"]) == 1.0 for row in rows)


def test_a_penalty(cli: Cli, tmp_path: Path, added: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (added / "toy_penalty.py").write_text(PENALTY)
    look_into(methods, added, monkeypatch)
    where = yaml(tmp_path, "method", "toy", "parts: {constant: {}}\n")
    assert cli(*where, *SMALL_SYNTHETIC, "method=toy") == 0
    rows = rows_of(only_run() / "metrics.csv")
    assert {float(row["train/constant"]) for row in rows if row["train/constant"]} == {7.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("+method.parts.nothing={}",), "method.parts.nothing: no such part; choose from bounded"),
        (("+method.parts.bounded.mst=1",), "method.parts.bounded: Key 'mst' not in 'Bound'"),
        (("+method.parts.bounded.most=-1",), "method.parts.bounded.most = -1.0: use a value > 0"),
        (
            ("+method.parts.bounded={}", "method.latent.form=trim"),
            "two parts of the kind objective",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(
    cli: Cli,
    added: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: tuple[str, ...],
    message: str,
) -> None:
    (added / "toy_objective.py").write_text(OBJECTIVE)
    look_into(methods, added, monkeypatch)
    assert cli(*SMALL_SYNTHETIC, *settings) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
