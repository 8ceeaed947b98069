"""The one base of errors that a user can mend."""


class UserError(ValueError):
    """Flags, files or an environment that the user can mend; the message says how.

    Commands print its message and exit with 2; any other error is a bug of ours and
    keeps its traceback.
    """
