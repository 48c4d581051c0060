"""The methods, and their names for the command line, the tests and the docs."""

from camlib.methods.ablation import AblationCAM, ReciproCAM
from camlib.methods.attention import (
    AttentionMethod,
    AttentionRollout,
    GradientRollout,
)
from camlib.methods.base import MapMethod, Method
from camlib.methods.cam import CAM
from camlib.methods.class_agnostic import FEM, CenterGaussian, ClassAgnostic, LaFAM, RandomCAM
from camlib.methods.deconvnet import Deconvnet
from camlib.methods.eigen import KPCACAM, EigenCAM, EigenGradCAM, SegEigenCAM
from camlib.methods.factorization import DeepFeatureFactorization
from camlib.methods.fullgrad import FullGrad
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
from camlib.methods.group import GroupCAM
from camlib.methods.guided import GuidedGradCAM
from camlib.methods.integrated import (
    ExpectedGradients,
    IntegratedGradCAM,
    IntegratedGradients,
)
from camlib.methods.layer import GradientWeighted, LayerMethod
from camlib.methods.le_grad import LeGrad
from camlib.methods.masking import RISE, Occlusion
from camlib.methods.multiscale import CAMERAS, Augmented
from camlib.methods.pixel import GuidedBackprop, InputXGradient, PixelMethod, Saliency
from camlib.methods.score import ISCAM, SSCAM, ScoreCAM
from camlib.methods.smooth import Smooth, SmoothFullGrad, SmoothGrad, SmoothGradCAMPlusPlus
from camlib.results import Concepts, Explanation

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
    "smooth_grad_cam_plus_plus": SmoothGradCAMPlusPlus,
    "integrated_grad_cam": IntegratedGradCAM,
    "cameras": CAMERAS,
    "eigen_cam": EigenCAM,
    "eigen_grad_cam": EigenGradCAM,
    "seg_eigen_cam": SegEigenCAM,
    "kpca_cam": KPCACAM,
    "fem": FEM,
    "lafam": LaFAM,
    "random_cam": RandomCAM,
    "center_gaussian": CenterGaussian,
    "score_cam": ScoreCAM,
    "group_cam": GroupCAM,
    "ss_cam": SSCAM,
    "is_cam": ISCAM,
    "ablation_cam": AblationCAM,
    "recipro_cam": ReciproCAM,
    "attention_rollout": AttentionRollout,
    "gradient_rollout": GradientRollout,
    "le_grad": LeGrad,
    "rise": RISE,
    "occlusion": Occlusion,
    "saliency": Saliency,
    "input_x_gradient": InputXGradient,
    "smooth_grad": SmoothGrad,
    "integrated_gradients": IntegratedGradients,
    "expected_gradients": ExpectedGradients,
    "full_grad": FullGrad,
    "smooth_full_grad": SmoothFullGrad,
    "guided_backprop": GuidedBackprop,
    "deconvnet": Deconvnet,
    "guided_grad_cam": GuidedGradCAM,
}

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
    "GroupCAM",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradCAM",
    "IntegratedGradients",
    "LaFAM",
    "LayerCAM",
    "LayerMethod",
    "LeGrad",
    "MapMethod",
    "Method",
    "Occlusion",
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
    "XGradCAM",
]
