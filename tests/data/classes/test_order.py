"""The order of the classes: as the folders have it, or as it is stated, and whether another one fits better."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from testbed.core.errors import TestbedError, UsageError
from testbed.data import Collection, Examples, load
from testbed.data.classes import order as class_order
from testbed.data.classes.order import classes_beside, classes_in, kept_classes, ordered
from testbed.data.classes.order_check import better_order, warn_of_order
from testbed.data.torchvision_import import imagenet_names as categories
from testbed.data.warn_once import forget_warnings

TWELVE = [str(number) for number in range(12)]


@pytest.fixture(autouse=True)
def nothing_told_before():
    forget_warnings()


@pytest.fixture
def labelled(tmp_path):
    """One image per class folder, whose grey value is ten times its number in ``names``."""

    def write(names):
        for number, name in enumerate(names):
            (tmp_path / "photos" / name).mkdir(parents=True)
            grey = np.full((4, 4), 10 * number, np.uint8)
            Image.fromarray(grey).save(tmp_path / "photos" / name / "0.png")
        return f"imagefolder:{tmp_path / 'photos'}"

    return write


def label_of_number(data):
    """For each class's number: the label of its image."""
    greys = [int(data.test.pixels(position)[0, 0, 0]) // 10 for position in range(len(data.test))]
    return [int(label) for _, label in sorted(zip(greys, data.test.labels, strict=True))]


def test_numbers_are_in_text_order_and_it_is_told(labelled, caplog):
    data = load(labelled(TWELVE))
    assert data.classes == sorted(TWELVE)
    assert data.classes[2] == "10"
    assert label_of_number(data) == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3]
    assert len(caplog.messages) == 1
    assert "class 2 is '10'; if the model has them in natural order, as timm does, class 2 is '2'" in caplog.messages[0]


def test_natural_order_is_timm_s(labelled, caplog):
    timm_key = pytest.importorskip("timm.utils.misc").natural_key
    data = load(labelled(TWELVE), classes="natural")
    assert data.classes == sorted(TWELVE, key=timm_key) == TWELVE
    assert label_of_number(data) == list(range(12))
    assert not caplog.messages


@given(st.lists(st.from_regex(r"\A[A-Za-z0-9_.-]{1,6}\Z"), min_size=1, max_size=8, unique=True))
def test_natural_order_is_timm_s_for_any_names(names):
    misc = pytest.importorskip("timm.utils.misc")
    assert class_order.ORDERS["natural"](names) == sorted(names, key=misc.natural_key)


@pytest.mark.parametrize("asked", [None, "text"])
def test_an_order_that_is_stated_or_the_same_either_way_is_not_told(labelled, asked, caplog):
    load(labelled(["cat", "dog"] if asked is None else TWELVE), classes=asked)
    assert not caplog.messages


