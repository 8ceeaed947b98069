"""Whose mistake an error is: the user's gets one message, ours a traceback."""


def is_users(error: Exception) -> bool:
    """Whether it is one of this package's own errors, or the operating system's.

    All others come out of a library, which this package should have kept from it.
    """
    # A module that is run by `python -m` has another name than when it is imported.
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or package in ("vl_ltr_jax", "__main__")
