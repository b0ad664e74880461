"""The figures hold what they should, and the papers' own numbers stand beside the right rows."""

import csv

import matplotlib.colors as colours
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.patches import Rectangle

from fedlib.papers import claims, figures, output, tables
from fedlib.settings import presets


@pytest.fixture
def axes():
    plt = output.style()
    fig, axes = plt.subplots()
    yield axes
    fig.canvas.draw()  # what cannot be drawn fails here
    plt.close("all")


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


def scores(sampled=3):
    """Two seeds of three methods, as report.scores gives them."""
    told = {"FedAvg": (40, 60), "Krum": (30, 40), "Ours: Level 2": (90, 100)}
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


# Bars.


def test_bars_are_means_with_a_dot_a_seed(axes):
    figures.bars(axes, scores(), "rule", title="a title")
    assert [p.get_width() for p in axes.patches] == [50, 35, 95]
    assert labels(axes) == ["FedAvg", "Krum", "Ours: Level 2"] and axes.get_title() == "a title"
    assert [line.get_xdata().tolist() for line in lines(axes, "o")] == [
        [40, 60],
        [30, 40],
        [90, 100],
    ]
    assert [set(line.get_ydata()) for line in lines(axes, "o")] == [{0}, {1}, {2}]
    assert all(
        same(p.get_facecolor(), dict(tables.METHODS.values())[name])
        for p, name in zip(axes.patches, labels(axes), strict=True)
    )
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
    figures.bars(axes, scores(), column, "safety_table1")
    [diamonds] = lines(axes, "D")
    assert diamonds.get_xdata().tolist() == paper and list(diamonds.get_ydata()) == [0, 1, 2]


def test_diamonds_stand_in_the_published_sampling_only(axes):
    figures.bars(axes, scores(sampled=10), "rule", "safety_table1")
    [diamonds] = lines(axes, "D")
    assert np.isnan(np.asarray(diamonds.get_xdata(), dtype=float)).all()
    assert [p.get_width() for p in axes.patches] == [50, 35, 95]


@pytest.mark.parametrize(
    "column, limits", [("rule", (0, 100)), ("help", (0, 100)), ("mt1", (0, 10))]
)
def test_bars_of_a_score_have_its_whole_scale(axes, column, limits):
    figures.bars(axes, scores().assign(help=50), column)
    assert axes.get_xlim() == limits


def test_rewards_may_be_negative(axes):
    figures.bars(axes, scores(), "rm")
    assert [p.get_width() for p in axes.patches] == [-2] * 3 and axes.get_xlim()[0] < -2.5


# Before and after, lines over a column, curves over rounds.


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
    figures.before_after(axes, frame, "md_judge", "some")
    big = [line for line in lines(axes, "o") if line.get_markersize() == 9]
    assert [list(line.get_xdata()) for line in big] == [[25], [85], [20], [85]]
    assert [list(line.get_ydata()) for line in big] == [[0], [0], [1], [1]]
    assert all(
        same(line.get_color(), c)
        for line, c in zip(big, (figures.RED, figures.GREEN) * 2, strict=True)
    )
    small = [list(line.get_xdata()) for line in lines(axes, "o") if line.get_markersize() == 3]
    assert small == [list(v) for v in told.values()]
    assert labels(axes) == ["FedAvg", "Krum"] and axes.get_xlabel() == figures.TITLES["md_judge"]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == [
        "under attack",
        "with level 2 on top",
    ]


def test_lines_are_means_in_bands(axes):
    frame = pd.DataFrame(
        [
            {"method": name, "malicious": m, "md_judge": value + seed}
            for name, value in (("FedAvg", 40), ("Krum", 60))
            for m in (5, 0, 3)
            for seed in (0, 2, 4)
        ]
    )
    figures.lines(axes, frame, "malicious", "md_judge", "malicious clients")
    assert [
        (line.get_label(), line.get_xdata().tolist(), line.get_ydata().tolist())
        for line in axes.get_lines()
    ] == [("FedAvg", [0, 3, 5], [42, 42, 42]), ("Krum", [0, 3, 5], [62, 62, 62])]
    bands = [
        c.get_paths()[0].vertices[:, 1] for c in axes.collections if isinstance(c, PolyCollection)
    ]
    half = 4.3027 * 2 / 3**0.5  # Student's t, three seeds 2 apart
    assert [(b.min(), b.max()) for b in bands] == [
        pytest.approx((m - half, m + half), abs=1e-3) for m in (42, 62)
    ]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "malicious clients",
        figures.TITLES["md_judge"].replace(": ", "\n"),
    )


