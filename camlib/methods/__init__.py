"""The methods, and their names for the command line, the tests and the docs."""

from camlib.methods.ablation import AblationCAM, ReciproCAM
from camlib.methods.activation import CAM
from camlib.methods.base import GradientWeighted, LayerMethod, MapMethod, Method, PixelMethod
from camlib.methods.explanation import Explanation
from camlib.methods.gradient import (
    ElementWiseGradCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    XGradCAM,
)
from camlib.methods.guided import GuidedGradCAM
from camlib.methods.occlusion import RISE, Occlusion
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
    "score_cam": ScoreCAM,
    "ablation_cam": AblationCAM,
    "recipro_cam": ReciproCAM,
    "rise": RISE,
    "occlusion": Occlusion,
    "saliency": Saliency,
    "guided_backprop": GuidedBackprop,
    "deconvnet": Deconvnet,
    "guided_grad_cam": GuidedGradCAM,
}

__all__ = [
    "CAM",
    "METHODS",
    "RISE",
    "AblationCAM",
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
    "MapMethod",
    "Method",
    "Occlusion",
    "PixelMethod",
    "ReciproCAM",
    "Saliency",
    "ScoreCAM",
    "XGradCAM",
]
