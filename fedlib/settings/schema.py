"""The whole of the settings: checked across groups, changed by `replace`, varied by `vary`.

What stands in one group is checked in `groups`; the checks here look at several groups. Whatever is
wrong becomes one SettingsError of one line.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Self, get_args

from pydantic import Field, ValidationError, model_validator

from fedlib.settings import errors, groups, safe_values
from fedlib.settings.fitting import unfit_judges
from fedlib.settings.groups import NotInKey, SometimesInKey

# (what set the fields: a file or "parameters", the fields by group)
Layer = tuple[str, dict[str, Any]]
# What may be given in addition to a field's known names.
ALSO = {"lora_targets": " or a list of names"} | dict.fromkeys(
    ("aggregator", "compare", "attack", "level", "filter", "judges"), "; your own: FILE.py:NAME"
)


class Settings(groups.Group):
    """Everything one run needs, frozen; `seeds` are those that a notebook repeats it for."""

    preset: Annotated[str, NotInKey("where the other settings come from changes nothing")]
    seeds: Annotated[
        list[Annotated[int, Field(ge=0)]],
        Field(min_length=1),
        NotInKey("each run has one of them, seed"),
    ]
    seed: Annotated[int, Field(ge=0)]
    model: groups.Model
    data: groups.Data
    federation: groups.Federation
    training: groups.Training
    defense: groups.Defense
    swat: groups.Swat
    evaluation: Annotated[
        groups.Evaluation,
        SometimesInKey("a model writes rows for the run: temperature and batch_size"),
    ]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for check in CHECKS:
            problem = check(self)
            if problem:
                raise ValueError(problem)
        return self

    def replace(self, **changes: Any) -> "Settings":
        """Other settings with some fields changed; SettingsError where they do not go together.

        changes: by group, as in replace(seed=1, federation={"sampled": 10})."""
        return validated([("params/", self.model_dump()), ("replace()", changes)])

    def vary(self, *axes: Iterable[dict[str, Any]]) -> list["Settings"]:
        """The product of the axes, each a list of changes as `replace` takes them; none twice."""
        found = []
        for changes in itertools.product(*axes):
            settings = self.replace(**functools.reduce(merge, changes, {}))
            if settings not in found:
                found.append(settings)
        return found

    def full_participation(self) -> dict[str, Any]:
        """Changes by which every client takes part in every round.

        The rounds become fewer, so that there are about as many updates in all as before."""
        federation = self.federation
        rounds = round(federation.rounds * federation.sampled / federation.clients)
        return {"federation": {"sampled": federation.clients, "rounds": max(1, rounds)}}

    @property
    def judges(self) -> list[str]:
        """Those of evaluation.judges that can judge this data, in their order."""
        unfit = unfit_judges(self.data, self.evaluation)
        return [name for name in self.evaluation.judges if name not in unfit]


# Checks across groups. Each returns the error's line, or None where all is well.


def _texts_can_be_written(settings: Settings) -> str | None:
    return safe_values.unwritable(settings.model_dump())


def _no_secrets(settings: Settings) -> str | None:
    return safe_values.secret(settings.model_dump())


def _results_have_a_folder(settings: Settings) -> str | None:
    """A preset's name is that of its folder in outputs."""
    name = settings.preset
    if "/" in name or name in ("", ".", ".."):
        return f"preset: {name!r} cannot be the name of a folder in outputs: rename the file"
    return None


def _seeds_differ(settings: Settings) -> str | None:
    if len(set(settings.seeds)) < len(settings.seeds):
        return f"seeds: {settings.seeds} names one twice"
    return None


def _each_client_has_a_size(settings: Settings) -> str | None:
    sizes, clients = settings.data.sizes, settings.federation.clients
    if sizes is not None and len(sizes) != clients:
        return f"data.sizes: {len(sizes)} sizes for federation.clients: {clients}"
    return None


def _the_world_takes_no_files(settings: Settings) -> str | None:
    data, defense = settings.data, settings.defense
    named = [data.folder, data.aligned, data.unaligned, data.harmful, data.questions, data.fields]
    named += [data.over_refusal, defense.aligned, defense.normal]
    if data.source == "world" and any(named):
        return (
            "data.source: world uses no folder, aligned, unaligned, harmful, questions, "
            "over_refusal, fields or defense files; say source: local"
        )
    return None


def _existing_rows_are_named(settings: Settings) -> str | None:
    data, defense = settings.data, settings.defense
    takes_existing = defense.level == 1 or defense.before
    if not takes_existing or data.source == "world" or (defense.aligned and defense.normal):
        return None
    field = "before" if defense.before else "level: 1"
    return (
        f"defense.{field} takes existing rows: name defense.aligned and defense.normal, "
        "files of data.folder"
    )


