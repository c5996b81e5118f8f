"""Weights & Biases: what a run logs (``wandb``, ``content``), dashboards over many, and the upload.

W&B's library reports its own use to its makers, offline too. Here it does not, unless asked to.
"""

import os

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
