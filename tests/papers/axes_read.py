"""What has been drawn on axes, for the tests of the figures."""

import matplotlib.colors as colours
from matplotlib.patches import Rectangle


def lines(axes, marker):
    return [line for line in axes.get_lines() if line.get_marker() == marker]


def same(colour, other):
    return colours.to_rgb(colour) == colours.to_rgb(other)


def labels(axes, which="y"):
    return [t.get_text() for t in getattr(axes, f"get_{which}ticklabels")()]


def frames(axes):
    """(x, y, width, height) of the frames drawn around malicious clients."""
    return [
        (*p.get_xy(), p.get_width(), p.get_height())
        for p in axes.patches
        if isinstance(p, Rectangle) and not p.get_fill()
    ]
