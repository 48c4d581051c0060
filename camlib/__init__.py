"""Class activation maps for PyTorch: where did the network look for this answer?

A name is loaded when it is first asked for: the command answers `camlib --help` without torch, and
what draws or measures is loaded where it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from camlib import errors

if TYPE_CHECKING:  # a type checker reads what is public from the imports
    from camlib import layers as layers
    from camlib import layouts as layouts
    from camlib import metrics as metrics
    from camlib import targets as targets
    from camlib import visual as visual
    from camlib import zoo as zoo
    from camlib.errors import *
    from camlib.methods import *
    from camlib.metrics import localize as localize
    from camlib.visual import figure as figure
    from camlib.visual import load as load
    from camlib.visual import to_image as to_image
    from camlib.visual.overlay import overlay as overlay

__version__ = "0.1.0"

_MODULES = ("layers", "layouts", "metrics", "targets", "visual", "zoo")
_HOMES = {
    "localize": "metrics",
    **dict.fromkeys(("figure", "load", "overlay", "to_image"), "visual"),
    **dict.fromkeys(errors.__all__, "errors"),
}
"""The modules of public names that are not methods."""


def __getattr__(name: str) -> Any:
    """Import the public `name` on first use, and keep it."""
    if name in _MODULES:
        return import_module(f"camlib.{name}")
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"camlib.{_HOMES.get(name, 'methods')}")
    if name == "__all__":
        public: Any = sorted([*home.__all__, *_HOMES, *_MODULES])
    elif name in home.__all__:
        public = getattr(home, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = public
    return public


def __dir__() -> list[str]:
    """The public names, including those that are not loaded yet."""
    return [*__getattr__("__all__"), "__version__"]
