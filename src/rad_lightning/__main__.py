"""``python -m rad_lightning``."""

from rad_lightning.cli import main

if __name__ == "__main__":
    main()
