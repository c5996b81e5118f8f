"""The one exception that means "the user can mend this": shown as a single line, exit code 2."""


class UserError(ValueError):
    """Wrong input. The message says what was wrong, where, and what is accepted, in one line."""


class BusyError(UserError):
    """Another process holds the run directory."""


class CellsFailedError(Exception):
    """A sweep ended, and some of its cells have no result; the message is one line."""
