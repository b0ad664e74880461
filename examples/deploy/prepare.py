"""What run.sh compares with: each site's rows, and the adapter of the same run in one process.

Run: python examples/deploy/prepare.py FOLDER [nan|killed]
A fault is one of site 1, from its second round on: with `nan` its updates are NaN, with `killed` it
never answers. Its node then runs the changed copy of fedlib that is written here."""

import sys
from pathlib import Path

import torch

from fedlib import federation, training
from fedlib.lab import client_data, keys, loaded, steps, store
from fedlib.settings import machine, presets

HERE = Path(__file__).resolve().parent
BAD_CLIENT, BAD_ROUND = 1, 1  # counted from 0

FAULTY = '''

_honest, _marks = tune, __import__("pathlib").Path({marks!r})


def tune(model, *given):
    """A node that is no longer honest, or no longer there."""
    import time

    with _marks.open("a") as file:
        file.write("a training\\n")
    if len(_marks.read_text().splitlines()) <= {after}:
        return _honest(model, *given)
    if {fault!r} == "killed":
        time.sleep(3600)  # run.sh kills the node meanwhile
    found = _honest(model, *given)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.fill_(float("nan"))
    return found
'''


def main() -> None:
    """Write site0/rows.jsonl, site1/rows.jsonl and reference/ into a folder."""
    folder, fault = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    settings = presets.load(str(HERE / "settings.yaml"))
    torch.set_num_threads(1)

    # each site has its rows, and nobody else has
    for client in range(settings.federation.clients):
        rows = client_data.client_rows(settings, client)
        site = folder / f"site{client}"
        site.mkdir(parents=True)
        names = ("instruction", "response")
        store.write_lines(site / "rows.jsonl", [{n: row[n] for n in names} for row in rows])

    if fault:
        write_faulty(folder / "faulty" / "fedlib", folder / "trainings", fault)
        spoil()

    # the same run without Flower
    loaded.make_base(settings)
    place = keys.run_folder(settings)
    place.mkdir(parents=True)
    steps.run_federation(settings, place)
    place.rename(folder / "reference")


def spoil() -> None:
    """Leave the client out from BAD_ROUND on, whatever it sends."""
    honest = federation.local_updates

    def spoiled(tuned, clients, sampled, start, settings, round_, warmup=None):
        sent, losses, tokens = honest(tuned, clients, sampled, start, settings, round_, warmup)
        if round_ >= BAD_ROUND:
            sent[BAD_CLIENT] = "it fails"
        return sent, losses, tokens

    federation.local_updates = spoiled


def write_faulty(package: Path, marks: Path, fault: str) -> None:
    """A package that is fedlib, except for `training.tune`."""
    package.mkdir(parents=True)
    real = machine.ROOT / "fedlib"
    (package / "__init__.py").write_text(f"__path__.append({str(real)!r})\n", encoding="utf-8")
    source = Path(training.__file__).read_text(encoding="utf-8")
    added = FAULTY.format(marks=str(marks), after=BAD_ROUND, fault=fault)
    (package / "training.py").write_text(source + added, encoding="utf-8")


if __name__ == "__main__":
    main()
