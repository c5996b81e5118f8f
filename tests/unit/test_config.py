"""The configuration: every YAML composes, every range is kept, the run key sees what matters."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from rad_lightning.common.errors import UserError
from rad_lightning.config import (
    TrainConfig,
    conf_dir,
    digest,
    from_plain,
    from_yaml,
    number_fields,
    register_schemas,
    to_typed,
    to_yaml,
)


@cache
def composed(*overrides: str, name: str = "train") -> TrainConfig:
    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return to_typed(compose(name, list(overrides)))


GROUP_FILES = [
    (path.parent.name, path.stem)
    for path in sorted(conf_dir().glob("*/*.yaml"))
    if path.parent.name not in ("hydra", "experiment")
]


@pytest.mark.parametrize(("group", "choice"), GROUP_FILES)
def test_every_choice_of_every_group_composes(group: str, choice: str) -> None:
    needed = ["noise.manifest=m.csv"] if choice == "manifest" else []
    composed(f"{group}={choice}", *needed)


@pytest.mark.parametrize(
    "name", [path.stem for path in sorted(conf_dir().glob("experiment/*.yaml"))]
)
def test_every_experiment_composes(name: str) -> None:
    composed(f"+experiment={name}")


def test_every_data_set_is_read_with_the_same_settings() -> None:
    usual = composed()
    for name in ("btad", "csv", "folder", "ksdd", "ksdd2", "mtd", "mvtec", "visa"):
        found = composed(f"data={name}")
        assert (found.backbone, found.head) == (usual.backbone, usual.head), name


@pytest.mark.parametrize("name", ["predict", "export"])
def test_commands_on_a_run_compose(name: str) -> None:
    needed = ["checkpoint=run", "input=photos", "backbone.weights=weights.pt"]
    assert composed(*needed, name=name).backbone.weights == "weights.pt"


def test_prepare_composes() -> None:
    assert composed(name="prepare").data.name == "synthetic"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("head.top_fraction=1.5", "head.top_fraction = 1.5: use a value > 0 and <= 1"),
        ("head.jitter=-1", "head.jitter = -1.0: use a value from 0 to 10"),
        ("head.top_fraction=0", "head.top_fraction = 0.0: use a value > 0 and <= 1"),
        ("seed=-1", "seed = -1: use a value from 0 to 4294967295"),
        ("data.fit=crop", "data.fit = 'crop': choose one of stretch, pad"),
        ("data.size=[256]", "data.size = [256]: give two numbers, [height, width]"),
        ("head.views=[]", "head.views = []: give at least one value"),
        ("head.local_pool=2", "head.local_pool = 2: use an odd number"),
        ("head.position_dims=3", "head.position_dims = 3: use a multiple of 4"),
        (
            "backbone.out_indices=[2,1]",
            "backbone.out_indices = [2, 1]: give numbers in rising order",
        ),
        ("method.lr=inf", "method.lr = inf: use a value > 0"),
        (
            "evaluation.robust_z=1e308",
            "evaluation.robust_z = 1e+308: use a value > 0 and <= 1000000",
        ),
        ("method.weight_decay=1e308", "method.weight_decay = 1e+308: use numbers up to 1e+30"),
        (
            f"method.steps={10**30}",
            f"method.steps = {10**30}: use numbers up to 4611686018427387904",
        ),
        ("method.latent.margin=inf", "method.latent.margin = inf: use finite numbers"),
        ("data.size=[256,8]", "data.size = [256, 8]: use values from 32 to 4096"),
        (
            "head.views=[hflip,mirror]",
            "head.views = ['hflip', 'mirror']: choose from identity, hflip, vflip, rot180, rot90, "
            "rot270",
        ),
        (
            "head.views=[rot90]",
            "head.views has rot90 but data.size = [128, 96] is not square: "
            "choose from identity, hflip, vflip, rot180",
        ),
    ],
)
def test_impossible_values_are_named_with_what_to_do(override: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        composed("data.size=[128,96]", override)
    assert str(caught.value) == line


def key(cfg: TrainConfig) -> str:
    return digest(number_fields(cfg))


def test_run_key_ignores_where_a_run_is_done_and_sees_what_changes_numbers() -> None:
    cfg = composed()
    moved = replace(cfg, output="elsewhere", trainer=replace(cfg.trainer, accelerator="gpu"))
    assert key(moved) == key(cfg)
    assert key(replace(cfg, seed=1)) != key(cfg)
    assert key(replace(cfg, head=replace(cfg.head, hidden=3))) != key(cfg)
    assert key(replace(cfg, data=replace(cfg.data, root="elsewhere"))) == key(cfg)


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet="\\${}a:'\" ,?.#\n", max_size=12))
def test_what_looks_like_an_interpolation_in_a_runs_settings_is_text(root: str) -> None:
    if root == "???":  # a missing value to OmegaConf
        return
    cfg = composed("data=folder")
    cfg = replace(cfg, data=replace(cfg.data, root=root))
    assert from_plain(asdict(cfg)) == cfg
    assert from_yaml(to_yaml(cfg)) == cfg


def test_nothing_in_a_runs_settings_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    content = asdict(composed("data=folder"))
    content["data"]["root"] = "${oc.env:SECRET}"
    assert from_plain(content).data.root == "${oc.env:SECRET}"
    text = to_yaml(composed("data=folder")).replace("root: null", "root: ${oc.env:SECRET}")
    assert from_yaml(text).data.root == "${oc.env:SECRET}"


@pytest.mark.parametrize("content", [None, 1, "text", [], [1], {}, {"data": 3}, {"x": 1}])
def test_what_is_no_settings_is_one_line(content: object) -> None:
    with pytest.raises(UserError) as caught:
        from_plain(content)
    assert "\n" not in str(caught.value)


def test_no_robust_z_is_beyond_numbers() -> None:
    with pytest.raises(UserError, match=r"evaluation\.robust_z = 1e\+308"):
        composed("evaluation.robust_z=1e308")


def test_the_layers_are_those_of_the_head_unless_they_are_given() -> None:
    real = ("data=folder", "data.root=photos")
    assert composed(*real).layers == [2, 3]
    assert composed(*real, "head=pooled").layers == [1, 2, 3]  # the paper's form
    assert composed(*real, "head=pooled").head.jitter == 0 < composed(*real).head.jitter
    assert composed(*real, "backbone.weights=untrained").layers == [1, 2, 3]
    assert composed().layers == [1, 2, 3]  # the embedded images, without a download
    assert composed("backbone.out_indices=[3]").layers == [3]
