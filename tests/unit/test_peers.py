"""``benchmarks/peers.py`` with a peer of its own, and those of anomalib where it is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peer_models
import peers
import pytest
import torch
from peer_cost import forget_peak, measured, peak_mib
from peer_models import PEERS, FixedScale, Images, Peer, scores_and_maps
from peer_table import cost_of, lines
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from rad_lightning.common.runs import RunDirectory
from rad_lightning.config.fields import setting
from rad_lightning.data.splits import read_manifest
from rad_lightning.features.backbone import UNTRAINED, FrozenBackbone
from rad_lightning.report.collect import read_sweep
from rad_lightning.report.grids import context
from rad_lightning.report.verify import verify

SET = ("data.train_images=8", "data.test_normal_images=3", "data.test_images_per_defect=2",
       "data.size=[64,64]", "data.category=weave", "noise.max_ratio=0.3")  # fmt: skip


@dataclass
class Settings:
    layers: list[int] = setting([1], low=1)  # noqa: RUF009
    batch_size: int = 4
    power: float = setting(1.0, above=0.0)


class Distance(nn.Module):
    """Scores pixels by their distance from the mean training image."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.mean, self.power = torch.zeros(()), power

    def forward(self, batch: Tensor) -> Any:
        heat = (batch - self.mean).abs().mean(1, keepdim=True) ** self.power
        return SimpleNamespace(pred_score=heat.amax((1, 2, 3)), anomaly_map=heat)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Makes ``peer=distance`` the only one; the numbers of images of each fit."""
    counts: list[int] = []

    def fit(model: Any, cfg: Settings, images: Images) -> None:
        counts.append(len(images.pixels))
        if cfg.power == 13:
            raise RuntimeError("thirteen")
        model.mean = torch.cat(list(images.batches())).mean(0)

    def build(cfg: Settings, backbone: FrozenBackbone, size: tuple[int, int]) -> nn.Module:
        return Distance(cfg.power)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(peers, "check_installed", lambda: None)
    monkeypatch.setitem(PEERS, "distance", Peer("Distance", Settings, build, fit))
    return counts


def results(folder: str = "outputs/peers") -> list[RunDirectory]:
    return [RunDirectory(file.parent) for file in sorted(Path(folder).glob("*/result.json"))]


def test_each_cell_leaves_a_run_that_report_reads_and_is_not_run_again(fitted: list[int]) -> None:
    arguments = [*SET, "peer=distance", "noise.ratio=0,0.3", "distance.power=2"]
    assert peers.main(arguments) == 0
    assert len(fitted) == 2 and len(set(fitted)) == 1  # replace: one size at every level
    series = read_sweep(Path("outputs/peers")).series
    assert [(s.label, [r.ratio for r in s.runs]) for s in series] == [("Distance", [0.0, 0.3])]
    assert [checked.faults for checked in verify(Path("outputs/peers"))] == [(), ()]
    found = results()[1].read_result()
    assert found["config"]["method"]["power"] == 2
    assert found["cost"]["scored_images"] == fitted[1] + found["images"]["test"]
    assert peers.main(arguments) == 0
    assert len(fitted) == 2


def test_the_training_set_is_that_of_our_methods(
    fitted: list[int], cli: Callable[..., int]
) -> None:
    shared = [*SET, "noise=replace", "noise.ratio=0.3", "seed=3", "logger=csv"]
    assert peers.main([*shared, "peer=distance"]) == 0
    ours = ["method.steps=1", "evaluation.pictures=0", "evaluation.worst=0", "output=outputs/ours"]
    assert cli("train", *shared, *ours) == 0
    peer, own = (results(f"outputs/{name}")[0].read_result() for name in ("peers", "ours"))
    assert peer["manifest_sha256"] == own["manifest_sha256"]
    assert peer["noise"] == own["noise"] and peer["images"] == own["images"]
    compared = [read_sweep(Path(f"outputs/{name}")).series[0] for name in ("peers", "ours")]
    assert context(compared[0]) == context(compared[1])


def test_metrics_are_those_of_the_peers_own_maps(fitted: list[int]) -> None:
    assert peers.main([*SET, "peer=distance", "noise.ratio=0"]) == 0
    run = results()[0]
    rows = read_manifest(run.path / "manifest.csv")
    root = next(Path("outputs/cache/synthetic").glob("*/weave")).parent

    def pixels(paths: list[str]) -> Tensor:
        from rad_lightning.data.images import load_image, resize_image

        found = [resize_image(load_image(root / p), (64, 64)) for p in paths]
        return torch.stack([torch.from_numpy(f).permute(2, 0, 1) for f in found])

    backbone = FrozenBackbone("resnet18", (1,), UNTRAINED)
    train = torch.cat(
        list(Images(pixels([r.path for r in rows if r.role == "train"]), backbone, 4).batches())
    )
    model = Distance(1.0)
    model.mean = train.mean(0)
    tested = [r for r in rows if r.role == "test"]
    scores, _ = scores_and_maps(model, Images(pixels([r.path for r in tested]), backbone, 3))
    expected = roc_auc_score([r.label for r in tested], scores)
    metrics = run.read_result()["metrics"]
    assert metrics["image_auroc"] == pytest.approx(expected)
    assert 0 < metrics["pixel_auroc"] < 1 and 0 < metrics["pixel_aupro"] < 1


def test_maps_are_measured_where_the_image_is(fitted: list[int]) -> None:
    padded = [s for s in SET if "size" not in s] + ["data.size=[64,96]", "data.fit=pad"]
    for settings, folder in ((SET, "square"), (padded, "padded")):
        arguments = [*settings, "peer=distance", "noise.ratio=0", f"output={folder}"]
        assert peers.main(arguments) == 0
    square, pad = (results(name)[0].read_result()["metrics"] for name in ("square", "padded"))
    assert pad == pytest.approx(square)  # mirrored borders hold no larger distance


def test_a_cell_that_fails_is_written_down_and_the_others_go_on(
    fitted: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    data = [*(s for s in SET if "category" not in s), "data.category=weave,nothing"]
    assert peers.main([*data, "peer=distance", "noise.ratio=0", "distance.power=13,1"]) == 1
    assert "3 of 4 cells failed: thirteen" in capsys.readouterr().err
    (failure,) = Path("outputs/peers").glob("*/failure.json")
    assert json.loads(failure.read_text())["cell"]["method"] == "Distance"
    assert len(results()) == 1


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("peer=nobody", "choose from patchcore, padim"),
        ("distance.power=0", "distance.power = 0.0: use a value > 0"),
        ("distance.pwoer=1", "pwoer"),
        ("method=plain", "no peer reads it"),
        ("data.root=.", "no image found"),
    ],
)
def test_a_wrong_setting_ends_in_one_line(
    fitted: list[int], capsys: pytest.CaptureFixture[str], argument: str, said: str
) -> None:
    peer = [] if argument.startswith("peer=") else ["peer=distance"]
    data = ["data=folder"] if argument == "data.root=." else []
    assert peers.main([*data, *peer, argument]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not fitted


def test_without_anomalib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "anomalib", None)
    with pytest.raises(peer_models.UserError, match=r"pip install 'rad-lightning\[bench\]'"):
        peer_models.check_installed()


def test_the_scale_of_cflow_does_not_depend_on_the_other_images() -> None:
    scale = FixedScale(2)
    generator = torch.Generator().manual_seed(0)
    flat = [torch.randn(3 * n * n, generator=generator) for n in (4, 2)]

    def maps(images: slice) -> Tensor:
        parts = [f.view(3, -1)[images].flatten() for f in flat]
        return scale(distribution=parts, height=[4, 2], width=[4, 2], image_size=(8, 8))

    maps(slice(0, 2))
    scale.fixed = True
    assert torch.equal(maps(slice(0, 3))[2], maps(slice(2, 3))[0])
    assert scale.largest == [float(f.view(3, -1)[:2].max()) for f in flat]


def test_costs_are_those_of_what_is_inside() -> None:
    block = torch.ones(2**25)  # 128 MiB
    before = peak_mib()
    del block
    forget_peak()
    with measured() as cost:
        torch.ones(2**18).sort()
    assert 0 < cost.cpu < 60 and cost.wall > 0
    assert peak_mib() <= before


def test_the_table_averages_over_seeds() -> None:
    def one(seed: int, auroc: float) -> dict[str, Any]:
        return {
            "dataset": "mtd", "category": "mtd", "method": "PaDiM", "seed": seed,
            "noise": {"requested": 0.3}, "metrics": {"image_auroc": auroc},
            "cost": {"fit_cpu_seconds": 2.0, "score_cpu_seconds_per_image": 0.01},
            "peak_memory_mib": 100.0 * (1 + seed),
        }  # fmt: skip

    assert lines([one(0, 0.9), one(1, 0.8)]) == [
        ("mtd/mtd", "0.3", "PaDiM", "2", "85.0", "-", "-", "2.0", "10", "200")
    ]


def test_our_methods_run_beside_the_peers_and_say_what_they_cost(fitted: list[int]) -> None:
    assert peers.main([*SET, "peer=distance,lof_memory", "noise.ratio=0.3"]) == 0
    found = {run.read_result()["method"]: run.read_result() for run in results()}
    ours = found["lof_memory"]
    assert ours["manifest_sha256"] == found["Distance"]["manifest_sha256"]
    spent, images = ours["cpu_seconds"], ours["features"]["images"]
    fit, each = cost_of(ours) or (0.0, 0.0)
    assert ours["features"]["computed"] == images
    assert spent["training"] < fit < sum(spent.values())
    assert spent["features"] / images < each < fit
    cached = ours | {"features": {"computed": 0, "images": images}}
    assert [line[-3:-1] for line in lines([ours | {"cpu_seconds": {}}])] == [("-", "-")]
    assert [line[-3:-1] for line in lines([cached])] == [("-", "-")]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("patchcore", {"coreset_sampling_ratio": 0.1}),
        ("padim", {"n_features": 8}),
        ("fastflow", {"epochs": 1, "flow_steps": 2}),
        ("cflow", {"epochs": 1, "coupling_blocks": 1}),
    ],
)
def test_the_peers_of_anomalib_see_a_defect(name: str, changed: dict[str, Any]) -> None:
    pytest.importorskip("anomalib.models.components")
    peer, generator = PEERS[name], torch.Generator().manual_seed(0)
    settings = peer.settings(**changed)
    backbone = FrozenBackbone("resnet18", tuple(settings.layers), UNTRAINED)
    pixels = torch.randint(100, 110, (6, 3, 64, 64), generator=generator, dtype=torch.uint8)
    torch.manual_seed(0)
    model = peer.build(settings, backbone, (64, 64))
    peer.fit(model, settings, Images(pixels, backbone, 4))
    pixels[0, :, 20:40, 20:40] = 255
    scores, maps = scores_and_maps(model, Images(pixels, backbone, 4))
    assert maps.shape == (6, 64, 64) and int(scores.argmax()) == 0
    assert maps[0, 20:40, 20:40].mean() > maps[0, 48:, 48:].mean()
