"""What is asked for before anything is trained, so that wrong input is found at once. No torch."""

import functools
import importlib.util
import sys

from fedlib import attack, sources
from fedlib.attack import poison
from fedlib.judges import panel
from fedlib.lab import keys, prompting
from fedlib.models import checkpoints
from fedlib.settings import groups, own_methods
from fedlib.settings.errors import SettingsError
from fedlib.settings.schema import Settings


def check_run(settings: Settings) -> None:
    """Ask for everything that a run's rows and prompts are made of; SettingsError or DataError."""
    if settings.federation.engine == "flower":
        check_flower(settings)
    _check_own_methods(settings)
    sources.of(settings).check()
    checkpoints.check_causal(settings, "model.base")
    if set(keys.written_kinds(settings)):
        checkpoints.check_causal(settings, "data.generator")
    _check_own_rows(settings)
    if settings.defense.level == "project":
        keys.alignment_file(settings)

    _say_what_is_withheld(settings)
    poisoned = settings.data.poison
    if poisoned.trigger:
        poison.poison_shares(poisoned, settings.federation.clients, settings.seed)
        if not prompting.evaluation_prompts(settings)["triggered"]:
            raise SettingsError(
                f"data.poison.trigger: {poisoned.trigger}: no evaluation prompt can have it"
            )


@functools.cache
def _say(line: str) -> None:
    """Prints a line to stderr, the first time in a process."""
    print(line, file=sys.stderr)


def _say_what_is_withheld(settings: Settings) -> None:
    """Says that hs does not judge, and why."""
    if "hs" in settings.evaluation.judges and "hs" not in settings.judges:
        _say(
            "evaluation.judges: hs is left out: its bounds were found for the reward model "
            f"{groups.CALIBRATED} in the world, not for {settings.evaluation.reward} with "
            f"data.source: {settings.data.source}"
        )


def check_flower(settings: Settings) -> None:
    """SettingsError where the engine flower is not installed, or cannot run the settings."""
    for name in ("flwr", "ray"):
        if importlib.util.find_spec(name) is None:
            raise SettingsError(
                f"federation.engine: flower: {name} is not installed: "
                "pip install -c constraints.txt -e .[flower]"
            )
    chosen = settings.defense.filter
    if chosen != "none":
        raise SettingsError(
            f"defense.filter: {chosen} looks at the rows of all clients: with it "
            "federation.engine must be local"
        )


def _check_own_methods(settings: Settings) -> None:
    """Find every method of a person's own that the settings name; judges judge two answers."""
    own_methods.method("federation.aggregator", settings.federation.aggregator)
    own_methods.method("data.attack", settings.data.attack)
    own_methods.method("defense.filter", settings.defense.filter)
    level = own_methods.method("defense.level", settings.defense.level)
    panel.own_judges(settings)

    defense = settings.defense
    named = settings.data.source == "world" or (defense.aligned and defense.normal)
    if isinstance(level, own_methods.Own) and "rows" in level.asks and not named:
        raise SettingsError(
            f"defense.level: {defense.level}: it asks for rows: name defense.aligned and "
            "defense.normal, files of data.folder"
        )


def _check_own_rows(settings: Settings) -> None:
    """Have an attack of a person's own make the rows of every malicious client once."""
    federation = settings.federation
    if own_methods.is_own(settings.data.attack):
        for client in attack.malicious_clients(federation.clients, federation.malicious):
            attack.attacked_rows(sources.of(settings), client)
