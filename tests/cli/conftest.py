"""What tests of the command start from."""

from __future__ import annotations

import pytest
from command import SCENE

from camlib.visual import save_picture


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a scene in it; nothing is ever downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    save_picture(SCENE.image, "scene.png")
    return tmp_path
