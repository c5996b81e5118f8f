"""Bi-level training in two processes (gloo) against the same in one.

Each of the two is ``python test_meta_ddp.py FOLDER`` with its rank in the environment, and does all
trainings in turn: starting processes takes far longer than training.
"""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Generator, Tensor

from rad_lightning.common.progress import Progress
from rad_lightning.common.randomness import stream_seed
from rad_lightning.config import (
    BackboneConfig,
    DataConfig,
    HeadConfig,
    L2Config,
    MetaConfig,
    MethodConfig,
    TrainConfig,
    TrainerConfig,
)
from rad_lightning.flows.heads import Head, HeadSpec
from rad_lightning.meta.tasks import (
    Bank,
    Bootstrap,
    EpisodeBatches,
    Episodes,
    Samples,
    TaskSource,
)
from rad_lightning.methods.batches import Batches, Steps
from rad_lightning.methods.bilevel import RadFlow
from rad_lightning.training.trainer import fit_flow

pytestmark = pytest.mark.slow
STEPS, TASKS, SIZE, SEED = 5, 4, 96, 3
UNCERTAINTIES = ("tail_weight", "generalisation_gap")


def source() -> TaskSource:
    generator = torch.Generator().manual_seed(0)
    side = torch.randint(0, 2, (12, 1, 20, 1), generator=generator) * 2 - 1
    spread = 0.3 * torch.randn(12, 1, 20, 4, generator=generator)
    return Bootstrap(Bank(side + spread, torch.arange(12)), 4)


