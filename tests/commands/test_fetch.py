"""`fedlib fetch`: against a server on this machine; the real table is only looked at."""

import errno
import hashlib
import http.server
import json
import random
import re
import threading

import pytest
import yaml

from fedlib.commands import fetch
from fedlib.settings import machine
from fedlib.settings.errors import DataError

SHARED = machine.ROOT.parent / "shared" / "data"
GOALS = b"goal,target\n" + b"".join(b"goal %d,Sure\n" % number for number in range(3000))
LINES = "sentence\tlabel\nfine film \t1\ndull , dull\t0\nwarm\t1\n"


def digest(content):
    return hashlib.sha256(content).hexdigest()


def entry(content, path="o/r/c/goals.csv", **changes):
    return {"licence": "MIT", "digest": digest(content), "from": {path: digest(content)}, **changes}


class Server(http.server.ThreadingHTTPServer):
    """Serves .files; .cut: sends only so many bytes of an answer; .ranges: heeds Range."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.ranges = {"/o/r/c/goals.csv": GOALS}, None, True
        self.asked = []
        self.host = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content, wanted = self.server.files.get(self.path), self.headers["Range"]
        self.server.asked.append((self.path, wanted))
        if content is None:
            return self.send_error(404)
        start = 0
        if wanted and self.server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(content):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def get(server, tmp_path):
    """get(files): fetch them into a folder; get.folder is that folder."""

    def call(files=None):
        table = {
            "host": "https://nowhere.invalid",
            "files": files or {"advbench.csv": entry(GOALS)},
        }
        fetch.fetch_files(str(call.folder), server.host, table)

    call.folder = tmp_path / "new" / "real"
    return call


def names(folder):
    return sorted(file.name for file in folder.iterdir())


# --- what goes well


def test_a_file_is_fetched_once_and_its_licence_is_said(get, server, capsys):
    get()
    assert (get.folder / "advbench.csv").read_bytes() == GOALS
    assert names(get.folder) == ["advbench.csv"]
    assert "advbench.csv: fetched, 44 KB; licence: MIT" in capsys.readouterr().out

    get()
    assert len(server.asked) == 1
    said = capsys.readouterr().out
    assert "advbench.csv: there already; licence: MIT" in said
    assert f'all 1 files are there; use them: -y "data: {{folder: {get.folder}}}"' in said


@pytest.mark.parametrize("ranges", [True, False], ids=["resumes", "ignores Range"])
def test_a_cut_download_goes_on(get, server, capsys, ranges):
    server.cut, server.ranges = 10_000, ranges
    with pytest.raises(DataError, match="1 of 1 files are not there: advbench.csv"):
        get()
    assert f"cut after 10,000 bytes ({len(GOALS)} were announced)" in capsys.readouterr().err
    assert names(get.folder) == ["advbench.csv.1.part"]

    server.cut = None
    get()
    assert server.asked[1:] == [("/o/r/c/goals.csv", "bytes=10000-")]
    assert (get.folder / "advbench.csv").read_bytes() == GOALS
    assert names(get.folder) == ["advbench.csv"]


@pytest.mark.parametrize(
    "part, asked",
    [
        (GOALS, []),  # whole, but the name was not given yet
        (b"other", ["bytes=5-", None]),  # the beginning of another file
        (GOALS + b"more", [f"bytes={len(GOALS) + 4}-", None]),
        (b"", [None]),
    ],
    ids=["whole", "other", "longer", "empty"],
)
def test_whatever_a_part_file_holds_the_file_is_right(get, server, part, asked):
    get.folder.mkdir(parents=True)
    (get.folder / "advbench.csv.1.part").write_bytes(part)
    get()
    assert [wanted for _, wanted in server.asked] == asked
    assert (get.folder / "advbench.csv").read_bytes() == GOALS
    assert names(get.folder) == ["advbench.csv"]


# --- what goes wrong


def test_a_file_that_cannot_be_had_does_not_stop_the_others(get, capsys):
    files = {"a.csv": entry(GOALS, "o/r/c/none.csv"), "b.csv": entry(GOALS)}
    with pytest.raises(DataError, match=r"1 of 2 files are not there: a\.csv"):
        get(files)
    assert names(get.folder) == ["b.csv"]
    said = capsys.readouterr().err
    assert "fedlib: a.csv: " in said and "/none.csv: the server answers 404" in said
    assert said.count("\n") == 1


def test_a_wrong_digest_names_both_and_keeps_nothing(get, server, capsys):
    server.files["/o/r/c/goals.csv"] = b"changed"
    with pytest.raises(DataError, match="1 of 1"):
        get()
    said = capsys.readouterr().err
    assert digest(b"changed") in said and digest(GOALS) in said
    assert names(get.folder) == []


def test_a_file_that_is_there_is_never_replaced(get, server, capsys):
    get.folder.mkdir(parents=True)
    (get.folder / "advbench.csv").write_bytes(b"my own")
    with pytest.raises(DataError, match="1 of 1"):
        get()
    said = capsys.readouterr().err
    assert "another file is there" in said and digest(b"my own") in said and digest(GOALS) in said
    assert (get.folder / "advbench.csv").read_bytes() == b"my own"
    assert server.asked == []


def test_a_refused_connection_is_one_line(get, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match=r"no connection to http://127.*: .*[Rr]efused"):
        get({"a.csv": entry(GOALS), "b.csv": entry(GOALS)})
    assert names(get.folder) == []


def test_a_full_disk_is_one_line(get, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch, "_receive", full)
    with pytest.raises(DataError, match="real: No space left on device"):
        get()


@pytest.mark.parametrize("inside", ["", "/real"], ids=["the folder", "a folder above"])
def test_a_file_in_the_way_of_the_folder(tmp_path, inside):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="a file is in the way"):
        fetch.fetch_files(f"{tmp_path}/file{inside}")


# --- what is made of published files


def test_a_sample_is_a_shuffle_with_seed_0_as_csv(get, server):
    server.files["/o/r/c/dev.tsv"] = LINES.encode()
    rows = ["fine film,1", '"dull , dull",0', "warm,1"]
    generator = random.Random(0)
    generator.shuffle([0] * 5)
    generator.shuffle(rows)
    right = "\r\n".join(["text,label", *rows[:2], ""]).encode()
    made = {"by": "sample", "rows": 2, "header": True, "drawn_before": [5]}
    source = {"o/r/c/dev.tsv": digest(LINES.encode())}
    get({"sst2.csv": {"licence": "-", "digest": digest(right), "made": made, "from": source}})
    assert (get.folder / "sst2.csv").read_bytes() == right
    assert names(get.folder) == ["sst2.csv"]


def test_labels_of_several_files_are_joined():
    start = 'id,prompt,completion,final_label,{}\n1,Why?,"Be\ncause",full,'
    parts = [start.format("gpt4_label") + "gpt\n", start.format("strmatch_label") + "match\n"]
    made = fetch._labels([part.encode() for part in parts], ["m"], characters=4)
    assert made.decode().splitlines() == [
        "model,id,prompt,completion,human_label,gpt4_label,strmatch_label",
        'm,1,Why?,"Be',
        'c",full,gpt,match',
    ]


# --- the table


def test_the_table_names_every_file_of_preset_real():
    table = yaml.safe_load(fetch.TABLE.read_text(encoding="utf-8"))
    assert table["host"].startswith("https://")
    text = (machine.ROOT / "params" / "real.yaml").read_text(encoding="utf-8")
    read = set(re.findall(r"\b\w+\.(?:csv|jsonl?)\b", json.dumps(yaml.safe_load(text))))
    assert len(read) == 7 and read <= set(table["files"])
    for name, one in table["files"].items():
        digests = [one["digest"], *one["from"].values()]
        assert [d for d in digests if not re.fullmatch("[0-9a-f]{64}", d)] == [], name
        # a commit, not a branch that moves
        assert all(re.match(r"[\w.-]+/[\w.-]+/[0-9a-f]{40}/", path) for path in one["from"]), name
        assert one["licence"] and one.get("made", {"by": "copy"})["by"] in fetch.MAKERS


@pytest.mark.skipif(not SHARED.is_dir(), reason="the files are not part of the repository")
def test_the_digests_are_those_of_the_files_that_were_used(capsys):
    table = yaml.safe_load(fetch.TABLE.read_text(encoding="utf-8"))
    fetch.fetch_files(str(SHARED), "http://127.0.0.1:9", table)
    assert capsys.readouterr().out.count("there already") == len(table["files"]) == 10
