"""The errors and the warning that camlib raises, as one small tree.

    CamlibError
    ├── InputError      (ValueError)    inputs, images or options that cannot be used
    │   └── OptionError (TypeError)     an option that does not exist, or an invalid value
    ├── LayerError      (ValueError)    a layer that does not exist, did not run or holds no map
    ├── LayoutError     (ValueError)    an activation whose axes cannot be told apart
    ├── TargetError     (ValueError)    a target that does not fit the model's output
    ├── ModelError      (TypeError)     a model that a method cannot explain
    └── GraphError      (RuntimeError)  no gradient flows where one is needed
    CamlibWarning       (UserWarning)   a result that is probably not what you meant

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
    """An option that does not exist, or a value that it cannot have."""


class LayerError(CamlibError, ValueError):
    """A layer that does not exist, did not run, or holds no map."""


class LayoutError(CamlibError, ValueError):
    """An activation whose axes cannot be told apart, or do not fit the layout given."""


class TargetError(CamlibError, ValueError):
    """A target that does not fit the model's output."""


class ModelError(CamlibError, TypeError):
    """A model that a method cannot explain."""


class GraphError(CamlibError, RuntimeError):
    """No gradient flows from the score to where one is needed."""


class CamlibWarning(UserWarning):
    """A result that is probably not what you meant."""


NOT_FINITE = (
    "{} is not finite: the inputs or the model's values contain NaN or infinity, or overflow in "
    "half precision; look for them with torch.isfinite"
)
"""The message about a map, an attribution or a score that is not finite."""


def warn(message: str) -> None:
    """Warn with a `CamlibWarning` that points at the first line outside this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("camlib."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, CamlibWarning, stacklevel=level)
