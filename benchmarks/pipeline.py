"""How close the pipeline comes to what it cannot beat, measured in one run.

features   cold: images/s from files to the cache, against the bare backbone on ready tensors
           warm: images/s out of the cache, against reading the same bytes from plain files
training   steps/s through Lightning, against a bare loop over the same flow and batches

    python benchmarks/pipeline.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rad_lightning.common.progress import Progress
from rad_lightning.config import HeadConfig, MethodConfig, TrainConfig, TrainerConfig
from rad_lightning.data.splits import file_hashes
from rad_lightning.data.synthetic import generate
from rad_lightning.features.backbone import UNTRAINED, FrozenBackbone
from rad_lightning.features.cache import compute_features
from rad_lightning.features.extract import FeatureSpec
from rad_lightning.flows.coupling import nll
from rad_lightning.methods.registry import Training, build_method
from rad_lightning.training.head import build_head, embed, fit_whitening
from rad_lightning.training.trainer import fit_flow

SIZE, BATCH, STEPS = (256, 256), 16, 100
QUIET = Progress(quiet=True)


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = generate(Path(folder) / "images", "stone", size=256, train=64, test_normal=1)
        paths = sorted((root / "stone" / "train" / "good").iterdir())
        hashes = file_hashes(paths)
        backbone = FrozenBackbone("resnet18", (1, 2, 3), UNTRAINED)
        spec = FeatureSpec("patch", SIZE, "stretch", ("identity",), local_pool=3)

        def features():  # type: ignore[no-untyped-def]
            return compute_features(
                paths,
                hashes,
                backbone,
                spec,
                cache_dir=Path(folder) / "cache",
                batch_size=BATCH,
                device=torch.device("cpu"),
                progress=QUIET,
            )

        ready = torch.rand(BATCH, 3, *SIZE) * 255
        backbone(ready)  # warm-up
        bare = seconds(lambda: [backbone(ready) for _ in range(len(paths) // BATCH)])
        cold = seconds(features)
        stored = features()
        warm = seconds(lambda: [stored.read([i]) for i in range(len(paths))])
        files = [e for e in stored.entries.values() if isinstance(e, Path)]
        raw = seconds(lambda: [f.read_bytes() for f in files])
        row("features, cold", len(paths) / cold, len(paths) / bare, "images/s", "bare backbone")
        row("features, warm", len(paths) / warm, len(paths) / raw, "images/s", "raw file reads")

        cfg = TrainConfig(
            method=MethodConfig(steps=STEPS), trainer=TrainerConfig(accelerator="cpu")
        )
        head = build_head(HeadConfig(name="patch"), stored.shape(), seed=0)
        rows = list(range(len(paths)))
        fit_whitening(head, stored, rows, seed=0)
        samples = embed(head, stored, rows)
        material = Training(samples, torch.arange(len(samples)))
        built = build_method(cfg.method, head, material, seed=0)
        through = seconds(lambda: fit_flow(*built, samples[:0], cfg, Path(folder), None, QUIET))
        loop = seconds(lambda: bare_loop(head, samples.flatten(0, 2), cfg.method))
        row("training", STEPS / through, STEPS / loop, "steps/s", "bare loop")


def bare_loop(head, samples, method) -> None:  # type: ignore[no-untyped-def]
    """The same flow, optimiser and batch size without Lightning."""
    optimizer = torch.optim.AdamW(head.flow.parameters(), lr=method.lr)
    params = dict(head.flow.named_parameters())
    for _ in range(method.steps):
        batch = samples[torch.randint(len(samples), (method.batch_size,))].float()
        optimizer.zero_grad()
        nll(head.flow, params, batch).mean().backward()
        torch.nn.utils.clip_grad_norm_(params.values(), method.grad_clip)
        optimizer.step()


def row(name: str, ours: float, limit: float, unit: str, against: str) -> None:
    share = f"{100 * ours / limit:.0f} % of {against}"
    print(f"{name:16} {ours:9.1f} {unit:9} {limit:9.1f} {against:16} {share}")


if __name__ == "__main__":
    main()
