"""What the pages name is there: files of the package, and pages that they link to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "experiments").glob("*/README.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_links_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", text)) - {"commands/name.py"}
    named = {name for name in named if "xxx" not in name}
    missing = [
        n for n in named if not any((r / n).is_file() for r in (ROOT, ROOT / "src/rad_lightning"))
    ]
    assert missing == []
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    lost = [k for k in links if "://" not in k and not (page.parent / k).exists()]
    assert lost == []
