"""The whole of the settings: conditions between fields, and errors of one line that name them."""

import pydantic
import pytest
from dotted import changes, fields, message, missing, nested

from fedlib.settings import groups, schema
from fedlib.settings.presets import load

FIELDS = [  # what load is given, what its one line must hold: what is wrong with one field
    (dict(federation=0), ["parameters: federation", "0 (int)"]),
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
    (dict(federation={"compare": ["krumm"]}), ["federation.compare", "krum"]),
    (
        dict(federation={"aggregator": "fedag"}),
        ["parameters: federation.aggregator", "'fedag'", "'fedavg'"],
    ),
    (
        dict(model={"lora_targets": "all_linear"}),
        ["parameters: model.lora_targets", "'all-linear'", "or a list of names"],
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
    (dict(seeds=[]), ["parameters: seeds", "at least 1"]),
    (dict(seeds=["0"]), ["parameters: seeds.0", "integer", "'0'"]),
    (dict(seeds=[-1]), ["parameters: seeds.0", "greater than or equal to 0"]),
]


@pytest.mark.parametrize("given, parts", FIELDS, ids=[str(given)[:60] for given, _ in FIELDS])
def test_a_wrong_field_is_one_clear_line(given, parts):
    line = message(load, **given)
    assert missing(parts, line) == [], line


@pytest.mark.parametrize("name", [n for n in fields() if "." in n and n != "data.fields"])
def test_every_field_refuses_a_wrong_type_by_its_name(name):
    group, rest = name.split(".", 1)
    wrong = nested(rest, {"no": ["such", "type"]})
    # a group inside the field is named by the field of it that is missing
    inside = ".by" if name == "data.partition" else ""
    assert f"parameters: {name}{inside}: " in message(load, **{group: wrong})


# Conditions between fields: what load is given, and the whole line.

LOCAL = {"source": "local", "folder": "somewhere", "prompts": "chat", "generator": "a/model"}
NAME_THE_FOLDER = 'so name the folder: -y "data: {folder: PATH}"'
IN_A_GROUP = [
    (
        dict(model={"scratch": {"heads": 5}}),
        "model.scratch.heads: 5 must divide hidden, 192",
    ),
    (
        dict(data={"partition": "sizes"}),
        "data.sizes: goes with data.partition: sizes",
    ),
    (
        dict(data={"partition": {"by": "user"}}),
        "data.partition: by and clusters share out rows of files; with data.source: world use "
        "dirichlet, iid or sizes",
    ),
    (
        dict(data=LOCAL | {"partition": {"bye": "user"}}),
        "parameters: data.partition.by: field required, got {'bye': 'user'} (dict)",
    ),
    (
        dict(data=LOCAL | {"partition": {"by": "user", "alpha": 1}}),
        "parameters: data.partition.alpha: no such field (known: by)",
    ),
    (
        dict(data=LOCAL | {"partition": "cluster"}),
        "parameters: data.partition: 'cluster' is not allowed; did you mean 'clusters'? "
        "(known: dirichlet, iid, sizes, clusters)",
    ),
    (
        dict(data={"sizes": [5] * 10}),
        "data.sizes: goes with data.partition: sizes",
    ),
    (
        dict(data={"source": "local"}),
        f"data.folder: data.source is local, {NAME_THE_FOLDER}",
    ),
    (
        dict(data=LOCAL | {"over_refusal": "someone/XSTest"}),
        "data.over_refusal: someone/XSTest must be a file of data.folder, "
        f"{', '.join(groups.ENDINGS)}",
    ),
    (
        dict(data={"source": "hub", "over_refusal": "xstest.csv"}),
        f"data.over_refusal: xstest.csv must be a file of data.folder, {', '.join(groups.ENDINGS)}",
    ),
    (
        dict(evaluation={"judges": ["rule", "strongreject"]}),
        "evaluation.grader: strongreject asks a language model: name a chat model or an endpoint, "
        "http(s)://HOST/v1",
    ),
    (
        dict(federation={"sampled": 11}),
        "federation.sampled: 11 is more than federation.clients, 10",
    ),
    (
        dict(federation={"malicious": 11}),
        "federation.malicious: 11 is more than federation.clients, 10",
    ),
    (
        dict(federation={"expected": 11}),
        "federation.expected: 11 is more than federation.clients, 10",
    ),
    (
        dict(training={"accumulation": 3}),
        "training.accumulation: 3 must divide batch_size, 16",
    ),
    (
        dict(swat={"warm_rounds": 5}),
        "swat.warm_rounds: 5 is more than swat.rounds, 4",
    ),
    (
        dict(evaluation={"judges": ["help"]}),
        "evaluation.judges: rule must be among them, tables rest on it",
    ),
    (
        dict(evaluation={"grader": "https://host/v1"}),
        "evaluation.grader_model: the model's name at an endpoint, http(s)://HOST/v1 in "
        "evaluation.grader: give both",
    ),
    (
        dict(evaluation={"grader_model": "some-model"}),
        "evaluation.grader_model: the model's name at an endpoint, http(s)://HOST/v1 in "
        "evaluation.grader: give both",
    ),
    (
        dict(evaluation={"grader": "https://me:word@host/v1", "grader_model": "some-model"}),
        "evaluation.grader: settings are written to disk: no name or password in the address; "
        "set OPENAI_API_KEY",
    ),
]


@pytest.mark.parametrize("given, line", IN_A_GROUP, ids=[line[:40] for _, line in IN_A_GROUP])
def test_a_condition_in_a_group_is_one_line(given, line):
    assert message(load, **given) == line


EXISTING = "takes existing rows: name defense.aligned and defense.normal, files of data.folder"
ACROSS = {  # the check: what it refuses, and the line
    "_texts_can_be_written": (
        dict(model={"base": "a\tb"}),
        "model.base: 'a\\tb': a name must not hold '\\t'",
    ),
    "_no_secrets": (
        dict(evaluation={"grader": "https://h/v1?key=sk-" + 24 * "x", "grader_model": "m"}),
        "evaluation.grader: holds what looks like a key or token, and settings are written to "
        "disk: set it in the environment (HF_TOKEN or OPENAI_API_KEY)",
    ),
    "_seeds_differ": (dict(seeds=[1, 1]), "seeds: [1, 1] names one twice"),
    "_each_client_has_a_size": (
        dict(data={"partition": "sizes", "sizes": [5]}),
        "data.sizes: 1 sizes for federation.clients: 10",
    ),
    "_the_world_takes_no_files": (
        dict(data={"folder": "somewhere"}),
        "data.source: world uses no folder, aligned, unaligned, harmful, questions, "
        "over_refusal, fields or defense files; say source: local",
    ),
    "_existing_rows_are_named": (
        dict(data=LOCAL, defense={"level": 1}),
        f"defense.level: 1 {EXISTING}",
    ),
    "_warmup_has_pairs": (
        dict(data=LOCAL, swat={"warmup": 1}, model={"lora_targets": "all-linear"}),
        "swat.pairs: name the file of data.folder with columns malicious and benign: by it the "
        "modules are found",
    ),
    "_pairs_have_a_folder": (
        dict(swat={"pairs": "pairs.csv"}),
        "data.folder: swat.pairs is a file of it: name it too",
    ),
    "_warmup_is_within_the_rounds": (
        dict(swat={"warmup": 21}, model={"lora_targets": "all-linear"}),
        "swat.warmup: 21 is more than federation.rounds, 20",
    ),
    "_warmup_has_all_linear_modules": (
        dict(swat={"warmup": 1}),
        "swat.warmup: its modules are chosen among all linear ones: set model.lora_targets: "
        "all-linear and model.lora_layers: null",
    ),
    "_probe_has_pairs": (
        dict(data=LOCAL, evaluation={"judges": ["rule", "probe"]}),
        "evaluation.judges: probe needs swat.pairs, a file of data.folder with columns malicious "
        "and benign",
    ),
    "_world_prompts_stay_in_the_world": (
        dict(data=LOCAL | {"prompts": "world"}, defense={"level": 2}),
        "data.prompts: world is for the world's models; with data.source: local use chat, or a "
        "file of your own",
    ),
    "_world_generators_stay_in_the_world": (
        dict(data=LOCAL | {"generator": "world:llm"}, defense={"level": 2}),
        "data.generator: a world model knows only the world's words; with other data name another "
        "model",
    ),
    "_written_files_are_named": (
        dict(data=LOCAL | {"generator": "files"}, defense={"level": 2}),
        "data.generator: files: name defense.aligned and defense.normal, files of data.folder",
    ),
    "_named_files_have_a_folder": (
        dict(data={"source": "hub", "benign": ["mine.csv"]}),
        f"data.folder: a file is named, {NAME_THE_FOLDER.replace('the folder', 'its folder')}",
    ),
    "_questions_are_not_trained_on": (
        dict(data=LOCAL | {"benign": ["mine.csv"], "questions": "mine.csv"}),
        "data.questions: mine.csv is also trained on: evaluation prompts must be others",
    ),
    "_poison_is_held_by_clients": (
        dict(data={"poison": {"trigger": "phrase", "clients": 11}}),
        "data.poison.clients: 11 is more than federation.clients, 10",
    ),
    "_boosting_clients_hold_the_poison": (
        dict(data={"attack": "boosted", "poison": {"trigger": "phrase", "clients": 2}}),
        "data.attack: boosted: the malicious clients hold all poison: set data.poison.trigger, "
        "federation.malicious, and data.poison.clients to the same number",
    ),
    "_the_filter_has_poison_to_find": (
        dict(defense={"filter": "gradient"}),
        "defense.filter: without data.poison.trigger there is nothing to filter out",
    ),
    "_scratch_has_files": (
        dict(model={"base": "scratch"}),
        "model.scratch.files: model.base is scratch, so name the files of data.folder to train it "
        "on",
    ),
}
# no preset of ours has such a name
ACROSS["_results_have_a_folder"] = (
    dict(preset=".."),
    "preset: '..' cannot be the name of a folder in outputs: rename the file",
)
ASKED = {"_results_have_a_folder": lambda **given: load().replace(**given)}


@pytest.mark.parametrize("check", schema.CHECKS, ids=lambda check: check.__name__)
def test_a_condition_across_groups_is_one_line(check):
    given, line = ACROSS[check.__name__]
    assert message(ASKED.get(check.__name__, load), **given) == line
    assert check(load()) is None


def test_each_check_is_tried_once():
    assert sorted(check.__name__ for check in schema.CHECKS) == sorted(ACROSS)


def test_further_ways_to_miss_a_condition():
    before = message(load, data=LOCAL, defense={"before": 1})
    assert before == f"defense.before {EXISTING}"
    assert message(load, defense={"aligned": "x.csv"}).startswith("data.source: world uses no")
    assert load(data=LOCAL, defense={"level": 1, "aligned": "a.csv", "normal": "b.csv"})


def test_replace_changes_only_the_named_fields():
    settings = load("smoke")
    other = settings.replace(seed=4, federation={"sampled": 10})
    assert changes(settings, other) == {"seed", "federation.sampled"}
    assert settings == load("smoke")
    assert "federation.sampled" in message(settings.replace, federation={"sampled": 11})


def test_vary_is_the_product_in_order():
    seeds = [{"seed": 0}, {"seed": 1}]
    attacks = [{"federation": {"malicious": count}} for count in (0, 3)]
    sampled = [{"federation": {"sampled": 4}}]
    made = load("smoke").vary(seeds, attacks, sampled)
    got = [(s.seed, s.federation.malicious, s.federation.sampled) for s in made]
    assert got == [(0, 0, 4), (0, 3, 4), (1, 0, 4), (1, 3, 4)]
    assert load("smoke").vary() == [load("smoke")]
    assert len(load("smoke").vary(seeds + seeds)) == 2  # none twice


def test_full_participation_keeps_the_number_of_updates():
    settings = load(federation={"clients": 10, "sampled": 3, "rounds": 20})
    assert settings.full_participation() == {"federation": {"sampled": 10, "rounds": 6}}
    one_round = load(federation={"clients": 10, "sampled": 1, "rounds": 2})
    assert one_round.full_participation() == {"federation": {"sampled": 10, "rounds": 1}}


EVERY_JUDGE = ["rule", "md_judge", "rm", "mt1", "help", "exact", "asr", "hs", "probe"]
TRIGGER = {"poison": {"trigger": "phrase"}}
OUTSIDE = {"data": LOCAL | TRIGGER, "swat": {"pairs": "pairs.csv"}}  # not in the world
UNFIT = [  # what load is given, of evaluation too; the judges of all that are then left out
    ({}, {}, ["exact", "asr"]),
    ({"data": {"benign": ["format"]}}, {}, ["asr"]),
    ({"data": TRIGGER}, {}, ["exact"]),
    (OUTSIDE, {}, ["md_judge", "rm", "mt1", "help", "hs"]),
    (OUTSIDE, {"guard": "a/guard", "grader": "a/model"}, ["rm", "help", "hs"]),
    (OUTSIDE, {"guard": "a/guard", "reward": "a/reward"}, ["mt1", "help", "hs"]),
    ({"data": TRIGGER}, {"reward": "a/reward"}, ["exact", "hs"]),
]


@pytest.mark.parametrize("given, evaluation, unfit", UNFIT)
def test_judges_that_cannot_judge_the_data_are_left_out(given, evaluation, unfit):
    settings = load(**given, evaluation=evaluation | {"judges": EVERY_JUDGE})
    assert settings.judges == [name for name in EVERY_JUDGE if name not in unfit]


@pytest.mark.parametrize("group", ["", *groups.GROUPS])
def test_settings_are_frozen(group):
    settings = load("smoke")
    target = getattr(settings, group) if group else settings
    for name in type(target).model_fields:
        with pytest.raises(pydantic.ValidationError):
            setattr(target, name, getattr(target, name))
