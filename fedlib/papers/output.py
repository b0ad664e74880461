"""Where figures and tables are written, and the one style of all figures."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from fedlib.papers import methods
from fedlib.settings import machine
from fedlib.settings.schema import Settings

ONE_SEED = "One seed: a first look. results/ has more."
MOST_WORDS = 600  # letters that a figure's words have at most

_SAID: set[Path] = set()  # the files that this process has written and told of


def figure_style() -> Any:
    """Set the one style of all figures; returns pyplot."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    palette = [colour for _, colour in methods.METHODS.values()]
    sns.set_theme(context="notebook", style="whitegrid", palette=palette)
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


def preset_folder(settings: Settings, what: str = "") -> Path:
    """outputs/<preset>/<what>, made if need be.

    Results of changed settings go to <preset>+<key>: beside them <preset>+<key>.yaml says which."""
    folder = machine.outputs() / settings.preset
    if "+" in settings.preset:
        _keep_settings(settings, folder)
    return machine.made_folder(folder / what)


def _keep_settings(settings: Settings, folder: Path) -> None:
    """Write a folder's settings into it, as a file that is a preset itself; say so once."""
    file = machine.made_folder(folder) / f"{settings.preset}.yaml"
    if file in _SAID:
        return
    _SAID.add(file)
    content = settings.model_dump(mode="json", exclude={"preset", "seed"})
    text = f"# The settings of these results; again: -p preset {file}\n"
    text += yaml.safe_dump(content, sort_keys=False)
    save(file, lambda partial: partial.write_text(text, encoding="utf-8"))
    print(f"changed settings: results go to {folder}, not to those of the preset ({file.name})")


def save_figure(settings: Settings, fig: Any, name: str) -> Any:
    """Save a figure as PNG and PDF under outputs/<preset>/figures and return it.

    The PNG holds the figure's words too, as its Description. A figure of one seed says so."""
    folder = preset_folder(settings, "figures")
    _stamp(settings, fig)
    # without its date, the same figure is the same file
    words = {"Description": figure_words(fig)}
    save(folder / f"{name}.png", lambda file: fig.savefig(file, format="png", metadata=words))
    fig.set_layout_engine("none")  # laid out once: the PDF and what a notebook shows keep that
    undated = {"CreationDate": None}
    save(folder / f"{name}.pdf", lambda file: fig.savefig(file, format="pdf", metadata=undated))
    return fig


def _stamp(settings: Settings, fig: Any) -> None:
    """Where there is one seed, say below the figure that it is a first look."""
    # a diagram measures nothing
    measured = any(axes.axison for axes in fig.axes)
    if len(settings.seeds) > 1 or not measured or fig.get_supxlabel():
        return
    fig.supxlabel(ONE_SEED, fontsize="small", color="0.35", ha="right", x=0.99)


def said(*sentences: str) -> Any:
    """What a table or a figure says, in sentences that were made from its numbers: for a notebook.

    Empty ones are left out."""
    from IPython.display import Markdown

    return Markdown("\n\n".join(sentence for sentence in sentences if sentence))


def figure_words(fig: Any) -> str:
    """What a figure says in words, for those who cannot see it: its title, then its panels.

    Of each panel its title, its axes, and what its rows or its legend name."""
    panels = [_panel_words(axes) for axes in fig.axes]
    said = [one for one in (fig.get_suptitle(), *panels) if one]
    return ". ".join(dict.fromkeys(said))[:MOST_WORDS]


def _panel_words(axes: Any) -> str:
    """A panel's title, the labels of its axes, and what is named along them or in the legend."""
    said = [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
    for axis in (axes.yaxis, axes.xaxis):
        names = [label.get_text() for label in axis.get_ticklabels()]
        # numbers say nothing without the picture
        if not all(re.fullmatch(r"[-\u2212\d.$\\{}^a-z]*", name) for name in names):
            said.append(", ".join(names))
    # of a picture without axes the words that stand in it
    if not axes.axison:
        said += [text.get_text() for text in axes.texts]
    legend = axes.get_legend()
    if legend:
        said.append(", ".join(text.get_text() for text in legend.get_texts()))
    return "; ".join(" ".join(one.split()) for one in said if one)


def save_table(settings: Settings, frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Save a table as CSV and Markdown under outputs/<preset>/tables and return it."""
    folder = preset_folder(settings, "tables")
    save(folder / f"{name}.csv", lambda file: frame.to_csv(file, index=False))
    shown = frame.astype(object).where(frame.notna(), "").map(_short)
    save(
        folder / f"{name}.md",
        lambda file: shown.to_markdown(file, index=False, disable_numparse=True),
    )
    return frame


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def save(file: Path, write: Callable[[Path], Any]) -> None:
    """Write a file through a partial one beside it, so that a reader never sees half of it."""
    partial = file.with_name(f".{os.getpid()}.{file.name}")
    with machine.writing(file):
        write(partial)
        os.replace(partial, file)
