"""Where each stored thing lies. Its folder's name ends with a key: a digest of all that changes it.

A run's key covers the fields of `settings.groups` without a mark, the content of what they name,
and the fields marked SometimesInKey where their condition holds; the functions here say when. Names
and paths do not count, content does. No torch.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedlib import sources
from fedlib.lab import prompting
from fedlib.models import checkpoints, gguf_files, templates
from fedlib.settings import errors, groups, identity, machine, own_methods
from fedlib.settings.schema import Settings

# Bytes of a run's name. File systems take 255; the key and the lock's name are added to it.
NAME_LIMIT = 180
NAMES_IN_A_NAME = 100  # for its datasets together
JUDGES = "evaluation.judges"


def _runs() -> Path:
    return machine.outputs() / "runs"


def attacked(settings: Settings) -> Settings:
    """The same run without the post-hoc defence: what the defence starts from."""
    return settings.replace(defense={"level": 0})


# Runs.


def run_folder(settings: Settings) -> Path:
    """outputs/runs/<name>-<key>: the name is for people, the key covers all that changes a run."""
    return _runs() / f"{_run_name(settings)}-{key(settings)}"


def _run_name(settings: Settings) -> str:
    """A run in a few words: datasets, rule, attack, poison, participation, defence, seed."""
    data, federation, defense = settings.data, settings.federation, settings.defense
    parts = [Path(benign).stem for benign in data.benign]
    if len(parts) > 1 and len(os.fsencode("-".join(parts))) > NAMES_IN_A_NAME:
        parts = [_cut(parts[0], 40), f"and{len(parts) - 1}more"]
    parts += [own_methods.called(federation.aggregator), _attack_name(settings)]
    if data.poison.trigger:
        trigger = data.poison.trigger.rpartition(":")[2]
        parts.append(f"{trigger}{data.poison.share:g}")

    parts.append(f"sampled{federation.sampled}")
    if defense.level:
        parts.append(_level_name(defense.level))
    if settings.swat.warmup:
        parts.append(f"{settings.swat.modules}{settings.swat.warmup}")
    name = "-".join([*parts, f"seed{settings.seed}"])
    # the name of a file of one's own may hold folders
    return _cut(name.replace("/", "_"), NAME_LIMIT)


def _cut(name: str, limit: int) -> str:
    """A name's beginning, of so many bytes at most."""
    return os.fsencode(name)[:limit].decode(errors="ignore")


def _level_name(level: int | str) -> str:
    """Such as level2, projected, or the name of a person's own defence."""
    if isinstance(level, int):
        return f"level{level}"
    return "projected" if level == "project" else own_methods.called(level)


def _attack_name(settings: Settings) -> str:
    """Such as 3of10x0.2, 3of10x0.2-generated or 3of10-boosted; 0of10 without attack."""
    data, federation = settings.data, settings.federation
    name = f"{federation.malicious}of{federation.clients}"
    if not federation.malicious:
        return name
    if data.attack in ("conflicting", "boosted"):
        return f"{name}-{data.attack}"
    if own_methods.is_own(data.attack):
        return f"{name}-{own_methods.called(data.attack)}"
    generated = "-generated" if data.attack == "generated" else ""
    return f"{name}x{data.unaligned_share:g}{generated}"


def key(settings: Settings) -> str:
    """12 hex digits over all that changes a run's result, and nothing that does not."""
    counted = counted_fields(settings)
    made_before = _made_before(settings)
    data = sources.of(settings).revision()
    return identity.digest([identity.CODE_VERSION, settings.seed, counted, data, made_before])


def counted_fields(settings: Settings) -> dict[str, Any]:
    """The fields that count in a run's key, by group.

    Beside them in the key stand the seed, the rows, and what is made before the run."""
    counted = settings.model_dump(exclude=_never_counted(Settings))
    return {
        "model": _counted_model(settings, counted["model"]),
        "data": _counted_data(settings, counted["data"]),
        "federation": _counted_own(counted["federation"], "federation", "aggregator"),
        "training": _counted_training(settings, counted["training"]),
        "defense": _counted_defense(settings, counted["defense"]),
        "swat": _counted_swat(settings),
    }


def _counted_own(fields: dict[str, Any], group: str, *names: str) -> dict[str, Any]:
    """The fields, with the content of methods of a person's own in the place of their paths."""
    own = {name: own_methods.counted(f"{group}.{name}", fields[name]) for name in names}
    return fields | own


@functools.cache
def _never_counted(group: type[groups.Group]) -> dict[str, Any]:
    """The fields of a group that are marked NotInKey, nested as pydantic's `exclude` takes them."""
    found: dict[str, Any] = {}
    for name, field in group.model_fields.items():
        inner = field.annotation
        if any(isinstance(mark, groups.NotInKey) for mark in field.metadata):
            found[name] = True
        elif isinstance(inner, type) and issubclass(inner, groups.Group):
            found[name] = _never_counted(inner)
    return found


