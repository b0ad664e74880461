"""The command line: exit codes, and messages of one line."""

import json
import re
import subprocess
import sys

import pytest

from fedlib import __main__
from fedlib.lab import keys, runs
from fedlib.settings import machine, presets

TINY = """preset: smoke
seeds: [0, 1]
model: {device: cpu}
data: {benign: [lmsys-like], rows: 8}
federation: {rounds: 1, sampled: 2}
training: {steps: 1, batch_size: 2}
evaluation: {harmful: 2, benign: 2, max_new_tokens: 2}
"""


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(TINY)
    return file


def test_run_makes_a_run_for_each_seed_and_runs_lists_them(own, capsys):
    assert __main__.main(["run", str(own)]) == 0
    printed = capsys.readouterr().out.splitlines()
    wanted = [presets.load(str(own)).replace(seed=seed) for seed in (0, 1)]
    assert printed[::2] == [str(keys.run_folder(settings)) for settings in wanted]
    scores = [set(json.loads(line)) for line in printed[1::2]]
    assert [found >= {"rule", "help"} for found in scores] == [True, True]

    assert __main__.main(["runs"]) == 0
    listed = capsys.readouterr().out
    assert all(keys.key(settings) in listed for settings in wanted)
    assert len(re.findall(r"\bdone\b", listed)) == 2


def test_runs_without_any_says_so(capsys):
    assert __main__.main(["runs"]) == 0
    assert capsys.readouterr().out == f"no runs in {machine.outputs() / 'runs'}\n"


WRONG = [
    (["run", "smok"], ["no preset 'smok'", "did you mean 'smoke'"]),
    (["run", "nowhere.yaml"], ["no file 'nowhere.yaml'"]),
    (["run", "text"], ["data.folder", "-y"]),
    (["reproduce", "--preset", "smok"], ["no preset 'smok'", "did you mean 'smoke'"]),
    (["reproduce", "--only", "nonsense"], ["--only: no notebook matches 'nonsense'"]),
    (["reproduce", "--preset", "smoke", "--only", "no*"], ["--only: no notebook matches 'no*'"]),
    (["plan", "smal"], ["no preset 'smal'", "did you mean 'small'"]),
    (["plan", "smoke", "--only", "x"], ["--only: no notebook begins with 'x'"]),
    (["export", "nothing", "--to", "x"], ["no run 'nothing'"]),
    (["reproduce", "--jobs", "0"], ["--jobs", "0"]),
    (["fetch", str(machine.ROOT / "README.md")], ["README.md", "a file is in the way"]),
    (["compare"], ["no claims in", "mini/claims.csv", "fedlib reproduce --preset mini"]),
    (["world", "--only", "bsae"], ["no world model 'bsae'", "did you mean 'base'"]),
]


@pytest.mark.parametrize("arguments, parts", WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_what_cannot_be_done_is_one_line_and_exit_code_2(arguments, parts, capsys):
    assert __main__.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("fedlib: ")
    assert printed.err.count("\n") == 1
    assert [part for part in parts if part not in printed.err] == [], printed.err
    # nothing was begun
    assert not machine.outputs().exists()


LOCAL = "data: {source: local, folder: nil, aligned: x.csv, harmful: y.csv, unaligned: z.csv}"


@pytest.mark.parametrize(
    "line, said",
    [
        ("federation: {roundz: 3}", "did you mean 'rounds'"),
        ("data: {benign: [lmsys]}", "did you mean 'lmsys-like'"),
        (LOCAL, "data.folder: no folder"),
        ("model: {base: 'world:bsae'}", "did you mean 'world:base'"),
    ],
)
def test_a_wrong_file_is_one_line_and_exit_code_2(own, capsys, line, said):
    own.write_text(f"preset: smoke\n{line}\n")
    assert __main__.main(["run", str(own)]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_an_interrupt_is_exit_code_130(own, capsys, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "get_all", interrupted)
    assert __main__.main(["run", str(own)]) == 130
    assert "interrupted" in capsys.readouterr().err


COMMANDS = "plan reproduce compare run runs export fetch world".split()
HELP = [[command, "--help"] for command in COMMANDS]


@pytest.mark.parametrize(
    "arguments, code",
    [
        ([], 2),
        (["rnu"], 2),
        (["run", "smoke", "--fast"], 2),
        (["--help"], 0),
        *[(arguments, 0) for arguments in HELP],
    ],
)
def test_usage(arguments, code, capsys):
    with pytest.raises(SystemExit) as ended:
        __main__.main(arguments)
    assert ended.value.code == code
    printed = capsys.readouterr()
    assert "usage: fedlib" in (printed.err if code else printed.out)


@pytest.mark.parametrize("command", [["runs"], ["plan", "smoke"]], ids=" ".join)
def test_what_only_reads_needs_no_torch(command):
    code = f"import sys; from fedlib import __main__; __main__.main({command}); "
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        cwd=machine.ROOT,
    )
    assert done.stdout.splitlines()[-1] == "False", done.stderr[-1000:]
