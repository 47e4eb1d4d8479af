"""``testbed import`` and ``testbed export-weights``."""

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from testbed.cli.main import cli
from testbed.data.torchvision_import import imagenet_names
from testbed.golden.source import dataset_of
from testbed.models.importers import LAYOUT_NAMES, export_vit_pytorch, import_weights
from testbed.models.presets import preset
from testbed.models.runs import open_model_run
from testbed.models.vit import ViT


def command(*arguments):
    return CliRunner().invoke(cli, [*map(str, arguments)])


def classes_of(folder):
    source = open_model_run(folder).data
    assert source is not None
    return source.classes


@pytest.fixture
def weights(tmp_path):
    """A model for scikit-learn's digits (8 x 8, grey, 10 classes) in the older vit-pytorch layout."""
    torch.manual_seed(0)
    state_dict = export_vit_pytorch(ViT(preset("digits", qkv_bias=False, head_width=64)))
    torch.save({"epoch": 1, "model_state_dict": state_dict}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def one_line(done, exit_code, said):
    assert done.exit_code == exit_code
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_import_makes_a_run_folder_and_says_what_it_assumed(tmp_path, weights):
    done = command("import", weights, "--run", tmp_path / "run", "--data", "digits", "--preprocess", "half", "--json")
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert report["layout"] == "vit-pytorch-old"
    assert list(report["data"]) == ["name", "root", "preprocess", "seed", "classes"]
    assert report["config"]["heads"] == [2, 2, 2]
    assert "heads 2 (of width 64; any number that divides 128 fits)" in report["assumed"]
    assert report["parameters"] == sum(p.numel() for p in import_weights(weights).model.parameters())
    run = open_model_run(tmp_path / "run")
    assert run.data is not None
    assert (run.data.name, run.data.preprocess) == ("digits", "half")
    assert torch.equal(run.model.head.weight, import_weights(weights).model.head.weight)


def test_import_for_people(tmp_path, weights):
    done = command("import", weights, "--run", tmp_path / "run", "--heads", 4)
    assert done.exit_code == 0
    assert re.search(r"heads +│ 4 +│ stated", done.stdout)
    assert re.search(r"activation +│ gelu +│ usual", done.stdout)
    assert "data: none named" in done.stdout
    assert str(tmp_path / "run") in done.stdout


def test_the_same_import_again_changes_nothing_and_another_is_refused(tmp_path, weights):
    first = command("import", weights, "--run", tmp_path / "run", "--json")
    assert command("import", weights, "--run", tmp_path / "run", "--json").stdout == first.stdout
    one_line(command("import", weights, "--run", tmp_path / "run", "--heads", 1), 2, "holds another run")


def test_export_gives_the_imported_weights_back(tmp_path, weights):
    command("import", weights, "--run", tmp_path / "run")
    done = command("export-weights", tmp_path / "run", "--to", tmp_path / "back.pth", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["file"] == str(tmp_path / "back.pth")
    original = torch.load(weights, weights_only=True)["model_state_dict"]
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], original[name]) for name in back)
    done = command("export-weights", tmp_path / "run", "--to", tmp_path / "part_att.pth", "--part", "attention")
    assert done.exit_code == 0
    part = torch.load(tmp_path / "part_att.pth", weights_only=True)
    assert torch.equal(part["to_qkv.weight"], original["transformer.layers.0.0.fn.to_qkv.weight"])


def test_weights_of_another_data_set_are_refused_and_leave_nothing(tmp_path, weights):
    hundred = np.arange(200) % 100
    np.savez(tmp_path / "many.npz", images=np.zeros((200, 8, 8), np.uint8), labels=hundred)
    done = command("import", weights, "--run", tmp_path / "run", "--data", f"npz:{tmp_path / 'many.npz'}")
    one_line(done, 2, "the weights are for 10 classes, not 100")
    assert not (tmp_path / "run").exists()


def test_mistakes_are_one_line(tmp_path, weights):
    run = tmp_path / "run"
    one_line(command("import", tmp_path / "none.pth", "--run", run), 2, "there is no file")
    one_line(command("import", weights, "--run", run, "--as", "keras"), 2, "unknown layout 'keras'")
    one_line(command("import", weights, "--run", run, "--preprocess", "half"), 2, "--data NAME")
    one_line(command("import", weights, "--run", run, "--data", "cifar11"), 2, "unknown data set")
    one_line(command("export-weights", run, "--to", tmp_path / "x.pth"), 2, "holds no run")
    weights.write_bytes(weights.read_bytes()[:-9])
    one_line(command("import", weights, "--run", run), 1, "truncated")
    assert not run.exists()


