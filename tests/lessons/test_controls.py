"""Sliders and buttons: the starting value's picture is an output, which a moved slider replaces."""

import sys

import pytest

from fedlib.lessons import controls


@pytest.fixture
def notebook(monkeypatch):
    """What a notebook was given to show: ["shown", value] for an output, changed by its handle."""
    outputs = []

    class Handle:
        def __init__(self, place):
            self.place = place

        def update(self, value):
            outputs[self.place] = value

    def display(value, display_id=False):
        outputs.append(value)
        return Handle(len(outputs) - 1) if display_id else None

    monkeypatch.setattr("IPython.display.display", display)
    return outputs


def test_a_moved_slider_draws_anew(notebook):
    controls.explore(
        lambda share, kind: f"{kind} {share}", {"share": 2}, share=[1, 2, 3], kind=["a", "b"]
    )
    box, picture = notebook
    assert picture == "a 2"
    slider, buttons = box.children
    slider.value = 3
    assert notebook[1] == "a 3"
    buttons.value = "b"
    assert notebook[1] == "b 3" and len(notebook) == 2


def test_many_texts_are_a_list_and_names_lose_their_underscores(notebook):
    controls.explore(lambda warm_up: warm_up, warm_up=list("abcde"))
    (chooser,) = notebook[0].children
    assert type(chooser).__name__ == "Dropdown" and chooser.description == "warm up"


def test_a_button_counts_how_often_it_was_pressed(notebook):
    controls.press("again", lambda number: f"draw {number}")
    button, picture = notebook
    assert (button.description, picture) == ("again", "draw 0")
    button.click()
    button.click()
    assert notebook[1] == "draw 2"


def test_without_ipywidgets_the_picture_is_there(notebook, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    controls.explore(lambda share: share, share=[1, 2])
    controls.press("again", lambda number: number)
    assert notebook == [1, 0]


def test_a_figure_is_shown_as_its_picture_and_closed(axes):
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    ax.set_title("who holds what")
    shown = controls.as_output(fig)
    assert shown.data[:4] == b"\x89PNG" and "who holds what" in shown.alt
    assert fig.number not in plt.get_fignums()
    assert controls.as_output("text") == "text"