FORMS = {
    "lines.txt": "dog\ncat\n\nant\n",
    "list.json": json.dumps(["dog", "cat", "ant"]),
    "by_index.json": json.dumps({"0": "dog", "2": "ant", "1": "cat"}),
    "to_index.json": json.dumps({"ant": 2, "dog": 0, "cat": 1}),
    "config.json": json.dumps({"model_type": "vit", "id2label": {"0": "dog", "1": "cat", "2": "ant"}}),
    "timm.json": json.dumps({"pretrained_cfg": {"input_size": [3, 8, 8], "label_names": ["dog", "cat", "ant"]}}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_states_the_order(labelled, tmp_path, form):
    (tmp_path / form).write_text(FORMS[form])
    data = load(labelled(["ant", "cat", "dog"]), classes=str(tmp_path / form))
    assert data.classes == ["dog", "cat", "ant"]
    assert label_of_number(data) == [2, 1, 0]
    assert kept_classes(str(tmp_path / form)) == ("dog", "cat", "ant")  # names, not the path


@pytest.mark.parametrize(
    "text",
    [
        "n02\n",
        "n01440764 tench, Tinca tinca\nn01443537 goldfish\n",
        '{"0": ["n01440764", "tench"], "1": ["n01443537", "x"]}',
    ],
)
def test_wordnet_ids_beside_names(labelled, tmp_path, text):
    (tmp_path / "order.txt").write_text(text)
    names = ["n02"] if text == "n02\n" else ["n01440764", "n01443537"]
    assert label_of_number(load(labelled(names), classes=str(tmp_path / "order.txt"))) == list(range(len(names)))


def test_marks_and_accents_of_other_systems(labelled, tmp_path):
    """A byte order mark and Windows' line ends; accents in one character, or two as macOS writes them in folders."""
    (tmp_path / "c.txt").write_bytes("\ufeffdog\r\ncaf\u00e9\r\n".encode())
    assert label_of_number(load(labelled(["cafe\u0301", "dog"]), classes=str(tmp_path / "c.txt"))) == [1, 0]


def test_a_thousand_wordnet_ids_of_which_a_folder_has_two(labelled, caplog):
    wnids = [f"n{number:08d}" for number in range(1000)]
    data = load(labelled([wnids[3], wnids[700]]), classes=wnids)
    assert len(data.classes) == 1000
    assert label_of_number(data) == [3, 700]
    assert "no images of 998 of the 1000 stated classes: n00000000, n00000001, n00000002, ..." in caplog.messages[0]


def imagenet_names():
    """As Hugging Face writes them: synonyms, and a bird and a machine of one name."""
    names = [f"{name}, {name} too" for name in categories()]
    return [*names[:134], "crane", *names[135:517], "crane", *names[518:]]


def test_some_of_imagenets_folders_in_the_order_of_its_models(labelled, tmp_path):
    synsets = pytest.importorskip("timm.data").ImageNetInfo().label_names()
    some = [synsets[900], synsets[134], synsets[517]]
    (tmp_path / "config.json").write_text(json.dumps({"id2label": dict(enumerate(imagenet_names()))}))
    folder = labelled(some)
    for stated in ("imagenet", str(tmp_path / "config.json"), synsets):
        data = load(folder, classes=stated)
        assert len(data.classes) == 1000
        assert label_of_number(data) == [900, 134, 517]
    assert load(folder, classes=str(tmp_path / "config.json")).classes[0] == "n01440764 tench, tench too"


def test_a_thousand_other_names_are_not_taken_for_imagenets(tmp_path):
    names = [f"class {number}" for number in range(1000)]
    (tmp_path / "c.json").write_text(json.dumps(names))
    assert classes_in(tmp_path / "c.json") == names
    (tmp_path / "c.json").write_text(json.dumps(imagenet_names()[::-1]))
    with pytest.raises(UsageError, match="'crane' is told twice"):
        classes_in(tmp_path / "c.json")


def test_wordnet_ids_with_names(labelled, tmp_path):
    (tmp_path / "c.json").write_text('{"n01440764": "tench", "n01443537": "goldfish"}')
    path = str(tmp_path / "c.json")
    assert label_of_number(load(labelled(["n01443537"]), classes=path)) == [1]
    (tmp_path / "c.json").write_text('{"n01443537": "goldfish", "n01440764": "tench"}')
    with pytest.raises(UsageError, match="out of order tell no order"):
        classes_in(tmp_path / "c.json")


def test_every_part_and_its_hash_follow_the_order():
    images = np.arange(48, dtype=np.uint8).reshape(12, 2, 2) * 5
    part = Examples.from_arrays("mine", images, np.arange(12) % 3)
    given = Collection(classes=["a", "b", "c"], test=part, train=part, validation=part)
    found = ordered(given, ["c", "a", "b"], "mine")
    for name in ("train", "validation", "test"):
        assert getattr(found, name).labels.tolist() == [1, 2, 0] * 4
    assert given.test.labels.tolist() == [0, 1, 2] * 4


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat", "dog"], r"its class 'ant' is not one of the 2 stated, such as 'cat'"),
        (["cat", "dog", "ant", "cat"], "class 'cat' is told twice"),
        ([], "names no classes"),
        ("nowhere.txt", "there is no file nowhere.txt"),
    ],
)
def test_what_does_not_fit_is_refused(labelled, classes, message):
    with pytest.raises(UsageError, match=message):
        load(labelled(["ant", "cat", "dog"]), classes=classes)


CONTRADICTION = '{"id2label": {"0": "dog", "1": "cat"}, "label2id": {"cat": 0, "dog": 1}}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"0": "a", "2": "b"}', "their indexes are not 0 to 1"),
        ('{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}', "names no classes"),
        ('{"hidden_size": 192}', "indexes are not|names no classes"),
        (CONTRADICTION, "class 0 is 'dog' in id2label and 'cat' in label2id"),
        ("[1", "is not JSON"),
    ],
)
def test_a_file_that_states_no_order(tmp_path, text, message):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        classes_in(tmp_path / "c.json")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(TestbedError, match="cannot be read"):
        classes_in(tmp_path / "c.json")