def _counted_model(settings: Settings, model: dict[str, Any]) -> dict[str, Any]:
    del model["scratch"]  # covered by the base's revision
    if settings.model.lora_layers is None:
        del model["lora_layers"]  # all layers is how it always was
    if settings.model.template == "chat" and _chat_version(settings):
        model["chat"] = _chat_version(settings)
    return model | {"dtype": machine.dtype(settings.model), "base": _base_revision(settings)}


def _chat_version(settings: Settings) -> list[int]:
    """How the chat template of model.base is used; [] where that never changed."""
    return checkpoints.chat_version(settings, "model.base")


def _counted_data(settings: Settings, data: dict[str, Any]) -> dict[str, Any]:
    # How rows are written counts among what is made before the run.
    uncounted = {"generator", "prompts", "generated"}
    if not settings.federation.malicious:
        # Nobody is unaligned, whatever the share would have been.
        uncounted |= {"attack", "unaligned", "unaligned_share"}
    elif settings.data.attack in ("conflicting", "boosted"):
        # Unaligned rows are not mixed in by their share.
        uncounted.add("unaligned_share")

    counted = {name: value for name, value in data.items() if name not in uncounted}
    counted["poison"] = _counted_poison(settings, data["poison"])
    return _counted_own(counted, "data", "attack") if "attack" in counted else counted


def _counted_poison(settings: Settings, poison: dict[str, Any]) -> dict[str, Any] | None:
    trigger = settings.data.poison.trigger
    # Without a trigger no row is poisoned, whatever the other fields say.
    if not trigger:
        return None
    return poison | {"file": own_methods.content(trigger)}


def _counted_training(settings: Settings, training: dict[str, Any]) -> dict[str, Any]:
    # One by one is how it always was; at once the updates differ by rounding.
    if settings.training.together == 1:
        del training["together"]
    return training


def _counted_defense(settings: Settings, defense: dict[str, Any]) -> Any:
    level = settings.defense.level
    # Without rows to tune on no more than this is needed.
    if level == "project":
        return level
    if level == 0:
        return own_methods.counted("defense.filter", settings.defense.filter)

    # Level 3 asks the attacked model in this template. `before` counts among what is made before.
    uncounted = {"before"} if level == 3 else {"before", "template"}
    counted = {name: value for name, value in defense.items() if name not in uncounted}
    return _counted_own(counted, "defense", "level", "filter")


def _counted_swat(settings: Settings) -> Any:
    swat = settings.swat
    # Without a warm-up nobody asks which modules are robust.
    if not swat.warmup:
        return {}
    return [swat.warmup, swat.modules, identity.digest(_robustness_identity(settings))]


def _made_before(settings: Settings) -> list[Any]:
    """What identifies the things that are made ahead of a run: written rows, the run defended."""
    level, before = settings.defense.level, settings.defense.before
    made: list[Any] = []
    for kind in written_kinds(settings):
        made.append(_written_identity(settings, kind))
    # At level 3 the attacked model itself writes, so no other model's revision counts.
    if level == 3:
        made.append(_asked_how(settings))
        if settings.defense.template == "chat":
            made += _chat_version(settings)
    if before:
        made.append(["before", before, settings.defense.rows])
    if level:
        made.append(key(attacked(settings)))
    return made


# Evaluations.


def evaluation_folder(settings: Settings) -> Path:
    """eval-<key> inside the run's folder: judging anew never touches the run."""
    judged = _counted_evaluation(settings)
    folder = run_folder(settings)
    prompts = prompting.prompts_revision(settings)
    return folder / f"eval-{identity.digest([identity.CODE_VERSION, judged, prompts])}"


def _counted_evaluation(settings: Settings) -> dict[str, Any]:
    """The fields that count in an evaluation's key, and the content of the judges that judge."""
    judges = set(settings.judges)
    counted = settings.evaluation.model_dump(exclude=_never_counted(groups.Evaluation))
    counted["judges"] = [own_methods.counted(JUDGES, name) for name in settings.judges]

    for name in ("guard", "guard_template", "verdict", "reward", "grader", "grader_model"):
        del counted[name]
    counted |= judging_models(settings)

    # What the model is asked to find likely.
    source = sources.of(settings)
    if "affirmation" in judges:
        counted["openings"] = identity.digest(_counted_openings(source.openings()))
    if "utility" in judges:
        counted["ordinary"] = identity.digest(source.ordinary_rows())

    # The probe is fitted and tested on pairs.
    if "probe" in judges:
        splits = ("fit", settings.evaluation.split, "validation")
        pairs = [source.pairs(split) for split in splits]
        counted |= {"pairs": identity.digest(pairs), "window": settings.swat.window}
    return counted


def _counted_openings(openings: Sequence[dict]) -> Any:
    """{harmful prompt: its opening}; the rows where turns before a prompt tell it from another."""
    by_prompt = {row["instruction"]: row["response"] for row in openings}
    return by_prompt if len(by_prompt) == len(openings) else openings


