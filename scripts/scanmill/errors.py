"""Errors that a user can mend."""


class UserError(Exception):
    """Something only the user can put right; the message names the file, the cause and the remedy."""
