"""Sliders, choices and buttons of the lessons. ipywidgets is imported where it is used.

The picture of the starting values is an ordinary output of the cell, which a moved slider
replaces. So it is there too where nobody can move anything: in a notebook that papermill ran, on a
page, or without ipywidgets."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

FEW = 4  # choices of text that are shown as buttons side by side; more are a list


def explore(
    draw: Callable[..., Any], start: Mapping[str, Any] | None = None, **choices: Any
) -> None:
    """Show draw(**values) below a slider or a row of buttons for each of the choices.

    choices: {argument of draw: its values}: numbers become a slider, texts buttons or a list.
    start: the value that each begins with; without it the first. draw gives a figure, a table, or
    anything that a notebook can show."""
    from IPython.display import display

    begin = {name: values[0] for name, values in choices.items()} | dict(start or {})
    widgets = _widgets(choices, begin)
    if widgets:
        display(_box(list(widgets.values())))
    place = display(as_output(draw(**begin)), display_id=True)
    if not widgets or place is None:
        return

    def redraw(_change: Any) -> None:
        place.update(as_output(draw(**{name: widget.value for name, widget in widgets.items()})))

    for widget in widgets.values():
        widget.observe(redraw, names="value")


def press(label: str, draw: Callable[[int], Any]) -> None:
    """Show draw(0), and a button that shows draw(1), draw(2), and so on."""
    from IPython.display import display

    widgets = _ipywidgets()
    button = widgets.Button(description=label, layout={"width": "auto"}) if widgets else None
    if button is not None:
        display(button)
    place = display(as_output(draw(0)), display_id=True)
    if button is None or place is None:
        return
    pressed = [0]

    def again(_button: Any) -> None:
        pressed[0] += 1
        place.update(as_output(draw(pressed[0])))

    button.on_click(again)


def as_output(value: Any) -> Any:
    """What a notebook is given to show: a figure as its picture, all else as it is."""
    if not hasattr(value, "savefig"):
        return value
    import matplotlib.pyplot as plt
    from IPython.display import Image

    from fedlib.papers import output

    file = io.BytesIO()
    value.savefig(file, format="png", dpi=100)
    plt.close(value)
    return Image(file.getvalue(), alt=output.figure_words(value))


def _ipywidgets() -> Any:
    """The module, or None where it is not installed."""
    try:
        import ipywidgets
    except ImportError:
        return None
    return ipywidgets


def _widgets(choices: Mapping[str, Sequence], begin: Mapping[str, Any]) -> dict[str, Any]:
    """{name: its widget}; empty without ipywidgets."""
    widgets = _ipywidgets()
    if widgets is None:
        return {}
    found = {}
    for name, values in choices.items():
        look: dict[str, Any] = {"style": {"description_width": "initial"}}
        if not any(isinstance(value, str) for value in values):
            kind, look["continuous_update"] = widgets.SelectionSlider, False
        else:
            kind = widgets.ToggleButtons if len(values) <= FEW else widgets.Dropdown
        label = name.replace("_", " ")
        found[name] = kind(options=list(values), value=begin[name], description=label, **look)
    return found


def _box(widgets: Sequence[Any]) -> Any:
    import ipywidgets

    return ipywidgets.VBox(list(widgets))
