"""Whether somebody is logged in to Weights & Biases, asked without asking the user."""

from __future__ import annotations

import io
from contextlib import redirect_stderr

import wandb

HOW = "run `wandb login` or set WANDB_API_KEY"


def logged_in() -> bool:
    """Whether there is a key. Asked for on a terminal, it would stop a sweep for ever."""
    try:
        with redirect_stderr(io.StringIO()):
            return bool(wandb.login(timeout=1))
    except wandb.Error:
        return False


def default_entity() -> str:
    """The account that runs go to when none is named."""
    return str(wandb.Api().default_entity)
