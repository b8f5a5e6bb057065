"""Files that a person names at the command line: what goes wrong with one is one line."""

from pathlib import Path

from app.errors import SetupError


def read(file: Path) -> bytes:
    """A file's content, or ``SetupError``."""
    try:
        return file.read_bytes()
    except OSError as exc:
        raise SetupError(f"{file}: {exc.strerror}") from exc


def write(file: Path, content: bytes) -> None:
    """Write a file, or ``SetupError``."""
    try:
        file.write_bytes(content)
    except OSError as exc:
        raise SetupError(f"{file}: {exc.strerror}") from exc


def make_folder(folder: Path) -> None:
    """Have a folder, and those that lead to it, or ``SetupError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SetupError(f"{folder}: {exc.strerror}") from exc
