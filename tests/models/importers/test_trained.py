"""Real trained weights, where the shared data lies beside the repository."""

from pathlib import Path

import pytest
import torch

from testbed.models.importers import export_vit_pytorch, import_weights

WEIGHTS = Path(__file__).parents[4] / "shared" / "data" / "vit_cifar_d6.pth"


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the shared trained weights are not here")
def test_trained_weights_are_recognised_and_written_back_bit_for_bit():
    imported = import_weights(WEIGHTS)
    config = imported.config
    assert imported.layout == "vit-pytorch-old"
    assert (config.image, config.patch, config.width, config.classes) == (32, 4, 192, 10)
    assert (config.heads, config.mlp, config.head_width) == ((3,) * 6, (768,) * 6, 64)
    assert [row.value for row in imported.facts if row.key == "heads" and row.source == "usual"] == [3]
    original = torch.load(WEIGHTS, weights_only=True)["model_state_dict"]
    written = export_vit_pytorch(imported.model)
    assert written.keys() == original.keys()
    assert all(torch.equal(written[name], original[name]) for name in original)
