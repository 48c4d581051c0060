"""Image classifiers of Hugging Face, from a folder or by name, where transformers is installed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from camlib.errors import InputError
from camlib.integrations.checkpoints import class_names, read_checkpoint
from camlib.integrations.heads import fill
from camlib.integrations.network import Network, names_of, reason_of


def load(name: str, weights: str = "DEFAULT", *, trust: bool = False) -> Network:
    """The classifier `name` with its image processor and the names of its classes.

    Args:
        name: a folder that ``save_pretrained`` wrote, or a name on the hub, downloaded on first
            use.
        weights: ``"DEFAULT"`` for its own, or a file, see `camlib.integrations.torchvision.load`.
        trust: whether a file with a whole pickled model is read, which can run any code.

    Raises:
        InputError: transformers is not installed, or there is no such classifier.
    """
    if find_spec("transformers") is None:
        raise InputError(f"'hf:{name}' needs one more library: pip install transformers")
    from transformers import AutoModelForImageClassification

    with _quiet():
        try:
            model: Any = AutoModelForImageClassification.from_pretrained(name)
        # A folder may lack anything, and a download can fail in many ways.
        except Exception as error:
            raise InputError(
                f"'hf:{name}' cannot be loaded as an image classifier ({reason_of(error)[:300]}); "
                "expected a folder that save_pretrained wrote, or a name on the hub"
            ) from None
        transform = _processor(name)
    outputs, names = model.config.num_labels, class_names(model.config.id2label)
    if weights != "DEFAULT":
        checkpoint = read_checkpoint(weights, trust=trust)
        outputs = fill(model, checkpoint.state, weights, f"hf:{name}")
        names = checkpoint.classes or names
    if all(label == f"LABEL_{number}" for number, label in enumerate(names)):
        names = ()  # nobody has named them
    several = outputs == 1 or model.config.problem_type == "multi_label_classification"
    return Network(model.eval(), names_of(outputs, names), transform, several=several)


def _processor(name: str) -> Any:
    """The image processor beside a model, if there is one."""
    import transformers

    processors: Any = transformers.AutoImageProcessor

    try:
        return processors.from_pretrained(name)
    except Exception:  # whatever is missing, another transform can be given
        return None


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no advice on how to train in the block."""
    from transformers.utils import logging as noise

    own: Any = noise
    level, bars = own.get_verbosity(), own.is_progress_bar_enabled()
    own.set_verbosity(logging.ERROR)
    own.disable_progress_bar()
    try:
        yield
    finally:
        own.set_verbosity(level)
        if bars:
            own.enable_progress_bar()
