"""Tables and figures as files."""

import pandas as pd

from fedlib.papers import output


def test_tables_and_figures_are_files(smoke, store):
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
