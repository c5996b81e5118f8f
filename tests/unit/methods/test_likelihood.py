import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from sklearn.mixture import GaussianMixture
from torch import Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.common.progress import Progress
from rad_lightning.config import (
    BackboneConfig,
    DataConfig,
    HeadConfig,
    MethodConfig,
    TrainConfig,
    TrainerConfig,
    TrustConfig,
)
from rad_lightning.flows.coupling import nll
from rad_lightning.flows.heads import Head, HeadSpec
from rad_lightning.methods.batches import SampleBatches, Steps, flat_samples
from rad_lightning.methods.exposure import Exposure
from rad_lightning.methods.likelihood import PlainFlow
from rad_lightning.methods.module import schedule
from rad_lightning.methods.registry import Training, build_method
from rad_lightning.training.trainer import build_trainer, fit_flow

SPEC = HeadSpec(
    grid=(4, 5), inputs=2, channels=2, blocks=4, hidden=16, clamp=2.0, position_dims=0,
    top_fraction=0.5, score="nll", seed=1,
)  # fmt: skip


class StoppedError(Exception):
    pass


def mixture(images: int = 20) -> Tensor:
    """Samples ``(N, 1, L, D)`` around two centres: no single Gaussian fits them."""
    generator = torch.Generator().manual_seed(0)
    side = torch.randint(0, 2, (images, 1, 20, 1), generator=generator) * 2 - 1
    spread = 0.2 * torch.randn(images, 1, 20, 2, generator=generator)
    return (side * torch.tensor([1.0, 0.5]) + spread).half()


def config(steps: int, every: int = 1000, precision: str = "32-true", **method: Any) -> TrainConfig:
    return TrainConfig(
        seed=3,
        data=DataConfig(name="synthetic"),
        backbone=BackboneConfig(),
        head=HeadConfig(name="patch"),
        method=MethodConfig(**({"steps": steps, "batch_size": 64, "lr": 1e-2} | method)),
        trainer=TrainerConfig(accelerator="cpu", checkpoint_every=every, precision=precision),
    )


def train(cfg: TrainConfig, run: Path, checkpoint: Path | None = None) -> Head:
    head = Head(SPEC)
    fit_samples(head, mixture(), cfg, run, checkpoint)
    return head


def fit_samples(
    head: Head, samples: Tensor, cfg: TrainConfig, run: Path, checkpoint: Path | None = None
) -> None:
    material = Training(samples, torch.arange(len(samples)))
    built = build_method(cfg.method, head, material, cfg.seed)
    fit_flow(*built, samples[:0], cfg, run, checkpoint, Progress(quiet=True))


def loss(head: Head) -> float:
    flat = mixture().flatten(0, 2).float()
    with torch.no_grad():
        return float(nll(head.flow, dict(head.flow.named_parameters()), flat).mean())


def weights(head: Head) -> Tensor:
    return torch.cat([p.detach().flatten() for p in head.flow.parameters()])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Head, Path]:
    """Twenty uninterrupted steps, and their run directory."""
    run = tmp_path_factory.mktemp("whole")
    return train(config(20), run), run


def test_training_lowers_the_loss_below_that_of_the_best_gaussian(tmp_path: Path) -> None:
    x = mixture().flatten(0, 2).double().numpy()
    gaussian = -GaussianMixture(1, random_state=0).fit(x).score(x) / 2
    truth = -GaussianMixture(2, random_state=0).fit(x).score(x) / 2
    before, after = loss(Head(SPEC)), loss(train(config(150), tmp_path))
    assert truth - 0.1 < after < gaussian < before


def test_a_few_steps_already_lower_the_loss(whole: tuple[Head, Path]) -> None:
    assert loss(whole[0]) < loss(Head(SPEC)) - 0.05


def test_the_training_leaves_its_loss_in_metrics_csv(whole: tuple[Head, Path]) -> None:
    with (whole[1] / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 2 and rows[-1]["step"] == "19"
    assert float(rows[-1]["train/nll"]) < float(rows[0]["train/nll"])


def test_the_checkpoint_loads_without_running_code_and_rebuilds_the_head(
    whole: tuple[Head, Path],
) -> None:
    head, run = whole
    content = torch.load(run / "last.ckpt", map_location="cpu", weights_only=True)
    assert content["global_step"] == 20
    spec = HeadSpec(**content["hyper_parameters"]["head"])
    stored = OmegaConf.create(content["hyper_parameters"]["method"])
    method = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(MethodConfig), stored))
    rebuilt = PlainFlow(Head(spec), method)
    rebuilt.load_state_dict(content["state_dict"])
    samples = mixture().float()
    assert torch.equal(rebuilt.head.position_scores(samples), head.position_scores(samples))


def test_equal_seeds_train_to_equal_weights(whole: tuple[Head, Path], tmp_path: Path) -> None:
    torch.manual_seed(12345)  # whatever the global state is
    assert torch.equal(weights(train(config(20), tmp_path)), weights(whole[0]))


