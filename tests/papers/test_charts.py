"""Bars, lines and points hold what they should."""

import numpy as np
import pandas as pd
import pytest
from axes_read import frames, labels, lines, same
from matplotlib.collections import PolyCollection

from fedlib.papers import charts, methods, output, tables


def scores(sampled=3):
    """Two seeds of three methods, as tables.score_table gives them."""
    told = {"FedAvg": (40, 60), "Krum": (30, 40), "Repair: level 2": (90, 100)}
    return pd.DataFrame(
        [
            {
                "seed": seed,
                "dataset": "lmsys-like",
                "method": name,
                "sampled": sampled,
                "clients": 10,
                "rule": values[seed],
                "md_judge": values[seed] / 2,
                "mt1": 4 + seed,
                "rm": -1.5 - seed,
            }
            for name, values in told.items()
            for seed in (0, 1)
        ]
    )


def test_bars_are_means_with_a_dot_a_seed(axes):
    charts.score_bars(axes, scores(), "rule", title="a title")
    assert [p.get_width() for p in axes.patches] == [50, 35, 95]
    assert labels(axes) == ["FedAvg", "Krum", "Repair: level 2"] and axes.get_title() == "a title"
    dots = lines(axes, "o")
    assert [line.get_xdata().tolist() for line in dots] == [[40, 60], [30, 40], [90, 100]]
    assert [set(line.get_ydata()) for line in dots] == [{0}, {1}, {2}]
    for bar, name in zip(axes.patches, labels(axes), strict=True):
        assert same(bar.get_facecolor(), methods.COLOUR[name])
    assert axes.yaxis_inverted() and axes.get_xlim() == (0, 100) and not lines(axes, "D")


@pytest.mark.parametrize(
    "column, paper",
    [
        ("rule", [49.81, 55.38, 77.31]),
        ("md_judge", [25.96, 27.88, 84.23]),
        ("mt1", [4.14, 4.16, 4.23]),
        ("rm", [-2.97, -2.88, -0.99]),
    ],
)
def test_diamonds_are_the_papers_numbers_beside_their_method(axes, column, paper):
    charts.score_bars(axes, scores(), column, "safety_table1")
    [diamonds] = lines(axes, "D")
    assert diamonds.get_xdata().tolist() == paper and list(diamonds.get_ydata()) == [0, 1, 2]


def test_diamonds_stand_in_the_published_sampling_only(axes):
    charts.score_bars(axes, scores(sampled=10), "rule", "safety_table1")
    [diamonds] = lines(axes, "D")
    assert np.isnan(np.asarray(diamonds.get_xdata(), dtype=float)).all()
    assert [p.get_width() for p in axes.patches] == [50, 35, 95]


@pytest.mark.parametrize(
    "column, limits", [("rule", (0, 100)), ("help", (0, 100)), ("mt1", (0, 10))]
)
def test_bars_of_a_score_have_its_whole_scale(axes, column, limits):
    charts.score_bars(axes, scores().assign(help=50), column)
    assert axes.get_xlim() == limits


def test_rewards_may_be_negative(axes):
    charts.score_bars(axes, scores(), "rm")
    assert [p.get_width() for p in axes.patches] == [-2] * 3 and axes.get_xlim()[0] < -2.5


def test_before_and_after(axes):
    told = {
        ("FedAvg", False): (20, 30),
        ("FedAvg", True): (80, 90),
        ("Krum", False): (10, 30),
        ("Krum", True): (70, 100),
    }
    frame = pd.DataFrame(
        [
            {"aggregator": rule, "defended": after, "md_judge": v}
            for (rule, after), values in told.items()
            for v in values
        ]
    )
    charts.before_after(axes, frame, "md_judge", "some")
    big = [line for line in lines(axes, "o") if line.get_markersize() == 9]
    assert [list(line.get_xdata()) for line in big] == [[25], [85], [20], [85]]
    assert [list(line.get_ydata()) for line in big] == [[0], [0], [1], [1]]
    for line, colour in zip(big, (methods.RED, methods.GREEN) * 2, strict=True):
        assert same(line.get_color(), colour)
    small = [list(line.get_xdata()) for line in lines(axes, "o") if line.get_markersize() == 3]
    assert small == [list(v) for v in told.values()]
    assert labels(axes) == ["FedAvg", "Krum"] and axes.get_xlabel().endswith("higher is safer")
    legend = [t.get_text() for t in axes.get_legend().get_texts()]
    assert legend == ["under attack", "with level 2 on top"]