def test_lines_of_one_seed_have_no_band_but_are_drawn(axes):
    frame = pd.DataFrame([{"method": "FedAvg", "malicious": m, "rule": 10.0 * m} for m in (0, 1)])
    figures.lines(axes, frame, "malicious", "rule", "malicious clients")
    assert axes.get_lines()[0].get_ydata().tolist() == [0, 10]


def test_curves_count_rounds_from_one(axes):
    figures.curves(
        axes, {"attack": [[0.5, 0.7], [0.7, 0.9]], "alone": [[0.2, 0.4]]}, "round", "AUC", "krum"
    )
    thick = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [line.get_label() for line in thick] == ["attack", "alone"]
    np.testing.assert_allclose([line.get_ydata() for line in thick], [[0.6, 0.8], [0.2, 0.4]])
    assert all(line.get_xdata().tolist() == [1, 2] for line in thick)
    thin = [list(line.get_ydata()) for line in axes.get_lines() if line.get_alpha() == 0.25]
    assert thin == [[0.5, 0.7], [0.7, 0.9]]  # a line a seed, where there are several
    [guessing] = [line for line in axes.get_lines() if line.get_label() == "guessing"]
    assert set(guessing.get_ydata()) == {0.5} and axes.get_title() == "krum"
    figures.curves(axes.figure.add_subplot(), {"attack": [[0.5]]}, "round", "AUC", legend=False)
    assert axes.get_legend() and not axes.figure.axes[-1].get_legend()


# Figure 3.


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
    figures.weights(axes, record(), rule)
    bars = [p for p in axes.patches if p.get_fill()]
    assert [p.get_height() for p in bars] == heights and axes.get_title() == tables.METHODS[rule][0]
    assert [same(p.get_facecolor(), figures.RED) for p in bars] == [False] * 3 + [True] * 2
    assert all(same(p.get_facecolor(), figures.BLUE) for p in bars[:3])
    [frame] = frames(axes)
    assert frame == pytest.approx(
        (2.5, 0, 2, 0.575)
    )  # around clients 3 and 4, up to the top that all rules share
    assert axes.get_ylim() == pytest.approx((0, 0.575)) and labels(axes, "x") == list("01234")


def test_weights_without_attack_have_no_frame(axes):
    figures.weights(axes, record(malicious=()), "krum")
    assert not frames(axes) and all(same(p.get_facecolor(), figures.BLUE) for p in axes.patches)


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
    figures.heatmap(axes, told, 0.6, "round 1")
    assert frames(axes) == ([frame] if frame else [])
    shown = axes.collections[0].get_array().reshape(len(clients), -1)
    assert (
        np.ma.getmaskarray(shown).tolist() == np.eye(len(clients), dtype=bool).tolist()
    )  # oneself says nothing
    assert shown[0, 1] == -0.25 and shown[0, 2] == 0.5
    assert (
        labels(axes) == labels(axes, "x") == [str(k) for k in clients]
        and axes.get_title() == "round 1"
    )
    assert axes.collections[0].get_clim() == (-0.6, 0.6)
    assert "-0.25" in [t.get_text() for t in axes.texts]


def test_a_large_heatmap_has_no_numbers_in_it(axes):
    figures.heatmap(axes, record((12,), range(13)), 1, "")
    assert not [t for t in axes.texts if t.get_text()]
    figures.heatmap(axes.figure.add_subplot(), record((49,), range(50)), 1, "")
    assert labels(axes.figure.axes[-1]) == [
        str(k) for k in range(0, 50, 3)
    ]  # as many as can be read


def test_heatmaps_have_the_first_and_the_last_round_on_one_scale():
    rounds = [record((3, 4), range(5)) | {"round": i} for i in range(3)]
    rounds[1]["cosine"][0][1] = -1  # is not shown
    rounds[2]["cosine"][0][1] = -0.75
    fig = figures.heatmaps({"attack": rounds, "control": rounds[:1]})
    panels = fig.axes[:4]
    assert [a.get_title() for a in panels] == [
        f"{n}\nround {r} of {k}"
        for n, r, k in (("attack", 1, 3), ("control", 1, 1), ("attack", 3, 3), ("control", 1, 1))
    ]
    assert {a.collections[0].get_clim() for a in panels} == {(-0.75, 0.75)} and len(
        fig.axes
    ) == 5  # one colour bar
    output.style().close(fig)


# The overview and the claims.


