"""Heat maps: scale, numbers, and the frames around what must be seen."""

import numpy as np
import pytest
from axes_read import frames, labels

from fedlib.papers import heatmaps, output


def record(malicious=(3, 4), clients=(0, 1, 2, 3, 4)):
    count = len(clients)
    cosine = np.full((count, count), 0.5) + 0.5 * np.eye(count)
    return {
        "sampled": list(clients),
        "malicious": list(malicious),
        "cosine": cosine.tolist(),
    }


@pytest.mark.parametrize(
    "clients, malicious, frame",
    [
        ((0, 1, 2, 3, 4), (3, 4), (3, 3, 2, 2)),
        ((1, 4, 9), (9,), (2, 2, 1, 1)),
        ((1, 4, 9), (), None),
    ],
)
def test_heatmap_frames_the_malicious_block(axes, clients, malicious, frame):
    told = record(malicious, clients)
    told["cosine"][0][1] = told["cosine"][1][0] = -0.25
    heatmaps.similarity_map(axes, told, 0.6, "round 1")
    assert frames(axes) == ([frame] if frame else [])
    shown = axes.collections[0].get_array().reshape(len(clients), -1)
    oneself = np.eye(len(clients), dtype=bool)  # says nothing
    assert np.ma.getmaskarray(shown).tolist() == oneself.tolist()
    assert shown[0, 1] == -0.25 and shown[0, 2] == 0.5
    assert labels(axes) == labels(axes, "x") == [str(k) for k in clients]
    assert axes.get_title() == "round 1"
    assert axes.collections[0].get_clim() == (-0.6, 0.6)
    assert "-0.25" in [t.get_text() for t in axes.texts]


def test_a_large_heatmap_has_no_numbers_in_it(axes):
    heatmaps.similarity_map(axes, record((12,), range(13)), 1, "")
    assert not [t for t in axes.texts if t.get_text()]
    heatmaps.similarity_map(axes.figure.add_subplot(), record((49,), range(50)), 1, "")
    as_can_be_read = [str(k) for k in range(0, 50, 3)]
    assert labels(axes.figure.axes[-1]) == as_can_be_read


def test_heatmaps_have_the_first_and_the_last_round_on_one_scale():
    rounds = [record((3, 4), range(5)) | {"round": i} for i in range(3)]
    rounds[1]["cosine"][0][1] = -1  # is not shown
    rounds[2]["cosine"][0][1] = -0.75
    fig = heatmaps.similarity_figure({"attack": rounds, "control": rounds[:1]})
    panels = fig.axes[:4]
    assert [panel.get_title() for panel in panels] == [
        "attack\nround 1 of 3",
        "control\nround 1 of 1",
        "attack\nround 3 of 3",
        "control\nround 1 of 1",
    ]
    assert {panel.collections[0].get_clim() for panel in panels} == {(-0.75, 0.75)}
    assert len(fig.axes) == 5  # one colour bar
    output.figure_style().close(fig)


CELLS = [{"type": t, "layer": i, "loss": 0.1 * i} for t in ("q_proj", "k_proj") for i in (0, 2)]


def test_a_heat_map_of_modules_frames_the_robust_ones(axes):
    heatmaps.module_map(axes, CELLS, robust=[["k_proj", 2]], title="noise")
    assert labels(axes) == ["q_proj", "k_proj"] and labels(axes, "x") == ["0", "2"]
    assert [t.get_text() for t in axes.texts] == ["0", "0.2", "0", "0.2"]
    ((x, y, width, height),) = frames(axes)
    assert 1 < x < x + width < 2 and 1 < y < y + height < 2 and "framed" in axes.get_xlabel()


def test_small_rises_can_be_told_from_none(axes):
    """On an even scale 0.004 beside 2 would be white, and 0.00 in numbers."""
    losses = (0, 0.004, 0.04, 2)
    cells = [{"type": "q_proj", "layer": i, "loss": loss} for i, loss in enumerate(losses)]
    heatmaps.module_map(axes, cells)
    assert [t.get_text() for t in axes.texts] == ["0", "0.004", "0.04", "2"]
    shades = axes.collections[0].norm(losses)
    assert shades[0] == 0.5 and shades[3] == 1 and shades[2] > 0.55