def test_lines_are_means_in_bands(axes):
    frame = pd.DataFrame(
        [
            {"method": name, "malicious": m, "md_judge": value + seed}
            for name, value in (("FedAvg", 40), ("Krum", 60))
            for m in (5, 0, 3)
            for seed in (0, 2, 4)
        ]
    )
    charts.score_lines(axes, frame, "malicious", "md_judge", "malicious clients")
    first, second = axes.get_lines()
    assert (first.get_label(), second.get_label()) == ("FedAvg", "Krum")
    for line, value in ((first, 42), (second, 62)):
        assert line.get_xdata().tolist() == [0, 3, 5]
        assert line.get_ydata().tolist() == [value] * 3

    half = 4.3027 * 2 / 3**0.5  # Student's t, three seeds 2 apart
    bands = [c for c in axes.collections if isinstance(c, PolyCollection)]
    for band, mean in zip(bands, (42, 62), strict=True):
        edge = band.get_paths()[0].vertices[:, 1]
        found = (edge.min(), edge.max())
        assert found == pytest.approx((mean - half, mean + half), abs=1e-3)
    assert axes.get_xlabel() == "malicious clients"
    said = ["MD-Judge", "responses to harmful prompts judged safe (%)", "higher is safer"]
    assert axes.get_ylabel().split("\n") == said


def test_lines_of_one_seed_have_no_band_but_are_drawn(axes):
    frame = pd.DataFrame([{"method": "FedAvg", "malicious": m, "rule": 10.0 * m} for m in (0, 1)])
    charts.score_lines(axes, frame, "malicious", "rule", "malicious clients")
    assert axes.get_lines()[0].get_ydata().tolist() == [0, 10]


def test_curves_count_rounds_from_one(axes):
    charts.round_curves(
        axes, {"attack": [[0.5, 0.7], [0.7, 0.9]], "alone": [[0.2, 0.4]]}, "round", "AUC", "krum"
    )
    thick = [line for line in axes.get_lines() if line.get_marker() in charts.MARKERS]
    assert [line.get_label() for line in thick] == ["attack", "alone"]
    np.testing.assert_allclose([line.get_ydata() for line in thick], [[0.6, 0.8], [0.2, 0.4]])
    assert all(line.get_xdata().tolist() == [1, 2] for line in thick)
    thin = [list(line.get_ydata()) for line in axes.get_lines() if line.get_alpha() == 0.25]
    assert thin == [[0.5, 0.7], [0.7, 0.9]]  # a line a seed, where there are several
    [guessing] = [line for line in axes.get_lines() if line.get_label() == "guessing"]
    assert set(guessing.get_ydata()) == {0.5} and axes.get_title() == "krum"
    charts.round_curves(
        axes.figure.add_subplot(), {"attack": [[0.5]]}, "round", "AUC", legend=False
    )
    assert axes.get_legend() and not axes.figure.axes[-1].get_legend()


def record(malicious=(3, 4), clients=(0, 1, 2, 3, 4)):
    count = len(clients)
    cosine = np.full((count, count), 0.5) + 0.5 * np.eye(count)
    return {
        "sampled": list(clients),
        "malicious": list(malicious),
        "cosine": cosine.tolist(),
        "detection": {
            "krum": [0.5, 0.5, 0, 0, 0][:count],
            "foolsgold": [1 / count] * count,
            "dnc": None,
        },
    }


@pytest.mark.parametrize("rule, heights", [("krum", [0.5, 0.5, 0, 0, 0]), ("foolsgold", [0.2] * 5)])
def test_weights_are_bars_and_malicious_clients_are_framed(axes, rule, heights):
    charts.weight_bars(axes, record(), rule)
    bars = [p for p in axes.patches if p.get_fill()]
    assert [p.get_height() for p in bars] == heights and axes.get_title() == methods.LABEL[rule]
    assert [same(p.get_facecolor(), methods.RED) for p in bars] == [False] * 3 + [True] * 2
    assert all(same(p.get_facecolor(), methods.BLUE) for p in bars[:3])
    [frame] = frames(axes)
    # around clients 3 and 4, up to the top that all rules share
    assert frame == pytest.approx((2.5, 0, 2, 0.575))
    assert axes.get_ylim() == pytest.approx((0, 0.575)) and labels(axes, "x") == list("01234")


def test_weights_without_attack_have_no_frame(axes):
    charts.weight_bars(axes, record(malicious=()), "krum")
    assert not frames(axes) and all(same(p.get_facecolor(), methods.BLUE) for p in axes.patches)


def test_weights_of_a_rule_that_cannot_work_say_so():
    _, axes = output.figure_style().subplots()
    detection = {"krum": None, "dnc": [0.5, 0.5]}
    told = {"sampled": [0, 1], "malicious": [1], "detection": detection}
    charts.weight_bars(axes, told, "krum")
    assert any("cannot work" in t.get_text() for t in axes.texts)


def test_probes_are_lines_over_layers_with_a_thick_mean(axes):
    accuracy = [0, 0, 0]
    runs = [[[1, 2, 3], accuracy], [[3, 4, 5], accuracy]]
    charts.probe_lines(axes, {"before": runs}, 0, "loss")
    (thick,) = lines(axes, "o")
    assert thick.get_ydata().tolist() == [2, 3, 4] and thick.get_label() == "before"


