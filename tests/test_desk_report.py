"""*Save report* of the desk: a page about the selected edit, and no page about any other edit."""

import pytest
import torch
from conftest import noise

from edittools import widgets
from edittools.images import LabelledImages
from edittools.metrics import predict


@pytest.fixture
def desk(tiny):
    with torch.no_grad():
        tiny.model.head.bias -= predict(tiny, noise(100, seed=5)).mean(0)  # otherwise it predicts one class only
    predicted = predict(tiny, noise(12)).argmax(1)
    labels = torch.where(torch.arange(12) < 6, (predicted + 1) % 5, predicted)
    desk = widgets.Desk(tiny, LabelledImages(noise(12), labels, tiny.classes), noise(120, seed=3))
    mask = torch.zeros(32, 32)
    mask[16:, 4:28] = 1
    desk.editor.mask = mask
    return desk


def test_report_of_a_selected_edit_is_saved_by_its_button(desk, tmp_path):
    desk.session.candidate_layers = ("conv1",)
    desk.find_best()
    desk.wait(300)
    desk.controls.path.value = str(tmp_path / "edit.safetensors")
    desk.controls.report.click()
    desk.wait(300)
    assert "edit.html" in desk.controls.message.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edit.html", "edit.json"]
    assert desk.result.word in (tmp_path / "edit.html").read_text()
    desk.undo()
    assert desk.controls.report.disabled
