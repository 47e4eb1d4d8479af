from testbed.analysis.outputs.classes import class_counts, classes_told, one_class_warning

NAMES = ["cat", "dog", "owl"]


def test_the_classes_that_are_there_in_class_order():
    assert class_counts([2, 0, 2], NAMES) == {"cat": 1, "owl": 2}
    assert class_counts([2, 0, 5], NAMES[:1]) == {
        "cat": 1,
        "2": 1,
        "5": 1,
    }  # named in an older manifest that was edited


def test_a_few_are_listed():
    assert classes_told({"cat": 1, "owl": 1200}, 3) == "1,201 images of 2 of 3 classes: cat (1), owl (1,200)"
    assert classes_told({"cat": 1, "dog": 4, "owl": 2}, 3) == "7 images of 3 classes: cat (1), dog (4), owl (2)"


def test_many_are_told_in_numbers():
    assert classes_told({f"n{k}": 2 for k in range(100)}, 1000) == "200 images of 100 of 1,000 classes, 2 of each"
    many = {f"n{k}": 1 + k % 3 for k in range(30)}
    assert classes_told(many, 30) == "60 images of 30 classes, 1 to 3 of each"


def test_one_class_is_warned_of_unless_there_is_but_one():
    assert one_class_warning({"cat": 5}, 3) == (
        "all 5 images are of one class, 'cat', of the data set's 3: what is found speaks of it alone"
    )
    assert one_class_warning({"cat": 5}, 1) is None
    assert one_class_warning({"cat": 5, "dog": 1}, 3) is None
