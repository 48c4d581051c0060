"""The tensors in the output of a model, and what their names mean.

Models return tensors, tuples, lists, mappings (such as the outputs of Hugging Face), dataclasses
and namespaces, nested in each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor

TOKENS = "last_hidden_state"
"""The name of tokens whose mean is an embedding."""

_NAMES = {
    "answers": "class_logits class_score class_scores cls_logits cls_score cls_scores logit logits "
    "logits_per_image out output outputs pred pred_logits prediction predictions preds prob "
    "probabilities probs score scores y y_hat y_pred yhat",
    "embeddings": "image_embeds image_features pooler_output embedding embeddings embed embeds emb "
    "image_embedding image_embeddings features feature feats feat z latent latents representation "
    "projection x_norm_clstoken",
    "hidden": f"{TOKENS} hidden_state hidden_states encoder_last_hidden_state "
    "encoder_hidden_states decoder_hidden_states tokens patch_tokens patch_embeddings "
    "x_norm_patchtokens x_norm_regtokens x_prenorm text_embeds text_features",
    "beside": "attention attentions attn aux aux_logits aux_logits1 aux_logits2 aux_out auxiliary "
    "cross_attentions encoder_attentions logits_per_text loss losses past_key_values",
}

ANSWERS = frozenset(_NAMES["answers"].split())
"""Names of a model's answer."""

EMBEDDINGS = _NAMES["embeddings"].split()
"""Names of the embedding of an image, the best first."""

HIDDEN = frozenset(_NAMES["hidden"].split())
"""Names of tensors that may look like an answer or an image's embedding and are neither."""

BESIDE = frozenset(_NAMES["beside"].split())
"""Names of tensors that come with an answer."""


@dataclass(frozen=True)
class Part:
    """A tensor in an output.

    Attributes:
        where: the expression for it: ``out['pred']``, ``out[1]``, ``out.logits``.
        names: the names on the way to it, in lower case; ``""`` for an index.
        tensor: the tensor.
    """

    where: str
    names: tuple[str, ...]
    tensor: Tensor

    @property
    def embeds(self) -> bool:
        """Whether its name is one of an embedding or of hidden states."""
        return any(name in HIDDEN or name in EMBEDDINGS for name in self.names)

    @property
    def candidate(self) -> bool:
        """Whether it may be the class scores."""
        return (
            self.tensor.is_floating_point()
            and self.tensor.ndim > 0
            and not self.embeds
            and BESIDE.isdisjoint(self.names)
        )

    @property
    def answers(self) -> bool:
        """Whether its name is one of an answer."""
        return len(self.names) == 1 and self.names[0] in ANSWERS

    @property
    def fits(self) -> bool:
        """Whether its shape is ``(N, classes)``, or ``(N,)`` for a single output."""
        return self.tensor.ndim == 1 or flat(self.tensor).ndim == 2


def parts(output: Any) -> list[Part]:
    """The tensors in `output`, in order."""
    return list(_parts(output, "out", ()))


def named(output: Any) -> dict[str, Any]:
    """The named values in `output` that are not ``None``; none if it has no names."""
    held: Mapping[str, Any] = {}
    if isinstance(output, Mapping):
        held = output
    elif isinstance(output, SimpleNamespace):
        held = vars(output)
    elif is_dataclass(output) and not isinstance(output, type):
        held = {field.name: getattr(output, field.name) for field in fields(output)}
    elif isinstance(output, tuple) and hasattr(output, "_asdict"):
        held = output._asdict()
    return {name: value for name, value in held.items() if value is not None}


def flat(tensor: Tensor) -> Tensor:
    """`tensor` as ``(N, C)`` if its other axes have length 1, else unchanged."""
    return tensor.flatten(1) if tensor.ndim > 2 and tensor.shape[2:].numel() == 1 else tensor


def listed(output: Any) -> str:
    """A short list of the tensors in `output`, for a message."""
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} {tuple(output.shape)}"
    shapes = [f"{part.where} {tuple(part.tensor.shape)}" for part in parts(output)]
    most = 8
    more = f" and {len(shapes) - most} more" if len(shapes) > most else ""
    if not shapes:
        return f"{type(output).__name__} without a tensor"
    return ", ".join(shapes[:most]) + more


def _parts(value: Any, where: str, names: tuple[str, ...]) -> Iterator[Part]:
    if isinstance(value, Tensor):
        yield Part(where, names, value)
    elif held := named(value):
        key = "[{!r}]" if isinstance(value, Mapping) else ".{}"
        for name, part in held.items():
            yield from _parts(part, where + key.format(name), (*names, str(name).lower()))
    elif isinstance(value, tuple | list):
        for place, part in enumerate(value):
            yield from _parts(part, f"{where}[{place}]", (*names, ""))
