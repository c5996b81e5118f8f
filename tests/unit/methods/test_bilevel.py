import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from omegaconf import OmegaConf
from torch import Generator, Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.common.progress import Progress
from rad_lightning.config import (
    BackboneConfig,
    DataConfig,
    HeadConfig,
    L2Config,
    MetaConfig,
    MethodConfig,
    TrainConfig,
    TrainerConfig,
    TrustConfig,
)
from rad_lightning.flows.coupling import nll
from rad_lightning.flows.heads import Head, HeadSpec
from rad_lightning.meta.inner import adapt
from rad_lightning.meta.tasks import EpisodeBatches, Samples
from rad_lightning.methods.bilevel import RadFlow
from rad_lightning.methods.likelihood import PlainFlow
from rad_lightning.methods.penalty import Penalty
from rad_lightning.methods.registry import Training, build_method
from rad_lightning.methods.selection import Trust
from rad_lightning.robust.contamination import Contamination
from rad_lightning.robust.regularizer import weight_penalty
from rad_lightning.training.trainer import fit_flow

PATCH = HeadSpec(
    grid=(4, 5), inputs=2, channels=2, blocks=3, hidden=8, clamp=2.0, position_dims=4,
    top_fraction=0.5, score="nll", seed=1,
)  # fmt: skip
POOLED = replace(PATCH, grid=(1, 1), position_dims=0)
IMAGES = 12


class StoppedError(Exception):
    pass


def material(spec: HeadSpec = PATCH, others: int = 0) -> Training:
    """Samples around two centres; one view of each position, of a pooled head two per image."""
    generator = torch.Generator().manual_seed(others)
    views, length = (2, 1) if spec is POOLED else (1, 20)
    side = torch.randint(0, 2, (IMAGES, views, length, 1), generator=generator) * 2 - 1
    spread = 0.2 * torch.randn(IMAGES, views, length, 2, generator=generator)
    samples = (side * torch.tensor([1.0, 0.5]) + spread).half()
    samples[1, :, 3:9] = torch.nan
    groups = torch.arange(IMAGES) // 2
    return Training(samples, groups)


def config(
    steps: int = 3,
    meta: dict[str, Any] | None = None,
    l2: dict[str, Any] | None = None,
    every: int = 1000,
    precision: str = "32-true",
    **method: Any,
) -> TrainConfig:
    of: dict[str, Any] = {"steps": steps, "batch_size": 64, "lr": 1e-2, **method}
    return TrainConfig(
        seed=3,
        data=DataConfig(name="synthetic"),
        backbone=BackboneConfig(),
        head=HeadConfig(name="patch"),
        method=MethodConfig(
            meta=MetaConfig(**{"source": "bootstrap", "images": 4, **(meta or {})}),
            l2=L2Config(**(l2 or {})),
            **of,
        ),
        trainer=TrainerConfig(accelerator="cpu", checkpoint_every=every, precision=precision),
    )


class Trained(NamedTuple):
    module: RadFlow
    run: Path
    held_out_nll: float | None


def train(
    cfg: TrainConfig,
    run: Path,
    spec: HeadSpec = PATCH,
    checkpoint: Path | None = None,
    held_out: int = 0,
) -> Trained:
    head = Head(spec)
    given = replace(material(spec), held_out=material(spec, 9).samples)
    if cfg.method.meta.source == "cross_category":
        others = tuple((m.samples, m.groups) for m in (material(spec, 1), material(spec, 2)))
        given = replace(given, others=others)
    module, batches = build_method(cfg.method, head, given, cfg.seed)
    assert isinstance(module, RadFlow)
    unseen = material(spec, 9).samples[:held_out]
    fitted = fit_flow(module, batches, unseen, cfg, run, checkpoint, Progress(quiet=True))
    return Trained(module, run, fitted.held_out_nll)


def weights(module: PlainFlow) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.head.flow.parameters()])


