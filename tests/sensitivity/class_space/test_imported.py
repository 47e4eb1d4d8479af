"""Weights of other libraries: every block's class projection is what the library's own modules say of its own states."""

import pytest
import torch

import testbed.data.torchvision_import  # noqa: F401  # makes torchvision importable for the libraries below
from testbed.models.importers import import_weights
from testbed.sensitivity.class_space.projection import ClassProjection
from testbed.sensitivity.class_space.recorder import recorded


def randomised(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(9))


def outputs_of(modules, run):
    """What each of the modules gives while ``run`` is called."""
    seen = []
    handles = [module.register_forward_hook(lambda _m, _i, output: seen.append(output)) for module in modules]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return [output[0] if isinstance(output, tuple) else output for output in seen]


def assert_same_projections(path, states, project):
    """Compare each block's attention, MLP and block output with the library's own (states: a triple per block)."""
    model = import_weights(path).model
    projection = ClassProjection.of(model)
    with recorded(model) as recorder, torch.no_grad():
        for block, library in zip(recorder.blocks(recorder.embed(images())), states, strict=True):
            ours = (block.attention_out, block.mlp_out, block.residual_out)
            for state, other in zip(ours, library, strict=True):
                assert state is not None
                torch.testing.assert_close(projection(state), project(other), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"global_pool": "avg"}, {"global_pool": "avg", "class_token": False}])
def test_timm(tmp_path, changes):
    module = pytest.importorskip("timm.models.vision_transformer")
    sizes = {
        "img_size": 8,
        "patch_size": 2,
        "num_classes": 5,
        "embed_dim": 192,
        "depth": 2,
        "num_heads": 3,
        "mlp_ratio": 1,
    }
    library = randomised(module.VisionTransformer(**sizes, **changes))
    torch.save(library.state_dict(), tmp_path / "weights.pth")
    parts = [part for block in library.blocks for part in (block.attn, block.mlp, block)]
    seen = outputs_of(parts, lambda: library(images()))

    def project(state):
        return library.head(library.fc_norm(library.norm(state)))

    with torch.no_grad():
        assert_same_projections(tmp_path / "weights.pth", [seen[:3], seen[3:]], project)


def test_torchvision(tmp_path):
    from torchvision.models import VisionTransformer

    sizes = {"image_size": 8, "patch_size": 2, "num_classes": 5}
    library = randomised(VisionTransformer(hidden_dim=192, num_layers=2, num_heads=3, mlp_dim=11, **sizes))
    torch.save(library.state_dict(), tmp_path / "weights.pth")
    parts = [part for layer in library.encoder.layers for part in (layer.self_attention, layer.mlp, layer)]
    seen = outputs_of(parts, lambda: library(images()))
    project = lambda state: library.heads.head(library.encoder.ln(state))  # noqa: E731
    assert_same_projections(tmp_path / "weights.pth", [seen[:3], seen[3:]], project)


def test_huggingface(tmp_path):
    library = pytest.importorskip("transformers")
    sizes = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 7}
    model = randomised(
        library.ViTForImageClassification(library.ViTConfig(image_size=8, patch_size=2, num_labels=5, **sizes))
    )
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        hidden = model(images(), output_hidden_states=True).hidden_states[1:]
    ours = import_weights(tmp_path / "model.safetensors").model
    projection = ClassProjection.of(ours)
    with recorded(ours) as recorder, torch.no_grad():
        for block, state in zip(recorder.blocks(recorder.embed(images())), hidden, strict=True):
            wanted = model.classifier(model.vit.layernorm(state))
            torch.testing.assert_close(projection(block.residual_out), wanted, rtol=1e-4, atol=1e-4)
