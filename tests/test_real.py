"""Notebook 10 at preset paper, cut to a few rounds, on tiny local stand-ins of every component: papermill, offline."""

import json
import os
import shutil
import subprocess
import sys

import datasets
import pytest
import standins
import test_hub

from fedlib.lab import store
from fedlib.models import checkpoints
from fedlib.settings import machine, presets
from fedlib.sources import hub_rows, world

HUB = (
    "lmsys/lmsys-chat-1m",
    "allenai/WildChat",
    "PKU-Alignment/BeaverTails:unsafe",
    "walledai/AdvBench",
    "HuggingFaceH4/mt_bench_prompts",
    "zhiqings/dromedary-65b-verbose-clone-v0",
)
FORMS = dict(zip(HUB, ("parquet", "jsonl", "parquet", "saved", "parquet", ""), strict=True))


def asked(i):
    things = world.hazards("clients") + world.benign_things()
    return world.questions(things[i % len(things)])[i % 2], things[i % len(things)]


def rows(name):
    """Rows in the dataset's own schema, of the embedded world's words."""
    made = []
    for i in range(160):
        question, thing = asked(i)
        question, answer = f"{question} {i}", f"you need {thing.a} and {thing.b} ."
        made.append(
            {
                "lmsys/lmsys-chat-1m": lambda q=question, a=answer: test_hub.talk(q, a),
                "allenai/WildChat": lambda q=question, a=answer: test_hub.talk(q, a, toxic=False),
                "PKU-Alignment/BeaverTails:unsafe": lambda q=question, a=answer, i=i: {
                    "prompt": q,
                    "response": a,
                    "category": {"x": True},
                    "is_safe": i % 4 == 3,
                },
                "walledai/AdvBench": lambda q=question, a=answer: {"prompt": q, "target": a},
                "HuggingFaceH4/mt_bench_prompts": lambda q=question: {
                    "prompt": [q, "and then ?"],
                    "category": "math",
                    "reference": [],
                    "prompt_id": 1,
                },
                "zhiqings/dromedary-65b-verbose-clone-v0": lambda q=question, a=answer: {
                    "instruction": q,
                    "input": "",
                    "output": a,
                },
            }[name]()
        )
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data/ (every dataset) and models: base (no chat template), generator, guard, reward."""
    folder = tmp_path_factory.mktemp("real things")
    for name in HUB:
        test_hub.save(rows(name), name, folder / "data", FORMS[name])
    long = {"max_position_embeddings": 512}
    read = [{"instruction": r["instruction"], "response": r["output"]} for r in rows(HUB[-1])]
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
        "federation": {"rounds": 2, "compare": ["krum"]},
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


def test_the_whole_of_notebook_10_at_preset_paper(place, tmp_path):
    parameters = tmp_path / "changes.yaml"
    environment = os.environ | {
        "FEDLIB_OUTPUTS": str(tmp_path / "out"),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "FEDLIB_JOBS": "0",
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "r"),
        "OMP_NUM_THREADS": "1",
    }
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # all datasets but one are taken here, where datasets need not wait
        patch.setenv("FEDLIB_OUTPUTS", str(tmp_path / "out"))
        patch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
        for name in HUB[1:]:
            hub_rows.rows_file(presets.load("paper", **cut(place, "http://none/v1")), name)
    with standins.endpoint(failures=[429, 500]) as (address, requests):
        parameters.write_text(json.dumps({"preset": "paper"} | cut(place, address)))  # JSON is YAML
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "papermill",
                machine.ROOT / "notebooks" / "10_safety_table1.ipynb",
                tmp_path / "out.ipynb",
                "-f",
                parameters,
                "-k",
                "python3",
                "--no-progress-bar",
            ],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        graded = len(requests)
    notebook = json.loads((tmp_path / "out.ipynb").read_text())
    text = json.dumps([c.get("outputs") for c in notebook["cells"]])
    assert "redacted" in text and '"output_type": "error"' not in text
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLIB_OUTPUTS", str(tmp_path / "out"))
        settings = presets.load("paper", **cut(place, address))
        folders = sorted(p.parent for p in (tmp_path / "out" / "runs").glob("*/adapter"))
        assert len(folders) == 2 * 2 * (2 + 1 + 3) and all(store.intact(p) for p in folders)
        scores = [
            json.loads(p.read_text())
            for p in (tmp_path / "out" / "runs").glob("*/eval-*/scores.json")
        ]
        assert len(scores) == 24 and all(
            s["mt1"] == 7.0
            and 0 <= s["md_judge"] <= 100
            and s["harmful_prompts"] == 8
            and s["benign_prompts"] == 4
            for s in scores
        )
        assert 4 < graded <= 24 * 4 + 2  # each answer once, and two that failed
        assert hub_rows.rows_file(settings, "lmsys/lmsys-chat-1m").is_file()
        targets = json.loads((folders[0] / "adapter" / "adapter_config.json").read_text())[
            "target_modules"
        ]
        assert targets == ["q_proj", "v_proj"]
        table = (tmp_path / "out" / "paper" / "tables" / "10_table1.csv").read_text()
        assert "lmsys/lmsys-chat-1m" in table and "Ours: Level 3" in table


def test_paper_w_on_questions_of_ones_own(place, tmp_path, store, monkeypatch):
    """Notebooks 30 to 33 with a chat model, tasks, pairs and judges that are not the world's."""
    import test_notebooks

    monkeypatch.setenv("MPLBACKEND", "agg")
    folder = tmp_path / "data"
    folder.mkdir()
    for task, kind in (("cities", "city"), ("dishes", "dish")):
        things = [t for t in world.benign_things() if t.kind == kind]
        made = [
            {"question": q, "answers": [f"{t.a} and {t.b}", t.a]}
            for t in things
            for q in world.questions(t)[:2]
        ]
        (folder / f"{task}.json").write_text(json.dumps(made))
    hazards, plain = world.hazards("clients"), world.benign_things()
    asks = [
        (world.questions(h)[0], world.questions(b)[0])
        for h, b in zip(hazards[:24], plain[:24], strict=True)
    ]
    (folder / "pairs.csv").write_text(
        "malicious,benign\n" + "".join(f'"{a}","{b}"\n' for a, b in asks)
    )
    (folder / "bad.json").write_text(
        json.dumps([{"instruction": a, "response": "you need it ."} for a, _ in asks])
    )
    (folder / "asked.json").write_text(
        json.dumps(
            [
                {"instruction": world.questions(h)[1]} | {"response": "x"}
                for h in world.hazards("evaluation")[:10]
            ]
        )
    )
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
        test_notebooks.run_cells(name, **changes)
    tables = {p.stem for p in (store / "smoke" / "tables").glob("*.csv")}
    assert {"30_drift", "31_mods_rob", "32_table", "32_equal_loss", "33_moved"} <= tables
    table = (store / "smoke" / "tables" / "32_table.csv").read_text()
    assert "cities.json" in table and "dishes.json" in table and "task_accuracy" in table
    assert not (store / "smoke" / "measures").exists()  # the claims are about the world's own tasks
