"""PatchCore, PaDiM, FastFlow and CFLOW: the torch models of anomalib, with our backbone in them.

Each is trained as anomalib's Lightning model of the same name trains it (optimiser, rate, loss,
batches of 32), without its engine: that one would read images, choose an epoch by test labels and
measure by itself. What differs from anomalib, and why:

* the backbone is that of ``backbone.name`` and ``backbone.weights``, where anomalib takes what it
  downloads, a wide ResNet-50 for PatchCore and CFLOW;
* CFLOW reads layers 2 and 3, where anomalib has 2 to 4: a weights file may end with layer 3.
  ``cflow.layers=[2,3,4]`` where it does not;
* CFLOW's maps are scaled by the largest likelihood of the training images. anomalib takes the
  largest of each test batch, so that an image's score depends on which images stand beside it;
* with ``data.fit=pad``, the mirrored border counts in the score of an image, as in anomalib, where
  our methods leave it out;
* the epochs of FastFlow and CFLOW are fixed and the last one counts; they are few, for CPUs.
  FastFlow takes one step for each 32 images: on few images 15 epochs leave it untrained; take more
  (``fastflow.epochs``) or smaller batches (``fastflow.batch_size``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rad_lightning.common.errors import UserError
from rad_lightning.config.fields import setting
from rad_lightning.features.backbone import FrozenBackbone

INSTALL = "the peers are those of anomalib: pip install 'rad-lightning[bench]'"
FIBERS_AT_ONCE = 4096  # that CFLOW scores; how many changes nothing but the time


@dataclass
class PatchCore:
    layers: list[int] = setting([2, 3], low=1)
    coreset_sampling_ratio: float = setting(0.1, above=0.0, high=1.0)
    num_neighbors: int = setting(9, low=1)
    batch_size: int = setting(32, low=1, numbers=False)


@dataclass
class PaDiM:
    layers: list[int] = setting([1, 2, 3], low=1)
    n_features: int = setting(100, low=1)
    batch_size: int = setting(32, low=1, numbers=False)


@dataclass
class FastFlow:
    layers: list[int] = setting([1, 2, 3], choices=(1, 2, 3))  # anomalib knows no others
    epochs: int = setting(15, low=1)
    flow_steps: int = setting(8, low=1)
    hidden_ratio: float = setting(1.0, above=0.0)
    lr: float = setting(1e-3, above=0.0)
    weight_decay: float = setting(1e-5, low=0.0)
    batch_size: int = setting(32, low=1)


@dataclass
class CFlow:
    layers: list[int] = setting([2, 3], low=1)
    epochs: int = setting(5, low=1)
    fiber_batch_size: int = setting(64, low=1)
    coupling_blocks: int = setting(8, low=1)
    lr: float = setting(1e-4, above=0.0)
    batch_size: int = setting(32, low=1)


class Images:
    """Normalised batches of ``(N, 3, H, W)`` uint8 images."""

    def __init__(self, pixels: Tensor, backbone: FrozenBackbone, batch_size: int) -> None:
        self.pixels, self.backbone, self.batch_size = pixels, backbone, batch_size

    def batches(self, shuffle: bool = False) -> Iterator[Tensor]:
        """``(B, 3, H, W)`` each, the last one with what is left; in random order where asked."""
        count = len(self.pixels)
        order = torch.randperm(count) if shuffle else torch.arange(count)
        for part in order.split(self.batch_size):
            yield (self.pixels[part].float() / 255 - self.backbone.mean) / self.backbone.std


Build = Callable[[Any, FrozenBackbone, tuple[int, int]], nn.Module]
Fit = Callable[[nn.Module, Any, Images], None]


@dataclass(frozen=True)
class Peer:
    """``build``: ``(settings, backbone, (height, width)) -> model``, whose output in evaluation
    has ``pred_score`` and ``anomaly_map``; ``fit``: ``(model, settings, training images)``."""

    label: str  # the method's name in tables
    settings: type
    build: Build
    fit: Fit


def names(layers: list[int]) -> list[str]:
    return [f"layer{index}" for index in layers]


def build_patchcore(cfg: PatchCore, backbone: FrozenBackbone, size: tuple[int, int]) -> nn.Module:
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    model = PatchcoreModel(names(cfg.layers), backbone.name, False, cfg.num_neighbors)
    model.feature_extractor.feature_extractor = backbone.model
    return model


def build_padim(cfg: PaDiM, backbone: FrozenBackbone, size: tuple[int, int]) -> nn.Module:
    from anomalib.models.image.padim.torch_model import PadimModel

    model = PadimModel(backbone.name, names(cfg.layers), False, cfg.n_features)
    model.feature_extractor.feature_extractor = backbone.model
    return model


def build_fastflow(cfg: FastFlow, backbone: FrozenBackbone, size: tuple[int, int]) -> nn.Module:
    from anomalib.models.image.fastflow.torch_model import FastflowModel

    model = FastflowModel(
        size, backbone.name, False, flow_steps=cfg.flow_steps, hidden_ratio=cfg.hidden_ratio
    )
    model.feature_extractor = backbone.model
    return model


def build_cflow(cfg: CFlow, backbone: FrozenBackbone, size: tuple[int, int]) -> nn.Module:
    from anomalib.models.image.cflow.torch_model import CflowModel

    model = CflowModel(
        backbone.name,
        names(cfg.layers),
        pre_trained=False,
        fiber_batch_size=cfg.fiber_batch_size,
        coupling_blocks=cfg.coupling_blocks,
    )
    model.encoder.feature_extractor = backbone.model
    return model


def fit_patchcore(model: Any, cfg: PatchCore, images: Images) -> None:
    """All patches, thinned by greedy k-centre selection."""
    collect(model, images)
    with redirect_stderr(StringIO()):  # a bar of hundreds of lines where there is no terminal
        model.subsample_embedding(cfg.coreset_sampling_ratio)


def fit_padim(model: Any, cfg: PaDiM, images: Images) -> None:
    """A Gaussian at each position."""
    collect(model, images)
    model.fit()


def collect(model: nn.Module, images: Images) -> None:
    """In training mode these models keep the features of what they are given."""
    model.train()
    with torch.no_grad():
        for batch in images.batches():
            model(batch)


def fit_fastflow(model: nn.Module, cfg: FastFlow, images: Images) -> None:
    from anomalib.models.image.fastflow.loss import FastflowLoss

    optimizer = torch.optim.Adam(model.parameters(), cfg.lr, weight_decay=cfg.weight_decay)
    loss_of = FastflowLoss()
    model.train()
    for _ in range(cfg.epochs):
        for batch in images.batches(shuffle=True):
            optimizer.zero_grad()
            loss_of(*model(batch)).backward()
            optimizer.step()


def fit_cflow(model: Any, cfg: CFlow, images: Images) -> None:
    """Each decoder on the positions of its layer, in random order and small batches."""
    optimizer = torch.optim.Adam(model.decoders.parameters(), cfg.lr)
    model.train()
    for _ in range(cfg.epochs):
        for batch in images.batches(shuffle=True):
            with torch.no_grad():
                maps = model.encoder(batch)
            for layer, decoder in zip(model.pool_layers, model.decoders, strict=True):
                train_decoder(decoder, maps[layer], model.condition_vector, cfg, optimizer)
    model.fiber_batch_size = FIBERS_AT_ONCE
    model.anomaly_map_generator = scale = FixedScale(len(model.pool_layers))
    for batch in images.batches():
        model(batch)
    scale.fixed = True


def train_decoder(
    decoder: nn.Module,
    features: Tensor,
    condition: int,
    cfg: CFlow,
    optimizer: torch.optim.Optimizer,
) -> None:
    """One pass over the positions of ``(B, C, H, W)`` features, given their places encoded in
    ``condition`` numbers each."""
    from anomalib.models.image.cflow.utils import get_logp, positional_encoding_2d

    count, channels, height, width = features.shape
    rows = features.permute(0, 2, 3, 1).flatten(0, 2)
    places = positional_encoding_2d(condition, height, width).flatten(1).T.repeat(count, 1)
    parts = max(1, len(rows) // cfg.fiber_batch_size)
    for part in torch.randperm(len(rows)).tensor_split(parts):
        optimizer.zero_grad()
        latent, log_det = decoder(rows[part], [places[part]])
        per_dimension = get_logp(channels, latent, log_det) / channels
        (-F.logsigmoid(per_dimension).mean()).backward()
        optimizer.step()


class FixedScale(nn.Module):
    """CFLOW's anomaly map: minus the sum over layers of each position's likelihood, relative to the
    largest that was met until ``fixed``."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.largest, self.fixed = [-torch.inf] * layers, False

    def forward(
        self,
        distribution: list[Tensor],
        height: list[int],
        width: list[int],
        image_size: tuple[int, int],
    ) -> Tensor:
        """Log-likelihoods ``(B * H_l * W_l,)`` of each layer -> ``(B, *image_size)``."""
        total = torch.zeros(())
        for index, (flat, h, w) in enumerate(zip(distribution, height, width, strict=True)):
            if not self.fixed:
                self.largest[index] = max(self.largest[index], float(flat.max()))
            likely = (flat - self.largest[index]).exp().view(-1, 1, h, w)
            total = total - F.interpolate(likely, image_size, mode="bilinear", align_corners=True)
        return total[:, 0]


@torch.no_grad()
def scores_and_maps(model: nn.Module, images: Images) -> tuple[Tensor, Tensor]:
    """Image scores ``(N,)`` and anomaly maps ``(N, H, W)``."""
    model.eval()
    scores, maps = [torch.empty(0)], [torch.empty(0, *images.pixels.shape[-2:])]
    for batch in images.batches():
        found = model(batch)
        scores.append(found.pred_score.flatten())
        maps.append(found.anomaly_map.view(len(batch), *batch.shape[-2:]))
    return torch.cat(scores), torch.cat(maps)


def check_installed() -> None:
    """Raise ``UserError`` where anomalib, or a package that it imports, is not there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its own imports
            import anomalib.models.components  # noqa: F401
    except ImportError as error:
        raise UserError(f"{INSTALL} ({error})") from None


PEERS = {
    "patchcore": Peer("PatchCore", PatchCore, build_patchcore, fit_patchcore),
    "padim": Peer("PaDiM", PaDiM, build_padim, fit_padim),
    "fastflow": Peer("FastFlow", FastFlow, build_fastflow, fit_fastflow),
    "cflow": Peer("CFLOW", CFlow, build_cflow, fit_cflow),
}
