"""What is known of modules by what they are, for where nothing can be measured.

The one place in the library that knows named models and kinds of layers.
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
    """The layout that `module` is known to have.

    Of a linear layer or a layer norm it is known which axis has the channels, and not what the
    others are.
    """
    return ChannelsFirst() if isinstance(module, _CHANNELS_FIRST) else None
