"""Text on the command line arrives as it was written, whatever it looks like."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rad_lightning.config import SCHEMAS, TrainConfig, as_written, conf_dir, register_schemas
from rad_lightning.config.text import parted, text_keys

LOOKING_ODD = (
    "2024_05_17", "1_0", "1e5", "true", "off", "nan", "0x10", "007", "Teil (1)", "#3", "it's",
    'say "so"', "größe", "部品", "a,b", "[x]", "{x}", "a=b", "x:y", " blanks ", "tab\there",
    "line\nbreak", "back\\slash", "ends\\", "$HOME", "100%", "@x", "&", "*", "~", "None",
)  # fmt: skip


def arrived(command: str, *overrides: str, sweeps: bool = False) -> dict[str, object]:
    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        written = [as_written(o, SCHEMAS[command], sweeps) for o in overrides]
        return OmegaConf.to_container(compose(command, written))  # type: ignore[return-value]


def read(written: str) -> object:
    value = OverridesParser.create().parse_override(written).value()
    return getattr(value, "text", value)


@pytest.mark.parametrize("text", LOOKING_ODD)
def test_text_settings_take_any_text(text: str) -> None:
    for key in ("data.root", "+output", "++logger.group"):
        assert read(as_written(f"{key}={text}", TrainConfig, sweeps=False)) == text


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_text_setting_of_every_command_takes_what_looks_like_a_number(command: str) -> None:
    keys = dict(text_keys(SCHEMAS[command]))
    assert keys
    given = [f"++{key}={'[1_0,größe (1)]' if several else '1_0'}" for key, several in keys.items()]
    found = arrived(command, *given)
    for key, several in keys.items():
        value: object = found
        for name in key.split("."):
            value = value[name]  # type: ignore[index]
        assert value == (["1_0", "größe (1)"] if several else "1_0"), key


@given(st.text(min_size=1).filter(lambda t: "${" not in t and t != "null"))
def test_any_text_is_read_back_or_was_in_quotes(text: str) -> None:
    written = as_written(f"data.root={text}", TrainConfig, sweeps=False)
    assert read(written) == text or text[0] in "'\"" or "\\" in text


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("data.root=null", "data.root=null"),
        ("data.root=plain/path_1", "data.root=plain/path_1"),
        ("data.root='1_0'", "data.root='1_0'"),
        ("data.root=${oc.env:HOME}/x", "data.root=${oc.env:HOME}/x"),
        ("data=mvtec", "data=mvtec"),
        ("seed=1_0", "seed=1_0"),
        ("~recipe", "~recipe"),
    ],
)
def test_what_is_no_text_or_in_quotes_stays_as_it_is(written: str, kept: str) -> None:
    assert as_written(written, TrainConfig, sweeps=False) == kept


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("data.category=weave,gear", "data.category=weave,gear"),
        ("data.category=1_0, 2_0", "data.category='1_0','2_0'"),
        ("data.category=it's,1e5", "data.category='it\\'s','1e5'"),
        ("data.category='a,b',c", "data.category='a,b',c"),
        ("data.category=choice(a,b)", "data.category=choice(a,b)"),
        ("head.views=[hflip],[vflip]", "head.views=[hflip],[vflip]"),
    ],
)
def test_commas_of_a_sweep_part_its_values(written: str, kept: str) -> None:
    assert as_written(written, TrainConfig, sweeps=True) == kept


def test_parts_are_what_no_bracket_holds() -> None:
    assert parted("[a,b],c,(d,e)") == ["[a,b]", "c", "(d,e)"]
