"""The exceptions that end a command with one line instead of a traceback."""


class UserError(ValueError):
    """Wrong input, exit code 2. One line says what was wrong, where, and what to do."""


class BusyError(UserError):
    """Another process holds the run directory."""


class DivergedError(UserError):
    """A training ended in NaN or infinity: its settings are at fault, not its data."""


class TooLargeError(UserError):
    """Settings that need more memory than the machine has: known before anything is allocated."""


class CellsFailedError(Exception):
    """A sweep ended, exit code 1, and some of its cells have no result; the message is one line."""
