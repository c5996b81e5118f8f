import csv
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from rad_lightning.common.progress import Progress
from rad_lightning.config import (
    BackboneConfig,
    DataConfig,
    HeadConfig,
    L2Config,
    MethodConfig,
    TrainConfig,
    TrainerConfig,
)
from rad_lightning.config.method import RobustLossConfig
from rad_lightning.flows.coupling import nll
from rad_lightning.flows.heads import Head, HeadSpec
from rad_lightning.meta.tasks import Bank
from rad_lightning.methods.batches import (
    Batches,
    ImageBatch,
    ImageBatches,
    SampleBatches,
    Steps,
    flat_samples,
)
from rad_lightning.methods.likelihood import PlainFlow
from rad_lightning.methods.robust_loss import RobustLossFlow
from rad_lightning.robust.robust_loss import image_losses, image_weights
from rad_lightning.training.trainer import fit_flow

SPEC = HeadSpec(
    grid=(4, 5), inputs=2, channels=2, blocks=4, hidden=16, clamp=2.0, position_dims=4,
    top_fraction=0.5, score="nll", seed=1,
)  # fmt: skip
IMAGES, LENGTH, SEED = 40, 20, 3
OUTLIERS = torch.arange(IMAGES) % 5 == 0  # 20 %


def images(seed: int = 0) -> Tensor:
    """Samples ``(N, 1, L, D)`` around two centres; those of the outliers around a third one."""
    generator = Generator().manual_seed(seed)
    side = torch.randint(0, 2, (IMAGES, 1, LENGTH, 1), generator=generator) * 2 - 1
    centres = side * torch.tensor([1.0, 0.5])
    centres[OUTLIERS] = torch.tensor([-1.0, 2.0])
    return (centres + 0.2 * torch.randn(IMAGES, 1, LENGTH, 2, generator=generator)).half()


def bank(samples: Tensor) -> Bank:
    return Bank(samples, torch.arange(len(samples)))


def method(form: str = "none", steps: int = 3, l2: L2Config | None = None) -> MethodConfig:
    return MethodConfig(
        steps=steps, batch_size=640, lr=1e-2, latent=RobustLossConfig(form=form),
        l2=l2 or L2Config(),
    )  # fmt: skip


def train(module: PlainFlow, batches: Batches, run: Path) -> Head:
    cfg = TrainConfig(
        seed=SEED,
        data=DataConfig(name="synthetic"),
        backbone=BackboneConfig(),
        head=HeadConfig(name="patch"),
        method=module.method,
        trainer=TrainerConfig(accelerator="cpu"),
    )
    fit_flow(module, batches, images()[:0], cfg, run, None, Progress(quiet=True))
    return module.head


def train_latent(run: Path, cfg: MethodConfig, assigned: float = 0.2) -> Head:
    batches = ImageBatches(bank(images()), cfg.batch_size, 20)
    return train(RobustLossFlow(Head(SPEC), cfg, assigned), batches, run)


def image_nlls(head: Head, samples: Tensor) -> Tensor:
    """``(N, 1, L, D) -> (N, L)``."""
    with torch.no_grad():
        condition = head.condition(torch.arange(LENGTH).repeat(len(samples)))
        params = dict(head.flow.named_parameters())
        return nll(head.flow, params, samples.flatten(0, 2).float(), condition).view(-1, LENGTH)


def gap(head: Head) -> float:
    """What outliers cost more than the others: of images like those of the training."""
    losses = image_nlls(head, images(99)).mean(1)
    return float(losses[OUTLIERS].mean() - losses[~OUTLIERS].mean())


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def plain_gap(tmp_path_factory: pytest.TempPathFactory) -> float:
    batches = SampleBatches(*flat_samples(images()), 640)
    module = PlainFlow(Head(SPEC), method(steps=100))
    return gap(train(module, batches, tmp_path_factory.mktemp("plain")))


@pytest.mark.parametrize("form", ["trim", "loe_hard", "loe_soft"])
def test_outliers_stand_out_more_than_after_plain_training(
    form: str, plain_gap: float, tmp_path: Path
) -> None:
    assert gap(train_latent(tmp_path, method(form, 100))) > plain_gap + 0.5


