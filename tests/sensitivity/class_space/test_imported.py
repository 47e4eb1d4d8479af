"""Weights of other libraries: every block's class projection is what the library's own modules say of its own states."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import testbed.data.torchvision_import  # noqa: F401  # makes torchvision importable for the libraries below
from testbed.models.importers import import_weights
from testbed.sensitivity.class_space.projection import ClassProjection
from testbed.sensitivity.class_space.recorder import recorded
from tests.support.commands import answer_of, invoke


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


class Library(NamedTuple):
    """A library's own model: its weights in a file, the states after each block, and what its head says of a state."""

    file: Path
    logits: Callable[[torch.Tensor], torch.Tensor]
    block_outputs: Callable[[torch.Tensor], list[torch.Tensor]]
    project: Callable[[torch.Tensor], torch.Tensor]


def timm_model(folder):
    module = pytest.importorskip("timm.models.vision_transformer")
    sizes = {"img_size": 8, "patch_size": 2, "num_classes": 5, "embed_dim": 192, "depth": 2, "num_heads": 3}
    model = randomised(module.VisionTransformer(mlp_ratio=1, **sizes))
    torch.save(model.state_dict(), folder / "weights.pth")
    return Library(
        folder / "weights.pth",
        model,
        lambda x: outputs_of(model.blocks, lambda: model(x)),
        lambda state: model.head(model.norm(state)),
    )


def torchvision_model(folder):
    from torchvision.models import VisionTransformer

    sizes = {"image_size": 8, "patch_size": 2, "num_classes": 5, "hidden_dim": 192, "num_layers": 2, "num_heads": 3}
    model = randomised(VisionTransformer(mlp_dim=11, **sizes))
    torch.save(model.state_dict(), folder / "weights.pth")
    return Library(
        folder / "weights.pth",
        model,
        lambda x: outputs_of(model.encoder.layers, lambda: model(x)),
        lambda state: model.heads.head(model.encoder.ln(state)),
    )


def huggingface_model(folder):
    library = pytest.importorskip("transformers")
    sizes = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 7}
    config = library.ViTConfig(image_size=8, patch_size=2, num_labels=5, **sizes)
    model = randomised(library.ViTForImageClassification(config))
    model.save_pretrained(folder / "weights")
    return Library(
        folder / "weights" / "model.safetensors",
        lambda x: model(x).logits,
        lambda x: list(model(x, output_hidden_states=True).hidden_states[1:]),
        lambda state: model.classifier(model.vit.layernorm(state)),
    )


@pytest.mark.parametrize("make", [timm_model, torchvision_model, huggingface_model])
def test_identifiability_is_that_of_the_librarys_own_modules(tmp_path, make):
    pixels = np.random.default_rng(4).integers(0, 256, (10, 8, 8, 3), np.uint8)
    labels = np.arange(10) // 2
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        file = tmp_path / "images" / f"class-{label}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    library = make(tmp_path)
    data = ["--data", f"imagefolder:{tmp_path / 'images'}", "--preprocess", "half"]
    imported = invoke("import", library.file, "--run", tmp_path / "run", *data)
    assert imported.exit_code == 0, imported.output
    asked = ["--analyses", "identifiability", "--baseline-images", 2, "--to", tmp_path / "out"]
    record = answer_of(invoke("classspace", tmp_path / "run", *asked, "--json"))

    inputs = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        hits = library.logits(inputs).argmax(-1).numpy() == labels
        logits = [library.project(state).numpy() for state in library.block_outputs(inputs)]
    assert record["accuracy"]["value"] == pytest.approx(hits.mean())
    measured = {
        (row["block"], row["tokens"], row["measure"]): row["value"]
        for row in record["identifiability"]
        if (row["weights"], row["state"]) == ("trained", "block")
    }
    assert len(measured) == len(logits) * 2 * 3
    for block, of_tokens in enumerate(logits):
        ranks = (of_tokens > np.take_along_axis(of_tokens, labels[:, None, None], -1)).sum(-1)
        for tokens, part in (("cls", slice(0, 1)), ("image", slice(1, None))):
            first = ranks[:, part] == 0
            assert measured[block, tokens, "identifiability"] == pytest.approx((1 - ranks[:, part] / 5).mean())
            assert measured[block, tokens, "rate"] == pytest.approx(first.mean())
            assert measured[block, tokens, "images_with_one"] == pytest.approx(first.any(1).mean())
