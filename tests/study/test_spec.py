"""Studies as TOML: the five that are ready-made, one's own, and what is refused in one line."""

import pytest

from testbed.core.errors import UsageError
from testbed.models.presets import preset
from testbed.study.spec import read_study, ready_made_studies, study_named
from tests.support.commands import error_of, invoke

# As the published study reports them, in per cent (50 epochs of CIFAR-10).
PUBLISHED = {
    "patch": (
        "patch_size_results.json",
        {"patch_size_2": 77.62, "patch_size_4": 69.47, "patch_size_8": 73.79},
    ),
    "position": (
        "positional_embedding_results.json",
        {"no_pos_embed": 69.21, "1d_learned": 69.47, "2d_learned": 69.79, "sinusoidal": 68.81},
    ),
    "config": ("hyperparameter_results.json", {"config1": 68.92, "config2": 62.24, "config3": 70.34}),
    "augmentation": (
        "augmentation_results.json",
        {"baseline": 69.47, "strong_aug": 68.19, "cutout": 69.79, "autoaugment": 71.08},
    ),
}
OWN = """
name = "heads"
preset = "digits"
dataset = "digits"
epochs = 1
[[variants]]
name = "two"
set = { heads = 2 }
[[variants]]
name = "four"
set = { heads = 4 }
"""


@pytest.mark.parametrize("name", PUBLISHED)
def test_ready_made_studies_have_the_published_names_and_values(name):
    study, (file, values) = study_named(name), PUBLISHED[name]
    assert study.results == file
    assert {variant.name: round(100 * (variant.published or 0), 2) for variant in study.variants} == values
    assert (study.preset, study.dataset, study.epochs, study.set) == (
        "cifar10",
        "cifar10",
        50,
        {"attention": "differential"},
    )


def test_there_are_five_and_each_is_of_one_choice():
    studies = ready_made_studies()
    assert list(studies) == ["patch", "position", "config", "augmentation", "attention"]
    for study in studies.values():
        assert len({frozenset(variant.set) for variant in study.variants}) == 1
        assert len({repr(variant.set) for variant in study.variants}) == len(study.variants)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_configurations_are_those_of_the_presets(number):
    variant = study_named("config").variants[number - 1]
    assert preset("cifar10", **variant.set) == preset(f"cifar10-{number}")


def test_a_study_of_one_s_own(tmp_path):
    file = tmp_path / "heads.toml"
    file.write_text(OWN)
    study = study_named(str(file))
    assert [variant.set for variant in study.variants] == [{"heads": 2}, {"heads": 4}]
    assert (study.results, study.recipe) == ("results.json", None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "epoch = 3\n", "unknown key 'epoch'; did you mean 'epochs'?"),
        ('name = "heads"\n', "", "name is missing"),
        ("epochs = 1", "epochs = 0", "epochs: input should be greater than or equal to 1"),
        ("epochs = 1", 'epochs = "ten"', "epochs: input should be a valid integer"),
        ('name = "four"', 'name = "Two"', "two variants are called 'two'; give each a name of its own"),
        ('name = "two"', 'name = "../two"', "'../two' names a folder: use letters, digits"),
        ('name = "heads"', 'name = ""', "'' names a file: use letters, digits"),
        ("{ heads = 2 }", "{ head = 2 }", "variant 'two': unknown key 'head'; did you mean 'heads'?"),
        ("{ heads = 2 }", "{}", "variants.0.set: dictionary should have at least 1 item"),
        ("{ heads = 2 }", "{ heads = 2 }\npublished = 69.4", "variants.0.published: input should be less than"),
        ("{ heads = 2 }", "{ heads = 2 }\npublish = 0.6", "unknown key 'publish'; did you mean 'published'?"),
        ("epochs = 1", "epochs =", "is not TOML"),
        ("[[variants]]\nname = \"four\"\nset = { heads = 4 }\n", "", "variants: tuple should have at least 2 items"),
    ],
)  # fmt: skip
def test_a_wrong_study_is_one_line(tmp_path, old, new, message):
    file = tmp_path / "heads.toml"
    file.write_text(OWN.replace(old, new) if old else new + OWN)
    with pytest.raises(UsageError) as refused:
        read_study(file)
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(file))
    assert "\n" not in str(refused.value)


def test_what_is_no_study_is_one_line(tmp_path):
    for name, message in (
        ("patches", "error: unknown study 'patches'; did you mean 'patch'? Known: patch, position"),
        (
            "size",
            "error: unknown study 'size'; known: patch, position, config, augmentation, attention; or name a TOML",
        ),
        (tmp_path / "patch.toml", "no such file; did you mean the ready-made study 'patch'?"),
        (tmp_path / "none.toml", "no such file; ready-made studies: testbed study -h"),
    ):
        assert message in error_of(invoke("study", name, "--to", tmp_path / "to"), 2)
    assert not (tmp_path / "to").exists()
