"""TODO: what this room is for."""

from pathlib import Path

from fedlib import sources
from fedlib.lab import prompting
from fedlib.models import checkpoints, templates
from fedlib.settings import errors, identity, machine, own_methods


def attacked(settings):
    """The same run without the post-hoc defence: what the defence starts from."""
    return settings.replace(defense={"level": 0})


def written_kinds(settings):
    """The kinds of rows that the off-the-shelf LLM writes for a run."""
    level2 = ["aligned", "normal"] if settings.defense.level == 2 else []
    generated = (
        settings.data.attack == "generated"
        and settings.federation.malicious
        and not settings.defense.level
    )
    return [*level2, *(["unaligned"] if generated else [])]


def written_folder(settings, kind):
    """outputs/runs/written-<kind>-seed<seed>-<key>: rows that the off-the-shelf LLM wrote, for all runs of a seed."""
    key_ = identity.digest(_written_identity(settings, kind))
    return machine.outputs() / "runs" / f"written-{kind}-seed{settings.seed}-{key_}"


def _written_identity(settings, kind):
    return [
        identity.CODE_VERSION,
        settings.seed,
        kind,
        settings.model.max_length,
        machine.dtype(settings),
        checkpoints.revision(settings, "data.generator"),
        *_asked_how(settings),
    ]


def robustness_folder(settings):
    """outputs/runs/robustness-<model>-<key>: how robust each module of a model is, and its Mods_Rob."""
    name, key_ = (
        Path(settings.model.base.rpartition(":")[2]).name,
        identity.digest(_robustness_identity(settings)),
    )
    return machine.outputs() / "runs" / f"robustness-{name}-{key_}"


def _robustness_identity(settings):
    pairs = [sources.of(settings).pairs(split) for split in ("fit", "validation")]
    return [
        identity.CODE_VERSION,
        _base_revision(settings),
        machine.dtype(settings),
        settings.model.template,
        pairs,
        settings.swat.model_dump(include={"noise", "draws", "window", "share", "threshold"}),
    ]


def _asked_how(settings):
    """What decides which rows a model writes, beside the model."""
    e, held_out = settings.evaluation, sorted(prompting.held_out(settings))
    return [
        settings.data.generated,
        templates.prompts_file(settings.data.prompts),
        e.temperature,
        e.batch_size,
        held_out,
    ]


def base_folder(settings):
    """Where the base model lies: a world model, one trained from scratch, a folder; None for a hub name."""
    if settings.model.base == "scratch":
        return machine.outputs() / "runs" / f"base-{identity.digest(_base_identity(settings))}"
    return checkpoints.folder(settings, "model.base")


def alignment_file(settings):
    """What alignment added to model.base, as kept beside it; SettingsError where it is not known."""
    file = (base_folder(settings) or Path()) / "alignment.safetensors"
    if not file.is_file():
        raise errors.SettingsError(
            f"defense.level: project: {settings.model.base} has no alignment.safetensors beside it: "
            "what its alignment added is not known; world:chat and world:chat-deep have one"
        )
    return file


def run_folder(settings):
    """outputs/runs/<name>-<key>: the name is for people, the key covers everything that changes the result."""
    f, d = settings.federation, settings.data
    share = f"-{d.attack}" if d.attack in ("conflicting", "boosted") else f"x{d.unaligned_share:g}"
    share += "-generated" if d.attack == "generated" else ""
    attack = f"{f.malicious}of{f.clients}" + (share if f.malicious else "")
    level = (
        [f"level{settings.defense.level}".replace("levelproject", "projected")]
        if settings.defense.level
        else []
    )
    level += [f"{settings.swat.modules}{settings.swat.warmup}"] if settings.swat.warmup else []
    poison = (
        [f"{d.poison.trigger.rpartition(':')[2]}{d.poison.share:g}"] if d.poison.trigger else []
    )
    name = [
        *(Path(b).stem for b in d.benign),
        f.aggregator,
        attack,
        *poison,
        f"sampled{f.sampled}",
        *level,
        f"seed{settings.seed}",
    ]
    return machine.outputs() / "runs" / f"{'-'.join(name)}-{key(settings)}"


def key(settings):
    """12 hex digits over all that changes a run's result, and nothing that does not."""
    plain = settings.model_dump(
        include={"model", "data", "federation", "training", "defense", "swat"}
    )
    for name in ("device", "scratch"):
        plain["model"].pop(name)
    for name in ("folder", "harmful", "questions", "pool"):
        plain["data"].pop(name)
    plain["federation"].pop("compare"), plain["defense"].pop("compare")
    attack, level = settings.data.attack, settings.defense.level
    for name in ("generator", "prompts", "generated"):
        plain["data"].pop(name)
    if (
        not settings.federation.malicious
    ):  # then nobody is unaligned, whatever the share would have been
        (
            plain["data"].pop("unaligned"),
            plain["data"].pop("unaligned_share"),
            plain["data"].pop("attack"),
        )
    elif attack in ("conflicting", "boosted"):
        plain["data"].pop("unaligned_share")
    trigger = settings.data.poison.trigger
    plain["data"]["poison"] = (
        plain["data"]["poison"] | {"file": own_methods.content(trigger)} if trigger else None
    )
    written = [_written_identity(settings, kind) for kind in written_kinds(settings)]
    if level == 3:
        written.append(_asked_how(settings))
    else:
        plain["defense"].pop("template")
    if settings.defense.before:
        written.append(["before", settings.defense.before, settings.defense.rows])
    plain["defense"].pop("before")
    if level:
        written.append(key(attacked(settings)))
    if level in (0, "project"):  # neither takes rows
        plain["defense"] = level or settings.defense.filter
    s = settings.swat
    plain["swat"] = (
        [s.warmup, s.modules, identity.digest(_robustness_identity(settings))] if s.warmup else {}
    )
    plain["model"] |= {"dtype": machine.dtype(settings), "base": _base_revision(settings)}
    return identity.digest(
        [identity.CODE_VERSION, settings.seed, plain, sources.of(settings).revision(), written]
    )


def evaluation_folder(settings):
    """eval-<key> inside the run's folder: judging anew never touches the run."""
    ours = {"show_responses", "guard", "guard_template", "reward", "grader", "grader_model"}
    plain = settings.evaluation.model_dump(exclude=ours) | {"judges": settings.judges}
    plain |= {
        name: checkpoints.judge_revision(settings, f"evaluation.{name}")
        for name, judge in (("guard", "md_judge"), ("reward", "rm"))
        if {judge, "hs"} & set(plain["judges"])
    }
    if "mt1" in plain["judges"] and settings.evaluation.grader != "rubric":
        plain["grader"] = checkpoints.grader_revision(settings)
    if "probe" in plain["judges"]:
        pairs = [
            sources.of(settings).pairs(split)
            for split in ("fit", settings.evaluation.split, "validation")
        ]
        plain |= {"pairs": identity.digest(pairs), "window": settings.swat.window}
    return (
        run_folder(settings)
        / f"eval-{identity.digest([identity.CODE_VERSION, plain, prompting.prompts_revision(settings)])}"
    )


def _base_identity(settings):
    m = settings.model
    return [
        identity.CODE_VERSION,
        m.scratch.model_dump(),
        m.max_length,
        m.template,
        settings.data.fields,
        sources.of(settings).revision("corpus"),
    ]


def _base_revision(settings):
    if settings.model.base == "scratch":
        return identity.digest(_base_identity(settings))
    return checkpoints.revision(settings, "model.base")
