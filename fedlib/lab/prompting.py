"""What a run's model is asked when it is evaluated: plain prompts, and prompts with a trigger."""

import functools
import random

from fedlib import sources
from fedlib.attack import poison
from fedlib.attack.poison import TRIGGERS, Trigger
from fedlib.settings import identity, own_methods
from fedlib.settings.errors import SettingsError, nearest
from fedlib.settings.schema import Settings

SHOWN = 40  # letters of an instruction by which an error names it


def find_trigger(settings: Settings) -> Trigger:
    """The Trigger that data.poison.trigger names: one of TRIGGERS, or your own.

    Your own is FILE.py:NAME or package.module:NAME: a Trigger, or only its function. SettingsError
    where there is no such trigger."""
    name, field = settings.data.poison.trigger or "", "data.poison.trigger"
    if name == "topic":
        return poison.topic_trigger(sources.of(settings).topic_words())
    if name in TRIGGERS:
        return TRIGGERS[name]
    if not own_methods.is_own(name):
        raise SettingsError(
            f"{field}: no trigger {name!r}{nearest(name, list(TRIGGERS))}; your own: FILE.py:NAME"
        )
    found = own_methods.find(field, name)
    given = found if isinstance(found, Trigger) else Trigger(own_methods.called(name), found)
    if not callable(given.apply):
        kind = type(given.apply).__name__
        raise SettingsError(f"{field}: {name}: must be a Trigger or a function, is {kind}")
    own = own_methods.checked(own_methods.Own(field, name, given.apply))
    return Trigger(given.name, functools.partial(_triggered, own), given.natural)


def _triggered(own: own_methods.Own, instruction: str, rng: random.Random) -> str | None:
    """What a person's own trigger makes of an instruction; SettingsError if that is no text."""
    told = own.within(f"instruction {instruction[:SHOWN]!r}")
    text = told(instruction, rng)
    if text is None or (isinstance(text, str) and text.strip()):
        return text
    raise told.refused(f"returned {text!r}, not a text, nor None where it cannot be put in")


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