def test_the_overview_counts_clients():
    settings = presets.load("mini", federation={"clients": 20, "malicious": 4, "sampled": 5})
    for malicious, said in (
        (4, ["16 benign clients", "4 malicious clients"]),
        (0, ["20 benign clients"]),
    ):
        fig = figures.overview(settings.replace(federation={"malicious": malicious}))
        fig.canvas.draw()
        texts = "\n".join(t.get_text() for t in fig.axes[0].texts)
        assert all(s in texts for s in [*said, "5 of 20 clients are sampled"])
        assert ("malicious" in texts) == (malicious > 0)
        output.style().close(fig)


def verdicts():
    rows = [
        ("S1", "points", 30, 25, 35, "holds", (20, np.inf)),
        ("S5", "points", 9, 2, 16, "inconclusive", (-np.inf, 5)),
        ("S7", "points", None, None, None, "not run", (20, np.inf)),
        ("S4", "AUC", 0.9, 0.8, 1, "does not hold", (0.35, 0.65)),
        ("S9", "AUC", 0.5, float("nan"), float("nan"), "preliminary", (0.35, 0.65)),
    ]
    return pd.DataFrame(rows, columns=["id", "unit", "measured", "low", "high", "status", "bounds"])


def test_forest_has_a_panel_a_unit_and_a_dot_a_measured_claim():
    fig = figures.forest(verdicts())
    fig.canvas.draw()
    points, auc = fig.axes
    assert (points.get_xlabel(), auc.get_xlabel()) == ("points", "AUC")
    assert labels(points) == ["S1: holds", "S5: inconclusive", "S7: not run"]
    assert labels(auc) == ["S4: does not hold", "S9: preliminary"]
    dots = [
        (line.get_xdata()[0], line.get_ydata()[0], line.get_color()) for line in lines(points, "o")
    ]
    assert dots == [(30, 0, figures.STATUS["holds"]), (9, 1, figures.STATUS["inconclusive"])]
    bars = [
        list(line.get_xdata())
        for line in points.get_lines()
        if line.get_marker() in ("None", None, "")
    ]
    assert bars == [[25, 35], [2, 16]]
    shaded = [c.get_paths()[0].vertices[:, 0] for c in auc.collections]
    assert [(v.min(), v.max()) for v in shaded] == [(0.35, 0.65)] * 2
    low, high = points.get_xlim()
    shaded = [c.get_paths()[0].vertices[:, 0] for c in points.collections]
    assert [(v.min(), v.max()) for v in shaded] == [
        pytest.approx(x) for x in ((20, high), (low, 5), (20, high))
    ]
    output.style().close(fig)


def test_forest_of_nothing_measured(smoke):
    fig = figures.forest(claims.verdicts(smoke))
    fig.canvas.draw()
    assert not [line for axes in fig.axes for line in lines(axes, "o")]
    output.style().close(fig)


@pytest.mark.parametrize("status", figures.STATUS)
def test_every_verdict_has_a_colour(status):
    assert colours.is_color_like(figures.STATUS[status])


# The papers' own numbers.

SCORES = {"rule", "md_judge", "rm", "mt1"}


def cells(name):
    with open(tables.PUBLISHED / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "name, keys, count",
    [
        ("safety_table1", {"method", "dataset"}, 22),
        ("safety_table3", {"method", "defended"}, 14),
        ("safety_table4", {"clients", "method"}, 10),
    ],
)
def test_published_tables_have_a_row_a_method_and_a_column_a_score(name, keys, count):
    table = tables.published(name)
    assert set(table.columns) == keys | SCORES and len(table) == count
    assert len(table.drop_duplicates(list(keys))) == count and not table.isna().any().any()
    shares = table[["rule", "md_judge"]].to_numpy()
    assert (
        ((0 <= shares) & (shares <= 100)).all()
        and table["mt1"].between(1, 10).all()
        and (table["rm"] < 0).all()
    )
    known = {label for label, _ in tables.METHODS.values()} | {"Ours"}  # Table 4's name for level 2
    assert set(table["method"]) <= known


def frame(*rows):
    """Rows of measured scores; each beside the paper's number should be."""
    return pd.DataFrame(
        [{"sampled": 3, "clients": 10, "rule": "50.0", "md_judge": "50.0"} | row for row in rows]
    )


