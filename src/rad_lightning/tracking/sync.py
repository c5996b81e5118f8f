"""``python -m rad_lightning.tracking.sync DIR``: send the offline W&B runs below a folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import wandb

from rad_lightning.common.errors import UserError
from rad_lightning.tracking.login import default_entity, login_problem


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 sent, 2 wrong input (one line on stderr), else that of ``wandb sync``."""
    try:
        return sync(Path(arguments[0] if arguments else "outputs"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def sync(folder: Path) -> int:
    """Send every offline run below ``folder`` that was not sent before; the upload's exit code.

    Raises:
        UserError: no such folder, not logged in, or the server does not answer.
    """
    if not folder.is_dir():
        raise UserError(
            f"wandb-sync: {folder} is not a folder; give the folder of a sweep or of runs"
        )
    found = offline_runs(folder)
    to_go = [run for run in found if not sent(run)]
    print(f"{len(found)} offline W&B runs below {folder}, {len(found) - len(to_go)} sent before")
    if not to_go:
        return 0
    if problem := login_problem():
        raise UserError(f"wandb-sync: {problem}")
    server = wandb.Settings().base_url
    print(f"sending {len(to_go)} to {server}, by default to the account {default_entity()}:")
    print("curves, metrics, settings, pictures, file names, manifests and scores; no checkpoint")
    sys.stdout.flush()  # what follows is another process's
    return subprocess.call([sys.executable, "-m", "wandb", "sync", *map(str, to_go)])


def offline_runs(folder: Path) -> list[Path]:
    """W&B's folders of offline runs, oldest first by their names."""
    return sorted(folder.rglob("offline-run-*"), key=lambda run: run.name)


def sent(run: Path) -> bool:
    """Whether ``wandb sync`` has left its mark."""
    return any(run.glob("*.wandb.synced"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
