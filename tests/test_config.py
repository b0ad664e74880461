"""Settings: presets, files of one's own, merging, and errors of one line that name place and right name."""

import types

import pydantic
import pytest
import yaml

from fedlib.settings import groups, identity, machine, schema
from fedlib.settings.errors import SettingsError
from fedlib.settings.presets import load

PRESETS = sorted(p.stem for p in (machine.ROOT / "params").glob("*.yaml"))
TEXT = {"folder": "somewhere"}  # what preset text needs; settings do not look into the folder


def fields(model=schema.Settings, prefix=""):
    """The dotted name of every single setting, groups within groups included."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, groups.Group):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def nested(dotted, value):
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


def flat(value, prefix=""):
    if (
        not isinstance(value, dict) or prefix == "data.fields."
    ):  # the one setting that is itself a mapping
        return {prefix.rstrip("."): value}
    return {
        k: v for name, inner in value.items() for k, v in flat(inner, f"{prefix}{name}.").items()
    }


def message(call, *given, **named):
    with pytest.raises(SettingsError) as error:
        call(*given, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


WRONG = [  # what load is given, what its one line must hold
    (dict(data={"folder": "somewhere"}), ["data.source", "say source: local"]),
    (dict(federation=0), ["parameters: federation", "0 (int)"]),
    (dict(model={"scratch": {"heads": 5}}), ["model.scratch.heads", "must divide hidden"]),
    (dict(evaluation={"judges": ["help"]}), ["evaluation.judges", "rule must be among them"]),
    (dict(fedration={}), ["parameters: fedration: no such group", "'federation'", "evaluation"]),
    (
        dict(federation={"roundz": 5}),
        ["parameters: federation.roundz: no such field", "'rounds'", "sampled"],
    ),
    (
        dict(model={"scratch": {"hiden": 8}}),
        ["parameters: model.scratch.hiden: no such field", "'hidden'"],
    ),
    (dict(defense={"level": 4}), ["parameters: defense.level:", "4"]),
    (
        dict(defense={"levle": 1}),
        ["parameters: defense.levle: no such field", "did you mean 'level'"],
    ),
    (
        dict(data={"prompts": "world", "source": "local", "folder": "x"}, defense={"level": 2}),
        ["data.prompts:", "chat"],
    ),
    (
        dict(data={"source": "local", "folder": "x"}, defense={"level": 1}),
        ["defense.level:", "defense.aligned"],
    ),
    (dict(defense={"aligned": "x.csv"}), ["data.source:", "local"]),
    (dict(federation={"compare": ["krumm"]}), ["federation.compare", "krum"]),
    (
        dict(federation={"aggregator": "fedag"}),
        ["parameters: federation.aggregator", "'fedag'", "'fedavg'"],
    ),
    (
        dict(model={"lora_targets": "all_linear"}),
        ["parameters: model.lora_targets", "'all-linear'"],
    ),
    (dict(model={"lora_targets": []}), ["parameters: model.lora_targets"]),
    (
        dict(evaluation={"judges": ["rul"]}),
        ["parameters: evaluation.judges.0", "'rul'", "'rule'", "help"],
    ),
    (
        dict(evaluation={"split": "test"}),
        ["parameters: evaluation.split", "evaluation, validation"],
    ),
    (dict(federation={"rounds": "5"}), ["parameters: federation.rounds", "integer", "'5' (str)"]),
    (dict(federation={"rounds": 2.5}), ["parameters: federation.rounds", "integer", "2.5"]),
    (dict(federation={"rounds": True}), ["parameters: federation.rounds", "integer", "True"]),
    (dict(federation={"rounds": None}), ["parameters: federation.rounds", "integer", "None"]),
    (
        dict(federation={"rounds": 0}),
        ["parameters: federation.rounds", "greater than or equal to 1"],
    ),
    (dict(federation=[1]), ["parameters: federation", "[1]"]),
    (
        dict(data={"aligned_share": 1.5}),
        ["parameters: data.aligned_share", "less than or equal to 1"],
    ),
    (dict(data={"benign": []}), ["parameters: data.benign", "at least 1"]),
    (
        dict(data={"fields": {"a.csv": {"instruction": 3}}}),
        ["parameters: data.fields.a.csv.instruction", "string", "3"],
    ),
    (
        dict(training={"learning_rate": "2e-5"}),
        ["parameters: training.learning_rate", "write 2.0e-5"],
    ),
    (
        dict(federation="{rounds: 5}"),
        ["parameters: federation: arrived as a string", "-p", '-y "federation'],
    ),
    (dict(seeds="[0]"), ["parameters: seeds: must be a list", "'[0]'", "-y"]),
    (dict(seeds=3), ["parameters: seeds: must be a list", "3"]),
    (dict(seeds=1.5), ["parameters: seeds: must be a list", "1.5"]),
    (dict(seeds=[]), ["parameters: seeds", "at least 1"]),
    (dict(seeds=["0"]), ["parameters: seeds.0", "integer", "'0'"]),
    (dict(seeds=[-1]), ["parameters: seeds.0", "greater than or equal to 0"]),
    (dict(preset="smok"), ["parameters: preset: no preset 'smok'", "'smoke'", "mini"]),
    (dict(preset="nowhere/own.yaml"), ["parameters: preset: no file 'nowhere/own.yaml'"]),
    (dict(preset=None), ["parameters: preset", "None", "smoke"]),
    (dict(federation={"sampled": 11}), ["federation.sampled", "11", "federation.clients, 10"]),
    (dict(federation={"malicious": 11}), ["federation.malicious", "11", "federation.clients, 10"]),
    (dict(training={"accumulation": 3}), ["training.accumulation", "batch_size, 16"]),
    (dict(data={"partition": "sizes"}), ["data.sizes", "partition"]),
    (dict(data={"sizes": [5] * 10}), ["data.sizes", "partition"]),
    (dict(data={"partition": "sizes", "sizes": [5]}), ["data.sizes", "1", "10"]),
    (dict(data={"source": "local"}), ["data.folder", "-y"]),
    (dict(model={"base": "scratch"}), ["model.scratch.files"]),
]


@pytest.mark.parametrize("given, parts", WRONG, ids=[str(g)[:60] for g, _ in WRONG])
def test_a_wrong_setting_is_one_clear_line(given, parts):
    found = message(load, **given)
    assert [p for p in parts if p not in found] == [], found


@pytest.mark.parametrize("name", [n for n in fields() if "." in n and n != "data.fields"])
def test_every_field_refuses_a_wrong_type_by_its_name(name):
    group, rest = name.split(".", 1)
    assert f"parameters: {name}: " in message(
        load, **{group: nested(rest, {"no": ["such", "type"]})}
    )


FILES = [  # a file's text, what the line must hold besides the file's name
    ("preset: smoke\nfederation: {roundz: 3}", ["federation.roundz: no such field", "'rounds'"]),
    ("fedration: {rounds: 3}", ["fedration: no such group", "'federation'"]),
    ("seed: 3", ["seed: no such group", "'seeds'"]),
    ("3: {rounds: 3}", ["3: no such group"]),
    ("preset: smok", ["preset: no preset 'smok'", "'smoke'"]),
    ("preset: [smoke]", ["preset: no preset"]),
    ("training:\n  steps: 3\n  learning_rate: 2e-5", ["training.learning_rate", "write 2.0e-5"]),
    ("training:", ["training"]),
    ("seeds: 3", ["seeds", "list"]),
    ("data: {rows: 3", ["line 1", "not valid YAML"]),
    ("data:\n\trows: 3", ["line 2", "not valid YAML"]),
    ("- data", ["must hold groups", "list"]),
    ("", ["must hold groups", "nothing"]),
    (b"preset: sm\xe9", ["cannot be read"]),
]


@pytest.mark.parametrize("text, parts", FILES, ids=[str(t) for t, _ in FILES])
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, text, parts):
    file = tmp_path / "own.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = message(load, str(file))
    assert found.startswith(f"{file}: ") and [p for p in parts if p not in found] == [], found


def test_the_line_names_the_layer_that_set_the_field(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("federation: {rounds: 0}")
    assert message(load, str(file)).startswith(f"{file}: federation.rounds")
    assert message(load, str(file), federation={"rounds": -1}).startswith(
        "parameters: federation.rounds"
    )
    assert message(load("smoke").replace, federation={"roundz": 1}).startswith(
        "replace(): federation.roundz"
    )


def test_a_notebook_shows_the_line_alone():
    assert SettingsError("rounds: no")._render_traceback_() == ["SettingsError: rounds: no"]


@pytest.mark.parametrize("name", PRESETS)
def test_every_shipped_preset_loads(name):
    settings = load(name, data=TEXT if name == "text" else {})
    assert settings.preset == name and settings.seed == settings.seeds[0]


def test_mini_is_the_complete_list():
    content = yaml.safe_load((machine.ROOT / "params" / "mini.yaml").read_text())
    assert (
        load().model_dump(exclude={"seed"}) == content
    )  # nothing has a default that the file does not show


def test_claims_is_mini_with_five_seeds():
    assert load("claims") == load("mini", seeds=[0, 1, 2, 3, 4]).replace(preset="claims")


@pytest.mark.parametrize("name", ["smoke", "text"])
def test_a_parameters_file_and_one_group_keep_all_else(name):
    """papermill -f params/X.yaml -y "federation: {rounds: 5}": -y's group replaces the file's whole group."""
    content = yaml.safe_load((machine.ROOT / "params" / f"{name}.yaml").read_text())
    given = {k: v for k, v in content.items() if k != "preset"} | {"federation": {"rounds": 5}}
    extra = TEXT if name == "text" else {}
    given["data"] = given["data"] | extra
    settings = load(content["preset"], **given)
    before, after = flat(load(name, data=extra).model_dump()), flat(settings.model_dump())
    assert {k for k in before if before[k] != after[k]} == {"federation.rounds"}
    assert settings == load(name, data=extra, federation={"rounds": 5})


def test_groups_merge_deeply_and_lists_are_replaced():
    settings = load("text", data=TEXT | {"benign": ["mine.json"]}, model={"scratch": {"steps": 7}})
    before, after = (flat(s.model_dump()) for s in (load("text", data=TEXT), settings))
    assert {k for k in before if before[k] != after[k]} == {"data.benign", "model.scratch.steps"}
    assert settings.data.benign == ["mine.json"]


def test_empty_groups_and_no_seeds_change_nothing():
    assert load("smoke", None, **{g: {} for g in groups.GROUPS}) == load("smoke")
    assert load("smoke", [3, 1]).seeds == [3, 1] and load("smoke", [3, 1]).seed == 3


@pytest.mark.parametrize(
    "parent, expected", [("smoke", 2), ("own", 20), (None, 20), ("claims", 20)]
)
def test_a_file_extends_the_preset_it_names(tmp_path, parent, expected):
    file = tmp_path / "own.yaml"
    file.write_text(f"{f'preset: {parent}' if parent else ''}\ntraining: {{steps: 3}}")
    settings = load(str(file))
    assert (settings.preset, settings.training.steps, settings.federation.rounds) == (
        "own",
        3,
        expected,
    )
    assert len(settings.seeds) == (5 if parent == "claims" else 1)


def test_a_file_named_as_the_preset_it_extends_extends_it(tmp_path):
    file = tmp_path / "smoke.yaml"
    file.write_text("preset: smoke\ntraining: {steps: 3}")
    assert load(str(file)).federation.rounds == load("smoke").federation.rounds  # not those of mini


def test_a_file_is_found_absolute_then_from_here_then_from_the_root(tmp_path, monkeypatch):
    file = tmp_path / "smoke.yml"
    file.write_text("federation: {rounds: 7}")
    monkeypatch.chdir(tmp_path)
    assert load(str(file)).federation.rounds == load("smoke.yml").federation.rounds == 7
    assert load("params/smoke.yaml") == load("smoke")


def test_presets_in_a_circle_are_an_error(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    for name, parent in {"mini": "mini", "one": "two", "two": "one"}.items():
        (tmp_path / "params" / f"{name}.yaml").write_text(f"preset: {parent}")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert "circle" in message(load, "one")


def test_replace_changes_the_named_fields_alone():
    settings = load("smoke")
    other = settings.replace(seed=4, federation={"sampled": 10})
    before, after = flat(settings.model_dump()), flat(other.model_dump())
    assert {k for k in before if before[k] != after[k]} == {"seed", "federation.sampled"}
    assert settings == load("smoke")
    assert "federation.sampled" in message(settings.replace, federation={"sampled": 11})


def test_vary_is_the_product_in_order():
    made = load("smoke").vary(
        [{"seed": 0}, {"seed": 1}],
        [{"federation": {"malicious": m}} for m in (0, 3)],
        [{"federation": {"sampled": 4}}],
    )
    got = [(s.seed, s.federation.malicious, s.federation.sampled) for s in made]
    assert got == [(0, 0, 4), (0, 3, 4), (1, 0, 4), (1, 3, 4)]
    assert load("smoke").vary() == [load("smoke")]


@pytest.mark.parametrize("group", ["", *groups.GROUPS])
def test_settings_are_frozen(group):
    settings = load("smoke")
    target = getattr(settings, group) if group else settings
    for name in type(target).model_fields:
        with pytest.raises(pydantic.ValidationError):
            setattr(target, name, getattr(target, name))


@pytest.mark.parametrize(
    "asked, gpu, device, dtype",
    [
        (("auto", "auto"), False, "cpu", "float32"),
        (("auto", "auto"), True, "cuda", "bfloat16"),
        (("cpu", "auto"), True, "cpu", "float32"),
        (("cuda", "float32"), True, "cuda", "float32"),
        (("cpu", "bfloat16"), False, "cpu", "bfloat16"),
    ],
)
def test_device_and_precision(monkeypatch, asked, gpu, device, dtype):
    monkeypatch.setattr(machine, "has_gpu", lambda: gpu)
    settings = types.SimpleNamespace(model=types.SimpleNamespace(device=asked[0], dtype=asked[1]))
    assert (machine.device(settings), machine.dtype(settings)) == (device, dtype)


def test_paths_are_absolute_or_from_home_or_from_the_root(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert machine.path(str(tmp_path)) == tmp_path
    assert machine.path("~/x") == tmp_path / "home" / "x"
    assert machine.path("data") == machine.ROOT / "data"


def test_outputs_follow_the_environment(store, monkeypatch):
    assert machine.outputs() == store
    monkeypatch.delenv("FEDLIB_OUTPUTS")
    assert machine.outputs() == machine.ROOT / "outputs"


def test_derived_seeds_are_distinct_and_fixed():
    purposes = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a1"), (0, "a", "1")]
    made = [identity.derive(*purpose) for purpose in purposes]
    assert len(set(made)) == len(made) and all(0 <= m < 2**63 for m in made)
    # the first 8 bytes of sha256('[0, "a"]'), halved: by hand, since every result hangs on it
    assert identity.derive(0, "a") == int("4a2978d91c0194c6", 16) >> 1


def test_a_digest_heeds_values_and_not_the_order_of_keys():
    values = {"a": 1, "b": [2]}, {"b": [2], "a": 1}, {"a": 1, "b": [3]}
    first, turned, other = map(identity.digest, values)
    assert first == turned != other
    assert len(identity.digest(None)) == 12


def test_cuda_without_a_device_is_an_error_and_auto_is_not(monkeypatch):
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    assert machine.device(load("smoke")) == "cpu"
    with pytest.raises(SettingsError, match="no CUDA device"):
        machine.device(load("smoke", model={"device": "cuda"}))


def test_an_own_file_called_like_a_preset_has_results_of_its_own(tmp_path):
    (tmp_path / "mini.yaml").write_text("preset: mini\nseeds: [7]\n")
    assert load(str(tmp_path / "mini.yaml")).preset == "own-mini"
