"""Layouts: how to read the activation of a layer, and how camlib recognises the right one."""

from camlib.layouts.base import Custom, Layout, adapted
from camlib.layouts.kinds import Axes, ChannelsFirst, ChannelsLast, Frames, Placed, Series, Tokens

Sequence = Series
"""An earlier name of `Series`."""

__all__ = [
    "Axes",
    "ChannelsFirst",
    "ChannelsLast",
    "Custom",
    "Frames",
    "Layout",
    "Placed",
    "Sequence",
    "Series",
    "Tokens",
    "adapted",
]


def __dir__() -> list[str]:
    """The public names, without helper modules."""
    return __all__
