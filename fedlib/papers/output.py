"""TODO: what this room is for."""

import os

from fedlib.papers import tables
from fedlib.settings import machine


def style():
    """The one style of all figures; returns pyplot."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    sns.set_theme(
        context="notebook", style="whitegrid", palette=[c for _, c in tables.METHODS.values()]
    )
    plt.rcParams |= {
        "figure.dpi": 110,
        "savefig.dpi": 160,
        "figure.constrained_layout.use": True,
        "axes.titlesize": "medium",
        "pdf.fonttype": 42,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    return plt


def folder(settings, what=""):
    """outputs/<preset>/<what>, made if need be."""
    out = machine.outputs() / settings.preset / what
    out.mkdir(parents=True, exist_ok=True)
    return out


def figure(settings, fig, name):
    """Save a figure as PNG and PDF under outputs/<preset>/figures and return it."""
    for suffix in ("png", "pdf"):
        meta = {"CreationDate": None} if suffix == "pdf" else {}
        save(
            folder(settings, "figures") / f"{name}.{suffix}",
            lambda p, s=suffix, m=meta: fig.savefig(p, format=s, metadata=m),
        )
        fig.set_layout_engine("none")  # laid out once: the PDF and what a notebook shows keep that
    return fig


def table(settings, frame, name):
    """Save a table as CSV and Markdown under outputs/<preset>/tables and return it."""
    save(folder(settings, "tables") / f"{name}.csv", lambda p: frame.to_csv(p, index=False))
    shown = (
        frame.astype(object)
        .where(frame.notna(), "")
        .map(lambda v: f"{v:.4g}" if isinstance(v, float) else v)
    )
    save(
        folder(settings, "tables") / f"{name}.md",
        lambda p: shown.to_markdown(p, index=False, disable_numparse=True),
    )
    return frame


def save(file, write):
    """Write a file through a partial one beside it, so that a reader never sees half of it."""
    partial = file.with_name(f".{os.getpid()}.{file.name}")
    write(partial)
    os.replace(partial, file)
