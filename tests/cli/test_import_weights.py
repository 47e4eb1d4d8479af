"""``testbed import`` and ``testbed export-weights``."""

import json
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from testbed.cli.main import cli
from testbed.models.importers import LAYOUT_NAMES, export_vit_pytorch, import_weights
from testbed.models.presets import preset
from testbed.models.runs import open_model_run
from testbed.models.vit import ViT


def testbed(*arguments):
    return CliRunner().invoke(cli, [*map(str, arguments)])


testbed.__test__ = False


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
    done = testbed("import", weights, "--run", tmp_path / "run", "--data", "digits", "--preprocess", "half", "--json")
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert report["layout"] == "vit-pytorch-old"
    assert report["config"]["heads"] == [2, 2, 2]
    assert "heads 2 (of width 64; any number that divides 128 fits)" in report["assumed"]
    assert report["parameters"] == sum(p.numel() for p in import_weights(weights).model.parameters())
    run = open_model_run(tmp_path / "run")
    assert (run.data.name, run.data.preprocess) == ("digits", "half")
    assert torch.equal(run.model.head.weight, import_weights(weights).model.head.weight)


def test_import_for_people(tmp_path, weights):
    done = testbed("import", weights, "--run", tmp_path / "run", "--heads", 4)
    assert done.exit_code == 0
    assert re.search(r"heads +│ 4 +│ stated", done.stdout)
    assert re.search(r"activation +│ gelu +│ usual", done.stdout)
    assert "data: none named" in done.stdout
    assert str(tmp_path / "run") in done.stdout


def test_the_same_import_again_changes_nothing_and_another_is_refused(tmp_path, weights):
    first = testbed("import", weights, "--run", tmp_path / "run", "--json")
    assert testbed("import", weights, "--run", tmp_path / "run", "--json").stdout == first.stdout
    one_line(testbed("import", weights, "--run", tmp_path / "run", "--heads", 1), 2, "holds another run")


def test_export_gives_the_imported_weights_back(tmp_path, weights):
    testbed("import", weights, "--run", tmp_path / "run")
    done = testbed("export-weights", tmp_path / "run", "--to", tmp_path / "back.pth", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["file"] == str(tmp_path / "back.pth")
    original = torch.load(weights, weights_only=True)["model_state_dict"]
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], original[name]) for name in back)
    done = testbed("export-weights", tmp_path / "run", "--to", tmp_path / "part_att.pth", "--part", "attention")
    assert done.exit_code == 0
    part = torch.load(tmp_path / "part_att.pth", weights_only=True)
    assert torch.equal(part["to_qkv.weight"], original["transformer.layers.0.0.fn.to_qkv.weight"])


def test_weights_of_another_data_set_are_refused_and_leave_nothing(tmp_path, weights):
    hundred = np.arange(200) % 100
    np.savez(tmp_path / "many.npz", images=np.zeros((200, 8, 8), np.uint8), labels=hundred)
    done = testbed("import", weights, "--run", tmp_path / "run", "--data", f"npz:{tmp_path / 'many.npz'}")
    one_line(done, 2, "the weights are for 10 classes, not 100")
    assert not (tmp_path / "run").exists()


def test_mistakes_are_one_line(tmp_path, weights):
    run = tmp_path / "run"
    one_line(testbed("import", tmp_path / "none.pth", "--run", run), 2, "there is no file")
    one_line(testbed("import", weights, "--run", run, "--as", "keras"), 2, "unknown layout 'keras'")
    one_line(testbed("import", weights, "--run", run, "--preprocess", "half"), 2, "--data NAME")
    one_line(testbed("import", weights, "--run", run, "--data", "cifar11"), 2, "unknown data set")
    one_line(testbed("export-weights", run, "--to", tmp_path / "x.pth"), 2, "holds no run")
    weights.write_bytes(weights.read_bytes()[:-9])
    one_line(testbed("import", weights, "--run", run), 1, "truncated")
    assert not run.exists()


def test_help_names_the_layouts():
    shown = testbed("import", "-h").stdout
    assert all(name.removesuffix("-old") in shown for name in LAYOUT_NAMES)
