"""The methods, and their names for the command line, the tests and the docs."""

from camlib.methods.activation import CAM
from camlib.methods.base import GradientWeighted, LayerMethod, Method, PixelMethod
from camlib.methods.explanation import Explanation
from camlib.methods.gradient import (
    LIFTCAM,
    ElementWiseGradCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ShapleyCAM,
    XGradCAM,
)
from camlib.methods.guided import GuidedGradCAM
from camlib.methods.perturbation import ScoreCAM
from camlib.methods.pixel import Deconvnet, GuidedBackprop, Saliency

METHODS: dict[str, type[Method]] = {
    "cam": CAM,
    "grad_cam": GradCAM,
    "grad_cam_plus_plus": GradCAMPlusPlus,
    "hires_cam": HiResCAM,
    "xgrad_cam": XGradCAM,
    "element_wise_grad_cam": ElementWiseGradCAM,
    "layer_cam": LayerCAM,
    "lift_cam": LIFTCAM,
    "shapley_cam": ShapleyCAM,
    "score_cam": ScoreCAM,
    "saliency": Saliency,
    "guided_backprop": GuidedBackprop,
    "deconvnet": Deconvnet,
    "guided_grad_cam": GuidedGradCAM,
}

__all__ = [
    "CAM",
    "LIFTCAM",
    "METHODS",
    "Deconvnet",
    "ElementWiseGradCAM",
    "Explanation",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradientWeighted",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "LayerCAM",
    "LayerMethod",
    "Method",
    "PixelMethod",
    "Saliency",
    "ScoreCAM",
    "ShapleyCAM",
    "XGradCAM",
]
