"""A finished training, as ``result.json`` tells it."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def result() -> dict[str, Any]:
    return {
        "dataset": "synthetic", "category": "gear", "backbone": "b", "head": "patch",
        "method": "robust", "seed": 3, "held_out": 2, "held_out_nll": -0.5, "peak_memory_mib": 1.0,
        "manifest_sha256": "ab", "uncertainty": 0.25,
        "noise": {"mode": "replace", "requested": 0.3, "achieved": 0.25, "defect_types": {}},
        "metrics": {"image_auroc": 0.875, "pixel_aupro": 0.5, "trust_suspect_auroc": 0.75},
        "per_defect_image_auroc": {"blob": 1.0},
        "threshold": {"value": 2.0, "rule": "robust"},
        "seconds": {"training": 1.5},
        "trust": {"suspects": 2, "contamination": {"value": 0.2}},
        "worst": [],
        "config": {"method": {"name": "robust"}},
    }  # fmt: skip
