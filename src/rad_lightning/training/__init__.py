"""One training: its job, its inputs, the Lightning trainer, the run that it leaves behind."""
