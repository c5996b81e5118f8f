"""Which data sets can be read: each registers its reader, and everything else follows from that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rad_lightning.common.errors import UserError
from rad_lightning.data.samples import SampleTable

Reader = TypeVar("Reader", bound=Callable[..., SampleTable])


@dataclass(frozen=True)
class Layout:
    """A data set's layout on disk: ``data=NAME``.

    ``read(root, category, **options)``; ``options`` are the settings of ``data`` that it takes
    besides these two, ``needs`` the one that it cannot do without. ``categories`` lists those of a
    root, where there may be several.
    """

    name: str
    read: Callable[..., SampleTable]
    needs: str = "root"
    options: tuple[str, ...] = ()
    categories: Callable[[Path], list[str]] | None = None


LAYOUTS: dict[str, Layout] = {}


def layout(
    name: str,
    *,
    needs: str = "root",
    options: tuple[str, ...] = (),
    categories: Callable[[Path], list[str]] | None = None,
) -> Callable[[Reader], Reader]:
    """Registers a reader as ``data=name``, see ``Layout``."""

    def register(read: Reader) -> Reader:
        LAYOUTS[name] = Layout(name, read, needs, options, categories)
        return read

    return register


def find_layout(name: str) -> Layout:
    """The layout called ``name``; ``UserError`` where there is none."""
    if name not in LAYOUTS:
        known = ", ".join(sorted([*LAYOUTS, "synthetic"]))
        raise UserError(f"layout {name!r} is not known: choose one of {known}")
    return LAYOUTS[name]
