"""The blocks of a vision transformer: what attends in them, and which tokens are patches.

Maps from attention need it from all tokens to all tokens, block after block. Windows, coarser keys
and decoders have other shapes, which is seen in one pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from camlib.errors import InputError, ModelError
from camlib.layouts import Layout
from camlib.layouts.reading import reading_of, readings
from camlib.layouts.recognition import Reading
from camlib.maps import Window
from camlib.passes.inputs import Inputs
from camlib.passes.interception import wrapping
from camlib.passes.names import find, unwrap
from camlib.passes.running import completed
from camlib.passes.visits import Visit, Visits, visits
from camlib.rules.attention import Attending, Attention


@dataclass(frozen=True)
class Blocks:
    """What attends in a model, in the order of a pass.

    Attributes:
        calls: the number of the attention of each block, among all calls.
        pooling: the number of one that makes other tokens of them in the end, if there is one.
        names: of the blocks: the largest modules that return tokens and run one attention each;
            empty where blocks are no modules.
        layout: of the tokens.
        window: which part of the input the patches cover.
    """

    calls: tuple[int, ...]
    pooling: int | None
    names: tuple[str, ...]
    layout: Layout
    window: Window = ()

    @property
    def all(self) -> tuple[int, ...]:
        """The numbers of the calls, that which pools among them."""
        return self.calls if self.pooling is None else (*self.calls, self.pooling)

    @property
    def last(self) -> int:
        """The number of the call that the answer is read from."""
        return self.all[-1]

    def latest(self, count: int | None) -> Blocks:
        """The last `count` of the blocks, and what pools behind them; ``None`` for all.

        Raises:
            InputError: there are not so many.
        """
        if count is None:
            return self
        if count > len(self.calls):
            raise InputError(
                f"blocks={count} asks for more than there are: the model has {len(self.calls)}"
            )
        return replace(self, calls=self.calls[-count:], names=self.names[-count:])

    def queries(self, read: Tensor) -> Tensor:
        """Whose rows to follow, ``(T,)``, from whether the answer is `read` from a token ``(T,)``.

        Those of the class token and of others before the patches, if they are read; or else of the
        patches that are. Where nothing is known to be read: the first, or all if all are patches.
        """
        number = torch.arange(len(read), device=read.device)
        prefix = 0 if self.pooling is not None else getattr(self.layout, "prefix", 0)
        if not read.any():
            return number < (1 if prefix else len(read))
        first = read & (number < prefix)
        return first if first.any() else read

    def arranged(self, relevance: Tensor) -> Tensor:
        """The relevance of tokens ``(N, K, T)`` as maps ``(N, K, *grid)``."""
        tokens = relevance.flatten(0, 1)[..., None]
        patches = self.layout(tokens.movedim(0, self.layout.samples_axis))
        return patches.reshape(*relevance.shape[:2], *patches.shape[2:])


def blocks_of(model: nn.Module, given: Inputs, layout: Layout | None = None) -> Blocks:
    """The blocks of `model` that attend to the tokens of the image.

    Args:
        model: without wrappers.
        given: the arguments of its call.
        layout: of the tokens; recognised by default.

    Raises:
        LayoutError: which tokens are patches cannot be told.
        ModelError: there is no attention, or not from all tokens to all tokens.
    """
    attention, asked, order = _attention_in(model, given)
    shapes = [attention[i].shape for i in asked]
    square = [s for s in shapes if len(s) == 4 and s[0] == len(given) and s[2] == s[3]]
    count = square[-1][3] if square else 0
    tokens = [visit for visit in order if _returns(visit, count, len(given))]
    last = shapes[-1] if shapes else ()
    pools = len(last) == 4 and last[2] != count and last[::3] == (len(given), count)
    if len({s[3] for s in square}) != 1 or len(square) + pools < len(shapes) or not tokens:
        listed = ", ".join(map(str, dict.fromkeys(shapes)))
        raise ModelError(
            f"{type(model).__name__} has "
            + (f"attention of shapes {listed}" if shapes else "no attention")
            + "; expected (samples, heads, tokens, tokens) in every block, from all patches to all "
            "patches, as in ViT, DeiT or CLIP; use GradCAM, which reads the tokens of any layer"
        )
    calls = asked[: len(square)]
    returned = {id(visit.module): visit for visit in tokens}
    names, visit = [], tokens[-1]
    for i in calls:
        others = {part for j in calls if j != i for part in attention[j].within}
        alone = [p for p in attention[i].within if p not in others and id(p[0]) in returned]
        for module, call in alone[:1]:
            visit = returned[id(module)]
            name = find(model, module)[0]
            names.append(f"{name}@{call}" if visit.calls > 1 else name)
    alike = [each for each in tokens if each.shape == visit.shape]
    reading = _reading_of_some(model, given, order, [*alike, visit], layout)
    blocks = tuple(names) if len(names) == len(calls) else ()
    pooling = asked[-1] if pools else None
    return Blocks(tuple(calls), pooling, blocks, reading.layout, reading.window)


def _attention_in(model: nn.Module, given: Inputs) -> tuple[list[Attention], list[int], Visits]:
    """The calls of attention, the numbers of those that see the image, and the modules that ran."""
    attending = Attending()
    eager = [
        module
        for module in model.modules()
        if unwrap(module) is module and not isinstance(module, torch.jit.ScriptModule)
    ]

    def attempt(each: Inputs) -> tuple[Visits, int]:
        with attending, wrapping(eager, attending.running):
            with visits(model, len(given.size)) as order:
                each.owned().run(model)
            half = len(attending.found)
            if given.several:  # what does not change with the image is attention to a text
                each.with_image((each.image + 1).cos()).owned().run(model)
        return order, half

    with torch.no_grad():
        order, half = completed(attempt, given)
    attention = attending.found
    if not given.several:
        return attention, list(range(len(attention))), order
    pairs = zip(attention[:half], attention[half:], strict=False)
    asked = [i for i, (a, b) in enumerate(pairs) if not torch.equal(a.matrix, b.matrix)]
    return attention[:half], asked, order


def _reading_of_some(
    model: nn.Module, given: Inputs, order: Visits, tokens: list[Visit], layout: Layout | None
) -> Reading:
    """The reading of the last layer that can be read of those with all `tokens`, in one order."""
    known = readings(model, given, order, [visit.name for visit in tokens])
    read = [visit for visit in tokens if isinstance(known.get(visit.name), Reading)]
    visit = read[-1] if read else tokens[-1]
    return reading_of(model, given, order, visit.name, visit.shape, layout)


def _returns(visit: Visit, tokens: int, samples: int) -> bool:
    """Whether a module returned so many tokens of so many samples."""
    return len(visit.shape) == 3 and visit.shape[:2] in ((samples, tokens), (tokens, samples))
