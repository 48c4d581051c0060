"""How the activation of a layer is read: layouts, and finding the one that a layer has."""

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