def test_table_1_by_hand():
    out = tables.beside(
        frame(
            *(
                {"dataset": d, "method": m}
                for d, m in (
                    ("wild-like", "Krum"),
                    ("lmsys-like", "Ours: Level 3"),
                    ("lmsys-like", "FedAvg (control)"),
                )
            )
        ),
        "safety_table1",
        ["rule", "md_judge"],
    )
    krum = next(
        r
        for r in cells("safety_table1")
        if (r["method"], r["benign_dataset"]) == ("Krum", "WildChat")
    )
    assert [float(krum["rule"]), float(krum["md_judge"])] == [40.0, 9.42]
    assert out["rule (paper)"].tolist()[:2] == [40.0, 62.69] and out["md_judge (paper)"].tolist()[
        :2
    ] == [9.42, 72.88]
    assert out.iloc[2].isna().tolist().count(True) == 2  # the paper has no such control
    assert out["rule"].tolist() == ["50.0"] * 3


def test_table_3_by_hand():
    out = tables.beside(
        frame(
            *(
                {"method": m, "defended": d}
                for m, d in (("Krum", True), ("Krum", False), ("FedAvg", True), ("Residual", False))
            )
        ),
        "safety_table3",
        ["md_judge", "mt1"],
    )
    yes, no = (
        next(
            r
            for r in cells("safety_table3")
            if (r["metric"], r["with_defense"]) == ("md_judge", said)
        )
        for said in ("yes", "no")
    )
    assert [float(yes["Krum"]), float(no["Krum"])] == [82.31, 27.88]
    assert out["md_judge (paper)"].tolist() == [82.31, 27.88, 84.23, 23.65]
    assert out["mt1 (paper)"].tolist() == [3.88, 4.16, 4.14, 4.04]


def test_table_4_by_hand():
    out = tables.beside(
        frame(
            *(
                {"clients": k, "method": m, "sampled": 10}
                for k, m in ((50, "FedAvg"), (100, "Ours"), (100, "DnC"), (10, "FedAvg"))
            )
        ),
        "safety_table4",
        ["md_judge"],
    )
    ours = next(r for r in cells("safety_table4") if (r["clients"], r["method"]) == ("100", "Ours"))
    assert float(ours["md_judge"]) == 82.12
    assert out["md_judge (paper)"].tolist()[:3] == [11.35, 82.12, 15.19]
    assert np.isnan(out["md_judge (paper)"].iloc[3])  # 10 of 10, which is not in the table either


def test_no_number_stands_beside_full_participation():
    out = tables.beside(
        frame({"dataset": "wild-like", "method": "Krum", "sampled": 10}), "safety_table1", ["rule"]
    )
    assert out["rule (paper)"].isna().all()


def test_weights_of_a_rule_that_cannot_work_say_so():
    _, axes = output.style().subplots()
    figures.weights(
        axes,
        {"sampled": [0, 1], "malicious": [1], "detection": {"krum": None, "dnc": [0.5, 0.5]}},
        "krum",
    )
    assert any("cannot work" in t.get_text() for t in axes.texts)


# Paper W.

CELLS = [{"type": t, "layer": i, "loss": 0.1 * i} for t in ("q_proj", "k_proj") for i in (0, 2)]


def test_a_heat_map_of_modules_frames_the_robust_ones(axes):
    figures.modules(axes, CELLS, robust=[["k_proj", 2]], title="noise")
    assert labels(axes) == ["q_proj", "k_proj"] and labels(axes, "x") == ["0", "2"]
    assert [t.get_text() for t in axes.texts] == ["0.00", "0.20", "0.00", "0.20"]
    ((x, y, width, height),) = frames(axes)
    assert 1 < x < x + width < 2 and 1 < y < y + height < 2 and "framed" in axes.get_xlabel()


def test_probes_are_lines_over_layers_with_a_thick_mean(axes):
    figures.probes(axes, {"before": [[[1, 2, 3], [0, 0, 0]], [[3, 4, 5], [0, 0, 0]]]}, 0, "loss")
    (thick,) = lines(axes, "o")
    assert thick.get_ydata().tolist() == [2, 3, 4] and thick.get_label() == "before"


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
    figures.grouped(axes, frame, "where", "unsafe", "ASR")
    assert [p.get_height() for p in axes.patches] == [10, 20, 30, 40] and labels(axes, "x") == [
        "a",
        "b",
    ]
    assert same(axes.patches[0].get_facecolor(), dict(tables.METHODS.values())["SWAT"])


def test_the_warm_ups_picture_says_how_many_rounds(smoke):
    texts = [t.get_text() for t in figures.warmup(smoke).axes[0].texts]
    assert any("1 of 2 rounds" in t for t in texts) and any("50%" in t for t in texts)