def timm_file(folder, **changes):
    import testbed.data.torchvision_import  # noqa: F401  # makes torchvision importable for timm

    module = pytest.importorskip("timm.models.vision_transformer")
    torch.manual_seed(0)
    sizes = {
        "img_size": 8,
        "patch_size": 2,
        "in_chans": 1,
        "embed_dim": 24,
        "depth": 1,
        "num_heads": 3,
        "num_classes": 10,
    }
    model = module.VisionTransformer(**{**sizes, **changes})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    torch.save({"state_dict": model.state_dict(), "state_dict_ema": model.state_dict()}, folder / "timm.pth")
    return folder / "timm.pth"


def test_what_is_stated_is_told_kept_and_checked_against_the_library(tmp_path):
    file = timm_file(tmp_path, act_layer="relu")
    settings = ["--set", "heads=3", "--set", "act_layer=relu", "--set", "weights=ema", "--set", "eps=1e-6"]
    run = tmp_path / "run"
    done = command("import", file, "--run", run, *settings, "--data", "digits", "--check", "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    told = {row["key"]: (row["value"], row["from"]) for row in report["told"]}
    assert told["activation"] == ("relu", "stated")
    assert told["weights"] == ("state_dict_ema", "stated")
    assert told["norm_order"] == ("pre", "usual")
    assert told["channels"] == (1, "file")
    assert told["preprocess"][1] == "usual"
    assert "mean 0.3053" in told["preprocess"][0]
    assert told["resize"] == ("8 x 8 -> 8 x 8", "data set")
    assert report["check"]["library"] == "timm"
    assert report["check"]["max_abs_difference"] < 1e-5
    kept = json.loads((run / "manifest.json").read_text())["stages"]["import"]["facts"]
    assert kept["told"] == report["told"]
    assert kept["check"] == report["check"]
    assert open_model_run(run).model.config.activation == "relu"
    other = ["--set", "heads=3", "--set", "act_layer=relu", "--set", "weights=state_dict", "--set", "eps=1e-6"]
    one_line(command("import", file, "--run", run, *other, "--data", "digits"), 2, "holds another run")


def test_a_check_that_fails_writes_nothing(tmp_path):
    file = timm_file(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "architecture": "vit_tiny_patch16_224",
                "model_args": {
                    "img_size": 8,
                    "patch_size": 2,
                    "in_chans": 1,
                    "embed_dim": 24,
                    "depth": 1,
                    "num_heads": 3,
                    "num_classes": 10,
                },
            }
        )
    )
    wrong = ["--set", "weights=ema", "--set", "activation=relu", "--run", tmp_path / "run"]
    one_line(command("import", file, *wrong, "--check"), 3, "--check: logits differ from timm")
    assert not (tmp_path / "run").exists()
    done = command("import", file, *wrong)
    assert done.exit_code == 0
    assert re.search(r"activation +│ relu +│ stated +│ config.json says gelu", done.stdout)


def test_some_of_imagenets_folders_fit_a_model_of_all_its_classes(tmp_path):
    """The names beside the weights have no WordNet ids, as Hugging Face's have not."""
    library = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 7}
    config = library.ViTConfig(image_size=8, patch_size=4, id2label=dict(enumerate(imagenet_names())), **sizes)
    library.ViTForImageClassification(config).save_pretrained(tmp_path / "weights")
    for name in ("n02110341", "n01440764"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "photos" / name / "0.png")
    done = command(
        *("import", tmp_path / "weights", "--run", tmp_path / "run", "--data", f"imagefolder:{tmp_path / 'photos'}"),
        *("--preprocess", "half", "--json"),
    )
    assert done.exit_code == 0, done.stderr
    told = {row["key"]: (row["value"], row["from"]) for row in json.loads(done.stdout)["told"]}
    assert told["class order"] == (
        "n01440764 tench, n01443537 goldfish, n01484850 great white shark, ... (1000)",
        "config.json",
    )
    dataset = dataset_of(open_model_run(tmp_path / "run"))
    assert sorted(set(dataset.test.labels.tolist())) == [0, 251]
    assert dataset.classes[251] == "n02110341 dalmatian"