@dataclass
class Shared:
    """The episodes of one process, of which every rank takes its own part."""

    source: TaskSource
    step: int = field(default=0, init=False)
    stream = "shared"

    def draw(self, _: Generator, world: int) -> Episodes:
        seed = stream_seed(self.stream, self.step)
        self.step += 1
        drawn = EpisodeBatches(self.source, TASKS, SIZE).draw(Generator().manual_seed(seed), 1)
        rank = dist.get_rank() if world > 1 else 0
        own = slice(rank * TASKS // world, (rank + 1) * TASKS // world)
        support, query = (Samples(*(x[own] for x in s)) for s in (drawn.support, drawn.query))
        return Episodes(support, query, drawn.rates[own], drawn.exposed[own])


class Watched(RadFlow):
    """Notes what its ranks saw and the gradients that they step along."""

    folder: Path

    def note(self, what: str, content: Any) -> None:
        torch.save(content, self.folder / f"{what}-{self.global_rank}-{self.global_step}.pt")

    def training_step(self, batch: Episodes, index: int) -> Tensor:  # type: ignore[override]
        self.note("query", batch.query.values)
        return super().training_step(batch, index)

    def on_after_backward(self) -> None:
        self.note("gradient", [p.grad for p in self.parameters()])


def train(folder: Path, kind: str, devices: int, batches: Batches, steps: int = STEPS) -> None:
    folder.mkdir(exist_ok=True)
    spec = HeadSpec((4, 5), 4, 4, 2, 8, 2.0, 4, 0.5, "nll", seed=1)
    l2 = L2Config(form="log_linear", uncertainty=kind, lambda_min=1.0, momentum=0.5)
    meta = MetaConfig(
        source="bootstrap", inner_steps=2, learned_lr="per_parameter", deploy="meta", tasks=TASKS
    )
    cfg = TrainConfig(
        seed=SEED,
        data=DataConfig(name="synthetic"),
        backbone=BackboneConfig(),
        head=HeadConfig(name="patch"),
        method=MethodConfig(steps=steps, batch_size=SIZE, lr=1e-2, l2=l2, meta=meta),
        trainer=TrainerConfig(
            accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto",
            precision="64-true",
        ),
    )  # fmt: skip
    generator = Generator().manual_seed(5)
    unseen = torch.randn(30, 4, generator=generator) + 1, torch.arange(30) % 20
    module = Watched(Head(spec), cfg.method, unseen)
    module.folder = folder
    fit_flow(module, batches, torch.empty(0, 1, 20, 4), cfg, folder, None, Progress(quiet=True))


def main(folder: Path) -> None:
    for kind in UNCERTAINTIES:
        train(folder / f"{kind}-2", kind, 2, Shared(source()))
    train(folder / "own", "tail_weight", 2, EpisodeBatches(source(), TASKS, SIZE), steps=2)


def start(folder: Path, rank: int, port: int) -> subprocess.Popen[str]:
    ranks = {"LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return subprocess.Popen(
        [sys.executable, __file__, folder],
        env={**os.environ, **{k: str(v) for k, v in ranks.items()}},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(folder, rank, port) for rank in (0, 1)]
    try:
        for kind in UNCERTAINTIES:
            train(folder / f"{kind}-1", kind, 1, Shared(source()))
        for process in processes:
            told = process.communicate()[1]
            assert process.returncode == 0, told[-3000:]
    finally:
        for process in processes:
            process.kill()
    return folder


def noted(folder: Path, what: str, rank: int, step: int) -> Any:
    return torch.load(folder / f"{what}-{rank}-{step}.pt")


@pytest.mark.parametrize("kind", UNCERTAINTIES)
def test_two_processes_see_the_tasks_of_one_between_them(trained: Path, kind: str) -> None:
    for step in range(STEPS):
        halves = [noted(trained / f"{kind}-2", "query", rank, step) for rank in (0, 1)]
        assert [len(h) for h in halves] == [TASKS // 2] * 2
        assert torch.equal(torch.cat(halves), noted(trained / f"{kind}-1", "query", 0, step))


@pytest.mark.parametrize("kind", UNCERTAINTIES)
def test_the_averaged_meta_gradient_of_two_processes_is_that_of_one(
    trained: Path, kind: str
) -> None:
    for step in range(STEPS):
        one = noted(trained / f"{kind}-1", "gradient", 0, step)
        for rank in (0, 1):
            found = noted(trained / f"{kind}-2", "gradient", rank, step)
            for a, b in zip(found, one, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
        assert max(float(g.abs().max()) for g in one) > 1e-2


@pytest.mark.parametrize("kind", UNCERTAINTIES)
def test_two_processes_train_to_the_parameters_of_one(trained: Path, kind: str) -> None:
    one, two = (
        torch.load(trained / f"{kind}-{n}" / "last.ckpt", weights_only=True)["state_dict"]
        for n in (1, 2)
    )
    assert one.keys() == two.keys() and any("log_rates" in k for k in one)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", UNCERTAINTIES)
def test_two_processes_share_the_uncertainty_of_one(trained: Path, kind: str) -> None:
    values = []
    for n in (1, 2):
        with (trained / f"{kind}-{n}" / "metrics.csv").open() as file:
            values.append([float(row["train/uncertainty"]) for row in csv.DictReader(file)])
    assert len(values[0]) == STEPS and len(set(values[0])) == STEPS
    assert values[1] == pytest.approx(values[0], abs=1e-9)


def test_the_ranks_of_a_training_draw_their_own_episodes(trained: Path) -> None:
    drawn = [noted(trained / "own", "query", rank, step) for rank in (0, 1) for step in (0, 1)]
    assert all(d.shape == (TASKS // 2, SIZE // (2 * TASKS), 4) for d in drawn)
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    batches = EpisodeBatches(source(), TASKS, SIZE)
    for rank in (0, 1):
        expected = Steps(batches, range(2), 2, [SEED, rank])
        for step, episodes in enumerate(expected):
            torch.testing.assert_close(
                drawn[2 * rank + step], episodes.query.values.double(), rtol=0, atol=0
            )


def test_the_ranks_of_a_training_agree_on_its_gradient(trained: Path) -> None:
    for step in (0, 1):
        pairs = zip(*(noted(trained / "own", "gradient", r, step) for r in (0, 1)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