def _written_files_are_named(settings: Settings) -> str | None:
    data, defense = settings.data, settings.defense
    if data.generator != groups.WRITTEN_FILES:
        return None
    if settings.federation.malicious and data.attack == "generated":
        return "data.generator: files holds no unaligned rows: name a model that writes them"
    if defense.level == 2 and not (defense.aligned and defense.normal):
        return (
            "data.generator: files: name defense.aligned and defense.normal, files of data.folder"
        )
    return None


def _warmup_has_pairs(settings: Settings) -> str | None:
    if settings.swat.warmup and settings.data.source != "world" and not settings.swat.pairs:
        return (
            "swat.pairs: name the file of data.folder with columns malicious and benign: by it "
            "the modules are found"
        )
    return None


def _pairs_have_a_folder(settings: Settings) -> str | None:
    if settings.swat.pairs is not None and settings.data.folder is None:
        return "data.folder: swat.pairs is a file of it: name it too"
    return None


def _warmup_is_within_the_rounds(settings: Settings) -> str | None:
    warmup, rounds = settings.swat.warmup, settings.federation.rounds
    if warmup > rounds:
        return f"swat.warmup: {warmup} is more than federation.rounds, {rounds}"
    return None


def _warmup_has_all_linear_modules(settings: Settings) -> str | None:
    model = settings.model
    if settings.swat.warmup and (model.lora_targets != "all-linear" or model.lora_layers):
        return (
            "swat.warmup: its modules are chosen among all linear ones: set "
            "model.lora_targets: all-linear and model.lora_layers: null"
        )
    return None


def _probe_has_pairs(settings: Settings) -> str | None:
    probes = "probe" in settings.evaluation.judges
    if probes and settings.data.source != "world" and not settings.swat.pairs:
        return (
            "evaluation.judges: probe needs swat.pairs, a file of data.folder with columns "
            "malicious and benign"
        )
    return None


def _world_prompts_stay_in_the_world(settings: Settings) -> str | None:
    data = settings.data
    writes = data.attack == "generated" or settings.defense.level in (2, 3)
    if data.source != "world" and data.prompts == "world" and writes:
        return (
            "data.prompts: world is for the world's models; with data.source: local use chat, or "
            "a file of your own"
        )
    return None


def _world_generators_stay_in_the_world(settings: Settings) -> str | None:
    data = settings.data
    generates = data.attack == "generated" or settings.defense.level == 2
    if data.source != "world" and data.generator.startswith("world:") and generates:
        return (
            "data.generator: a world model knows only the world's words; with other data name "
            "another model"
        )
    return None


def _named_files_have_a_folder(settings: Settings) -> str | None:
    data, defense = settings.data, settings.defense
    named = [*data.benign, data.aligned, data.unaligned, data.harmful, data.questions]
    named += [defense.aligned, defense.normal]
    files = [name for name in named if name and name.endswith(groups.ENDINGS)]
    if data.source == "hub" and data.folder is None and files:
        return 'data.folder: a file is named, so name its folder: -y "data: {folder: PATH}"'
    return None


def _questions_are_not_trained_on(settings: Settings) -> str | None:
    data, defense = settings.data, settings.defense
    trained = [*data.benign, data.aligned, data.unaligned, defense.aligned, defense.normal]
    for field in ("questions", "over_refusal"):
        name = getattr(data, field)
        if name is not None and name in trained:
            return f"data.{field}: {name} is also trained on: evaluation prompts must be others"
    return None


def _poison_is_held_by_clients(settings: Settings) -> str | None:
    holders, clients = settings.data.poison.clients, settings.federation.clients
    if holders is not None and holders > clients:
        return f"data.poison.clients: {holders} is more than federation.clients, {clients}"
    return None


def _boosting_clients_hold_the_poison(settings: Settings) -> str | None:
    poison, malicious = settings.data.poison, settings.federation.malicious
    complete = poison.trigger and malicious and poison.clients == malicious
    if settings.data.attack == "boosted" and not complete:
        return (
            "data.attack: boosted: the malicious clients hold all poison: set "
            "data.poison.trigger, federation.malicious, and data.poison.clients to the same number"
        )
    return None


def _the_filter_has_poison_to_find(settings: Settings) -> str | None:
    if settings.defense.filter == "gradient" and settings.data.poison.trigger is None:
        return "defense.filter: without data.poison.trigger there is nothing to filter out"
    return None


def _scratch_has_files(settings: Settings) -> str | None:
    has_files = settings.data.source != "world" and settings.model.scratch.files
    if settings.model.base == "scratch" and not has_files:
        return (
            "model.scratch.files: model.base is scratch, so name the files of data.folder to "
            "train it on"
        )
    return None


