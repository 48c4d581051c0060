"""Which pictures are read, and where what is drawn of each goes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from camlib.errors import InputError

MARK = "-camlib"
"""What names of pictures that the command writes end in; none of them is read again."""

FIGURES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Source:
    """A picture to read.

    Attributes:
        file: where it is; ``None`` for the standard input.
        inside: where it is in the folder that it was found in, or its name.
        folder: where what is drawn goes, below the output.
    """

    file: Path | None
    inside: Path
    folder: Path = Path()

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return "-" if self.file is None else str(self.file)

    def drawn(self, detail: int) -> Path:
        """Where what is drawn of it goes, told from others by more `detail`, 0 to 2."""
        keep = detail == 2
        name = f"{self.inside.name if keep else self.inside.stem}{MARK}.png"
        if detail == 0 or self.file is None or self.folder != Path():
            return self.folder / self.inside.with_name(name)
        return Path(*self.file.parts[1 if self.file.is_absolute() else 0 :]).with_name(name)


def sources(given: Sequence[str], *, output: Path | None) -> tuple[list[Source], int]:
    """The pictures that `given` names, each once, and how many were left out as written by us.

    Args:
        given: files, patterns such as ``*.jpg``, folders, which are searched with all below them,
            and ``-`` for the standard input.
        output: where what is drawn goes, if the user says so.

    Raises:
        InputError: a folder or a pattern has no pictures, or all pictures are written by us.
    """
    found: dict[Path | None, Source] = {}
    written: set[Path] = set()
    for argument in given:
        for source in _named(argument, output):
            if source.file is not None and source.file.stem.endswith(MARK):
                written.add(source.file)
            else:
                key = None if source.file is None else source.file.absolute()
                found.setdefault(key, source)
    if not found:
        names = ", ".join(repr(str(file)) for file in sorted(written)[:3])
        raise InputError(
            f"there is nothing to explain: camlib itself wrote {names}; to explain a picture whose "
            f"name ends in {MARK}, rename it"
        )
    return list(found.values()), len(written)


def _named(argument: str, output: Path | None) -> Iterator[Source]:
    """What one argument names."""
    file = Path(argument)
    if argument == "-":
        yield Source(None, Path("stdin"))
    elif file.is_dir():
        inside = sorted(each for each in file.rglob("*") if _is_picture(each, file))
        if not inside:
            raise InputError(f"folder {argument!r} has no pictures; check the path")
        # Without an output beside the folder, not in it.
        folder = Path() if output else Path(f"{file.resolve().name}{MARK}")
        yield from (Source(each, each.relative_to(file), folder) for each in inside)
    elif any(sign in argument for sign in "*?[") and not file.exists():
        matches = [Path(each) for each in sorted(glob(argument, recursive=True))]
        if not matches:
            raise InputError(f"no file matches {argument!r}; check the pattern")
        yield from (Source(each, Path(each.name)) for each in matches if each.is_file())
    else:
        yield Source(file, Path(file.name))


def _is_picture(file: Path, folder: Path) -> bool:
    from PIL.Image import registered_extensions

    from camlib.visual.reading import HEIF

    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    known = file.suffix.lower() in registered_extensions() or file.suffix.lower() in HEIF
    return known and not hidden and file.suffix.lower() != ".pdf" and file.is_file()


def destinations(found: Sequence[Source], output: Path | None, *, plain: bool) -> list[Path]:
    """Where what is drawn of each of `found` goes; folders are made when it is written.

    Pictures of one name in several folders keep their folders, and those of one name in one folder
    the ends of their names.

    Args:
        found: what is read.
        output: a picture for one, a folder for several; ``None`` for the current folder.
        plain: whether a picture is written, not a figure.

    Raises:
        InputError: `output` is of no format that can be written, or is a picture for several.
    """
    suffixes = PICTURES if plain else FIGURES
    if output is not None and output.suffix and not output.is_dir():
        suffix = output.suffix.lower()
        if suffix not in {*FIGURES, *PICTURES} and not _is_format(suffix):
            pass  # a folder with a dot in its name
        elif len(found) > 1:
            raise InputError(
                f"output {str(output)!r} is one picture; {len(found)} images need a folder"
            )
        elif suffix not in suffixes:
            raise InputError(
                f"cannot write {str(output)!r}; expected a name that ends in one of "
                f"{', '.join(suffixes)}, or a folder"
            )
        elif found[0].file is not None and output.resolve() == found[0].file.resolve():
            raise InputError(f"output {str(output)!r} is the image itself; choose another name")
        else:
            return [output]
    places = [source.drawn(0) for source in found]
    for detail in (1, 2):
        counts = Counter(str(place).casefold() for place in places)
        places = [
            source.drawn(detail) if counts[str(place).casefold()] > 1 else place
            for source, place in zip(found, places, strict=True)
        ]
    return [(output or Path()) / os.path.normpath(place) for place in _below(places)]


def _below(places: Sequence[Path]) -> Iterator[Path]:
    """`places` without steps upwards."""
    for place in places:
        yield Path(*(part for part in place.parts if part != ".."))


def _is_format(suffix: str) -> bool:
    from PIL.Image import registered_extensions

    return suffix in registered_extensions()
