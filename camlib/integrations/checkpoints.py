"""The weights in a file, however they were saved.

A file is read without running what it may hold: as `torch.load` does with ``weights_only=True``,
with a few plain classes more that training scripts put beside their weights. What is no file of
weights is refused with the reason, and nobody is told to write over it.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import pathlib
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from camlib.errors import InputError

State = dict[str, Tensor]
"""Weights by their names."""

_NAMES = (
    *("state_dict", "model_state_dict", "model", "net", "network", "module", "weights"),
    *("model_state", "params", "ema", "state_dict_ema", "model_ema", "ema_state_dict"),
)
"""What weights are called beside an optimizer and an epoch, those that were trained first."""

_CLASSES = ("classes", "class_names", "categories", "labels", "idx_to_class", "id2label")

_LFS = b"version https://git-lfs"
_FOLDER = (
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
    *("model.safetensors", "pytorch_model.bin"),
)
"""What a folder of Hugging Face has its weights in."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        state: weights by name.
        classes: names of the classes, if they stand beside the weights.
        model: the model itself, where the file holds one.
    """

    state: State
    classes: tuple[str, ...] = ()
    model: nn.Module | None = None


def read_checkpoint(file: str | Path, *, trust: bool = False) -> Checkpoint:
    """The weights in `file`.

    Args:
        file: what `torch.save` wrote: a state dict, bare or in a mapping as training scripts and
            Lightning write it; safetensors; an index of shards, or a folder with one; a zip, gz or
            tar file with one of these in it; TorchScript, or what ``torch.export.save`` wrote.
        trust: whether a whole pickled model is read, which can run any code.

    Raises:
        InputError: there is no such file, or no weights in it; the message says why.
    """
    path = Path(file)
    if not path.exists():
        raise InputError(f"weights {str(file)!r} do not exist; check the path")
    if path.is_dir():
        there = [path / name for name in _FOLDER if (path / name).exists()]
        if not there:
            raise InputError(
                f"folder {str(file)!r} holds no weights; expected one of {', '.join(_FOLDER)}"
            )
        path = there[0]
    if path.name.endswith(".index.json"):
        return _sharded(path, trust)
    return _read(path.read_bytes(), str(path), trust)


def _sharded(index: Path, trust: bool) -> Checkpoint:
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    state: State = {}
    for name in names:
        # A shard is a name beside the index, never a way to another folder.
        state |= read_checkpoint(index.parent / Path(name).name, trust=trust).state
    return Checkpoint(state)


def _read(content: bytes, name: str, trust: bool) -> Checkpoint:
    """The checkpoint in the `content` of a file called `name`."""
    if content.startswith(_LFS):
        raise InputError(
            f"{name!r} is a pointer of Git LFS, not the weights themselves; get them: git lfs pull"
        )
    if not content:
        raise InputError(f"{name!r} is empty; copy or download it again")
    if content[:2] == b"\x1f\x8b":
        return _read(_unpacked(lambda: gzip.decompress(content), name), name, trust)
    if name.endswith(".safetensors") or (content[8:9] == b"{" and content[:1] != b"P"):
        return _safetensors(content, name)
    if content[:2] == b"PK":
        return _zip(content, name, trust)
    if content[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            inside = [each for each in archive.getmembers() if each.isfile()]
            files = {each.name: archive.extractfile(each) for each in inside}
            return _only({key: part.read() for key, part in files.items() if part}, name, trust)
    return _pickled(content, name, trust)


def _zip(content: bytes, name: str, trust: bool) -> Checkpoint:
    """What is in a zip file: of `torch.save`, TorchScript, `torch.export`, or any other."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise _truncated(name)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [each for each in archive.namelist() if not each.endswith("/")]
        parts = {member.partition("/")[2] for member in members}
        if "constants.pkl" in parts:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of how the file was made
                scripted = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
            return _of_module(scripted)
        if (
            any(part.startswith("models/") for part in parts)
            or "serialized_exported_program.json" in members
        ):
            # Its modules with their names, as the layers of a method need them.
            return _of_module(torch.export.unflatten(torch.export.load(io.BytesIO(content))))
        if "data.pkl" in parts:
            return _pickled(content, name, trust)
        return _only({member: archive.read(member) for member in members}, name, trust)


