"""TODO: what this room is for."""

import difflib


class SettingsError(ValueError):
    """A setting that cannot be used; the message is one line."""

    def _render_traceback_(self):  # what IPython shows: the line, not the way to it
        return [f"SettingsError: {self}"]


def nearest(name, known):
    """The end of an error line: the nearest known name, if any is near, and all known ones."""
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return (f"; did you mean {close[0]!r}?" if close else "") + f" (known: {', '.join(known)})"


class DataError(ValueError):
    """Data that cannot be used; the message names file and line."""

    def _render_traceback_(self):
        return [f"DataError: {self}"]
