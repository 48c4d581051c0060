"""How the activation of a layer is read: layouts, and finding the one that a layer has."""

from camlib.layouts.kinds import (
    Axes,
    ChannelsFirst,
    ChannelsLast,
    Custom,
    Frames,
    Layout,
    Placed,
    Series,
    Tokens,
    adapted,
)

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
