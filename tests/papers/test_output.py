"""Tables and figures as files."""

import pandas as pd

from fedlib.papers import output
from fedlib.settings import presets


def test_tables_and_figures_are_files(store):
    smoke = presets.load("smoke")
    frame = pd.DataFrame({"method": ["FedAvg"], "rule": [49.812345]})
    assert output.save_table(smoke, frame, "t") is frame
    assert pd.read_csv(store / "smoke/tables/t.csv").equals(frame)
    assert "| 49.81" in (store / "smoke/tables/t.md").read_text()
    plt = output.figure_style()
    fig, _ = plt.subplots()
    assert output.save_figure(smoke, fig, "f") is fig
    output.save_figure(smoke, fig, "again")
    folder = store / "smoke/figures"
    assert (folder / "f.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / "f.pdf").read_bytes()[:4] == b"%PDF"
    assert (
        b"CreationDate" not in (folder / "f.pdf").read_bytes()
    )  # the same figure is the same file
    assert (folder / "f.pdf").read_bytes() == (folder / "again.pdf").read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == ["again.pdf", "again.png", "f.pdf", "f.png"]
    plt.close(fig)


def test_a_figure_holds_its_words(store):
    from PIL import Image

    fig, (left, right) = output.figure_style().subplots(1, 2)
    fig.suptitle("Two panels")
    left.barh([0, 1], [1, 2], label="bars")
    left.set_yticks([0, 1], ["FedAvg", "Krum"])
    left.set(title="left", xlabel="points")
    left.legend()
    output.save_figure(presets.load("smoke"), fig, "f")
    with Image.open(store / "smoke/figures/f.png") as image:
        assert image.info["Description"] == "Two panels. left; points; FedAvg, Krum; bars"


def test_changed_settings_have_a_folder_of_their_own(store, capsys):
    frame = pd.DataFrame({"rule": [1]})
    plain, changed = presets.load("smoke"), presets.load("smoke", federation={"rounds": 3})
    output.save_table(plain, frame, "t")
    assert capsys.readouterr().out == ""
    for name in ("t", "u"):
        output.save_table(changed, frame, name)

    # it is said once
    folder = store / changed.preset
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and f"results go to {folder}" in said
    assert sorted(p.name for p in (folder / "tables").glob("*.csv")) == ["t.csv", "u.csv"]
    assert [p.name for p in (store / "smoke" / "tables").glob("*.csv")] == ["t.csv"]

    # the settings beside them are a preset, and its results go to the same folder
    assert presets.load(str(folder / f"{changed.preset}.yaml")) == changed
