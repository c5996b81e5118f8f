"""``python -m rad_lightning`` and ``rad-lightning``."""

import sys

from rad_lightning.common.processes import TERMINATED, Terminated, asked_to_end, signals_raise


def run() -> None:
    """The command line. Hydra takes half a second to import, and loses a signal meanwhile."""
    with signals_raise():
        try:
            from rad_lightning.cli import main
        except BaseException:
            if not (asked := asked_to_end()):
                raise
            print("ended before it began: run the same command again", file=sys.stderr)
            sys.exit(TERMINATED if isinstance(asked, Terminated) else 130)
        main()


if __name__ == "__main__":
    run()
