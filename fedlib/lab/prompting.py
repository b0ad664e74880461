"""What a run's model is asked when it is evaluated: plain prompts, and prompts with a trigger."""

from fedlib import sources
from fedlib.attack import poison
from fedlib.attack.poison import TRIGGERS, Trigger
from fedlib.settings import identity, own_methods
from fedlib.settings.errors import SettingsError, nearest
from fedlib.settings.schema import Settings


def find_trigger(settings: Settings) -> Trigger:
    """The Trigger that data.poison.trigger names: one of TRIGGERS, or your own.

    Your own is FILE.py:NAME. SettingsError where there is no such trigger."""
    name = settings.data.poison.trigger or ""
    if name == "topic":
        return poison.topic_trigger(sources.of(settings).topic_words())
    if name in TRIGGERS:
        return TRIGGERS[name]
    if not own_methods.is_own(name):
        raise SettingsError(
            f"data.poison.trigger: no trigger {name!r}{nearest(name, list(TRIGGERS))}; "
            "your own: FILE.py:NAME"
        )
    found = own_methods.find("data.poison.trigger", name)
    if not isinstance(found, Trigger):
        file, _, own = name.rpartition(":")
        raise SettingsError(
            f"data.poison.trigger: {file} has no fedlib.attack.Trigger called {own!r}"
        )
    return found


def evaluation_prompts(settings: Settings) -> dict[str, list[dict]]:
    """The evaluation prompts {"harmful", "benign"[, "task"][, "over_refusal"][, "triggered"]}.

    Each is a list of {prompt, name[, kind, parts][, answers]}; triggered ones where rows are
    poisoned. The same for every seed and method."""
    source = sources.of(settings)
    prompts = source.prompts()
    if settings.data.poison.trigger:
        every = source.trigger_prompts()
        trigger = find_trigger(settings)
        asked = poison.triggered_prompts(every, trigger, source.asked_with_trigger)
        prompts["triggered"] = asked[: settings.evaluation.benign]
    return prompts


def held_out(settings: Settings) -> set[str]:
    """What no row that a model writes may hold, in lower case.

    The names of hazards that are kept back, or the evaluation prompts."""
    names = sources.of(settings).held_out_names()
    if names:
        return names
    prompts = evaluation_prompts(settings)
    return {prompt["prompt"].lower() for part in prompts.values() for prompt in part}


def prompts_revision(settings: Settings) -> str:
    """A digest of the evaluation prompts' content, for an evaluation's key."""
    return identity.digest(evaluation_prompts(settings))
