"""How a flow is fitted: thin LightningModules around the functions of flows, meta and robust.

Every module of this package is imported, so that an objective is known once its file is here.
"""

from importlib import import_module
from pkgutil import iter_modules


def discover() -> None:
    """Import every module of this package; each registers what it adds."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")


discover()
