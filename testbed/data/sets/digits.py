"""The handwritten digits of scikit-learn: 1,797 real 8 x 8 images that come with the package, nothing to download."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from testbed.data.collection import Collection, Examples
from testbed.data.registry import Request, register
from testbed.data.splitting import pick, stratified

TEST_SHARE, VALIDATION_SHARE = 0.40, 0.10  # of the whole; a large test part so that low-confidence tiers are not empty


@register("digits", note="comes with scikit-learn")
def digits(request: Request) -> Collection:
    """Ids are ``digits/NNNN``, the index in scikit-learn's order. Pixels 0..16 are scaled to [0, 1]."""
    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 8, 8) / 16).astype(np.float32)
    whole = Examples.from_arrays("digits", pixels, labels)
    rest, test = stratified(np.arange(len(labels)), labels, TEST_SHARE, request.seed)
    train, validation = stratified(rest, labels, VALIDATION_SHARE / (1 - TEST_SHARE), request.seed)
    return Collection(
        classes=[str(digit) for digit in range(10)],
        train=pick(whole, train),
        validation=pick(whole, validation),
        test=pick(whole, test),
        preprocess="digits",
        seeded_test=True,
    )
