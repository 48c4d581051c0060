"""The methods, and their names for the command line, the tests and the docs."""

from camlib.methods.activation import CAM
from camlib.methods.agnostic import FEM, CenterGaussian, ClassAgnostic, LaFAM, RandomCAM
from camlib.methods.base import GradientWeighted, LayerMethod, Method, PixelMethod
from camlib.methods.eigen import KPCACAM, EigenCAM, EigenGradCAM, SegEigenCAM
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
    "eigen_cam": EigenCAM,
    "eigen_grad_cam": EigenGradCAM,
    "seg_eigen_cam": SegEigenCAM,
    "kpca_cam": KPCACAM,
    "fem": FEM,
    "lafam": LaFAM,
    "random_cam": RandomCAM,
    "center_gaussian": CenterGaussian,
    "score_cam": ScoreCAM,
    "saliency": Saliency,
    "guided_backprop": GuidedBackprop,
    "deconvnet": Deconvnet,
    "guided_grad_cam": GuidedGradCAM,
}

__all__ = [
    "CAM",
    "FEM",
    "KPCACAM",
    "LIFTCAM",
    "METHODS",
    "CenterGaussian",
    "ClassAgnostic",
    "Deconvnet",
    "EigenCAM",
    "EigenGradCAM",
    "ElementWiseGradCAM",
    "Explanation",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradientWeighted",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "LaFAM",
    "LayerCAM",
    "LayerMethod",
    "Method",
    "PixelMethod",
    "RandomCAM",
    "Saliency",
    "ScoreCAM",
    "SegEigenCAM",
    "ShapleyCAM",
    "XGradCAM",
]
