"""Whole figures: what stands along their axes."""

from types import SimpleNamespace

import pytest

from fedlib.papers import panels
from fedlib.papers import secure_tuning_results as results


@pytest.mark.parametrize("losses", [(7.3, 6.9), (4.0, 1.5), (3.0, 0.02)])
def test_task_loss_has_a_few_plain_numbers(monkeypatch, losses):
    """However short or long the range of the logarithmic axis is."""
    rounds = [{"round": i, "task": -loss, "refused": 100} for i, loss in enumerate(losses)]
    run = SimpleNamespace(rounds=lambda: rounds)
    monkeypatch.setattr(results, "tasks_of", lambda done: ["task"])
    monkeypatch.setattr(results, "tuned_as", lambda done, **wanted: [run])
    fig = panels.refusal_over_loss(["world:chat"], [])
    fig.canvas.draw()
    (axes,) = fig.axes
    low, high = sorted(axes.get_xlim())
    inside = [label.get_text() for label in axes.get_xticklabels(which="both")]
    at = [float(text) for text in inside if text and low <= float(text) <= high]
    assert 2 <= len(at) <= 10
    assert axes.get_ylim() == (-2, 102) and axes.xaxis_inverted()
