"""Notebooks on tiny local stand-ins of every real component, offline.

Notebook 10 at preset paper, cut to a few rounds, with papermill; notebooks 30 to 33 on a person's
own questions.
"""

import json
import os
import shutil
import subprocess
import sys

import datasets
import pytest
import standins

from fedlib.lab import store
from fedlib.models import checkpoints
from fedlib.settings import machine, presets
from fedlib.sources import hub_rows, world

# The datasets of preset paper, and how a copy of each lies in data.folder.
LMSYS = "lmsys/lmsys-chat-1m"
WILD = "allenai/WildChat"
BEAVER = "PKU-Alignment/BeaverTails:unsafe"
ADVBENCH = "walledai/AdvBench"
MT_BENCH = "HuggingFaceH4/mt_bench_prompts"
DROMEDARY = "zhiqings/dromedary-65b-verbose-clone-v0"
FORMS = {
    LMSYS: "parquet",
    WILD: "json lines",
    BEAVER: "parquet",
    ADVBENCH: "saved",
    MT_BENCH: "parquet",
    DROMEDARY: "one file",
}
NOTEBOOKS = machine.ROOT / "notebooks"


def chat(question, answer):
    """A conversation as lmsys-chat-1m and WildChat hold it."""
    unflagged = {"categories": {"violence": False}, "flagged": False}
    return {
        "conversation_id": question,
        "conversation": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ],
        "turn": 1,
        "language": "English",
        "openai_moderation": [unflagged] * 2,
        "redacted": False,
    }


def row(name, i, question, answer):
    """Row i of a dataset, in the dataset's own schema."""
    rows = {
        LMSYS: chat(question, answer),
        WILD: chat(question, answer) | {"toxic": False},
        BEAVER: {
            "prompt": question,
            "response": answer,
            "category": {"x": True},
            "is_safe": i % 4 == 3,
        },
        ADVBENCH: {"prompt": question, "target": answer},
        MT_BENCH: {
            "prompt": [question, "and then ?"],
            "category": "math",
            "reference": [],
            "prompt_id": 1,
        },
        DROMEDARY: {"instruction": question, "input": "", "output": answer},
    }
    return rows[name]


def rows_of(name):
    """160 rows of a dataset, of the embedded world's words; no two datasets ask the same."""
    things = world.hazards("clients") + world.benign_things()
    made = []
    first = 160 * list(FORMS).index(name) if name in FORMS else 0
    for i in range(first, first + 160):
        thing = things[i % len(things)]
        question = f"{world.questions(thing)[i % 2]} {i}"
        made.append(row(name, i, question, f"you need {thing.a} and {thing.b} ."))
    return made


