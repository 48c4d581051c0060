"""What holds for every test, and what those that compare with other libraries start from."""

from __future__ import annotations

import gc
import importlib.util
import warnings
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest_plugins = ["comparisons"]
pytest.register_assert_rewrite(
    *(path.stem for path in (Path(__file__).parent / "support").glob("*.py"))
)

# Threads that wait for each other make small networks, and a busy machine, several times slower.
torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Leave what imports have made out of garbage collections: each then takes a millisecond."""
    gc.collect()
    gc.freeze()


DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def peers() -> dict[str, Any]:
    """The other libraries; what they warn of while they are imported is theirs."""
    for name in ("pytorch_grad_cam", "torchcam", "captum", "zennit"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; install the extra `peers`")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import captum.attr
        import pytorch_grad_cam
        import pytorch_grad_cam.utils.model_targets
        import torchcam.methods
        import zennit.attribution
        import zennit.composites
    return {
        "grad-cam": pytorch_grad_cam,
        "target": pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget,
        "targets": pytorch_grad_cam.utils.model_targets,
        "torchcam": torchcam.methods,
        "captum": captum.attr,
        "zennit": zennit,
    }


@pytest.fixture(scope="session")
def mobilenet() -> tuple[nn.Module, Tensor]:
    """MobileNetV2 with its ImageNet weights, and six photographs."""
    if not DATA.is_dir():
        pytest.skip("the real networks and images of ../shared/data are not here")
    from PIL import Image

    loader = SourceFileLoader("mobilenet_v2_imagenet", str(DATA / "mobilenet_v2_imagenet.py"))
    module = ModuleType(loader.name)
    module.__file__ = loader.path
    loader.exec_module(module)
    files = sorted((DATA / "images").glob("*.jpg"))[::34]
    return module.load(), torch.cat([module.to_tensor(Image.open(file)) for file in files])
