"""A run whose clients' rows are filtered before the first round."""

import json

from fedlib.lab import runs


def poisoned(settings, share=0.12, rows=150):
    return settings.replace(
        defense={"filter": "gradient"},
        federation={"clients": 4, "sampled": 4, "malicious": 0, "rounds": 1},
        data={"rows": rows, "poison": {"trigger": "sentence", "share": share, "target": "replace"}},
    )


def test_a_run_with_the_filter_trains_on_what_is_left_and_says_what_it_took(smoke):
    run = runs.get(poisoned(smoke))
    found = run.filtered()
    assert found["poisoned"] == 4 * 18
    assert found["recall"] > 80
    assert found["precision"] > 80
    assert sum(found["taken"].values()) > 0.8 * found["poisoned"]
    assert sum(run.rounds()[0]["sizes"]) == 4 * 150 - sum(found["taken"].values())
    assert json.loads((run.folder / "done.json").read_text())["files"]["filter.json"]
