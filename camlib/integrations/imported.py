"""Models and transforms of the user's own code: ``package.module:name`` or ``file.py:name``."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from torch import nn

from camlib.errors import InputError
from camlib.integrations.checkpoints import read_checkpoint
from camlib.integrations.heads import fill
from camlib.integrations.network import Network, names_of, reason_of


def load(where: str, weights: str = "DEFAULT", *, trust: bool = False) -> Network:
    """The network that the user's own code builds.

    Args:
        where: ``package.module:name`` or ``file.py:name`` of a function or class that is called
            without arguments, or of a model.
        weights: ``"DEFAULT"`` for those that it comes with, or a file, see
            `camlib.integrations.torchvision.load`.
        trust: whether a file with a whole pickled model is read, which can run any code.

    Raises:
        InputError: there is nothing of that name, it fails, or is no model.
    """
    built = imported(where)
    if not isinstance(built, nn.Module):
        try:
            built = built()
        # The user's own code may fail in any way.
        except Exception as error:
            raise InputError(
                f"{where!r} fails ({type(error).__name__}: {reason_of(error)}); expected a "
                "function or class that builds the model and needs no arguments"
            ) from None
    if not isinstance(built, nn.Module):
        raise InputError(
            f"{where!r} gives a {type(built).__name__}; expected a torch.nn.Module, or what builds "
            "one"
        )
    names: Any = getattr(built, "classes", ())
    names = names if isinstance(names, list | tuple) else ()
    if weights == "DEFAULT":
        return Network(built.eval(), names, None)
    checkpoint = read_checkpoint(weights, trust=trust)
    outputs = fill(built, checkpoint.state, weights, where)
    names = names_of(outputs, checkpoint.classes or names)
    return Network(built.eval(), names, None, several=outputs == 1)


def imported(where: str) -> Any:
    """What `where` names, ``package.module:name`` or ``file.py:name``.

    Modules are found from the current folder and from that of the file, as Python does it.

    Raises:
        InputError: there is no such module or name, or the module fails.
    """
    place, _, name = where.rpartition(":")
    if not place or not name:
        raise InputError(f"{where!r} names nothing in a module; expected file.py:name")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_path(place)
    except InputError:
        raise
    # The user's own code may fail in any way.
    except Exception as error:
        raise InputError(
            f"{place!r} cannot be imported ({type(error).__name__}: {reason_of(error)}); expected "
            "package.module:name or file.py:name"
        ) from None
    if not hasattr(module, name):
        near = get_close_matches(name, dir(module), n=1)
        advice = f"did you mean {near[0]!r}?" if near else "check the name"
        raise InputError(f"{place!r} has no {name!r}; {advice}")
    return getattr(module, name)


def _from_file(file: Path) -> Any:
    if not file.is_file():
        raise InputError(f"file {str(file)!r} does not exist; check the path")
    spec = spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise InputError(f"file {str(file)!r} is no Python module")
    module = module_from_spec(spec)
    sys.path.insert(0, str(file.resolve().parent))
    sys.modules.setdefault(file.stem, module)  # what is pickled or scripted looks its module up
    spec.loader.exec_module(module)
    return module


def _from_path(name: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")
    return import_module(name)