@pytest.mark.parametrize("form", ["trim", "loe_hard", "loe_soft"])
def test_the_log_tells_the_nll_of_the_inliers_and_the_share_of_suspects(
    form: str, tmp_path: Path
) -> None:
    train_latent(tmp_path, method(form))
    batches = ImageBatches(bank(images()), 640, 20)
    (batch,) = Steps(batches, range(1), 1, [SEED, 0])
    head = Head(SPEC)  # the first step sees the untrained flow
    condition = head.condition(batch.positions.flatten())
    params = dict(head.flow.named_parameters())
    losses = nll(head.flow, params, batch.values.flatten(0, 1), condition).view(32, 20).detach()
    normal, _ = image_weights(losses, form, 0.2, 4.0, 0.25)
    first = rows(tmp_path)[0]
    expected = float(image_losses(losses)[normal == 1].mean())
    assert float(first["train/nll"]) == pytest.approx(expected, rel=1e-5)
    assert [float(r["train/suspects"]) for r in rows(tmp_path)] == pytest.approx([6 / 32] * 3)
    assert "train/lambda" not in first


def test_the_weight_penalty_is_that_of_every_method(tmp_path: Path) -> None:
    l2 = L2Config(form="log_linear", uncertainty="tail_weight", momentum=0.5)
    bare = train_latent(tmp_path / "bare", method("loe_hard"))
    head = train_latent(tmp_path / "l2", method("loe_hard", l2=l2))
    found = rows(tmp_path / "l2")
    values = [float(row["train/uncertainty"]) for row in found]
    strengths = [float(row["train/lambda"]) for row in found]
    assert max(values) > 0
    assert strengths == pytest.approx([100 * 100**u for u in [0.0, *values[:-1]]], rel=1e-4)
    assert all(float(row["train/weight_penalty"]) > 0 for row in found)
    losses = [image_nlls(h, images()) for h in (bare, head)]
    assert not torch.allclose(*losses)


def test_a_rate_that_rounds_to_no_image_trains_plainly(tmp_path: Path) -> None:
    one = train_latent(tmp_path / "trim", method("trim"), assigned=0.0)
    other = train_latent(tmp_path / "loe", method("loe_hard"), assigned=0.01)
    assert torch.equal(image_nlls(one, images()), image_nlls(other, images()))


COUNT = 12
IMAGE, POSITION = 0, 1  # channels of ``labelled``


def labelled() -> Tensor:
    """Samples ``(12, 2, 5, 3)`` that tell their image and position; image 4 has one sample."""
    image = torch.arange(COUNT).view(COUNT, 1, 1).expand(COUNT, 2, 5)
    position = torch.arange(5).expand(COUNT, 2, 5)
    samples = torch.stack([image, position, image], -1).half()
    samples[1, :, 3:] = torch.nan
    samples[4, 1], samples[4, 0, 1:] = torch.nan, torch.nan
    return samples


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def drawn(batch: ImageBatch) -> list[int]:
    """The images of a batch; each gave all of its row."""
    of = batch.values[..., IMAGE].long()
    assert (of == of[:, :1]).all()
    assert len(of[:, 0].unique()) == len(of)
    return of[:, 0].tolist()


@pytest.mark.parametrize(
    ("size", "per_image", "world", "count", "each"),
    [
        (40, 8, 1, 5, 8),
        (47, 8, 1, 5, 8),
        (40, 8, 2, 2, 8),
        (40, 8, 9, 1, 8),
        (3, 8, 1, 1, 8),
        (999, 8, 1, 12, 8),
        (40, 32, 1, 4, 10),
    ],
)
def test_a_batch_holds_different_images_and_as_many_samples_of_each(
    size: int, per_image: int, world: int, count: int, each: int
) -> None:
    batches = ImageBatches(bank(labelled()), size, per_image)
    for seed in range(10):
        batch = batches.draw(seeded(seed), world)
        assert batch.values.shape == (count, each, 3) and batch.values.dtype == torch.float32
        assert batch.positions.shape == (count, each) and len(drawn(batch)) == count
        assert torch.equal(batch.values[..., POSITION].long(), batch.positions)
        assert not batch.values.isnan().any()


def test_batches_are_what_their_generator_makes_them() -> None:
    batches = ImageBatches(bank(labelled()), 40, 8)
    one, again, other = (batches.draw(seeded(s), 1) for s in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one.values, other.values)


def test_every_image_is_drawn_sooner_or_later() -> None:
    batches = ImageBatches(bank(labelled()), 24, 8)
    assert (
        len({image for seed in range(50) for image in drawn(batches.draw(seeded(seed), 1))}) == 12
    )
