"""The one kind of error a user is meant to read."""


class UserError(Exception):
    """Says what was wrong, what was expected and what to do next, in one line; the command line exits with code 2."""