def _only(files: Mapping[str, bytes], name: str, trust: bool) -> Checkpoint:
    """The checkpoint in the one of `files` that may hold weights."""
    suffixes = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pkl", ".tar", ".pt2")
    chosen = [key for key in files if key.endswith(suffixes) and not Path(key).name.startswith(".")]
    if len(chosen) != 1:
        raise InputError(
            f"{name!r} is an archive with {len(chosen)} files of weights"
            f"{': ' if chosen else ''}{', '.join(chosen[:5])}; expected one; unpack it and pass one"
        )
    return _read(files[chosen[0]], chosen[0], trust)


def _safetensors(content: bytes, name: str) -> Checkpoint:
    try:
        from safetensors.torch import load
    except ImportError:
        raise InputError(
            f"{name!r} is a safetensors file, which needs one more library: pip install safetensors"
        ) from None
    try:
        return Checkpoint(load(content))
    except Exception as error:
        raise _truncated(name, str(error)) from None


def _pickled(content: bytes, name: str, trust: bool) -> Checkpoint:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore")  # of how the file was made
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked is None:
            raise _no_weights(name, "it is no file of torch.save") from None
        raise InputError(
            f"{name!r} holds a pickled object of class {asked[1]}, not weights alone, and reading "
            "it can run any code; if you know who made it, pass --trust (trust=True); else ask for "
            "a file with model.state_dict()"
        ) from None
    # A torn file makes the reader raise whatever comes; so does the code of a trusted one.
    except (EOFError, RuntimeError, OSError) as error:
        raise _truncated(name, str(error)) from None
    except Exception as error:
        raise _no_weights(name, f"{type(error).__name__}: {error}") from None
    return _of_object(found, name)


def _of_object(found: Any, name: str) -> Checkpoint:
    if isinstance(found, nn.Module):
        return _of_module(found)
    state = _state_in(found)
    if state is None:
        what = f"a {type(found).__name__}"
        if isinstance(found, Mapping):
            what += f" of {', '.join(map(str, list(found)[:6])) or 'nothing'}"
        raise _no_weights(name, f"it holds {what}")
    return Checkpoint(state, _classes_in(found))


def _of_module(model: nn.Module) -> Checkpoint:
    return Checkpoint(dict(model.state_dict()), model=model)


def _state_in(found: Any) -> State | None:
    """The weights in `found`, under any of the usual names."""
    if isinstance(found, nn.Module):
        return dict(found.state_dict())
    if not isinstance(found, Mapping) or not found:
        return None
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if len(tensors) > len(found) / 2:
        return tensors
    for name in _NAMES:
        if (state := _state_in(found.get(name))) is not None:
            return state
    others = [state for value in found.values() if (state := _state_in(value)) is not None]
    return others[0] if len(others) == 1 else None


def _classes_in(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes beside the weights, where a training script put them."""
    for name in _CLASSES:
        if names := class_names(found.get(name)):
            return names
    index = found.get("class_to_idx")
    if isinstance(index, Mapping) and all(isinstance(number, int) for number in index.values()):
        return class_names({number: each for each, number in index.items()})
    return ()


def class_names(given: Any) -> tuple[str, ...]:
    """Names in a list, or by number in a mapping; none if `given` is neither."""
    if isinstance(given, Mapping):
        try:
            numbered = {int(number): each for number, each in given.items()}
        except (TypeError, ValueError):
            return ()
        given = [numbered.get(number) for number in range(len(numbered))]
    if not isinstance(given, Sequence) or isinstance(given, str):
        return ()
    return tuple(given) if all(isinstance(each, str) for each in given) else ()


def _harmless() -> list[Any]:
    """Plain classes that training scripts save beside weights, and that run nothing when read."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    paths = [pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath]
    old = (scalar, "numpy.core.multiarray.scalar")  # as NumPy 1 wrote it
    return [argparse.Namespace, *paths, scalar, old, np.dtype, *kinds]


def _unpacked(unpack: Any, name: str) -> bytes:
    try:
        content: bytes = unpack()
    except Exception as error:
        raise _truncated(name, str(error)) from None
    return content


def _truncated(name: str, reason: str = "its end is missing") -> InputError:
    reason = (reason.strip().splitlines() or ["its end is missing"])[0]
    return InputError(f"{name!r} is damaged or incomplete ({reason}); copy or download it again")


def _no_weights(name: str, reason: str) -> InputError:
    return InputError(
        f"{name!r} holds no weights: {reason.splitlines()[0]}; expected a state dict, bare or "
        "under a name such as 'state_dict' or 'model': save model.state_dict() to a new file"
    )
