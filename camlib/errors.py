"""What can go wrong, as one small tree.

    CamlibError
    ├── InputError      (ValueError)    inputs, images or options that cannot be used
    │   └── OptionError (TypeError)     an option that there is not, or a value it cannot have
    ├── LayerError      (ValueError)    a layer that does not exist, did not run or holds no map
    ├── LayoutError     (ValueError)    an activation whose axes cannot be told apart
    ├── TargetError     (ValueError)    a target that does not fit the model's output
    ├── ModelError      (TypeError)     a model that is not of the form a method needs
    └── GraphError      (RuntimeError)  no gradient flows where one is needed
    CamlibWarning       (UserWarning)   a result that is probably not what was meant

Each error is also the standard type beside it, so that ``except ValueError`` works.
"""

from __future__ import annotations

import sys
import warnings

__all__ = [
    "CamlibError",
    "CamlibWarning",
    "GraphError",
    "InputError",
    "LayerError",
    "LayoutError",
    "ModelError",
    "OptionError",
    "TargetError",
]


class CamlibError(Exception):
    """Everything camlib raises on purpose."""


class InputError(CamlibError, ValueError):
    """Inputs, images or options that cannot be used."""


class OptionError(InputError, TypeError):
    """An option that there is not, or a value that it cannot have."""


class LayerError(CamlibError, ValueError):
    """A layer that does not exist, did not run, or holds no map."""


class LayoutError(CamlibError, ValueError):
    """An activation whose axes cannot be told apart, or do not fit the layout given."""


class TargetError(CamlibError, ValueError):
    """A target that does not fit the model's output."""


class ModelError(CamlibError, TypeError):
    """A model that is not of the form a method needs."""


class GraphError(CamlibError, RuntimeError):
    """No gradient flows from the score to where one is needed."""


class CamlibWarning(UserWarning):
    """A result that is probably not what was meant."""


NOT_FINITE = (
    "{} is not finite: the inputs or the model's values hold NaN or infinity, or overflow in half "
    "precision; look for them with torch.isfinite"
)
"""What is said of a map, an attribution, a score."""


def warn(message: str) -> None:
    """A `CamlibWarning` that points at the user's line: the first one outside this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("camlib."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, CamlibWarning, stacklevel=level)
