"""Class activation maps for PyTorch: where did the network look for this answer?

A name is loaded when it is first asked for: the command answers `camlib --help` without torch, and
what draws or measures is loaded where it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camlib import layers, layouts, metrics, targets, visual, zoo
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


_MODULES = ("layers", "layouts", "metrics", "targets", "visual", "zoo")
_HOMES = {
    "localize": "metrics",
    **dict.fromkeys(("figure", "load", "overlay", "to_image"), "visual"),
}
"""Where public names are defined that are no method and no error."""


def __getattr__(name: str) -> Any:
    """The public `name`, loaded now and kept."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _MODULES:
        return import_module(f"camlib.{name}")
    errors = name.endswith(("Error", "Warning"))
    home = import_module(f"camlib.{'errors' if errors else _HOMES.get(name, 'methods')}")
    found = globals()[name] = getattr(home, name)
    return found


def __dir__() -> list[str]:
    """The public names alone, also before they are loaded."""
    return [*__all__, "__version__"]
