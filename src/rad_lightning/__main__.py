"""``python -m rad_lightning`` and ``rad-lightning``."""

from rad_lightning.common.processes import signals_raise


def run() -> None:
    """The command line. Hydra takes half a second to import, and loses a signal meanwhile."""
    with signals_raise():
        from rad_lightning.cli import main

        main()


if __name__ == "__main__":
    run()
