"""Every notebook through papermill, several at a time, with a summary and one self-contained page."""

import fnmatch
import html
import json
import multiprocessing
import os
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from fedlib.lab import runs
from fedlib.papers import output
from fedlib.settings import errors, machine, presets

NOTEBOOKS = machine.ROOT / "notebooks"


def reproduce(preset, only="*", jobs=None):
    """Execute the notebooks that match `only` at a preset; returns 0, or 1 if any failed.

    A failed notebook does not stop the others, and what was finished is kept. 90_claims comes last: it reads
    what the others measured. Executed copies and index.html go to outputs/<preset>."""
    settings = presets.load(preset)
    if preset.endswith((".yaml", ".yml")):  # the notebooks run in another folder
        preset = str((Path(preset) if Path(preset).exists() else machine.path(preset)).resolve())
    os.environ["FEDLIB_OUTPUTS"] = str(machine.outputs().resolve())
    names = [p.stem for p in sorted(NOTEBOOKS.glob("*.ipynb"))]
    chosen = [
        n
        for n in names
        if fnmatch.fnmatch(n, only if any(c in only for c in "*?[") else f"{only}*")
    ]
    if not chosen:
        raise errors.SettingsError(
            f"--only: no notebook matches {only!r}{errors.nearest(only, names)}"
        )
    executed = output.folder(settings, "executed")
    state = {n: {"name": n, "text": "waiting", "seconds": 0.0} for n in chosen}
    console, began, others = Console(), time.monotonic(), set(multiprocessing.active_children())
    jobs = jobs or (
        1 if machine.device(settings) == "cuda" else max(1, runs.cores())
    )  # a GPU's memory is for one
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(max(1, runs.cores() // min(jobs, len(chosen))))
    )  # more are slow together
    with (
        tempfile.TemporaryDirectory(prefix="fedlib-") as scratch,
        Live(console=console, refresh_per_second=4) as live,
        ProcessPoolExecutor(
            min(jobs, len(chosen)), multiprocessing.get_context("spawn"), runs.end_with_parent
        ) as pool,
    ):
        last = [n for n in chosen if n.startswith("90_")]
        try:
            for wave in filter(None, ([n for n in chosen if n not in last], last)):
                _wave(pool, wave, preset, executed, Path(scratch), state, live)
        except BaseException:  # interrupted: a worker would go on with the next notebook, nbclient even where terminated
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(multiprocessing.active_children()) - others:
                child.kill()  # its kernel ends with it, and the kernel's workers with that
            raise
    for s in state.values():
        if not console.is_terminal:
            console.print(_text(s), highlight=False)
    page = _page(settings, executed, [n for n in names if (executed / f"{n}.ipynb").exists()])
    failed = [n for n, s in state.items() if s["text"] != "done"]
    console.print(
        f"{len(chosen) - len(failed)} of {len(chosen)} notebooks done in {time.monotonic() - began:.0f} s"
        + (f"; failed: {', '.join(failed)}" if failed else "")
        + f"\nOpen {page}",
        highlight=False,
        soft_wrap=True,
    )
    return 1 if failed else 0


def _wave(pool, names, preset, executed, scratch, state, live):
    try:
        futures = {
            n: pool.submit(_execute, NOTEBOOKS / f"{n}.ipynb", preset, executed, scratch)
            for n in names
        }
    except BrokenProcessPool as error:  # an earlier notebook's process was killed
        state.update({n: state[n] | {"text": f"failed: {error}"} for n in names})
        return
    while True:
        for name, future in futures.items():
            state[name] |= _look(name, future, scratch)
        live.update(_lines(state) if live.console.is_terminal else "")
        if all(f.done() for f in futures.values()):
            return
        time.sleep(0.25)


def _look(name, future, scratch):
    """What there is to say about a notebook now."""
    started, status = scratch / f"{name}.started", scratch / f"{name}.status"
    if future.done():
        error = future.exception()
        text, seconds = (
            (f"failed: {type(error).__name__}: {error}", 0.0) if error else future.result()
        )
        return {"text": " ".join(text.split())[:300], "seconds": seconds}
    if not started.exists():
        return {}
    return {
        "text": status.read_text() if status.exists() else "running",
        "seconds": time.time() - started.stat().st_mtime,
    }


def _lines(state):
    grid = Table.grid(padding=(0, 2))
    for s in state.values():
        grid.add_row(s["name"], f"{s['seconds']:.0f} s", s["text"])
    return grid


def _text(s):
    return f"{s['name']:<26} {s['seconds']:5.0f} s  {s['text']}"


def _execute(notebook, preset, executed, scratch):
    """Execute one notebook in this process; ("done" or what failed, seconds). The kernel talks over sockets in the
    scratch folder, not ports: picking free ports is a race when several kernels start at once."""
    name, began = notebook.stem, time.monotonic()
    (scratch / f"{name}.started").touch()
    os.environ |= {
        "FEDLIB_STATUS": str(scratch / f"{name}.status"),
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        "IPYTHONDIR": str(scratch / "ipython"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    os.dup2(
        os.open(os.devnull, os.O_WRONLY), 2
    )  # kernels mutter as they end; what fails is said in the summary
    import papermill
    from traitlets.config import Config

    try:
        papermill.execute_notebook(
            notebook,
            executed / notebook.name,
            {"preset": preset},
            kernel_name="python3",
            progress_bar=False,
            cwd=notebook.parent,
            config=Config({"AsyncKernelManager": {"transport": "ipc", "ip": str(scratch / name)}}),
        )
        text = "done"
    except papermill.PapermillExecutionError as error:
        text = f"failed in cell {error.exec_count}: {error.ename}: {error.evalue}"
    except Exception as error:  # a dead kernel, a full disk: the other notebooks go on
        text = f"failed: {type(error).__name__}: {error}"
    return text, time.monotonic() - began


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
nav { border: 1px solid #ddd; border-radius: 6px; padding: .5rem 1rem } nav a { display: block }
table { border-collapse: collapse; font-size: 85%; margin: 1rem 0; display: block; overflow-x: auto }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .6rem; text-align: left } thead th { border-bottom: 2px solid #888 }
img { max-width: 100%; height: auto } section { border-top: 3px solid #4477AA; margin-top: 3rem }
pre { overflow-x: auto; background: #f6f6f6; padding: .5rem } a.anchor-link, .jp-OutputPrompt, .prompt { display: none }
"""


def _page(settings, executed, names):
    """outputs/<preset>/index.html: every executed notebook's prose and results, figures inside, nothing else needed."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True)
    links, sections = [], []
    for name in names:
        try:
            notebook = json.loads((executed / f"{name}.ipynb").read_text(encoding="utf-8"))
            body, _ = exporter.from_filename(str(executed / f"{name}.ipynb"))
        except ValueError:  # cut off while it was written
            continue
        lines = [line for c in notebook["cells"] for line in "".join(c["source"]).splitlines()]
        first = next((line for line in lines if line.startswith("# ")), name)
        made = notebook["metadata"].get("papermill", {})
        ended = (
            ", failed" if made.get("exception") else "" if made.get("end_time") else ", unfinished"
        )
        state = f"executed {(made.get('start_time') or '?')[:16]}{ended}"
        links.append(
            f'<a href="#{name}">{html.escape(first.lstrip("# "))} <small>({state})</small></a>'
        )
        body = re.sub(
            r'href="(\w+)\.ipynb"',
            r'href="#\1"',
            re.sub(r"<script.*?</script>", "", body, flags=re.S),
        )
        sections.append(f'<section id="{name}">{body}</section>')
    seeds = ", ".join(map(str, settings.seeds))
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>fedlib: {settings.preset}</title><style>{STYLE}</style><h1>Safety of federated instruction tuning</h1>"
        f"<p>Preset <b>{settings.preset}</b>, seeds {seeds}, base <b>{html.escape(settings.model.base)}</b>. "
        f"Every number comes from a run's record in <code>outputs/runs</code>.</p>"
        f"<nav>{''.join(links)}</nav>{''.join(sections)}</html>\n"
    )
    page = output.folder(settings) / "index.html"
    output.save(page, lambda p: p.write_text(text, encoding="utf-8"))
    return page
