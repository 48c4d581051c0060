"""Models whose weights FSDP spreads over processes: the map of the whole model, shards as found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_sharded_models(processes, trials, tmp_path):
    paths = [str(SUPPORT), str(SUPPORT.parents[1]), os.environ.get("PYTHONPATH", "")]
    known = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    given = [str(processes), str(tmp_path / "file"), str(trials)]
    started = [
        subprocess.Popen(
            [sys.executable, SUPPORT / "sharding.py", str(rank), *given],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=known,
        )
        for rank in range(processes)
    ]
    for process in started:
        told, errors = process.communicate(timeout=300)
        assert (told, process.returncode) == ("", 0), errors
