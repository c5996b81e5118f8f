from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rad_lightning.common.errors import UserError
from rad_lightning.features.backbone import FrozenBackbone

TINY = "test_resnet"
VIT, SWIN = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"


@pytest.fixture(scope="module")
def full_state() -> dict[str, Tensor]:
    """The weights of a whole classifier, other than the untrained demo's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        return dict(timm.create_model(TINY).state_dict())


def picture() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, 32, 32), generator=generator).float()


def refused(
    match: str, name: str = TINY, out_indices: Any = (1, 2), weights: Any = "untrained"
) -> str:
    with pytest.raises(UserError, match=match) as caught:
        FrozenBackbone(name, out_indices, str(weights))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_untrained_is_the_same_whatever_the_global_seed() -> None:
    torch.manual_seed(1)
    first = FrozenBackbone(TINY, (1, 2), "untrained")
    torch.manual_seed(2)
    second = FrozenBackbone(TINY, (1, 2), "untrained")
    assert all(torch.equal(a, b) for a, b in zip(first(picture()), second(picture()), strict=True))
    assert first.fingerprint() == second.fingerprint()


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    FrozenBackbone(TINY, (1,), "untrained")
    assert torch.equal(torch.get_rng_state(), before)


def test_untrained_is_called_what_it_is() -> None:
    assert "UNTRAINED" in FrozenBackbone(TINY, (1,), "untrained").description


def test_fingerprint_sees_name_indices_and_every_weight() -> None:
    backbone = FrozenBackbone(TINY, (1, 2), "untrained")
    seen = {backbone.fingerprint(), FrozenBackbone(TINY, (1, 3), "untrained").fingerprint()}
    for tensor in backbone.model.state_dict().values():
        tensor[(-1,) * tensor.ndim] += 1
        seen.add(backbone.fingerprint())
    assert len(seen) == 2 + len(backbone.model.state_dict())


def test_maps_have_the_announced_channels() -> None:
    backbone = FrozenBackbone(TINY, (1, 3), "untrained")
    maps = backbone(picture())
    assert tuple(m.shape[1] for m in maps) == backbone.channels


def test_images_are_normalised_by_the_models_own_mean_and_deviation() -> None:
    backbone = FrozenBackbone("resnet10t", (0,), "untrained")  # not 0.5 like the test models
    cfg = timm.create_model("resnet10t").default_cfg
    mean, std = (torch.tensor(cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        expected = backbone.model((picture() / 255 - mean) / std)[0]
    torch.testing.assert_close(backbone(picture())[0], expected)


def test_a_parents_train_wakes_nothing() -> None:
    backbone = FrozenBackbone(TINY, (1, 2), "untrained")
    before = backbone.fingerprint()
    parent = nn.ModuleList([backbone]).train()
    backbone(picture())
    assert parent.training and not any(m.training for m in backbone.modules())
    assert backbone.fingerprint() == before  # running statistics included


def test_nothing_requires_a_gradient_but_the_features_are_ordinary_tensors() -> None:
    backbone = FrozenBackbone(TINY, (1,), "untrained")
    assert not any(p.requires_grad for p in backbone.parameters())
    found = backbone(picture().requires_grad_())[0]
    assert not found.requires_grad and not found.is_inference()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_gives_its_own_weights(
    tmp_path: Path, full_state: dict[str, Tensor], suffix: str
) -> None:
    donor = timm.create_model(TINY, features_only=True, out_indices=(1, 2))
    own = {k: v for k, v in full_state.items() if k in donor.state_dict()}
    donor.load_state_dict(own)
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(own, path)
    backbone = FrozenBackbone(TINY, (1, 2), str(path))
    expected = donor.eval()((picture() / 255 - 0.5) / 0.5)
    for found, wanted in zip(backbone(picture()), expected, strict=True):
        torch.testing.assert_close(found, wanted.detach())
    assert backbone.fingerprint() != FrozenBackbone(TINY, (1, 2), "untrained").fingerprint()
    assert "UNTRAINED" not in backbone.description


def test_a_whole_classifiers_file_is_accepted(
    tmp_path: Path, full_state: dict[str, Tensor]
) -> None:
    save_file(full_state, path := tmp_path / "full.safetensors")
    backbone = FrozenBackbone(TINY, (1, 2), str(path))
    for key, value in backbone.model.state_dict().items():
        assert torch.equal(value, full_state[key])


@pytest.mark.parametrize("name", ["test_convnext", "test_vit"])
def test_a_classifiers_file_is_accepted_where_timm_renames_keys(tmp_path: Path, name: str) -> None:
    save_file(timm.create_model(name).state_dict(), path := tmp_path / "full.safetensors")
    FrozenBackbone(name, (1, 2), str(path))


def test_weights_of_a_deeper_sibling_are_refused(tmp_path: Path) -> None:
    deeper = timm.create_model("resnet34", features_only=True, out_indices=(1,))
    save_file(deeper.state_dict(), path := tmp_path / "resnet34.safetensors")
    message = refused("another architecture than resnet18", "resnet18", (1,), path)
    assert "layer1.2" in message and str(path) in message


def test_weights_of_a_shallower_sibling_are_refused(tmp_path: Path) -> None:
    smaller = timm.create_model("resnet18", features_only=True, out_indices=(1,))
    save_file(smaller.state_dict(), path := tmp_path / "resnet18.safetensors")
    refused("lacks", "resnet34", (1,), path)


def test_weights_of_another_shape_are_refused(
    tmp_path: Path, full_state: dict[str, Tensor]
) -> None:
    key = next(k for k, v in full_state.items() if v.ndim == 4)
    save_file({**full_state, key: torch.zeros(1, 2, 3, 4)}, path := tmp_path / "w.safetensors")
    assert key in refused("has another shape of", weights=path)


def test_a_key_of_no_layer_is_refused(tmp_path: Path, full_state: dict[str, Tensor]) -> None:
    save_file({**full_state, "odd": torch.zeros(1)}, path := tmp_path / "w.safetensors")
    refused("'odd'", weights=path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 99])
def test_a_damaged_file_is_refused(
    tmp_path: Path,
    full_state: dict[str, Tensor],
    suffix: str,
    damage: Callable[[bytes], bytes],
) -> None:
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(full_state, path)
    path.write_bytes(damage(path.read_bytes()))
    assert str(path) in refused("not readable", weights=path)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), path := tmp_path / "module.pt")
    refused("not readable", weights=path)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {},
        {"state_dict": {}},
        torch.zeros(3),
        None,
    ],
    ids=["list", "empty", "nested", "tensor", "none"],
)
def test_a_file_without_weights_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, path := tmp_path / "w.pt")
    refused("backbone.weights", weights=path)


def test_numbers_in_the_place_of_weights_are_refused(
    tmp_path: Path, full_state: dict[str, Tensor]
) -> None:
    torch.save(dict.fromkeys(full_state, 3), path := tmp_path / "w.pt")
    refused("backbone.weights", weights=path)


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    assert "nowhere.pt" in refused("no such file", weights=tmp_path / "nowhere.pt")


def test_an_unknown_model_is_refused() -> None:
    assert "resnet" in refused("'resnet1': not a timm model; similar names: ", "resnet1")


@pytest.mark.parametrize(("typo", "meant"), [("resnet81", "resnet18"), ("rensett50", "resnet50")])
def test_the_names_near_a_typo_hold_what_was_meant(typo: str, meant: str) -> None:
    assert meant in refused("not a timm model", typo).split("similar names: ")[1].split(", ")


@pytest.mark.parametrize("out_indices", [(9,), (1, 9)])
def test_indices_beyond_the_model_are_refused(out_indices: tuple[int, ...]) -> None:
    refused("out_indices", out_indices=out_indices)


def test_no_indices_are_refused() -> None:
    refused("out_indices", out_indices=())


def test_without_network_the_message_names_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    build = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise OSError("no route to host\nat all")
        return build(name, pretrained=pretrained, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    message = refused("no weights for", weights="hub")
    assert "backbone.weights=FILE" in message and "backbone.weights=untrained" in message


def test_maps_with_channels_last_are_turned() -> None:
    """As a forward pass by hand, stage after stage, gives them."""
    x = torch.randint(0, 256, (2, 3, 64, 64)).float()
    for name in ("mambaout_femto", "convnext_atto"):
        backbone = FrozenBackbone(name, (1, 2), "untrained")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = timm.create_model(name).eval()
        flat = {k.replace(".", "_"): v for k, v in backbone.model.state_dict().items()}
        own = model.state_dict()
        model.load_state_dict({k: flat.get(k.replace(".", "_"), v) for k, v in own.items()})
        mean, std = (torch.tensor(model.default_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
        expected = []
        with torch.no_grad():
            y = model.stem((x / 255 - mean) / std)
            for stage in model.stages:
                y = stage(y)
                expected.append(y.permute(0, 3, 1, 2) if backbone.channels_last else y)
        for found, wanted, count in zip(backbone(x), expected[1:3], backbone.channels, strict=True):
            assert found.shape[1] == count
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_swin_gives_maps_of_its_channels() -> None:
    backbone = FrozenBackbone(
        "test_swin" if timm.is_model("test_swin") else SWIN, (0, 1), "untrained"
    )
    maps = backbone(torch.zeros(1, 3, 224, 224))
    assert [m.shape[1] for m in maps] == list(backbone.channels)
    assert [m.shape[2] for m in maps] == [56, 28]


def test_a_vit_at_another_size_keeps_its_weights(tmp_path: Path) -> None:
    usual = FrozenBackbone(VIT, (1, 2), "untrained")
    path = tmp_path / "vit.safetensors"
    whole = timm.create_model(VIT)
    save_file(whole.state_dict(), path)
    size = 2 * whole.patch_embed.img_size[0]
    with pytest.raises(UserError, match="does not take") as caught:
        usual(torch.zeros(1, 3, size, size))
    assert "backbone.options" in str(caught.value) and "\n" not in str(caught.value)
    larger = FrozenBackbone(VIT, (1, 2), str(path), {"img_size": size})
    maps = larger(torch.rand(1, 3, size, size) * 255)
    assert [m.shape[1] for m in maps] == list(larger.channels)
    assert maps[0].shape[-1] == 2 * whole.patch_embed.grid_size[0]
    assert larger.fingerprint() != FrozenBackbone(VIT, (1, 2), str(path)).fingerprint()


def test_an_option_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match="options"):
        FrozenBackbone(TINY, (1, 2), "untrained", {"img_size": 64})