CHECKS: tuple[Callable[[Settings], str | None], ...] = (
    _texts_can_be_written,
    _no_secrets,
    _results_have_a_folder,
    _seeds_differ,
    _each_client_has_a_size,
    _the_world_takes_no_files,
    _existing_rows_are_named,
    _warmup_has_pairs,
    _pairs_have_a_folder,
    _warmup_is_within_the_rounds,
    _warmup_has_all_linear_modules,
    _probe_has_pairs,
    _world_prompts_stay_in_the_world,
    _world_generators_stay_in_the_world,
    _written_files_are_named,
    _named_files_have_a_folder,
    _questions_are_not_trained_on,
    _poison_is_held_by_clients,
    _boosting_clients_hold_the_poison,
    _the_filter_has_poison_to_find,
    _scratch_has_files,
)


def merge(base: Any, over: Any) -> Any:
    """base with the values of over; mappings are merged field by field, all else is replaced."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    merged = dict(base)
    for name, value in over.items():
        merged[name] = merge(base[name], value) if name in base else value
    return merged


def validated(layers: Sequence[Layer]) -> Settings:
    """The settings that the layers give together; the last that sets a field wins.

    SettingsError with one line: which layer, which field, and what is wrong."""
    try:
        return Settings.model_validate(_merged(layers))
    except ValidationError as error:
        raise errors.SettingsError(_one_line(error.errors()[0], layers)) from None


def _merged(layers: Sequence[Layer]) -> dict[str, Any]:
    return functools.reduce(merge, [content for _, content in layers], {})


def _one_line(error: Any, layers: Sequence[Layer]) -> str:
    """One line for pydantic's first error: the last layer that set the field, the field, why."""
    kind, value = error["type"], error["input"]
    if kind == "value_error":  # a check of ours, which names the field
        return str(error["ctx"]["error"])

    place = _place(error, layers)
    source = next(
        (source for source, content in reversed(layers) if _has(content, place)), layers[-1][0]
    )
    where = f"{source}: {'.'.join(map(str, place))}"
    if kind == "extra_forbidden":
        return f"{where}: no such field{errors.nearest(place[-1], _fields_beside(place))}"
    if kind == "literal_error" and isinstance(value, str):
        name = next(part for part in reversed(place) if isinstance(part, str))
        known = errors.nearest(value, _options(error))
        return f"{where}: {value!r} is not allowed{known}{ALSO.get(name, '')}"

    # pydantic's own words say what is wrong.
    message = error["msg"][0].lower() + error["msg"][1:]
    hint = ""
    if isinstance(value, str) and kind.startswith("float"):
        hint = "; YAML reads 2e-5 as a string, write 2.0e-5"
    return f"{where}: {message}, got {value!r} ({type(value).__name__}){hint}"


def _place(error: Any, layers: Sequence[Layer]) -> list[Any]:
    """The way to the wrong field, without what pydantic adds for the branches of a union."""
    place: list[Any] = []
    for part in error["loc"]:
        if isinstance(part, int) or part in _mapping_at(layers, place):
            place.append(part)
    return [*place, error["loc"][-1]] if error["type"] == "missing" else place


def _mapping_at(layers: Sequence[Layer], place: Sequence[Any]) -> dict[str, Any]:
    """What the layers hold at a place, where that is a mapping."""
    found: Any = _merged(layers)
    for part in place:
        found = found[part]
    return found if isinstance(found, dict) else {}


def _fields_beside(place: Sequence[Any]) -> list[str]:
    """The fields of the group that the last part of a place should have named."""
    group: Any = Settings
    for part in place[:-1]:
        group = group.model_fields[part].annotation
        # of names or a group, the group has fields
        if not hasattr(group, "model_fields"):
            group = next(one for one in _branches(group) if hasattr(one, "model_fields"))
    return list(group.model_fields)


def _branches(annotation: Any) -> list[Any]:
    """What a union may be, without the marks that stand beside each."""
    inner = [get_args(one)[0] if get_args(one) else one for one in get_args(annotation)]
    return [annotation, *inner]


def _options(error: Any) -> list[str]:
    """What is allowed, from pydantic's words: 'a', 'b' or 'c'."""
    expected = error["ctx"]["expected"].replace(" or ", ", ")
    return [option.strip("' ") for option in expected.split(",")]


def _has(content: Any, place: Sequence[Any]) -> bool:
    """Whether one layer sets the field at a place."""
    for part in place:
        in_list = isinstance(content, list) and isinstance(part, int) and part < len(content)
        in_mapping = isinstance(content, dict) and part in content
        if not in_list and not in_mapping:
            return False
        content = content[part]
    return True
