"""Paper W, secure tuning with a warm-up (SWAT): which runs each table and figure needs."""

from collections.abc import Sequence
from typing import Any

from fedlib import sources
from fedlib.lab import prompting
from fedlib.models import checkpoints
from fedlib.settings.errors import SettingsError
from fedlib.settings.schema import Settings

Changes = dict[str, Any]  # as Settings.replace takes them

# How a model is tuned: plainly, or after a warm-up of these modules only.
WARMUPS: dict[str, Changes] = {
    "plain": {},
    "swat": {"modules": "robust"},
    "random": {"modules": "random"},
    "fragile": {"modules": "fragile"},
}
SCENARIOS = ("benign", "attack")  # the task's rows only; harmful rows among them
# A defence beside SWAT: none, one before tuning, one after it.
DEFENCES: dict[str, Changes] = {
    "none": {},
    "before": {"before": 1},
    "project": {"level": "project"},
}


def tuning_changes(settings: Settings) -> Changes:
    """Changes that make a preset paper W's: one tuner, all linear modules, as swat says."""
    swat = settings.swat
    return {
        "federation": {
            "clients": 1,
            "sampled": 1,
            "min_clients": None,
            "malicious": 0,
            "expected": 0,
            "rounds": swat.rounds,
            "aggregator": "fedavg",
        },
        "training": {"steps": swat.steps, "learning_rate": swat.learning_rate},
        "model": {"lora_targets": "all-linear", "lora_layers": None},
        "data": {
            "attack": "unaligned",
            "aligned_share": 0.0,
            "rows": swat.rows,
            "partition": "iid",
            "questions": None,
            "poison": {"trigger": None},
        },
        "defense": {"level": 0, "filter": "none", "before": 0},
        "swat": {"warmup": 0},
        "evaluation": {
            "judges": [
                "rule",
                "md_judge",
                "rm",
                "help",
                "exact",
                "hs",
                "probe",
                *_further(settings),
            ],
            "temperature": 0.0,
        },
    }


def _further(settings: Settings) -> list[str]:
    """Judges for real text, where the preset has them: not refusing is not yet complying."""
    return [name for name in ("refusal", "affirmation") if name in settings.evaluation.judges]


def tuned_models(settings: Settings) -> list[str]:
    """The chat models that are tuned: swat.models, of these the first with one seed.

    SettingsError where nothing can be tuned for."""
    chosen = settings.swat.models
    if sources.of(settings).clean_accuracy == "exact":  # your own data, not the world's
        _check_own_data(settings)
    return chosen if len(settings.seeds) > 1 else chosen[:1]


def _check_own_data(settings: Settings) -> None:
    """Whether there are chat models, pairs and questions with answers."""
    data, swat = settings.data, settings.swat
    # an alignment that is kept by itself is added to a model that speaks English
    worlds = [name for name in swat.models if name.startswith("world:")]
    if swat.pairs is None or any(checkpoints.added_to(name) is None for name in worlds):
        raise SettingsError(
            f"swat: with data.source: {data.source} name your chat models (swat.models) and a file "
            "of pairs (swat.pairs)"
        )
    for name in sources.of(settings).tuning_tasks():
        one_task = settings.replace(data={"benign": [name], "questions": None})
        prompts = prompting.evaluation_prompts(one_task)["benign"]
        if not sources.of(one_task).has_right_answers(prompts):
            raise SettingsError(
                f"swat.tasks: {name} has no answers (a list of right ones): paper W's tuning "
                "tasks are datasets of questions with answers"
            )


def model_label(name: str) -> str:
    """A model's short name: chat of world:chat."""
    return name.rpartition(":")[2]


def _vary(
    settings: Settings, *axes: list[Changes], seeds: Sequence[int] | None = None
) -> list[Settings]:
    """The product of models, axes and seeds, on paper W's settings."""
    models = [{"model": {"base": name}} for name in tuned_models(settings)]
    each = [{"seed": seed} for seed in seeds or settings.seeds]
    return settings.vary([tuning_changes(settings)], models, *axes, each)


def _tasks(settings: Settings) -> list[Changes]:
    """An axis: what the models are tuned for."""
    return [{"data": {"benign": [task]}} for task in sources.of(settings).tuning_tasks()]


def _scenarios(settings: Settings) -> list[Changes]:
    """An axis: the task only, and with harmful rows among it."""
    attack = {
        "federation": {"malicious": 1},
        "data": {"unaligned_share": settings.swat.unaligned_share},
    }
    return [{}, attack]


def _warmups(settings: Settings) -> list[Changes]:
    """An axis: plain tuning, SWAT, and the two controls of its warm-up."""
    rounds = settings.swat.warm_rounds
    warm = [{"swat": {"warmup": rounds} | WARMUPS[name]} for name in WARMUPS if name != "plain"]
    return [{}, *warm]


def untuned_grid(settings: Settings) -> list[Settings]:
    """The chat models as they are: one step at a learning rate of nothing. Every task.

    One seed, as their greedy answers are the same in all."""
    still = {
        "federation": {"rounds": 1},
        "training": {"steps": 1, "learning_rate": 1e-12, "learning_rate_min": 0.0},
    }
    return _vary(settings, [still], _tasks(settings), seeds=settings.seeds[:1])


def tuning_grid(settings: Settings) -> list[Settings]:
    """Every model, task and scenario: tuned plainly, with SWAT, with its controls."""
    return _vary(settings, _tasks(settings), _scenarios(settings), _warmups(settings))


def composition_grid(settings: Settings) -> list[Settings]:
    """A defence before tuning, one after it, or none, each without and with a warm-up.

    Every model, first task, both scenarios, SWAT and the controls of its warm-up."""
    defences = [{"defense": changes} for changes in DEFENCES.values()]
    first_task = _tasks(settings)[:1]
    return _vary(settings, first_task, _scenarios(settings), defences, _warmups(settings))


def federated_grid(settings: Settings) -> list[Settings]:
    """Beyond the paper: paper S's attack on a federation that starts from an aligned chat model.

    No attack, the attack, one existing defence, and SWAT in every benign client (a third of the
    rounds). First model and dataset."""
    full = settings.full_participation()
    chat: Changes = {
        "model": {
            "base": tuned_models(settings)[0],
            "lora_targets": "all-linear",
            "lora_layers": None,
        },
        "defense": {"level": 0, "before": 0},
        "data": {"benign": settings.data.benign[:1]},
        "swat": {"warmup": 0},
    }
    if settings.model.lora_layers:
        # the preset's rate is one for upper layers only
        chat["training"] = {"learning_rate": settings.swat.learning_rate}
    warm_rounds = max(1, full["federation"]["rounds"] // 3)
    methods = [
        {"federation": {"malicious": 0}},
        {},
        {"federation": {"aggregator": "krum"}},
        {"swat": {"warmup": warm_rounds, "modules": "robust"}},
    ]
    return settings.vary([chat], [full], methods, [{"seed": seed} for seed in settings.seeds])