@pytest.mark.parametrize(
    "stop",
    [
        5,
        10,
        15,
    ],
)
def test_an_interrupted_training_resumes_to_the_same_weights(
    whole: tuple[Head, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    step = PlainFlow.training_step

    def dies(self: PlainFlow, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        if self.global_step == stop + 2:
            raise StoppedError
        return step(self, batch, index)

    monkeypatch.setattr(PlainFlow, "training_step", dies)
    with pytest.raises(StoppedError):
        train(config(20, every=5), tmp_path)
    monkeypatch.undo()
    resumed = train(config(20, every=5), tmp_path, tmp_path / "last.ckpt")
    assert torch.equal(weights(resumed), weights(whole[0]))


def test_resuming_a_finished_training_changes_nothing(whole: tuple[Head, Path]) -> None:
    head, run = whole
    checkpoint = (run / "last.ckpt").read_bytes()
    (run / "copy.ckpt").write_bytes(checkpoint)
    again = train(config(20), run.parent / "again", run / "copy.ckpt")
    assert torch.equal(weights(again), weights(head))


def test_padded_positions_are_not_trained_on(tmp_path: Path) -> None:
    samples = mixture()
    samples[:, :, 3:9] = torch.nan
    head = Head(SPEC)
    fit_samples(head, samples, config(3), tmp_path)
    assert weights(head).isfinite().all()


def test_a_head_trained_in_double_precision_scores(tmp_path: Path) -> None:
    head = train(config(2, precision="64-true"), tmp_path)
    assert head.position_scores(mixture().float()).isfinite().all()


@pytest.mark.parametrize(
    ("name", "first_is_largest", "end"),
    [("one_cycle", False, 1e-7), ("cosine", True, 1e-4), ("constant", True, 1e-2)],
)
def test_the_learning_rate_follows_its_schedule(
    name: str, first_is_largest: bool, end: float
) -> None:
    method = MethodConfig(steps=50, lr=1e-2, schedule=name)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=method.lr)
    scheduler = schedule(optimizer, method)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(1e-2, rel=1e-3)
    assert (rates[0] == max(rates)) is first_is_largest
    assert rates[-1] <= end * 1.01 or name == "one_cycle"
    assert rates[-1] <= rates[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"accelerator": "nonsense"},
        {"accelerator": "cpu", "strategy": "nonsense"},
        {"accelerator": "cpu", "devices": 0},
        {"accelerator": "tpu"},
    ],
    ids=["accelerator", "strategy", "devices", "absent"],
)
def test_a_trainer_that_cannot_be_had_is_a_user_error(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match="trainer"):
        build_trainer(TrainerConfig(**settings), MethodConfig(), tmp_path, [])


def exposed_batches() -> SampleBatches:
    """The mixture, and a sixth as many samples between its centres, to be pushed away."""
    values, positions = flat_samples(mixture())
    generator = torch.Generator().manual_seed(7)
    odd = (0.2 * torch.randn(len(values) // 6, 2, generator=generator)).half()
    both = torch.cat([values, odd])
    pushed = torch.arange(len(both)) >= len(values)
    places = torch.cat([positions, positions[: len(odd)]])
    return SampleBatches(both, places, 64, (~pushed).float(), pushed.float(), 0.25)


def train_exposed(run: Path, batches: SampleBatches, steps: int, **trust: Any) -> Head:
    cfg = config(steps, trust=TrustConfig(**trust))
    trust = cfg.method.trust
    exposure = Exposure(trust.weight, trust.margin)
    module = PlainFlow(Head(SPEC), cfg.method, exposure=exposure)
    fit_flow(module, batches, mixture()[:0], cfg, run, None, Progress(quiet=True))
    return module.head


def sample_nlls(head: Head, samples: Tensor) -> Tensor:
    with torch.no_grad():
        return nll(head.flow, dict(head.flow.named_parameters()), samples.float())


def test_the_loss_of_a_batch_with_pushed_samples_follows_its_formula(tmp_path: Path) -> None:
    batches = exposed_batches()
    ((samples, _, pushed),) = Steps(batches, range(1), 1, [3, 0])
    losses = sample_nlls(Head(SPEC), samples)  # the first step sees the untrained flow
    pushing = 0.5 * torch.log1p(torch.exp(4 * (2.0 - losses[pushed]))).mean() / 4
    exposure = Exposure(weight=0.5, margin=2.0)
    normal, push = exposure.split(losses, pushed)
    assert torch.equal(normal, losses[~pushed])
    torch.testing.assert_close(push, pushing)
    normal, push = exposure.split(losses, None)
    assert torch.equal(normal, losses) and push == 0
    train_exposed(tmp_path, batches, 1, weight=0.5, margin=2.0)
    with (tmp_path / "metrics.csv").open() as file:
        row = next(csv.DictReader(file))
    assert float(row["train/nll"]) == pytest.approx(float(losses[~pushed].mean()), rel=1e-5)
    assert float(row["train/exposure"]) == pytest.approx(float(pushing), rel=1e-5)


def test_exposed_samples_become_less_likely_than_without_the_push(tmp_path: Path) -> None:
    batches = exposed_batches()
    assert batches.exposed is not None
    odd = batches.samples[batches.exposed > 0]
    pushed = train_exposed(tmp_path / "pushed", batches, 60, weight=0.3, margin=3.0)
    bare = train_exposed(tmp_path / "bare", replace(batches, exposed=None), 60)
    assert sample_nlls(pushed, odd).median() > sample_nlls(bare, odd).median() + 1
    assert loss(pushed) < loss(bare) + 0.1  # the others fit as well
