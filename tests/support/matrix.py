"""Every architecture that `GradCAM(model)(inputs)` is tried on, small and without a download.

All of torchvision by its own lists, families of timm chosen for being different, and models of
transformers from configurations. `tests/models/test_matrix.py` runs them, `tools/models_page.py`
writes down what came of it.
"""

from __future__ import annotations

from case import Case
from matrix_timm import of_timm
from matrix_torchvision import of_torchvision
from matrix_transformers import of_transformers

CASES: list[Case] = [*of_torchvision(), *of_timm(), *of_transformers()]
