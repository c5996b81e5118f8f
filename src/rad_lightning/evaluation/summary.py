"""The closing table of a run on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from rad_lightning.common.progress import Progress

SHOWN = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "oracle_f1_max": "image F1-max (oracle threshold)",
    "image_f1": "image F1 at the threshold",
    "image_recall": "recall at the threshold",
    "image_false_alarm_rate": "false alarms at the threshold",
    "train_suspect_auroc": "training scores, injected vs other (AUROC)",
    "pixel_auroc": "pixel AUROC",
    "pixel_aupro": "pixel AUPRO (to 30 % false positives)",
}


def print_summary(progress: Progress, result: dict[str, Any], run: Path) -> None:
    """Metrics, what could not be computed, seconds by stage, and where the files are."""
    metrics = result["metrics"]
    table = Table(
        title=f"{result['dataset']}/{result['category']} · {result['head']} head · "
        f"{result['method']} · seed {result['seed']}",
        title_justify="left",
        caption=result["backbone"],
        caption_justify="left",
    )
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key, name in SHOWN.items():
        if key in metrics:
            table.add_row(name, f"{100 * metrics[key]:.1f} %")
    table.add_section()
    for kind, value in result["per_defect_image_auroc"].items():
        table.add_row(f"image AUROC, {kind}", f"{100 * value:.1f} %")
    progress.console.print()
    progress.console.print(table)
    for note in result["notes"]:
        progress.say(f"note: {note}")
    stages = "  ".join(f"{name} {value:.1f}" for name, value in result["seconds"].items())
    progress.say(f"seconds: {stages}   total {sum(result['seconds'].values()):.1f}")
    progress.say(f"run:     {run}")
    for picture in sorted(run.glob("*.png")):
        progress.say(f"picture: {picture}")