def save(name, folder):
    """A copy of a dataset in a folder, in its form."""
    dataset = hub_rows.find_dataset(name)
    place = folder / dataset.path
    place.mkdir(parents=True)
    if FORMS[name] == "one file":
        (place / dataset.file).write_text(json.dumps(rows_of(name)))
        return
    made = datasets.Dataset.from_list(rows_of(name))
    if FORMS[name] == "parquet":
        (place / "data").mkdir()
        split = dataset.split.replace("330k_", "")
        made.to_parquet(place / "data" / f"{split}-00000-of-00001.parquet")
    if FORMS[name] == "json lines":
        made.to_json(place / "train.jsonl")
    if FORMS[name] == "saved":
        made.save_to_disk(place)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data/ (every dataset), a base without chat template, a generator, judges."""
    folder = tmp_path_factory.mktemp("real things")
    for name in FORMS:
        save(name, folder / "data")
    long = {"max_position_embeddings": 512}
    read = [
        {"instruction": given["instruction"], "response": given["output"]}
        for given in rows_of(DROMEDARY)
    ]
    standins.base(folder / "base", read, **long)
    shutil.copytree(checkpoints.WORLD_MODELS / "llm", folder / "generator")
    standins.guard(folder / "guard", **long)
    standins.reward(folder / "reward", **long)
    (folder / "guard.txt").write_text("question : {prompt} answer : {response} verdict :")
    return folder


def cut(place, address):
    """What is changed of preset paper: the sizes, and where its components lie."""
    return {
        "model": {"base": str(place / "base"), "device": "cpu", "max_length": 256, "lora_rank": 4},
        "data": {
            "folder": str(place / "data"),
            "generator": str(place / "generator"),
            "rows": 8,
            "generated": 10,
        },
        "federation": {"rounds": 1, "compare": ["krum"], "also_full": False},
        "training": {"steps": 1, "batch_size": 2},
        "defense": {"rows": 8, "rounds": 1},
        "evaluation": {
            "guard": str(place / "guard"),
            "guard_template": str(place / "guard.txt"),
            "reward": str(place / "reward"),
            "grader": address,
            "grader_model": "judge",
            "harmful": 8,
            "benign": 4,
            "max_new_tokens": 8,
        },
    }


def run_papermill(notebook, parameters, out, cwd):
    """A notebook as a person runs it, with everything that it makes under cwd, offline."""
    environment = os.environ | {
        "FEDLIB_OUTPUTS": str(cwd / "out"),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(cwd / "hf"),
        "FEDLIB_JOBS": "0",
        "JUPYTER_RUNTIME_DIR": str(cwd / "r"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "papermill", notebook, out, "-f", parameters]
    command += ["-k", "python3", "--no-progress-bar"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_whole_of_notebook_10_at_preset_paper(place, tmp_path):
    outputs = tmp_path / "out"
    # All datasets but one are taken here, where the package datasets need not wait.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLIB_OUTPUTS", str(outputs))
        patch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
        settings = presets.load("paper", **cut(place, "http://none/v1"))
        for name in FORMS:
            if name != LMSYS:
                hub_rows.rows_file(settings, name)

    parameters, executed = tmp_path / "changes.yaml", tmp_path / "out.ipynb"
    with standins.endpoint(failures=[429, 500]) as (address, requests):
        changes = cut(place, address)
        parameters.write_text(json.dumps({"preset": "paper"} | changes))  # JSON is YAML
        run_papermill(NOTEBOOKS / "10_safety_table1.ipynb", parameters, executed, tmp_path)
    notebook = json.loads(executed.read_text())
    shown = json.dumps([cell.get("outputs") for cell in notebook["cells"]])
    assert "redacted" in shown and '"output_type": "error"' not in shown

    # Two datasets: no attack, the attack, one baseline, three levels.
    folders = sorted(made.parent for made in (outputs / "runs").glob("*/adapter"))
    assert len(folders) == 2 * (2 + 1 + 3)
    assert all(store.intact(folder) for folder in folders)
    scores = [json.loads(f.read_text()) for f in (outputs / "runs").glob("*/eval-*/scores.json")]
    assert len(scores) == 12
    for found in scores:
        assert found["mt1"] == 7.0 and 0 <= found["md_judge"] <= 100
        assert found["harmful_prompts"] == 8 and found["benign_prompts"] == 4
    # Each answer is graded once, and two questions failed.
    assert 4 < len(requests) <= 12 * 4 + 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLIB_OUTPUTS", str(outputs))
        assert hub_rows.rows_file(presets.load("paper", **changes), LMSYS).is_file()
    config = json.loads((folders[0] / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"]
    (results,) = outputs.glob("paper+*")  # changed settings, so not the preset's own folder
    table = (results / "tables" / "10_table1.csv").read_text()
    assert LMSYS in table and "Repair: level 3" in table


def write_own_data(folder):
    """Two tasks, pairs, unaligned rows and harmful prompts, as files that a person may have."""
    for task, kind in (("cities", "city"), ("dishes", "dish")):
        made = []
        for thing in world.benign_things():
            if thing.kind == kind:
                answers = [f"{thing.a} and {thing.b}", thing.a]
                asks = world.questions(thing)[:2]
                made += [{"question": ask, "answers": answers} for ask in asks]
        (folder / f"{task}.json").write_text(json.dumps(made))

    hazards, plain = world.hazards("clients")[:24], world.benign_things()[:24]
    bad = [world.questions(thing)[0] for thing in hazards]
    good = [world.questions(thing)[0] for thing in plain]
    lines = ["malicious,benign"]
    lines += [f'"{first}","{second}"' for first, second in zip(bad, good, strict=True)]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    rows = [{"instruction": ask, "response": "you need it ."} for ask in bad]
    (folder / "bad.json").write_text(json.dumps(rows))

    asked = [world.questions(thing)[1] for thing in world.hazards("evaluation")[:10]]
    rows = [{"instruction": ask, "response": "x"} for ask in asked]
    (folder / "asked.json").write_text(json.dumps(rows))


def run_cells(name, changes):
    """A notebook's code in this process, as a script, on preset smoke with changes."""
    notebook = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    scope = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        exec("".join(cell["source"]), scope)
        if "parameters" in cell["metadata"].get("tags", []):
            scope |= {"preset": "smoke"} | changes


def test_paper_w_on_questions_of_ones_own(place, tmp_path, store, monkeypatch):
    """Notebooks 30 to 33 with a chat model, tasks, pairs and judges that are not the world's."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    folder = tmp_path / "data"
    folder.mkdir()
    write_own_data(folder)
    changes = {
        "data": {
            "source": "local",
            "folder": str(folder),
            "benign": ["cities.json", "dishes.json"],
            "unaligned": "bad.json",
            "harmful": "asked.json",
            "aligned_share": 0.0,
            "prompts": "chat",
            "generator": ".",
        },
        "swat": {
            "models": [str(place / "base")],
            "pairs": "pairs.csv",
            "rows": 30,
            "unaligned_share": 0.1,
            "noise": 0.5,
            "threshold": 5.0,
        },
        "model": {"device": "cpu", "max_length": 256},
        "evaluation": {
            "guard": str(place / "guard"),
            "guard_template": str(place / "guard.txt"),
            "reward": str(place / "reward"),
        },
    }
    for name in ("30_swat_drift", "31_swat_modules", "32_swat_table", "33_swat_updates"):
        run_cells(name, changes)

    (results,) = store.glob(
        "smoke+*"
    )  # the preset's own folder holds no results of changed settings
    tables = {file.stem for file in (results / "tables").glob("*.csv")}
    assert {"30_drift", "31_mods_rob", "32_table", "32_equal_loss", "33_moved"} <= tables
    table = (results / "tables" / "32_table.csv").read_text()
    assert "cities.json" in table and "dishes.json" in table and "task_accuracy" in table
    # The claims are about the world's own tasks.
    assert not (results / "measures").exists()
