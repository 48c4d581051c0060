"""Options: what they may be, and what becomes of nonsense."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from nets import images, pooled

import camlib
from camlib import METHODS, InputError, LayerMethod, OptionError, layouts, targets
from camlib.options import Count, Filled, Positive, Range, checked, expected, fits

NAN, INF = math.nan, math.inf

PLAIN: dict[Any, tuple[list[Any], list[Any]]] = {
    bool: ([True, False], [1, 0, "no", None, [], torch.ones(())]),
    int: ([1, -3, np.int64(2)], [True, 1.0, "1", None, torch.ones(()), 1j]),
    float: ([1, 0.5, np.float32(2)], [True, NAN, INF, -INF, "1", None, torch.ones(())]),
    str: (["a", ""], [1, None, b"a"]),
    Count: ([1, 10**9], [0, -1, True, 2.5, "a", None]),
    Positive: ([0.1, 3], [0, -1, NAN, INF, "a"]),
    Annotated[float, Range(0, 1, below=True)]: ([0, 0.99], [1, -0.1, NAN]),
    Literal["a", "b"] | None: (["a", None], ["c", 1, True, ["a"]]),
    bool | Literal["max"]: ([True, "max"], [1, "min", None]),
    Sequence[Positive]: ([(), (1,), [0.5, 2]], [(0,), (INF,), "12", 1, [None]]),
    Annotated[Sequence[Positive], Filled()]: ([(1,), [2]], [(), [], (0,), "12"]),
    int | tuple[Count, ...]: ([1, (2, 3), ()], [(0, 1), [2, 3], 1.5]),
    type[LayerMethod]: ([camlib.GradCAM], [camlib.RISE, camlib.GradCAM(pooled()), "GradCAM"]),
    Callable[[int], int]: ([abs], ["abs", 3]),
}
"""Values that are of a kind, and values that are not."""


@pytest.mark.parametrize("kind", PLAIN, ids=str)
def test_what_is_of_a_kind(kind):
    right, wrong = PLAIN[kind]
    assert [value for value in right if not fits(value, kind)] == []
    assert [value for value in wrong if fits(value, kind)] == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (bool, "True or False"),
        (bool | None, "True, False or None"),
        (Count | None, "an integer of 1 or more, or None"),
        (Literal["a", "b"] | None, "'a', 'b' or None"),
        (Annotated[float, Range(0, 1, above=True)], "a number above 0 up to 1"),
        (Annotated[float, Range(0, 100, below=True)], "a number from 0, below 100"),
        (Sequence[Positive], "a sequence of numbers above 0"),
    ],
    ids=str,
)
def test_what_is_expected_in_words(kind, words):
    assert expected(kind) == words


def test_functions_are_checked_by_name_and_value():
    @checked
    def drawn(image: torch.Tensor, size: Count = 3, *, mode: Literal["a"] | None = None) -> int:
        return size

    assert drawn(torch.ones(1)) == 3
    assert drawn(torch.ones(1), 4, mode="a") == 4
    for call, message in {
        lambda: drawn(None, 0): "size=0 is out of range; expected an integer of 1 or more",
        lambda: drawn(None, "a"): "size='a' is of type str; expected an integer of 1 or more",
        lambda: drawn(None, mode="b"): "mode='b' is not known; use 'a' or None",
        lambda: drawn(None, mod="a"): r"mod= is not an option of drawn; did you mean mode=\?",
    }.items():
        with pytest.raises(OptionError, match=f"^{message}$"):
            call()


NONSENSE = ["a", "no", 2.5, -1, 0, NAN, INF, True, None, (), (INF,), [1, 2], {}, object(), int]


def wrong_values(kind):
    """Every option of `kind` with nonsense that its annotation does not have."""
    init = kind.__init__
    for name, parameter in inspect.signature(init).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            yield name, [value for value in NONSENSE if not _allowed(kind, name, value)]


def _allowed(kind, name, value):
    for base in kind.__mro__:
        init = vars(base).get("__init__")
        if init is not None and base is not object:
            from camlib.options import _declared

            kinds = _declared(inspect.unwrap(init)).kinds
            if name in kinds:
                return fits(value, kinds[name])
    raise AssertionError(f"{kind.__name__} has no annotation for {name}")


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_nonsense_is_refused_by_every_constructor(kind):
    net, count = pooled(), 0
    for name, values in wrong_values(kind):
        assert values, f"{name} takes anything"
        for value in values:
            with pytest.raises(OptionError, match=rf"^{name}="):
                kind(net, **{name: value})
            count += 1
    assert count > 20


@pytest.mark.parametrize(
    "build",
    [
        lambda net: camlib.GradCAM(net, relu="no"),
        lambda net: camlib.GradCAM(net, resize=1),
        lambda net: camlib.GradCAM(net, layout=layouts.Tokens),
        lambda net: camlib.GradCAM(net, layout=3),
        lambda net: camlib.ScoreCAM(net, batch_size="a"),
        lambda net: camlib.ScoreCAM(net, batch_size=2.5),
        lambda net: camlib.CAMERAS(net, scales=(INF,)),
        lambda net: camlib.CenterGaussian(net, sigma=INF),
        lambda net: camlib.Occlusion(net, value=NAN),
        lambda net: camlib.RISE(net, seed="a"),
        lambda net: camlib.Smooth(camlib.GradCAM(net), sigma=INF),
        lambda net: camlib.Augmented(camlib.GradCAM(net), flips="yes"),
        lambda net: camlib.DeepFeatureFactorization(net, tolerance=NAN),
        lambda net: camlib.GradCAM(net)(images(), relu="no"),
        lambda net: camlib.GradCAM(net).explain(images(), normalize=1),
        lambda net: camlib.Smooth(camlib.GradCAM(net))(images(), resize="small"),
        lambda net: camlib.Deconvnet(net, "features")(images(), channel=1.5),
        lambda net: layouts.Tokens(prefix="a"),
        lambda net: layouts.Tokens(prefix=-1),
        lambda net: layouts.Tokens(grid=(0, 3)),
        lambda net: layouts.Frames(0),
        lambda net: targets.TopK(2.5),
        lambda net: targets.TopK(0),
        lambda net: targets.Probability(1, "tanh"),
        lambda net: targets.Contrast(1, strength="a"),
        lambda net: targets.Contrast(1, nearest=0),
        lambda net: targets.MultiLabel(threshold=1),
        lambda net: targets.Detection(rank=-1),
        lambda net: targets.Similarity(metric="l2"),
        lambda net: camlib.overlay(images()[0], torch.zeros(8, 8), alpha=NAN),
        lambda net: camlib.overlay(images()[0], torch.zeros(8, 8), emphasize="yes"),
        lambda net: camlib.overlay(images()[0], torch.zeros(8, 8), threshold=2),
        lambda net: camlib.to_image(images(), "bright"),
        lambda net: camlib.to_image(images(), percentile=0),
        lambda net: camlib.figure(images(), {"a": torch.zeros(2, 8, 8)}, slices=0),
        lambda net: camlib.figure(images(), {"a": torch.zeros(2, 8, 8)}, names=[1, 2]),
    ],
)
def test_nonsense_is_refused_elsewhere(build):
    with pytest.raises(OptionError, match=r"(=|is not an option)") as caught:
        build(pooled())
    assert isinstance(caught.value, InputError)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_help_documents_every_option(kind):
    """In the signature, typed and with its default, and in the docstring."""
    signature = inspect.signature(kind)
    for name, parameter in signature.parameters.items():
        assert re.search(rf"^    {name}: (?!see )\S", kind.__doc__, re.MULTILINE), name
        assert parameter.annotation is not parameter.empty
    loose = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
    assert loose == (["options"] if kind.__name__ == "GuidedGradCAM" else [])
    for call in (kind.__call__, kind.explain):
        kinds = [p.kind for p in inspect.signature(call).parameters.values()]
        assert inspect.Parameter.VAR_KEYWORD not in kinds


def test_help_of_grad_cam():
    names = [
        "layer",
        "eigen_smooth",
        "fuse",
        "layout",
        "differentiable",
        "relu",
        "resize",
        "normalize",
        "image",
        "image_layout",
        "eval",
    ]
    assert list(inspect.signature(camlib.GradCAM).parameters) == ["model", *names]
    assert inspect.signature(camlib.LayerCAM).parameters["fuse"].default == "scaled_max"
    calls = inspect.signature(camlib.GradCAM.__call__).parameters
    assert [*calls][1:] == ["inputs", "target", "relu", "resize", "normalize"]


def test_methods_of_users_need_no_annotations():
    class Plain(camlib.GradCAM):
        def __init__(self, model, layer=None, *, own=1, **options):
            super().__init__(model, layer, **options)
            self.own = own

    class Unresolved(camlib.GradCAM):
        """A method.

        Args:
            own: what only a type checker imports.
        """

        @checked
        def __init__(self, model: Any, *, own: Missing = 1, fuse: Count = 3) -> None:  # noqa: F821
            super().__init__(model)

    net = pooled()
    assert Plain(net, own=2)(images()).shape[0] == len(images())
    with pytest.raises(OptionError, match=r"^ow= is not an option of Plain; did you mean own=\?$"):
        Plain(net, ow=2)
    assert isinstance(Unresolved(net, own="anything"), camlib.GradCAM)
    with pytest.raises(OptionError, match="fuse='a' is of type str"):
        Unresolved(net, fuse="a")
