"""What settings of SWAT cannot work together is said before any work."""

import pytest

from fedlib.settings.errors import SettingsError

ALL_LINEAR = {"lora_targets": "all-linear"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"swat": {"warmup": 1}}, "model.lora_targets: all-linear"),
        (
            {"swat": {"warmup": 1}, "model": ALL_LINEAR | {"lora_layers": 2}},
            "model.lora_layers: null",
        ),
        (
            {"swat": {"warmup": 9}, "model": ALL_LINEAR},
            "swat.warmup: 9 is more than federation.rounds, 2",
        ),
        ({"swat": {"warm_rounds": 9}}, "swat.warm_rounds: 9 is more than swat.rounds, 2"),
        (
            {
                "evaluation": {"judges": ["rule", "probe"]},
                "data": {"source": "local", "folder": "/"},
            },
            "probe needs swat.pairs",
        ),
    ],
)
def test_what_cannot_work_is_said_before_any_work(smoke, changes, message):
    with pytest.raises(SettingsError, match=message):
        smoke.replace(**changes)
