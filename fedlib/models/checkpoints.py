"""Where the models that settings name lie, and what identifies them: world models, folders, the hub. No torch."""

import functools
import json
from pathlib import Path

from fedlib.models import hub, templates
from fedlib.settings import errors, identity, machine

WORLD_MODELS = Path(__file__).parents[1] / "world_models"


def wanted(settings, field):
    """The name that a field such as model.base gives."""
    group, name = field.split(".")
    return getattr(getattr(settings, group), name)


def folder(settings, field):
    """The folder of the model that a field such as model.base names: a world model, a folder; None for one on the hub."""
    name = wanted(settings, field)
    known = sorted(f"world:{p.name}" for p in WORLD_MODELS.iterdir() if p.is_dir())
    if name.startswith("world:"):
        if name not in known:
            raise errors.SettingsError(f"{field}: no model {name!r}{errors.nearest(name, known)}")
        return WORLD_MODELS / name.removeprefix("world:")
    place = machine.path(name)
    if place.is_dir():
        return place
    if name.startswith((".", "/", "~")):
        raise errors.SettingsError(f"{field}: no folder {place}")
    if name.partition("@")[0].count("/") != 1:  # nor can it be a hub name
        known += {"model.base": ["scratch"], "evaluation.grader": ["rubric"]}.get(field, [])
        raise errors.SettingsError(f"{field}: no model {name!r}{errors.nearest(name, known)}")
    return None


def source(settings, field):
    """What from_pretrained takes for the model that a field names: (folder or name on the hub, commit or None)."""
    place = folder(settings, field)
    return (
        (str(place), None)
        if place
        else (hub.parts(wanted(settings, field))[0], hub.commit(wanted(settings, field)))
    )


def revision(settings, field):
    """What identifies a model's content: a digest of its folder, or its name on the hub and commit. SettingsError if a
    folder holds no safetensors."""
    place = folder(settings, field)
    if place is None:
        return list(source(settings, field))
    if not any(place.glob("*.safetensors")):
        raise errors.SettingsError(
            f"{field}: {place} holds no weights as .safetensors, and others are not loaded"
        )
    return _digest(
        place,
        tuple((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(place.iterdir())),
    )


@functools.lru_cache(maxsize=8)
def _digest(place, _state):
    return identity.digest(
        [[p.name, identity.file_digest(p)] for p in sorted(place.iterdir()) if p.is_file()]
    )


def read_config(settings, field):
    """The config.json of the model that a field names; SettingsError if it cannot be read."""
    place = folder(settings, field)
    file = (
        place / "config.json" if place else hub.model_file(wanted(settings, field), "config.json")
    )
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise errors.SettingsError(
            f"{field}: {place} holds no config.json that can be read"
        ) from None


def kind(settings, field):
    """classifier (for sequences) or causal: what the model of a field is, by the architecture in its config.json."""
    name = (read_config(settings, field).get("architectures") or [""])[0]
    ending = {
        "ForSequenceClassification": "classifier",
        "ForCausalLM": "causal",
        "LMHeadModel": "causal",
    }
    return next((kind_ for end, kind_ in ending.items() if name.endswith(end)), name)


def judge_revision(settings, field):
    """What identifies a judge's model and how it is asked; SettingsError, before any work, if it cannot be that judge."""
    found, place, wrong = (
        kind(settings, field),
        folder(settings, field) or wanted(settings, field),
        None,
    )
    if field == "evaluation.guard" and found == "causal":
        return [revision(settings, field), templates.guard(settings)]
    labels = [
        str(label).lower()
        for label in (read_config(settings, field).get("id2label") or {}).values()
    ]
    if found != "classifier":
        wrong = "is not a sequence classifier" + (
            ", nor a causal LM" if field == "evaluation.guard" else ""
        )
    elif field == "evaluation.guard" and "safe" not in labels:
        wrong = f"has no label called safe; its labels: {', '.join(labels)}"
    elif field == "evaluation.reward" and len(labels) != 1:
        wrong = f"must have one label, the reward; it has {len(labels)}"
    if wrong:
        raise errors.SettingsError(f"{field}: {place} {wrong}")
    return revision(settings, field)


def at_endpoint(settings):
    """Whether the grader of first turns is asked over HTTP."""
    return settings.evaluation.grader.startswith(("http://", "https://"))


def grader_revision(settings):
    """What identifies the grader of first turns and how it is asked; SettingsError if it cannot be one."""
    e = settings.evaluation
    if at_endpoint(settings):
        return [e.grader, e.grader_model, templates.grading()]
    if kind(settings, "evaluation.grader") != "causal":
        raise errors.SettingsError(
            f"evaluation.grader: {e.grader} is not a causal LM; known beside such: rubric, an "
            "endpoint http(s)://HOST/v1"
        )
    return [revision(settings, "evaluation.grader"), templates.grading()]
