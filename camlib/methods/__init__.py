"""The methods, their names, and what a method of your own is made of.

A method is listed where it is defined: its class has a `name`, and its module exports it.
`METHODS`, the command line, the tables of the docs and the contract tests follow from that.
"""

from typing import TYPE_CHECKING

from camlib.methods import (
    ablation,
    attention,
    base,
    cam,
    class_agnostic,
    deconvnet,
    eigen,
    factorization,
    fullgrad,
    gradient,
    group,
    guided,
    heatmap,
    integrated,
    layer,
    le_grad,
    masked,
    masking,
    multiscale,
    occlusion,
    pixel,
    recipro,
    recommended,
    replaying,
    rise,
    score,
    smooth,
    two_stage,
)
from camlib.methods.ablation import *
from camlib.methods.attention import *
from camlib.methods.base import *
from camlib.methods.cam import *
from camlib.methods.class_agnostic import *
from camlib.methods.components import summed_by_class as summed_by_class
from camlib.methods.deconvnet import *
from camlib.methods.eigen import *
from camlib.methods.factorization import *
from camlib.methods.fullgrad import *
from camlib.methods.gradient import *
from camlib.methods.group import *
from camlib.methods.guided import *
from camlib.methods.heatmap import *
from camlib.methods.integrated import *
from camlib.methods.layer import *
from camlib.methods.le_grad import *
from camlib.methods.masked import *
from camlib.methods.masking import *
from camlib.methods.multiscale import *
from camlib.methods.occlusion import *
from camlib.methods.pixel import *
from camlib.methods.recipro import *
from camlib.methods.recommended import *
from camlib.methods.replaying import *
from camlib.methods.rise import *
from camlib.methods.score import *
from camlib.methods.smooth import *
from camlib.methods.two_stage import *
from camlib.passes.forward import Pass as Pass
from camlib.passes.forward import input_gradients as input_gradients
from camlib.passes.forward import scores_at as scores_at
from camlib.passes.inputs import Inputs as Inputs
from camlib.results import Concepts as Concepts
from camlib.results import Explanation as Explanation

_FAMILIES = (
    cam,
    gradient,
    two_stage,
    multiscale,
    eigen,
    class_agnostic,
    score,
    group,
    ablation,
    recipro,
    attention,
    le_grad,
    rise,
    occlusion,
    pixel,
    smooth,
    integrated,
    fullgrad,
    deconvnet,
    guided,
)
"""The modules of the methods, in the order of the tables."""

METHODS: dict[str, type[Method]] = {
    kind.name: kind
    for family in _FAMILIES
    for kind in vars(family).values()
    if isinstance(kind, type) and issubclass(kind, Method)
    if kind.__module__ == family.__name__ and kind.name
}
"""Every method by its name, in the order of the tables."""

if not TYPE_CHECKING:  # a type checker reads what is public from the imports
    __all__ = ["METHODS", "Concepts", "Explanation"]
    _others = base, factorization, heatmap, layer, masked, masking, recommended, replaying
    for _module in (*_FAMILIES, *_others):
        __all__ += _module.__all__