def rates(module: RadFlow) -> Tensor:
    return torch.cat([r.detach().flatten() for r in module.rates()])


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def stored(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "last.ckpt", map_location="cpu", weights_only=True)
    return content


UNCERTAINTIES = [
    "generalisation_gap",
    "view_variance",
    "ensemble_variance",
    "tail_weight",
    "loss_covariance",
]


@pytest.mark.parametrize(
    "meta",
    [
        {"order": 1, "inner_steps": 1},
        {"order": 1, "inner_steps": 3},
        {"order": 2, "inner_steps": 3},
        {"learned_lr": "per_step", "inner_steps": 3},
        {"learned_lr": "per_parameter"},
        {"learned_lr": "per_parameter", "inner_steps": 3, "order": 1},
        {"adapted_blocks": 1},
        {"adapted_blocks": 1, "learned_lr": "per_parameter", "vectorised": False},
        {"adapted_blocks": 3},
        {"deploy": "meta"},
        {"deploy": "adapted", "deploy_support": "trusted", "deploy_samples": 30},
        {"source": "pseudo_noise", "pseudo": "latent"},
        {"source": "pseudo_noise", "pseudo": "latent", "vectorised": False, "max_rate": 1.0},
        {"source": "cross_category", "categories": ["wood", "stone"]},
        {"tasks": 1},
        {"vectorised": False},
    ],
    ids=lambda meta: ",".join(f"{k}={v}" for k, v in meta.items()),
)
@pytest.mark.parametrize("l2", ["none", "log_linear"])
def test_every_setting_of_the_tasks_trains(tmp_path: Path, meta: dict[str, Any], l2: str) -> None:
    start = weights(PlainFlow(Head(PATCH), MethodConfig()))
    module, run, _ = train(config(meta=meta, l2={"form": l2}), tmp_path)
    end = weights(module)
    assert end.isfinite().all()
    pairs = zip(Head(PATCH).flow.parameters(), module.head.flow.parameters(), strict=True)
    moved = [not torch.equal(a, b) for a, b in pairs]
    assert all(moved) and (end - start).abs().max() > 1e-3
    assert all(math.isfinite(float(row["train/nll"])) for row in rows(run))


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize(
    ("head", "kind"),
    [*(("pooled", kind) for kind in UNCERTAINTIES), ("patch", "tail_weight")],
)
def test_every_uncertainty_is_measured_and_steers_the_penalty(
    tmp_path: Path, head: str, kind: str, vectorised: bool
) -> None:
    l2 = {"form": "log_linear", "uncertainty": kind}
    spec = POOLED if head == "pooled" else PATCH
    module, run, _ = train(config(meta={"vectorised": vectorised}, l2=l2), tmp_path, spec)
    assert weights(module).isfinite().all()
    values = [float(row["train/uncertainty"]) for row in rows(run)]
    strengths = [float(row["train/lambda"]) for row in rows(run)]
    assert len(values) == 3 and all(0 <= u <= 1 for u in values) and max(values) > 0
    assert strengths == pytest.approx([100 * 100**u for u in [0.0, *values[:-1]]], rel=1e-4)


def test_every_uncertainty_is_another_one(tmp_path: Path) -> None:
    first = []
    for kind in UNCERTAINTIES:
        train(config(1, l2={"form": "affine", "uncertainty": kind}), tmp_path / kind, POOLED)
        first.append(rows(tmp_path / kind)[0]["train/uncertainty"])
    assert len(set(first)) == 5


