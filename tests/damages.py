"""What can happen to a file: a bit flips, its end is lost, all of it, or it is another file."""

from pathlib import Path


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    """Cut the end of a file off."""
    file.write_bytes(file.read_bytes()[:-10])


def empty(file: Path) -> None:
    """Leave nothing in a file."""
    file.write_bytes(b"")


def write_list(file: Path) -> None:
    """Valid JSON of the wrong kind."""
    file.write_text("[]")