def test_preprocessing_beside_the_weights_is_used_and_told(tmp_path, weights):
    half = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(half | {"image_std": [0.5] * 3}))
    done = command("import", weights, "--run", tmp_path / "run", "--json")
    (row,) = [row for row in json.loads(done.stdout)["told"] if row["key"] == "preprocess"]
    assert row["from"] == "config.json"
    assert "preprocessor_config.json; kept when a data set is named" in row["note"]
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(20) % 10)
    torch.save(export_vit_pytorch(ViT(preset("digits", channels=3, qkv_bias=False, head_width=64))), weights)
    data = ["--data", f"npz:{tmp_path / 'd.npz'}"]
    done = command("import", weights, "--run", tmp_path / "from config", *data, "--json")
    (row,) = [row for row in json.loads(done.stdout)["told"] if row["key"] == "preprocess"]
    assert (row["from"], "mean 0.5" in row["value"]) == ("config.json", True)
    assert dataset_of(open_model_run(tmp_path / "from config")).mean == (0.5, 0.5, 0.5)
    stated = command("import", weights, "--run", tmp_path / "stated", *data, "--preprocess", "cifar10", "--json")
    (row,) = [row for row in json.loads(stated.stdout)["told"] if row["key"] == "preprocess"]
    assert (row["from"], "0.4914" in row["value"]) == ("stated", True)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["--set", "activaton=relu"], 2, "unknown key 'activaton'; did you mean 'activation'"),
        (["--set", "activation"], 2, "write KEY=VALUE"),
        (["--set", "pooling=max"], 2, "[model] onnx = FILE"),
        (["--set", "heads=2", "--heads", "4"], 2, "heads was stated twice: 2 (--set) and 4"),
        (["--set", "heads=x", "--heads", "4"], 2, "heads was stated twice: x (--set) and 4"),
        (["--set", "pooling=cls", "--pooling", "mean"], 2, "pooling was stated twice"),
        (["--set", "depth=7"], 2, "depth = 7 was stated, and the weights have 3"),
        (["--data", "digits", "--set", "channels=3"], 2, "no square of 3 channels"),
    ],
)
def test_statements_that_cannot_be_are_one_line(tmp_path, weights, arguments, exit_code, said):
    one_line(command("import", weights, "--run", tmp_path / "run", *arguments), exit_code, said)
    assert not (tmp_path / "run").exists()


def test_other_files_are_one_line(tmp_path, weights):
    run = ["--run", tmp_path / "run"]
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch")
    one_line(command("import", tmp_path / "model.onnx", *run), 2, "name it in the spec: [model] onnx = FILE")
    (tmp_path / "empty").mkdir()
    one_line(command("import", tmp_path / "empty", *run), 2, "holds no model.safetensors")
    np.savez(tmp_path / "jax.npz", kernel=np.zeros(3))
    one_line(command("import", tmp_path / "jax.npz", *run), 1, "NumPy archive")


def test_help_names_the_layouts():
    shown = "".join(command("import", "-h").stdout.split())  # click breaks lines at hyphens
    assert all(name.removesuffix("-old") in shown for name in LAYOUT_NAMES)


def test_import_keeps_the_order_of_the_classes(tmp_path, weights):
    """As it is stated, or as the config.json beside the weights has it; labels follow, and later commands too."""
    reverse = "9876543210"
    (tmp_path / "classes.txt").write_text("\n".join(reverse))
    done = command(
        "import", weights, "--run", tmp_path / "a", "--data", "digits", "--classes", tmp_path / "classes.txt"
    )
    assert done.exit_code == 0
    assert re.search(r"class order +│ 9, 8, 7, ... \(10\) +│ stated", done.stdout)
    (tmp_path / "classes.txt").unlink()  # the names are kept, not the file
    assert classes_of(tmp_path / "a") == tuple(reverse)
    assert dataset_of(open_model_run(tmp_path / "a")).classes == list(reverse)

    (tmp_path / "config.json").write_text(json.dumps({"id2label": dict(enumerate(reverse))}))
    done = command("import", weights, "--run", tmp_path / "b", "--data", "digits")
    assert re.search(r"class order +│ 9, 8, 7, ... \(10\) +│ config.json", done.stdout)
    assert classes_of(tmp_path / "b") == tuple(reverse)

    (tmp_path / "config.json").write_text(json.dumps({"id2label": dict(enumerate("abcdefghij"))}))
    done = command("import", weights, "--run", tmp_path / "c", "--data", "digits")
    assert "config.json has other names (a, b, c, ... (10))" in " ".join(done.stdout.replace("│", " ").split())
    assert classes_of(tmp_path / "c") is None

    one_line(command("import", weights, "--run", tmp_path / "d", "--classes", "natural"), 2, "--data NAME")
    wrong = command("import", weights, "--run", tmp_path / "d", "--data", "digits", "--classes", "nowhere.txt")
    one_line(wrong, 2, "there is no file nowhere.txt")


def test_a_data_set_with_some_of_the_model_s_classes(tmp_path, weights):
    """Classes 3 and 7 of ten: refused with the way out, and right when all ten are stated."""
    arrays: dict[str, Any] = {
        "images": np.zeros((4, 8, 8), np.uint8),
        "labels": np.arange(4) % 2,
        "classes": np.array(["3", "7"]),
    }
    np.savez(tmp_path / "some.npz", **arrays)
    data = f"npz:{tmp_path / 'some.npz'}"
    one_line(command("import", weights, "--run", tmp_path / "a", "--data", data), 2, "state them all: --classes FILE")
    (tmp_path / "ten.txt").write_text("\n".join("0123456789"))
    done = command("import", weights, "--run", tmp_path / "a", "--data", data, "--classes", tmp_path / "ten.txt")
    assert done.exit_code == 0
    assert dataset_of(open_model_run(tmp_path / "a")).test.labels.tolist() == [3, 7, 3, 7]
