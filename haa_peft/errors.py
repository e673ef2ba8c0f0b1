"""The one error that people see."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line that names the value, what is allowed and what to do. Command lines print it
    and exit with status 2; library callers catch it like any ``ValueError``.
    """