def test_hidden_folders_are_no_classes(class_folder, image_file, caplog):
    folder = class_folder("photos")
    image_file(folder / ".ipynb_checkpoints/a.png", seed=1)
    image_file(folder / "__MACOSX/cat/a.png", seed=2)
    image_file(folder / "cat/.ipynb_checkpoints/a-checkpoint.png", seed=3)
    (folder / "cat/._00.png").write_bytes(b"of another file system")
    (folder / "dog/more.gif").write_bytes(b"GIF89a")
    data = load(f"imagefolder:{folder}")
    assert data.classes == ["cat", "dog"]
    assert data.test.ids == [f"{name}/{number:02d}.png" for name in ("cat", "dog") for number in range(4)]
    assert f"{folder}: no class but left out: .ipynb_checkpoints, __MACOSX" in caplog.messages
    assert any("1 files are left out, such as" in message and "more.gif" in message for message in caplog.messages)


def test_parts_under_other_names_are_not_taken_for_classes(class_folder):
    class_folder("photos/train")
    folder = class_folder("photos/validation").parent
    with pytest.raises(UsageError, match="train, validation, which are parts and no classes: name them train, test"):
        load(f"imagefolder:{folder}")


# -- is another order better? --


def said(model_order, truth, rng, accuracy=0.95):
    """Outputs of a model that has the classes in ``model_order`` and is right in that share of ``truth``."""
    wrong = rng.random(len(truth)) > accuracy
    names = np.where(wrong, rng.permutation(truth), truth)
    return np.array([model_order.index(name) for name in names])


def test_natural_order_is_found_where_text_order_was_taken(caplog):
    rng = np.random.default_rng(0)
    taken = sorted(TWELVE)
    truth = rng.choice(TWELVE, 60)
    predictions = said(TWELVE, truth, rng)
    labels = np.array([taken.index(name) for name in truth])
    found = warn_of_order(predictions, labels, taken)
    assert found is not None
    assert (found.name, list(found.classes)) == ("natural", TWELVE)
    right = np.mean([TWELVE[p] == name for p, name in zip(predictions, truth, strict=True)])
    assert found.accuracy == pytest.approx(right)
    assert found.stated == pytest.approx(np.mean(predictions == labels))
    assert "in natural order; state it: --classes natural" in caplog.messages[0]


def test_any_permutation_is_found_and_judged_on_other_images(caplog):
    rng = np.random.default_rng(1)
    taken = [f"class {letter}" for letter in "abcdefghij"]
    model_order = list(rng.permutation(taken))
    truth = rng.choice(taken, 300)
    found = warn_of_order(said(model_order, truth, rng), np.array([taken.index(name) for name in truth]), taken)
    assert found is not None
    assert found.name == ""
    assert list(found.classes) == model_order
    assert found.accuracy > 0.9
    assert "state the model's order: --classes FILE" in caplog.messages[0]


def test_two_classes_the_other_way_round():
    labels = np.arange(40) % 2
    found = better_order(1 - labels, labels, ["cat", "dog"])
    assert found is not None
    assert (found.classes, found.accuracy, found.stated) == (("dog", "cat"), 1.0, 0.0)


@given(st.integers(2, 12), st.integers(1, 200), st.integers(0, 2**16))
def test_chance_finds_no_order(classes, images, seed):
    rng = np.random.default_rng(seed)
    names = sorted(map(str, range(classes)))
    predictions, labels = rng.integers(-1, classes, images), rng.integers(0, classes, images)
    assert better_order(predictions, labels, names) is None


@pytest.mark.parametrize("always", [0, 1])
def test_a_model_that_always_says_one_class_has_no_order(always):
    labels = np.array([0] * 90 + [1] * 10)
    assert better_order(np.full(100, always), labels, ["a", "b"]) is None


def test_a_good_model_is_left_alone():
    labels = np.arange(120) % 12
    predictions = np.where(np.arange(120) % 10 == 0, 0, labels)
    assert better_order(predictions, labels, sorted(TWELVE)) is None
    assert better_order(np.array([], int), np.array([], int), ["a"]) is None


def test_wordnet_ids_of_tiny_imagenet(tiny_files):
    """Its classes are called by words; its own wnids.txt has another order than its folders."""
    root, folder = tiny_files
    usual = load("tiny-imagenet", root=root)
    stated = load("tiny-imagenet", root=root, classes=str(folder / "wnids.txt"))
    assert stated.classes == ["n02", "n01", "n03"]
    assert [[1, 0, 2][label] for label in usual.test.labels] == stated.test.labels.tolist()


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        (CONTRADICTION, 1),
        ('{"id2label": {"0": "crane", "1": "crane"}}', 1),
        ('{"id2label": {"0": "dog", "1": "cat"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}', 0),
        ('{"hidden_size": 192}', 0),
    ],
)
def test_a_configuration_that_contradicts_itself_is_told(tmp_path, caplog, text, warnings):
    (tmp_path / "config.json").write_text(text)
    assert classes_beside(tmp_path) == (None if warnings or "hidden" in text else ["dog", "cat"])
    assert len(caplog.messages) == warnings
