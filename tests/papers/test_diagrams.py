"""The drawings say the settings' own numbers."""

import numpy as np
import pytest
import torch

from fedlib.papers import diagrams, methods, output
from fedlib.settings import presets


def test_the_overview_counts_clients():
    settings = presets.load("mini", federation={"clients": 20, "malicious": 4, "sampled": 5})
    for malicious, said in (
        (4, ["16 benign clients", "4 malicious clients"]),
        (0, ["20 benign clients"]),
    ):
        fig = diagrams.safety_overview(settings.replace(federation={"malicious": malicious}))
        fig.canvas.draw()
        texts = "\n".join(t.get_text() for t in fig.axes[0].texts)
        assert all(s in texts for s in [*said, "5 of 20 clients are sampled"])
        assert ("malicious" in texts) == (malicious > 0)
        output.figure_style().close(fig)


def test_the_warm_ups_picture_says_how_many_rounds(smoke):
    texts = [t.get_text() for t in diagrams.warmup_overview(smoke).axes[0].texts]
    assert any("1 of 2 rounds" in t for t in texts) and any("50%" in t for t in texts)


def test_the_idea_asks_one_question_for_each_paper():
    fig = diagrams.idea_overview()
    fig.canvas.draw()
    texts = [t.get_text() for t in fig.axes[0].texts]
    assert [t[:7] for t in texts if t.startswith("Paper ")] == ["Paper S", "Paper B", "Paper W"]
    # one of four clients is malicious; the poison is in the data of the others
    clients = [t for t in texts if t.endswith("client")]
    assert clients == ["client", "client", "client", "malicious\nclient"]
    assert [texts.count(row) for row in ("B: a trigger", "S: harmful")] == [3, 1]
    output.figure_style().close(fig)


@pytest.mark.parametrize("side", [1, -1])
def test_updates_are_drawn_as_they_lie(side):
    """Two updates of lengths 3 and 4 at a right angle keep both; the mean is between."""
    updates = side * torch.tensor([[3.0, 0, 0], [0, 4.0, 0]])
    fig = diagrams.updates_drawn(updates, updates.mean(dim=0), [2, 9], malicious=[9])
    axes = fig.axes[0]
    start, first, second, step = np.array(axes.lines[0].get_data()).T
    assert start.tolist() == [0, 0]
    assert np.linalg.norm(first) == pytest.approx(3) and np.linalg.norm(second) == pytest.approx(4)
    assert step == pytest.approx((first + second) / 2) and step[0] > 0  # to the right
    assert [text.get_text() for text in axes.texts] == ["2", "9", ""]
    assert [text.get_color() for text in axes.texts[:2]] == [methods.BLUE, methods.RED]
    assert "100%" in axes.get_title()
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["benign client", "malicious client", "the server's step"]
    output.figure_style().close(fig)
