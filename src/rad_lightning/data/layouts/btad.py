"""BTAD, beanTech Anomaly Detection (Mishra et al., ISIE 2021): three products, 01 to 03."""

from __future__ import annotations

from pathlib import Path

from rad_lightning.data.layouts.mvtec import list_categories, read_tree
from rad_lightning.data.layouts.registry import layout
from rad_lightning.data.samples import SampleTable

GOOD = "ok"
LAYOUT = "the BTAD layout <root>/<category>/train/ok, test/ok, test/ko, ground_truth/ko/<image>.png"


def list_products(root: Path) -> list[str]:
    """The names of the products below ``root``, sorted; none if it is one itself or absent."""
    return list_categories(root, GOOD)


@layout("btad", categories=list_products)
def read_btad(root: Path, category: str | None = None) -> SampleTable:
    """Read one product; ``root`` is the folder of the products or a product's own folder.

    Masks may be of another file type than their images. Every image is its own group.

    Raises:
        UserError: missing root or product, no image, or a choice between products is open.
    """
    return read_tree("btad", root, category, GOOD, LAYOUT)
