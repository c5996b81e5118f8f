"""Who is logged in to Weights & Biases, without a prompt."""

from __future__ import annotations

import io
from contextlib import redirect_stderr

import wandb
from wandb.errors import UsageError

from rad_lightning.common.errors import UserError


def login_problem() -> str | None:
    """Why nothing can be sent, or ``None``. W&B's prompt for a key would block a sweep."""
    try:
        with redirect_stderr(io.StringIO()):
            known = wandb.login(timeout=1)
    except UsageError:
        return "not logged in to W&B; run `wandb login` or set WANDB_API_KEY"
    except wandb.Error as error:
        return f"W&B: {error}"
    return None if known else "W&B is switched off here: unset WANDB_MODE, or run `wandb online`"


def default_entity() -> str:
    """The account that runs go to when none is named.

    Raises:
        UserError: there is none, or the server does not answer.
    """
    try:
        found = wandb.Api().default_entity
    except wandb.Error as error:
        raise UserError(f"W&B: {error}") from error
    if not found:
        raise UserError("W&B has no default account for this login: set entity=NAME")
    return str(found)
