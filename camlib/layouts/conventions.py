"""Layouts that follow from the class of a module, for layers that cannot be measured.

No other file of the library knows named models or kinds of layers.
"""

from __future__ import annotations

from torch import nn

from camlib.layouts.base import Layout
from camlib.layouts.kinds import ChannelsFirst

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
)


def said_by(module: nn.Module | None) -> Layout | None:
    """The layout that follows from the class of `module`, if any.

    The class of a linear layer or a layer norm tells the axis of the channels, but not what the
    other axes are.
    """
    return ChannelsFirst() if isinstance(module, _CHANNELS_FIRST) else None
