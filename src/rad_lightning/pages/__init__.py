"""HTML pages that need no network and no second file.

Each page extends ``shell.html.j2``, which holds the style, the sortable tables and the frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,  # file names and messages may hold any character
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """The page of ``template`` (a file beside this one). All values are escaped but ``Markup``."""
    return _TEMPLATES.get_template(template).render(**values)