def judging_models(settings: Settings) -> dict[str, Any]:
    """The judges that are models and judge: by their content, and how they are asked."""
    judges, found = set(settings.judges), {}
    if judges & {"md_judge", "hs"}:
        found["guard"] = checkpoints.judge_revision(settings, "evaluation.guard")
        if settings.evaluation.verdict != "auto":
            found["verdict"] = settings.evaluation.verdict
    if judges & {"rm", "hs"}:
        found["reward"] = checkpoints.judge_revision(settings, "evaluation.reward")
    if "mt1" in judges and settings.evaluation.grader != "rubric":
        found["grader"] = checkpoints.grader_revision(settings)
    if "strongreject" in judges:
        found["strongreject"] = checkpoints.grader_revision(settings, "strongreject")
    return found


# Rows that a language model writes.


def written_kinds(settings: Settings) -> list[str]:
    """The kinds of rows that data.generator writes for a run: aligned, normal, unaligned."""
    level = settings.defense.level
    kinds = ["aligned", "normal"] if level == 2 else []
    # A defended run starts from an attacked one, which has its unaligned rows already.
    attacks = settings.data.attack == "generated" and settings.federation.malicious
    if attacks and not level:
        kinds.append("unaligned")
    return kinds


def written_folder(settings: Settings, kind: str) -> Path:
    """outputs/runs/written-<kind>-seed<seed>-<key>: rows of one kind, for a seed."""
    written = identity.digest(_written_identity(settings, kind))
    return _runs() / f"written-{kind}-seed{settings.seed}-{written}"


def _written_identity(settings: Settings, kind: str) -> list[Any]:
    return [
        identity.CODE_VERSION,
        settings.seed,
        kind,
        settings.model.max_length,
        machine.dtype(settings.model),
        *_written_by(settings),
    ]


def _written_by(settings: Settings) -> list[Any]:
    """What decides the rows: the model and how it is asked, or files that hold them already."""
    if settings.data.generator == groups.WRITTEN_FILES:
        rows = sources.of(settings).defense_rows(settings.data.generated)
        return ["files", identity.digest(rows)]
    generator = checkpoints.revision(settings, "data.generator")
    own = checkpoints.chat_version(settings, "data.generator")
    return [generator, *_asked_how(settings), *own]


def _asked_how(settings: Settings) -> list[Any]:
    """What decides which rows a model writes, beside the model."""
    return [
        settings.data.generated,
        templates.prompts_file(settings.data.prompts),
        settings.evaluation.temperature,
        settings.evaluation.batch_size,
        sorted(prompting.held_out(settings)),
    ]


# What is found about a base model, and base models trained here.


def robustness_folder(settings: Settings) -> Path:
    """outputs/runs/robustness-<model>-<key>: how robust each module is, and Mods_Rob."""
    name = Path(settings.model.base.rpartition(":")[2]).name
    return _runs() / f"robustness-{name}-{identity.digest(_robustness_identity(settings))}"


def _robustness_identity(settings: Settings) -> list[Any]:
    source = sources.of(settings)
    pairs = [source.pairs(split) for split in ("fit", "validation")]
    how_found = {"noise", "draws", "window", "share", "threshold"}
    own = _chat_version(settings) if settings.model.template == "chat" else []
    return [
        identity.CODE_VERSION,
        _base_revision(settings),
        machine.dtype(settings.model),
        settings.model.template,
        pairs,
        settings.swat.model_dump(include=how_found),
        *own,
    ]


def base_is_made(settings: Settings) -> bool:
    """Whether model.base is made in outputs: trained from scratch, or unpacked from a GGUF file."""
    name = settings.model.base
    unpacked = gguf_files.is_gguf(name) or checkpoints.added_to(name) is not None
    return name == "scratch" or unpacked


def base_folder(settings: Settings) -> Path | None:
    """Where model.base lies: among the world models, in outputs, in a folder; None for the hub."""
    if base_is_made(settings):
        return _runs() / f"base-{_base_revision(settings)}"
    return checkpoints.folder(settings, "model.base")


def alignment_file(settings: Settings) -> Path:
    """What alignment added to model.base, as kept beside it; SettingsError where it is unknown."""
    name = settings.model.base
    whole = not name.startswith("world:")
    place = base_folder(settings) if whole else checkpoints.folder(settings, "model.base")
    file = (place or Path()) / "alignment.safetensors"
    if not file.is_file():
        raise errors.SettingsError(
            f"defense.level: project: {settings.model.base} has no alignment.safetensors beside "
            "it: what its alignment added is not known; world:chat, world:chat-deep and "
            "world:smollm2-aligned have one"
        )
    return file


def _base_identity(settings: Settings) -> list[Any]:
    """What decides how a base trained from scratch comes out."""
    model = settings.model
    return [
        identity.CODE_VERSION,
        model.scratch.model_dump(),
        model.max_length,
        model.template,
        settings.data.fields,
        sources.of(settings).revision("corpus"),
    ]


def _base_revision(settings: Settings) -> Any:
    """What identifies the base's content."""
    if settings.model.base == "scratch":
        return identity.digest(_base_identity(settings))
    revision = checkpoints.revision(settings, "model.base")
    if not base_is_made(settings):
        return revision
    return identity.digest([identity.CODE_VERSION, revision])
