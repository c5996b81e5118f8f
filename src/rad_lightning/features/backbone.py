"""A frozen timm model as a feature extractor: images in, a pyramid of feature maps out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from rad_lightning.common.errors import UserError

UNTRAINED, HUB = "untrained", "hub"
UNTRAINED_SEED = 0  # one fixed demo backbone, whatever the seed of the run


class FrozenBackbone(nn.Module):
    """``timm.create_model(name, features_only=True)`` that nothing can train.

    Args:
        name: a timm model name.
        out_indices: which feature maps, as in timm.
        weights: ``"untrained"``, ``"hub"`` or the path of a safetensors or weights-only file.
        options: further arguments of ``timm.create_model``, ``img_size`` of a ViT for example.

    Raises:
        UserError: unknown name, index or option, weights that are absent, unreadable or of another
            model.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        out_indices: tuple[int, ...],
        weights: str = HUB,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.out_indices, self.options = name, tuple(out_indices), dict(options or {})
        self.origin = weights if weights in (UNTRAINED, HUB) else "file"
        self.model = _build(name, self.out_indices, weights == HUB, self.options)
        if self.origin == "file":
            _load_strictly(self.model, Path(weights), name)
        cfg = self.model.default_cfg
        self.register_buffer("mean", torch.tensor(cfg["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(cfg["std"]).view(3, 1, 1), persistent=False)
        self.channels = tuple(self.model.feature_info.channels())
        # Swin, MambaOut and others keep channels last.
        self.channels_last = str(getattr(self.model, "output_fmt", "NCHW")).endswith("NHWC")
        self.requires_grad_(False)
        self.eval()

    @property
    def description(self) -> str:
        """The name as every output shows it; an untrained backbone is marked as one."""
        label = {UNTRAINED: "UNTRAINED demo weights", HUB: "hub weights", "file": "local weights"}
        return f"{self.name} ({label[self.origin]})"

    def fingerprint(self) -> str:
        """sha256 over the name, the indices, the options and every weight: equal exactly for equal
        features."""
        options = repr(sorted(self.options.items())) if self.options else ""
        seen = hashlib.sha256(f"{self.name}{self.out_indices}{options}".encode())
        for key, value in sorted(self.model.state_dict().items()):
            seen.update(key.encode())
            seen.update(value.cpu().contiguous().numpy().tobytes())
        return seen.hexdigest()

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Stay in evaluation mode: a parent's ``.train()`` must not change BatchNorm."""
        return super().train(False)

    @torch.no_grad()  # not inference_mode: cached tensors must work in autograd
    def forward(self, images: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` in 0..255 -> one ``(B, C_i, H_i, W_i)`` per index.

        Raises:
            UserError: an input of a size that the model does not take.
        """
        scaled = (images.float() / 255 - self.mean) / self.std
        try:
            maps: list[Tensor] = self.model(scaled.contiguous(memory_format=torch.channels_last))
        except AssertionError as error:  # timm's word for a wrong size
            raise UserError(
                f"backbone.name = {self.name!r} does not take {tuple(images.shape[-2:])} pixels "
                f"({error}): use another data.size, or backbone.options={{img_size: [H, W]}}"
            ) from error
        if self.channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        for m, count in zip(maps, self.channels, strict=True):
            if m.ndim != 4 or m.shape[1] != count:
                raise UserError(
                    f"backbone.name = {self.name!r}: a feature map of shape {tuple(m.shape)} where "
                    f"{count} channels were announced; use another model"
                )
        return [m.float().contiguous() for m in maps]


def _build(
    name: str, out_indices: tuple[int, ...], pretrained: bool, options: Mapping[str, Any]
) -> Any:
    if not out_indices:
        raise UserError("backbone.out_indices = []: give at least one index")
    if not name.startswith("hf-hub:") and not timm.is_model(name.split(".")[0]):
        near = get_close_matches(name.split(".")[0], timm.list_models(), 5)
        raise UserError(
            f"backbone.name = {name!r}: not a timm model; similar names: "
            f"{', '.join(near) or 'none'}"
        )
    # Its warnings repeat, in several lines, what the error below says in one.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        try:
            model = timm.create_model(
                name, pretrained=pretrained, features_only=True, out_indices=out_indices, **options
            )
        except (IndexError, AssertionError) as error:
            raise UserError(
                f"backbone.out_indices = {list(out_indices)}: not feature maps of {name} ({error})"
            ) from error
        except TypeError as error:
            raise UserError(f"backbone.options = {dict(options)}: {error}") from error
        except Exception as error:
            if not pretrained:
                raise UserError(f"backbone.name = {name!r}: {error}") from error
            raise UserError(
                f"no weights for {name} from the hub ({type(error).__name__}): give a local file "
                "with backbone.weights=FILE, or use the demo with backbone.weights=untrained"
            ) from error
    return model.to(memory_format=torch.channels_last)


def _load_strictly(model: nn.Module, path: Path, name: str) -> None:
    if not path.is_file():
        raise UserError(f"backbone.weights = {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"backbone.weights = {path}: not readable as safetensors or a weights-only checkpoint "
            f"({type(error).__name__})"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"backbone.weights = {path}: not a plain state dict of tensors")
    wanted = model.state_dict()
    if any(k not in state for k in wanted):
        # features_only renames the keys of some families: by how it wraps the whole model.
        whole = timm.create_model(name).state_dict()
        flat = {k.replace(".", "_"): k for k in whole}
        own = {k: flat.get(k.removeprefix("model.").replace(".", "_")) for k in wanted}
        if all(v in state for v in own.values()) and state.keys() <= whole.keys():
            state = {k: state[v] for k, v in own.items()}
    state = {k: _resampled(model, k, v, wanted.get(k)) for k, v in state.items()}
    missing = [k for k in wanted if k not in state]
    misshaped = [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    unused = [k for k in state if k not in wanted]
    # A classifier's file has later layers too: fine, as long as they are layers of this very model.
    foreign = set(unused) - set(timm.create_model(name).state_dict()) if unused else set()
    for problem, keys in (
        ("lacks", missing),
        ("has another shape of", misshaped),
        ("adds", sorted(foreign)),
    ):
        if keys:
            raise UserError(
                f"backbone.weights = {path}: weights of another architecture than {name} "
                f"({problem} {keys[0]!r} and {len(keys) - 1} more)"
            )
    model.load_state_dict({k: state[k] for k in wanted}, strict=True)


def _resampled(model: nn.Module, key: str, value: Tensor, wanted: Tensor | None) -> Tensor:
    """A ViT's position embedding ``(1, P, D)`` on the grid of ``model``; other weights as is."""
    inner = getattr(model, "model", model)
    grid = getattr(getattr(inner, "patch_embed", None), "grid_size", None)
    if not key.endswith("pos_embed") or wanted is None or wanted.shape == value.shape or not grid:
        return value
    if value.ndim != 3 or value.shape[-1] != wanted.shape[-1]:
        return value
    prefix = int(wanted.shape[1] - grid[0] * grid[1])
    found: Tensor = resample_abs_pos_embed(value, list(grid), num_prefix_tokens=prefix)
    return found
