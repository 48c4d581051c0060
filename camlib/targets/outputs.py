"""Finding the tensor that is meant in what a model returned.

Models return tensors, tuples, lists, mappings (Hugging Face's outputs among them) and dataclasses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from camlib.errors import TargetError

_SCORES = ("logits", "out", "logits_per_image", "scores", "class_logits")
_EMBEDDINGS = ("image_embeds", "pooler_output", "embedding", "embeddings", "features")
_TOKENS = "last_hidden_state"


def named(output: Any) -> dict[str, Any]:
    """What a mapping, a dataclass or a named tuple holds, by name, without what is ``None``."""
    held: Mapping[str, Any] = {}
    if isinstance(output, Mapping):
        held = output
    elif is_dataclass(output) and not isinstance(output, type):
        held = {field.name: getattr(output, field.name) for field in fields(output)}
    elif isinstance(output, tuple) and hasattr(output, "_asdict"):
        held = output._asdict()
    return {name: value for name, value in held.items() if value is not None}


def scores_in(output: Any) -> Tensor | None:
    """The class scores in `output`, of any shape; ``None`` where they cannot be told."""
    found, held = output, named(output)
    if held:
        known = [held[name] for name in _SCORES if isinstance(held.get(name), Tensor)]
        others = [value for name, value in held.items() if name not in (*_EMBEDDINGS, _TOKENS)]
        found = known[0] if known else others[0] if len(held) == len(others) == 1 else None
    if found is output and isinstance(output, tuple | list):
        found = output[0] if len(output) == 1 else _only_flat(output)
    return found if isinstance(found, Tensor) else None


def embedding_in(output: Any) -> Tensor | None:
    """The embedding ``(N, D)`` in `output`; ``None`` where it cannot be told.

    The mean over ``last_hidden_state`` ``(N, T, D)`` where nothing better is there.
    """
    if isinstance(output, Tensor):
        return _flat(output) if _flat(output).ndim == 2 else None
    held = named(output)
    for name in _EMBEDDINGS:
        if isinstance(held.get(name), Tensor) and _flat(held[name]).ndim == 2:
            return _flat(held[name])
    tokens = held.get(_TOKENS)
    if isinstance(tokens, Tensor) and tokens.ndim == 3:
        return tokens.mean(1)
    return _only_flat([*held.values()] if held else output)


def class_scores(output: Any) -> Tensor:
    """The class scores in what a model returned, ``(N, classes)`` or of more axes.

    Raises:
        TargetError: there is no such tensor, more than one, or one without a gradient.
    """
    found = scores_in(output)
    if found is None:
        raise TargetError(
            f"cannot tell the class scores in the model's output ({described(output)}); pass a "
            "function, such as target=lambda out: out[0][:, 3]"
        )
    if not found.is_floating_point():
        raise TargetError(
            f"the model returned {found.dtype} of shape {tuple(found.shape)}: integers have no "
            "gradient; let it return its scores, before argmax or a threshold"
        )
    return found


def logits(output: Any) -> Tensor:
    """The class scores ``(N, classes)`` in what a model returned.

    Raises:
        TargetError: there is no such tensor, or more than one.
    """
    found = class_scores(output)
    found = found.reshape(-1, 1) if found.ndim < 2 else _flat(found)
    if found.ndim == 2:
        return found
    fitting = "Segment(classes)" if found.ndim > 3 else "Token(position)"
    if "pred_boxes" in named(output):
        fitting = "Detection()"
    raise TargetError(
        f"expected class scores (N, classes), the model returned {tuple(found.shape)}; use "
        f"camlib.targets.{fitting}, or pass a function that gives a score for each sample, such as "
        "target=lambda out: out[:, 3].flatten(1).mean(1)"
    )


def is_dense(output: Any, size: tuple[int, ...]) -> bool:
    """Whether `output` holds class scores at more than one place of an input of `size`."""
    found = scores_in(output)
    return found is not None and found.ndim == len(size) + 2 and _flat(found).ndim > 2


def check_samples(found: Tensor, count: int) -> None:
    """Nothing, if `found` has a row for each of `count` samples.

    Raises:
        TargetError: it has not.
    """
    if found.shape[0] != count:
        raise TargetError(
            f"the model returned scores of shape {tuple(found.shape)} for {count} samples; "
            "does the input lack a batch axis?"
        )


def described(output: Any) -> Any:
    """What `output` holds, in few words."""
    return list(named(output)) or type(output).__name__


def _only_flat(parts: Any) -> Tensor | None:
    """The only floating-point tensor ``(N, D)`` in the tuple or list `parts`."""
    if not isinstance(parts, tuple | list):
        return None
    found = [part for part in parts if isinstance(part, Tensor) and part.ndim == 2]
    found = [part for part in found if part.is_floating_point()]
    return found[0] if len(found) == 1 else None


def _flat(tensor: Tensor) -> Tensor:
    """`tensor` as ``(N, C)`` if its other axes have one place only."""
    return tensor.flatten(1) if tensor.ndim > 2 and tensor.shape[2:].numel() == 1 else tensor
