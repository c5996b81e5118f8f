"""The one exception that means "the user can mend this": shown as a single line, exit code 2."""


class UserError(ValueError):
    """Wrong input. The message says what was wrong, where, and what is accepted, in one line."""