def test_what_is_refused_over_the_tasks_loss_is_a_mean_over_runs(axes):
    first = [{"round": 0, "task": -4.0, "refused": 80}, {"round": 1, "task": -1.0, "refused": 20}]
    second = [{"round": 0, "task": -2.0, "refused": 60}, {"round": 1, "task": -1.0, "refused": 0}]
    charts.loss_curve(axes, [first, second], "swat", "s")
    (line,) = axes.get_lines()
    assert line.get_xdata().tolist() == [3, 1] and line.get_ydata().tolist() == [70, 10]
    assert line.get_label() == "SWAT" and same(line.get_color(), methods.COLOUR["SWAT"])


def test_grouped_bars_are_means_by_group_and_method(axes):
    means = (
        ("a", "SWAT", 10),
        ("a", "plain tuning", 30),
        ("b", "SWAT", 20),
        ("b", "plain tuning", 40),
    )
    frame = pd.DataFrame(
        [{"where": w, "method": m, "unsafe": v + s} for s in (-1, 1) for w, m, v in means]
    )
    charts.grouped_bars(axes, frame, "where", "unsafe", "ASR")
    assert [p.get_height() for p in axes.patches] == [10, 20, 30, 40]
    assert labels(axes, "x") == ["a", "b"]
    assert same(axes.patches[0].get_facecolor(), methods.COLOUR["SWAT"])


@pytest.mark.parametrize(
    "column, good",
    [("rule", "higher is safer"), ("unsafe", "lower is safer"), ("help", "higher is more helpful")],
)
def test_axes_say_which_way_is_good(axes, column, good):
    charts.score_bars(axes, scores().assign(unsafe=50, help=50), column)
    assert axes.get_xlabel() == good
    assert set(charts.TITLES) <= set(tables.BETTER)


def test_dots_of_different_holders_have_different_shapes(axes):
    """1, 2 and 5 clients that hold the same share evenly: three shapes, not one."""
    rows = [
        {"share": 0.04, "spread": "equal", "holders": holders, "bsnr": 0.5, "asr": 50}
        for holders in (1, 2, 5)
    ]
    charts.poison_scatter(axes, pd.DataFrame(rows), "bsnr", "asr", "BSNR")
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert named[-3:] == ["equal, 1", "equal, 2", "equal, 5"]
    shapes = [path.vertices.tobytes() for path in axes.collections[0].get_paths()]
    assert len(set(shapes)) == 3


def test_probes_have_the_colours_of_attack_and_no_attack(axes):
    runs = [[[1, 2], [0, 0]]]
    charts.probe_lines(axes, {"before": runs, "benign": runs, "attack": runs}, 0, "loss")
    thick = [line.get_color() for line in axes.get_lines() if line.get_marker() in charts.MARKERS]
    assert thick == [methods.COLOUR["before tuning"], methods.BLUE, methods.RED]


# Who holds what.


def of_kind(label, topics):
    return [{"label": label, "topic": topic} for topic in topics]


def test_rows_held_by_hand():
    rows = {
        4: of_kind("normal", "aab") + of_kind("aligned", "x"),
        2: of_kind("normal", "bbb") + of_kind("unaligned", "xx") + of_kind("poisoned", "a"),
        7: [{"label": "normal"}, {"label": "normal", "topic": ""}],
    }
    topics, labels = charts.rows_held(rows)
    assert topics.to_dict("index") == {
        4: {"b": 1, "a": 2, "normal": 0},
        2: {"b": 3, "a": 0, "normal": 0},
        7: {"b": 0, "a": 0, "normal": 2},
    }
    assert list(topics.columns) == ["b", "a", "normal"]
    assert list(labels.columns) == ["unaligned", "aligned", "poisoned"]
    assert labels.loc[2].tolist() == [2, 0, 1] and labels.loc[7].tolist() == [0, 0, 0]


def test_rare_topics_are_counted_together():
    names = [str(i) for i in range(charts.MOST_TOPICS + 3)]
    rows = {0: of_kind("normal", names + names[: charts.MOST_TOPICS])}
    topics, labels = charts.rows_held(rows)
    assert topics.loc[0].tolist() == [2] * charts.MOST_TOPICS + [3]
    assert topics.columns[-1] == "3 more topics" and labels.empty


def test_the_bars_are_the_rows_and_the_malicious_are_framed():
    rows = {
        client: of_kind("normal", "ab" * (client + 1)) + of_kind("mine", "x") for client in range(5)
    }
    fig = charts.holdings(rows, malicious=[3, 4])
    [axes] = fig.axes
    *bars, frame = axes.patches
    widths = [bar.get_width() for bar in bars]
    assert widths == [1, 2, 3, 4, 5] * 2 + [1] * 5  # two topics, then the label
    assert (frame.get_y(), frame.get_height(), frame.get_width()) == (2.5, 2, 11)
    assert axes.get_legend_handles_labels()[1] == ["a", "b", "mine"]
    assert axes.get_ylabel() == "client (malicious framed)"
    fig.canvas.draw()


def test_many_clients_are_named_in_steps():
    rows = {client: of_kind("normal", "a") for client in range(100)}
    [axes] = charts.holdings(rows).axes
    assert len(axes.get_yticklabels()) == 34 and axes.get_ylabel() == "client"
