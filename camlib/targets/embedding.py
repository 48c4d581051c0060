"""The target for models that return embeddings: Similarity.

Such models are retrieval networks, encoders like CLIP and self-supervised backbones.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F

from camlib.errors import TargetError
from camlib.maps import precise
from camlib.options import checked
from camlib.targets.base import Target
from camlib.targets.forms import numbers
from camlib.targets.outputs import check_samples, embedding_in
from camlib.targets.parts import listed, parts


class Similarity(Target):
    """The similarity of the model's embedding to a given one.

    Args:
        embedding: ``(D,)`` for all samples, ``(N, D)`` for one per sample, ``(1, K, D)`` or
            ``(N, K, D)`` for several. ``None`` takes the sample's own embedding on the clean
            output. Its cosine with itself is 1, the maximum, and has no gradient. So the score is
            the dot product with its direction as a constant: what makes the embedding so large.
        metric: ``"cosine"`` or ``"dot"``; it makes no difference without `embedding`.
    """

    per_sample = ("embedding",)

    @checked
    def __init__(self, embedding: Any = None, metric: Literal["cosine", "dot"] = "cosine") -> None:
        self.embedding: Tensor = embedding
        self.metric = metric

    def resolve(self, output: Any, count: int, size: tuple[int, ...]) -> Similarity:
        """The target with embeddings ``(N, D)`` or ``(N, K, D)``."""
        own = _embedding(output).detach()
        check_samples(own, count)
        if self.embedding is None:
            return self.replaced(embedding=F.normalize(own, dim=1), metric="dot")
        given = numbers(self.embedding, "embedding", own.device).to(own.dtype)
        if given.ndim == 1:
            given = given[None]
        width = own.shape[1]
        if given.ndim not in (2, 3) or len(given) not in (1, count) or given.shape[-1] != width:
            raise TargetError(
                f"an embedding of shape {tuple(given.shape)} does not fit the model's "
                f"{tuple(own.shape)}; pass ({width},) for all samples, ({count}, {width}), or "
                f"(1, K, {width}) for several"
            )
        if not given.numel() or not given.isfinite().all() or not given.any(-1).all():
            raise TargetError(
                "an embedding is zero, empty or not finite, so it has no direction; pass another"
            )
        return self.replaced(embedding=given.expand(count, *given.shape[1:]))

    def __call__(self, output: Any) -> Tensor:
        """The similarities, ``(N,)`` or ``(N, K)``."""
        own, other = _embedding(output), self.embedding
        if self.metric == "cosine":
            own, other = F.normalize(own, dim=1), F.normalize(other, dim=-1)
        return (own.reshape(len(own), *[1] * (other.ndim - 2), -1) * other.to(own.device)).sum(-1)


def _embedding(output: Any) -> Tensor:
    """The embedding ``(N, D)`` in `output`, in float32 or better."""
    embedding = embedding_in(output)
    if embedding is None or not embedding.is_floating_point():
        usable = [p for p in parts(output) if p.tensor.is_floating_point() and p.tensor.ndim > 1]
        best = min(usable, key=lambda part: (not part.embeds, not part.fits), default=None)
        mean = ".flatten(1, -2).mean(1)" if best and best.tensor.ndim > 2 else ""
        advice = (
            f"pass a function, such as target=lambda out: {best.where}{mean} @ embedding"
            if best
            else "let it return a floating-point embedding (N, D)"
        )
        raise TargetError(
            f"camlib cannot find the embedding in the model's output ({listed(output)}); {advice}"
        )
    return precise(embedding)
