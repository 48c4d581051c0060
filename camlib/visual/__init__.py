"""Draw maps and attributions. Libraries that draw or read files are imported on first use."""

from camlib.visual.attribution import to_image
from camlib.visual.concepts import concept_figure
from camlib.visual.figures import figure
from camlib.visual.files import save_picture, to_png
from camlib.visual.gallery import Gallery, gallery
from camlib.visual.overlay import colorize, overlay
from camlib.visual.photos import Photos, load
from camlib.visual.placement import Placement, measured
from camlib.visual.report import Explained, Report, report

__all__ = [
    "Explained",
    "Gallery",
    "Photos",
    "Placement",
    "Report",
    "colorize",
    "concept_figure",
    "figure",
    "gallery",
    "load",
    "measured",
    "overlay",
    "report",
    "save_picture",
    "to_image",
    "to_png",
]


def __dir__() -> list[str]:
    """The public names, without helper modules."""
    return __all__
