"""Weights & Biases: what a run logs (``wandb``, ``content``), dashboards over many, and the upload.

W&B's library sends usage data to W&B by default, also offline. This is switched off here, unless
the user has set it.
"""

import os

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
