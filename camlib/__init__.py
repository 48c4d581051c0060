"""Class activation maps for PyTorch: where did the network look for this answer?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from camlib import layers, layouts, targets
from camlib.errors import (
    CamlibError,
    CamlibWarning,
    GraphError,
    InputError,
    LayerError,
    LayoutError,
    ModelError,
    OptionError,
    TargetError,
)
from camlib.methods import (
    CAM,
    CAMERAS,
    FEM,
    ISCAM,
    KPCACAM,
    LIFTCAM,
    METHODS,
    RISE,
    SSCAM,
    AblationCAM,
    AttentionMethod,
    AttentionRollout,
    Augmented,
    CenterGaussian,
    ClassAgnostic,
    Concepts,
    Deconvnet,
    DeepFeatureFactorization,
    EigenCAM,
    EigenGradCAM,
    ElementWiseGradCAM,
    ExpectedGradients,
    Explanation,
    FullGrad,
    GradCAM,
    GradCAMPlusPlus,
    GradientRollout,
    GradientWeighted,
    GroupCAM,
    GuidedBackprop,
    GuidedGradCAM,
    HiResCAM,
    InputXGradient,
    IntegratedGradCAM,
    IntegratedGradients,
    LaFAM,
    LayerCAM,
    LayerMethod,
    LeGrad,
    MapMethod,
    Method,
    Occlusion,
    PixelMethod,
    RandomCAM,
    ReciproCAM,
    Saliency,
    ScoreCAM,
    SegEigenCAM,
    ShapleyCAM,
    Smooth,
    SmoothFullGrad,
    SmoothGrad,
    SmoothGradCAMPlusPlus,
    XGradCAM,
)

if TYPE_CHECKING:
    from camlib import metrics, visual, zoo
    from camlib.metrics import localize
    from camlib.visual import figure, load, to_image
    from camlib.visual.overlay import overlay

__version__ = "0.1.0"

__all__ = [
    "CAM",
    "CAMERAS",
    "FEM",
    "ISCAM",
    "KPCACAM",
    "LIFTCAM",
    "METHODS",
    "RISE",
    "SSCAM",
    "AblationCAM",
    "AttentionMethod",
    "AttentionRollout",
    "Augmented",
    "CamlibError",
    "CamlibWarning",
    "CenterGaussian",
    "ClassAgnostic",
    "Concepts",
    "Deconvnet",
    "DeepFeatureFactorization",
    "EigenCAM",
    "EigenGradCAM",
    "ElementWiseGradCAM",
    "ExpectedGradients",
    "Explanation",
    "FullGrad",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradientRollout",
    "GradientWeighted",
    "GraphError",
    "GroupCAM",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "InputError",
    "InputXGradient",
    "IntegratedGradCAM",
    "IntegratedGradients",
    "LaFAM",
    "LayerCAM",
    "LayerError",
    "LayerMethod",
    "LayoutError",
    "LeGrad",
    "MapMethod",
    "Method",
    "ModelError",
    "Occlusion",
    "OptionError",
    "PixelMethod",
    "RandomCAM",
    "ReciproCAM",
    "Saliency",
    "ScoreCAM",
    "SegEigenCAM",
    "ShapleyCAM",
    "Smooth",
    "SmoothFullGrad",
    "SmoothGrad",
    "SmoothGradCAMPlusPlus",
    "TargetError",
    "XGradCAM",
    "figure",
    "layers",
    "layouts",
    "load",
    "localize",
    "metrics",
    "overlay",
    "targets",
    "to_image",
    "visual",
    "zoo",
]


def __getattr__(name: str) -> Any:
    """What draws or measures, and the built-in network, are loaded when they are asked for."""
    if name in ("metrics", "visual", "zoo"):
        return import_module(f"camlib.{name}")
    if name == "localize":
        return import_module("camlib.metrics").localize
    if name in ("figure", "load", "overlay", "to_image"):
        return getattr(import_module("camlib.visual"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names alone, also before they are loaded."""
    return [*__all__, "__version__"]
