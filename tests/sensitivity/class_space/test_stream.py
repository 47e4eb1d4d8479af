"""What a pass holds does not grow with the number of images, whichever part of a study watches it."""

import pytest

from testbed.sensitivity.attention_maps.gather import measure_distances
from testbed.sensitivity.class_space.explain.curves import perturbation_curves
from testbed.sensitivity.class_space.identifiability import IdentifiabilityObserver
from testbed.sensitivity.class_space.memories import KeyValueObserver
from testbed.sensitivity.class_space.perturbation import measure_perturbations
from testbed.sensitivity.class_space.probe import probe_layers
from testbed.sensitivity.class_space.projection import ClassProjection
from testbed.sensitivity.class_space.stream import BlockObserver, observe
from tests.support.held_memory import held_bytes

FEW, MANY = 16, 64
HIT_BYTES = 8  # a perturbation's hits are kept, for the paired comparison with the unperturbed model
DISTANCE_BYTES = 2 * 2 * 8  # attention distances are kept: one number per block and head


def identifiability(model, split, advance):
    observers: list[BlockObserver] = [IdentifiabilityObserver(ClassProjection.of(model)), KeyValueObserver(model)]
    observe(model, split, observers, advance=advance)


def perturbations(model, split, advance):
    measure_perturbations(model, split, advance=advance)


def explanations(model, split, advance):
    perturbation_curves(model, split, advance=advance)


def probes(model, split, advance):
    probe_layers(model, split, split, positions=[0, "pooled", 3], advance=advance)


def distances(model, split, advance):
    def batches():
        for images, _ in split.batches(4):
            yield images
            advance(len(images))

    measure_distances(model, batches())


@pytest.mark.parametrize(
    ("part", "kept_bytes"),
    [
        (identifiability, 0),
        (perturbations, 3 * HIT_BYTES),
        (explanations, 0),
        (probes, 0),
        (distances, DISTANCE_BYTES),
    ],
)
def test_memory_is_independent_of_the_number_of_images(make_model, make_split, monkeypatch, part, kept_bytes):
    monkeypatch.setattr("testbed.sensitivity.class_space.stream.LARGEST_BATCH", 4)
    model = make_model()

    def most_held(images):
        split, most = make_split(images), 0
        with held_bytes() as held:
            before = held()

            def advance(_images):
                nonlocal most
                most = max(most, held() - before)

            part(model, split, advance)
        return most

    grown = most_held(MANY) - most_held(FEW)
    assert grown <= kept_bytes * (MANY - FEW)
