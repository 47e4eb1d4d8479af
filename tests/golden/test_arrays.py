import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.errors import StaleArtefact, TestbedError
from testbed.golden.arrays import array_writer, read_array


@given(
    st.lists(st.integers(0, 5), max_size=6),
    st.lists(st.integers(1, 4), max_size=3),
    st.sampled_from([np.float32, np.int64]),
)
def test_batches_become_one_array(tmp_path_factory, sizes, shape, dtype):
    path = tmp_path_factory.mktemp("arrays") / "a.npy"
    whole = np.random.default_rng(0).integers(-99, 99, (sum(sizes), *shape)).astype(dtype)
    with array_writer(path, len(whole), dtype) as writer:
        for part in np.split(whole, np.cumsum(sizes)) if sizes else [whole]:
            writer.append(part)
    found = read_array(path)
    assert found.dtype == dtype
    assert np.array_equal(found, whole)


@pytest.mark.parametrize("batches", [[(2, 3)], [(2, 3), (3, 3)], [(2, 3), (2, 4)], []])
def test_wrong_rows_or_shapes_leave_no_file(tmp_path, batches):
    def write():
        with array_writer(tmp_path / "a.npy", 4) as writer:
            for shape in batches:
                writer.append(np.zeros(shape, np.float32))

    with pytest.raises(TestbedError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_writer_leaves_no_file(tmp_path):
    def write():
        with array_writer(tmp_path / "a.npy", 4) as writer:
            writer.append(np.zeros((2, 3), np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [lambda content: content[:-4], lambda content: b"no array", lambda content: b""])
def test_a_damaged_array_is_named(tmp_path, damage):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((4, 3), np.float32))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StaleArtefact, match=r"a\.npy is not a readable array"):
        read_array(path)


def test_nothing_in_an_array_file_is_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"code": 1}], object), allow_pickle=True)
    with pytest.raises(StaleArtefact):
        read_array(tmp_path / "a.npy")
