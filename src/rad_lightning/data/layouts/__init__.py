"""Dataset layouts: one reader each, ``read_xxx(root, category, **options) -> SampleTable``.

Every module of this package is imported, so that a reader is known once its file is here.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from rad_lightning.common.errors import UserError
from rad_lightning.data.layouts.registry import LAYOUTS, Layout, find_layout, layout
from rad_lightning.data.samples import SampleTable

__all__ = ["LAYOUTS", "Layout", "discover", "find_layout", "layout", "read_layout"]


def discover() -> None:
    """Import every module of this package; each registers its readers."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")


def read_layout(
    name: str, root: Path, category: str | None = None, **options: object
) -> SampleTable:
    """Read the data set at ``root`` with the reader of the layout ``name``.

    Raises:
        UserError: no such layout, an option that the reader does not have, or unreadable data.
    """
    chosen = find_layout(name)
    if unknown := sorted(set(options) - set(chosen.options)):
        known = ", ".join(chosen.options)
        advice = f"choose one of {known}" if known else "it has no options"
        raise UserError(f"layout {name!r} has no option {unknown[0]!r}: {advice}")
    return chosen.read(root, category, **options)


discover()