@pytest.mark.parametrize("form", ["constant", "affine", "log_linear"])
def test_every_form_and_place_of_the_penalty_changes_what_is_learnt(
    tmp_path: Path, form: str
) -> None:
    more = {"deploy": "meta"}
    learnt = [weights(train(config(meta=more), tmp_path / "bare").module)]
    l2 = {"form": form, "lambda_0": 30.0, "lambda_max": 100.0, "lambda_min": 30.0}
    for where in ("inner", "outer", "both"):
        module, run, _ = train(config(meta=more, l2={**l2, "where": where}), tmp_path / where)
        learnt.append(weights(module))
        strengths = [float(row["train/lambda"]) for row in rows(run)]
        assert strengths[0] == pytest.approx(30)
        assert (strengths[-1] > 30.5) is (form != "constant")
    assert all(w.isfinite().all() for w in learnt)
    pairs = [(a, b) for i, a in enumerate(learnt) for b in learnt[:i]]
    assert all((a - b).abs().max() > 1e-5 for a, b in pairs)


def test_the_same_is_learnt_from_mapped_tasks_as_from_one_after_the_other(tmp_path: Path) -> None:
    l2 = {"form": "log_linear", "uncertainty": "generalisation_gap"}
    found = [
        weights(
            train(
                config(4, {"inner_steps": 2, "vectorised": v}, l2, precision="64-true"),
                tmp_path / str(v),
            ).module
        )
        for v in (True, False)
    ]
    torch.testing.assert_close(*found, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", ["per_step", "per_parameter"])
@pytest.mark.parametrize("order", [1, 2])
def test_learned_rates_move_and_stay_positive(tmp_path: Path, kind: str, order: int) -> None:
    meta = {"learned_lr": kind, "inner_steps": 2, "inner_lr": 0.05, "order": order}
    module, run, _ = train(config(4, meta), tmp_path)
    found = rates(module)
    assert found.isfinite().all() and ((found - math.log(0.05)).abs() > 1e-4).float().mean() > 0.9
    kept = stored(run)["state_dict"]
    names = [k for k in kept if k.startswith("log_rates")]
    assert torch.equal(torch.cat([kept[k].flatten() for k in names]), found)


def test_only_the_last_blocks_have_learned_rates_where_only_they_adapt() -> None:
    cfg = config(meta={"learned_lr": "per_parameter", "adapted_blocks": 1})
    module, _ = build_method(cfg.method, Head(PATCH), material(), 3)
    assert isinstance(module, RadFlow)
    assert {n.split(".")[1] for n in module.names} == {"2"}
    assert [r.shape for r in module.rates()] == [module.params[n].shape for n in module.names]


FULL = {"inner_steps": 2, "learned_lr": "per_parameter", "source": "pseudo_noise",
        "pseudo": "latent"}  # fmt: skip
L2 = {"form": "log_linear", "uncertainty": "generalisation_gap"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Twelve uninterrupted steps with everything on."""
    return train(config(12, FULL, L2), tmp_path_factory.mktemp("whole"))


def test_training_lowers_the_loss(whole: Trained) -> None:
    losses = [float(row["train/nll"]) for row in rows(whole.run)]
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.1


@pytest.mark.parametrize("stop", [2, 4, 8])
def test_an_interrupted_training_resumes_to_the_same_weights_rates_and_uncertainty(
    whole: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    step = RadFlow.training_step

    def dies(self: RadFlow, batch: Any, index: int) -> Tensor:
        if self.global_step == stop + 1:
            raise StoppedError
        return step(self, batch, index)

    monkeypatch.setattr(RadFlow, "training_step", dies)
    with pytest.raises(StoppedError):
        train(config(12, FULL, L2, every=2), tmp_path)
    monkeypatch.undo()
    resumed, run, _ = train(config(12, FULL, L2, every=2), tmp_path, PATCH, tmp_path / "last.ckpt")
    assert resumed.penalty is not None and whole.module.penalty is not None
    assert torch.equal(weights(resumed), weights(whole.module))
    assert torch.equal(rates(resumed), rates(whole.module))
    assert torch.equal(resumed.penalty.uncertainty, whole.module.penalty.uncertainty)
    for column in ("train/uncertainty", "train/lambda", "train/nll"):
        assert [r[column] for r in rows(run)] == [r[column] for r in rows(whole.run)]


@pytest.mark.parametrize("held_out", [0, 4])
def test_resuming_a_finished_training_does_not_adapt_twice(tmp_path: Path, held_out: int) -> None:
    cfg = config(4, FULL, L2)
    done = train(cfg, tmp_path / "one", held_out=held_out)
    assert done.module.adapted
    again = train(cfg, tmp_path / "two", PATCH, done.run / "last.ckpt", held_out)
    assert again.module.adapted
    assert torch.equal(weights(again.module), weights(done.module))
    assert again.held_out_nll == done.held_out_nll
    assert (done.held_out_nll is None) is (held_out == 0)


def test_the_checkpoint_loads_without_running_code_and_holds_the_deployed_detector(
    whole: Trained,
) -> None:
    content = stored(whole.run)
    assert content["global_step"] == 12
    assert content["state_dict"]["adapted"]
    spec = HeadSpec(**content["hyper_parameters"]["head"])
    merged = OmegaConf.merge(
        OmegaConf.structured(MethodConfig),
        OmegaConf.create(content["hyper_parameters"]["method"]),
    )
    method = OmegaConf.to_object(merged)
    assert method == whole.module.method
    rebuilt = RadFlow(Head(spec), method)
    rebuilt.load_state_dict(content["state_dict"])
    assert torch.equal(weights(rebuilt), weights(whole.module))
    samples = material().samples.float()
    found = rebuilt.head.position_scores(samples)
    assert torch.equal(found.nan_to_num(), whole.module.head.position_scores(samples).nan_to_num())


class Deployment(NamedTuple):
    before: dict[str, Tensor]
    module: RadFlow
    run: Path

    def changed(self) -> set[str]:
        after = self.module.params
        return {n for n, p in self.before.items() if not torch.equal(p, after[n])}


def deployment(run: Path, monkeypatch: pytest.MonkeyPatch, cfg: TrainConfig) -> Deployment:
    """A training, and θ as it was when it came to deploying."""
    seen: list[dict[str, Tensor]] = []
    deploy = RadFlow.deploy

    def watched(self: RadFlow) -> None:
        seen.append({n: p.detach().clone() for n, p in self.params.items()})
        deploy(self)

    monkeypatch.setattr(RadFlow, "deploy", watched)
    module = train(cfg, run).module
    monkeypatch.undo()
    (before,) = seen
    return Deployment(before, module, run)


def test_the_meta_parameters_are_deployed_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = deployment(tmp_path, monkeypatch, config(3, {"deploy": "meta"}))
    assert done.module.support is None and not done.changed()
    kept = stored(tmp_path)["state_dict"]
    assert all(torch.equal(kept[f"head.flow.{n}"], p) for n, p in done.before.items())


@pytest.mark.parametrize("support", ["noisy", "trusted"])
@pytest.mark.parametrize("learned", ["none", "per_step", "per_parameter"])
@pytest.mark.parametrize(("where", "clip"), [("outer", 0.0), ("both", 0.0), ("both", 0.01)])
def test_the_adapted_parameters_are_deployed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    clip: float,
    learned: str,
    support: str,
) -> None:
    meta = {
        "inner_steps": 2, "learned_lr": learned, "deploy_support": support, "deploy_samples": 50,
        "inner_clip": clip,
    }  # fmt: skip
    cfg = config(3, meta, {"form": "constant", "lambda_0": 3.0, "where": where})
    done = deployment(tmp_path, monkeypatch, cfg)
    module = done.module
    assert module.support is not None and len(module.support.values) == 50
    condition = module.head.condition(module.support.positions)

    def loss(params: Any, batch: Any) -> Tensor:
        fit = nll(module.head.flow, params, batch, condition).mean()
        return fit + 3.0 * weight_penalty(params) if where == "both" else fit

    of = [r.detach().exp() for r in module.rates()]
    lr: Any = {
        "none": 0.1, "per_step": of[0] if of else None,
        "per_parameter": dict(zip(module.names, of, strict=False)),
    }[learned]  # fmt: skip
    expected = adapt(loss, done.before, module.support.values, steps=2, lr=lr, clip=clip or None)
    for name, value in module.params.items():
        torch.testing.assert_close(value.detach(), expected[name])
    assert done.changed() == set(module.params)
    kept = stored(tmp_path)["state_dict"]
    assert all(torch.equal(kept[f"head.flow.{n}"], p) for n, p in module.params.items())


def test_only_the_adapted_blocks_differ_from_the_meta_parameters_when_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = deployment(tmp_path, monkeypatch, config(3, {"adapted_blocks": 1}))
    assert done.changed() == set(done.module.names) < set(done.before)


def test_how_a_detector_is_deployed_does_not_disturb_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        deployment(tmp_path / d, monkeypatch, config(3, {"deploy": d}, L2)).before
        for d in ("meta", "adapted")
    ]
    assert all(torch.equal(p, found[1][n]) for n, p in found[0].items())


def test_held_out_images_judge_the_parameters_that_would_be_deployed(tmp_path: Path) -> None:
    done = train(config(4, {"inner_lr": 0.3}), tmp_path, held_out=4)
    judged = [float(r["holdout/nll"]) for r in rows(tmp_path)]
    assert len(judged) == 4 and done.held_out_nll == pytest.approx(min(judged), rel=1e-6)


@pytest.mark.parametrize("support", ["noisy", "trusted"])
def test_the_deployed_flow_adapts_on_the_images_it_is_told_to(support: str) -> None:
    given = material()
    given.samples[: IMAGES // 2] *= 3  # far from the centre
    cfg = config(meta={"deploy_support": support, "deploy_samples": 400})
    module, _ = build_method(cfg.method, Head(PATCH), given, 3)
    assert isinstance(module, RadFlow) and module.support is not None
    far = module.support.values.norm(dim=1) > 1.9
    assert far.any().item() is (support == "noisy")
    holes = int(given.samples[..., 0].isnan().sum())
    images = IMAGES if support == "noisy" else IMAGES // 2
    missing = holes if support == "noisy" else 0
    assert len(module.support.values) == 20 * images - missing


def test_uncertainty_strength_and_penalty_are_logged_at_every_step(whole: Trained) -> None:
    found = rows(whole.run)
    assert [row["step"] for row in found] == [str(i) for i in range(12)]
    columns = ("train/nll", "train/uncertainty", "train/lambda", "train/weight_penalty")
    values = {c: [float(row[c]) for row in found] for c in columns}
    assert all(math.isfinite(v) for column in values.values() for v in column)
    assert len(set(values["train/weight_penalty"])) == 12
    assert values["train/lambda"] == pytest.approx(
        [100 * 100**u for u in [0.0, *values["train/uncertainty"][:-1]]], rel=1e-4
    )
    assert whole.module.penalty is not None
    assert values["train/uncertainty"][-1] == pytest.approx(float(whole.module.penalty.uncertainty))


def test_nothing_of_a_penalty_is_logged_without_one(tmp_path: Path) -> None:
    train(config(), tmp_path)
    assert (
        not {"train/uncertainty", "train/lambda", "train/weight_penalty"} & rows(tmp_path)[0].keys()
    )


def test_double_precision_trains_and_deploys(tmp_path: Path) -> None:
    module, _, _ = train(config(2, FULL, L2, precision="64-true"), tmp_path, held_out=3)
    assert weights(module).dtype == torch.float64 and weights(module).isfinite().all()


def test_a_single_training_image_is_a_user_error() -> None:
    given = material()
    with pytest.raises(UserError, match="two training images"):
        build_method(config().method, Head(PATCH), Training(given.samples[:1], given.groups[:1]), 3)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_uncertainty_is_the_running_mean_of_what_was_told(momentum: float) -> None:
    penalty = Penalty(L2Config(form="affine", momentum=momentum))
    assert penalty.uncertainty == 0
    told = [0.2, 0.9, 0.4, 0.4, 1.0]
    for count in range(1, len(told) + 1):
        penalty.update(torch.tensor(told[count - 1]))
        shares = [momentum**i for i in range(count)]
        pairs = zip(shares, reversed(told[:count]), strict=True)
        expected = sum(s * u for s, u in pairs) / sum(shares)
        assert penalty.uncertainty.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("constant", [0.5, 0.5, 0.5]),
        ("affine", [0.5, 1.25, 2.0]),
        ("log_linear", [0.01, 0.2, 4.0]),
    ],
)
def test_the_strength_follows_its_form(form: str, expected: list[float]) -> None:
    cfg = L2Config(form=form, lambda_0=0.5, gamma=3.0, lambda_min=0.01, lambda_max=4.0)
    params = {"a.weight": torch.tensor([3.0, 4.0]), "a.bias": torch.tensor([7.0])}
    for told, strength in zip((0.0, 0.5, 1.0), expected, strict=True):
        penalty = Penalty(cfg)
        penalty.update(torch.tensor(told))
        assert penalty.strength.item() == pytest.approx(strength)
        assert penalty(params).item() == pytest.approx(strength * 12.5)


def test_the_penalty_belongs_to_the_state_of_a_training() -> None:
    one, other = (Penalty(L2Config(form="affine")) for _ in range(2))
    one.update(torch.tensor(0.7))
    other.load_state_dict(one.state_dict())
    for penalty in (one, other):
        penalty.update(torch.tensor(0.1))
    assert torch.equal(one.uncertainty, other.uncertainty) and one.uncertainty > 0.3


# Queries that end with samples to push away

TRUSTED = {"source": "trusted", "images": 4, "tasks": 3}
SUSPECTS = torch.arange(IMAGES) >= IMAGES - 4


def exposing(strength: float = 0.5) -> Training:
    """The two centres, and between them the odd samples of the last four images."""
    given = material()
    exposed = torch.zeros(given.samples.shape[:3])
    exposed[-4:, :, 2:5] = 1
    given.samples[-4:, :, 2:5] *= 0.1
    trust = Trust(
        0.9 * SUSPECTS, SUSPECTS, torch.ones_like(exposed), exposed,
        Contamination(0.3, 0.2, 0.4), 0.3, strength,
    )  # fmt: skip
    return replace(given, trust=trust)


def exposed_module(
    monkeypatch: pytest.MonkeyPatch, spec: HeadSpec = PATCH, **more: Any
) -> tuple[RadFlow, EpisodeBatches, dict[str, float]]:
    """The module, its batches, and what it logs."""
    cfg = config(meta=TRUSTED, trust=TrustConfig(weight=0.5, margin=2.0, share=0.25), **more)
    module, batches = build_method(cfg.method, Head(spec), exposing(), 3)
    assert isinstance(module, RadFlow) and isinstance(batches, EpisodeBatches)
    logged: dict[str, float] = {}

    def log(name: str, value: Tensor, **_: object) -> None:
        logged[name] = float(value.detach())

    monkeypatch.setattr(module, "log", log)
    return module, batches, logged


def test_pushed_samples_are_the_odd_ones_of_suspects() -> None:
    given = exposing()
    _, batches = build_method(config(meta=TRUSTED).method, Head(PATCH), given, 3)
    odd = given.samples[-4:, :, 2:5].flatten(0, 2).float()
    for seed in range(5):
        drawn = batches.draw(Generator().manual_seed(seed), 1)
        assert drawn.exposed.sum(1).tolist() == [2, 2, 2]  # a fifth of 10
        pushed = drawn.query.values[drawn.exposed]
        assert (pushed[:, None] == odd).all(2).any(1).all()
        assert ((drawn.query.positions[drawn.exposed] - 3).abs() <= 1).all()


def test_without_exposure_queries_are_of_believed_images_alone() -> None:
    given = exposing()
    assert given.trust is not None
    given = replace(given, trust=replace(given.trust, exposed=None, suspicion=1.0 * SUSPECTS))
    _, batches = build_method(config(meta=TRUSTED).method, Head(PATCH), given, 3)
    believed = given.samples[~SUSPECTS].flatten(0, 2).float()
    for seed in range(5):
        drawn = batches.draw(Generator().manual_seed(seed), 1)
        assert not drawn.exposed.any()
        assert (drawn.query.values.flatten(0, 1)[:, None] == believed).all(2).any(1).all()


def test_the_loss_of_a_task_with_pushed_samples_follows_its_formula(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, batches, logged = exposed_module(monkeypatch)
    episodes = batches.draw(Generator().manual_seed(0), 1)
    assert (
        episodes.exposed.sum() == 6 and module.exposure.weight == 0.5 * module.method.trust.weight
    )

    def losses(at: Any, samples: Samples, task: int) -> Tensor:
        condition = module.head.condition(samples.positions[task])
        return nll(module.head.flow, at, samples.values[task], condition)

    normal, pushing = [], []
    for task in range(3):

        def loss(at: Any, task: int) -> Tensor:
            return losses(at, episodes.support, task).mean()

        after = adapt(loss, module.params, task, steps=1, lr=0.1, clip=1.0)
        found = losses(after, episodes.query, task)
        pushed = episodes.exposed[task]
        normal.append(found[~pushed])
        pushing.append(torch.log1p(torch.exp(4 * (2.0 - found[pushed]))) / 4)
    fit, push = torch.cat(normal).mean(), 0.5 * 0.5 * torch.cat(pushing).mean()
    found = module.training_step(episodes, 0)
    torch.testing.assert_close(found, fit + push)
    assert logged["train/nll"] == pytest.approx(fit.item())
    assert logged["train/exposure"] == pytest.approx(push.item())
    found.backward()
    of_formula = torch.autograd.grad(fit + push, list(module.params.values()))
    for p, expected in zip(module.params.values(), of_formula, strict=True):
        torch.testing.assert_close(p.grad, expected)
    bare = episodes._replace(exposed=torch.zeros_like(episodes.exposed))
    logged.clear()
    module.training_step(bare, 0)
    assert "train/exposure" not in logged


@pytest.mark.parametrize(
    "kind", ["tail_weight", "ensemble_variance", "loss_covariance", "view_variance"]
)
def test_the_uncertainty_is_that_of_the_samples_that_are_learned(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    values = []
    for scale in (1.0, 3.0):
        l2 = {"form": "affine", "uncertainty": kind}
        module, batches, logged = exposed_module(monkeypatch, l2=l2)
        episodes = batches.draw(Generator().manual_seed(0), 1)
        if kind == "view_variance":  # every image has two views
            episodes.query.views.copy_(torch.arange(10).expand(3, 10) // 4 % 2)
        episodes.query.values[0, :2] *= 4  # a tail
        episodes.query.values[episodes.exposed] *= scale
        module.training_step(episodes, 0)
        values.append(logged["train/uncertainty"])
    assert values[0] > 0
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_the_adapted_flow_pushes_odd_samples_away(tmp_path: Path) -> None:
    odd = exposing().samples[-4:, :, 2:5].flatten(0, 2).float()
    found = []
    for strength in (0.0, 1.0):
        cfg = config(
            80, {**TRUSTED, "deploy": "meta"}, batch_size=300, trust=TrustConfig(weight=1.0)
        )
        head = Head(replace(PATCH, position_dims=0))
        module, batches = build_method(cfg.method, head, exposing(strength), 3)
        run = tmp_path / str(strength)
        fit_flow(module, batches, odd[:0].view(0, 1, 20, 2), cfg, run, None, Progress(quiet=True))
        with torch.no_grad():
            found.append(nll(module.head.flow, module.params, odd).median())
    assert found[1] > found[0] + 0.5
