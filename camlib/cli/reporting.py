"""What `camlib report` does: each picture explained, and all of them on one page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from camlib import InputError, Method, load
from camlib.cli.answers import built
from camlib.cli.arguments import class_index, device_named, method_named
from camlib.cli.asked import Question
from camlib.cli.files import writing
from camlib.cli.networks import Spoken
from camlib.cli.places import sources
from camlib.cli.terminal import bar, reason, say, say_failed, warnings_in_a_line
from camlib.errors import TargetError
from camlib.integrations.network import Network
from camlib.targets import logits
from camlib.targets.binary import both
from camlib.visual import Explained, report
from camlib.visual.colors import color_table
from camlib.visual.reading import read


def report_all(
    *,
    images: Sequence[str],
    spoken: Spoken,
    method: str,
    layers: Sequence[str],
    device: str,
    batch_size: int,
    title: str,
    alpha: float,
    colormap: str,
    output: Path,
) -> bool:
    """Whether each of `images` is on the page; see the options of `camlib report`.

    Raises:
        CamlibError: an option does not fit, or no picture could be explained.
    """
    where = device_named(device)
    color_table(colormap, where)
    failed: list[str] = []
    kind = method_named(method)
    files = _files(images, output)
    network = spoken.network(where)
    chosen = built(kind, network, layers)
    note = f"{kind.__name__} of the predicted class, {spoken.model}"
    explained = _Explaining(network, chosen, where, failed).all(files, batch_size)
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        done = report(explained, output, title=title, note=note, alpha=alpha, colormap=colormap)
    pictures = "1 picture" if done.pictures == 1 else f"{done.pictures} pictures"
    beside = f", and small pictures in {done.folder}/, as all are above 24 MB"
    say(f"wrote {done.file} with {pictures}{beside if done.folder else ''}")
    return not failed


def _files(images: Sequence[str], output: Path) -> list[tuple[Path, str | None]]:
    """The files that `images` name, each with the sub-folder of a folder that it is in."""
    files: dict[Path, str | None] = {}
    for given in images:
        if given == "-":
            raise InputError("a report reads files; pass files, patterns or folders, not -")
        found, _ = sources([given], output=output)
        for source in found:
            assert source.file is not None, "it is not the standard input"
            parts = source.inside.parts
            files.setdefault(source.file, parts[0] if len(parts) > 1 else None)
    return list(files.items())


class _Explaining:
    """Explains pictures in batches, and those that fail one by one.

    Args:
        network: the classifier.
        method: what explains it.
        device: where the network is.
        failed: gets the names of pictures that could not be explained.
    """

    def __init__(self, network: Network, method: Method, device: Any, failed: list[str]) -> None:
        self.network = network
        self.method = method
        self.device = device
        self.failed = failed
        self.question = Question().target(method, several=network.several)
        self.true_class = cache(self._true_class)

    def all(self, files: Sequence[tuple[Path, str | None]], size: int) -> Iterator[Explained]:
        """Each of `files`, `size` at once."""
        batches = [files[start : start + size] for start in range(0, len(files), size)]
        for batch in bar("batches")(batches):
            pictures = {file: self._tried(file, partial(read, file)) for file, _ in batch}
            there = [(file, folder) for file, folder in batch if pictures[file] is not None]
            try:
                with warnings_in_a_line(f"{batch[0][0]} and those after it"):
                    yield from self._explained(there, pictures)
            # One picture may have broken the batch in any way: each gets its own.
            except Exception:
                for one in there:
                    own = partial(self._explained, [one], pictures)
                    yield from self._tried(one[0], own) or ()

    def _tried(self, file: Path, what: Any) -> Any:
        """The result of `what`; ``None`` if it fails, which is said."""
        try:
            with warnings_in_a_line(file):
                return what()
        except _Unfit:
            raise
        except Exception as error:
            say_failed(str(file), reason(error))
            self.failed.append(str(file))
            return None

    def _explained(
        self, batch: Sequence[tuple[Path, str | None]], pictures: Mapping[Path, Any]
    ) -> list[Explained]:
        if not batch:
            return []
        network = self.network
        photos = load([pictures[file] for file, _ in batch], network.transform)  # type: ignore[arg-type]
        seen = self.method.explain(photos.to(self.device).inputs, self.question)
        if seen.attribution:
            raise _Unfit(
                f"{seen.method} marks single pixels, and a report shows heatmaps; choose another "
                "--method, such as grad_cam"
            )
        scores = both(logits(seen.output, len(batch))).detach().float().cpu()
        found = []
        for i, ((file, folder), place) in enumerate(zip(batch, photos.placements, strict=True)):
            chances = network.probabilities(scores[i])
            best = int(seen.target[i, 0]) if seen.target is not None else int(scores[i].argmax())
            numbers = {"probability": float(chances[best]), "score": float(scores[i, best])}
            truth = self.true_class(folder)
            if truth is not None and truth < len(chances):
                numbers["probability of the true class"] = float(chances[truth])
            found.append(
                Explained(
                    name=str(file),
                    photo=pictures[file],
                    heatmap=seen.heatmap[i, 0].cpu(),
                    predicted=network.name_of(best),
                    truth=None if truth is None else network.name_of(truth),
                    numbers=numbers,
                    placement=place,
                )
            )
        return found

    def _true_class(self, folder: str | None) -> int | None:
        """The class that is named like a folder."""
        try:
            return None if folder is None else class_index(folder, self.network.classes)
        except TargetError:
            return None


class _Unfit(InputError):
    """The method fits no picture."""
