"""What others add: a data set is one file with a reader and one YAML."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rad_lightning.data import layouts
from support import SMALL

READER = '''
from pathlib import Path

from rad_lightning.data.layouts.common import build_table, images_in
from rad_lightning.data.layouts.registry import layout
from rad_lightning.data.samples import Sample


@layout("stamps")
def read_stamps(root: Path, category: str | None = None):
    """Good stamps are named g*, all others are torn."""
    samples = [
        Sample(path=p.name, label=int(p.name[0] != "g"), defect_type="good" if p.name[0] == "g"
               else "torn", group=p.name, category="stamps", mask_path=None)
        for p in images_in(root)
    ]
    return build_table("stamps", "stamps", root, samples, layout="<root>/*.png")
'''


def test_a_data_set_is_one_file_and_one_yaml(
    cli: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("added", "conf/data", "photos"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "added" / "stamps_layout.py").write_text(READER)
    (tmp_path / "conf" / "data" / "stamps.yaml").write_text("defaults: [schema]\nname: stamps\n")
    for i in range(12):
        name = f"{'g' if i < 9 else 't'}{i}.png"
        Image.new("RGB", (64, 64), (20 * i, 90, 120)).save(tmp_path / "photos" / name)
    monkeypatch.setattr(layouts, "__path__", [*layouts.__path__, str(tmp_path / "added")])
    layouts.discover()
    data = ("data=stamps", "data.root=photos", "data.test_fraction=0.4")
    settings = ("--config-dir", str(tmp_path / "conf"), *data, *SMALL)
    assert cli(*settings, "backbone.weights=untrained") == 0
    (run,) = Path("outputs/runs").iterdir()
    result = json.loads((run / "result.json").read_text())
    assert result["dataset"] == "stamps" and 0 <= result["metrics"]["image_auroc"] <= 1
    del layouts.LAYOUTS["stamps"]
