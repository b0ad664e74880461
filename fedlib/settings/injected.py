"""What papermill was given for the notebook that runs here, as far as the notebook cannot see it.

Papermill writes a cell of its own behind the parameters cell, with whatever names it was given; and
of two values for one group it keeps the last. Outside a kernel, and in JupyterLab, there is nothing
to find here."""

import argparse
import ast
import os
import sys
from collections.abc import Sequence
from pathlib import Path

MARK = "# Parameters\n"  # how papermill's cell begins


def unknown_parameters(contract: Sequence[str]) -> list[str]:
    """The names in papermill's cell that the parameters cell before it does not have.

    contract: the names by which a parameters cell of fedlib's notebooks is known."""
    found = []
    cells = _executed_cells()
    for before, cell in zip(cells, cells[1:], strict=False):
        known = _assigned(before)
        if cell.startswith(MARK) and known >= set(contract):
            found += [name for name in sorted(_assigned(cell)) if name not in known]
    return found


def given_texts() -> list[tuple[str, str]]:
    """[(place, YAML)]: what papermill's -f and -y gave, in turn, by the command that runs this."""
    if not any(cell.startswith(MARK) for cell in _executed_cells()):
        return []
    import psutil  # every kernel has it

    try:
        papermill = psutil.Process(os.getppid())
        arguments, folder = papermill.cmdline(), Path(papermill.cwd())
    except psutil.Error:
        return []
    if not any(Path(part).name == "papermill" for part in arguments[:5]):
        return []
    return _texts(arguments, folder)


def _texts(arguments: Sequence[str], folder: Path) -> list[tuple[str, str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-f", "--parameters_file", action="append", default=[], dest="files")
    parser.add_argument("-y", "--parameters_yaml", action="append", default=[], dest="texts")
    try:
        given, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:  # papermill understood it, so there is more to it
        return []

    # papermill also reads from elsewhere than the disk: that is left to it
    files = [(name, folder / name) for name in given.files if (folder / name).is_file()]
    found = [(name, file.read_text(encoding="utf-8")) for name, file in files]
    return [*found, *(("-y", text) for text in given.texts)]


def _executed_cells() -> list[str]:
    """The cells that this kernel executed, in turn; none outside a kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return list(shell.history_manager.input_hist_raw) if shell and shell.history_manager else []


def _assigned(cell: str) -> set[str]:
    """The names that a cell of plain assignments sets."""
    try:
        body = ast.parse(cell).body
    except SyntaxError:  # a magic: no cell of parameters
        return set()
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}
