"""The 1,797 handwritten digits of UCI's "Optical Recognition of Handwritten Digits" test set, embedded.

They are the images that scikit-learn's `load_digits` returns: 8x8, 17 grey levels, published by E. Alpaydin and
C. Kaynak under CC BY 4.0. They are shipped here so that the quickstart needs no network.
"""

from importlib import resources

import numpy as np

from ofav2_jax.data.augment import Normalisation
from ofav2_jax.data.dataset import Dataset, stratified_split

# Height and width of the images.
RESOLUTION = 8
_TEST_FRACTION = 0.2


def load_digits(seed: int, validation_fraction: float = 0.15) -> Dataset:
    """Loads the digits as RGB images; 20 % are for testing, and a share of the rest for validation, class by class.

    Args:
        seed: seed of the split between training and validation; the test images are always the same.
        validation_fraction: share of the images that are not test images, in (0, 1).
    """
    with resources.files("ofav2_jax.data").joinpath("digits.npz").open("rb") as file:
        arrays = np.load(file)
        grey, labels = arrays["images"], arrays["labels"].astype(np.int32)
    # Scales 0..16 to 0..255.
    images = np.repeat(np.round(grey * (255 / 16)).astype(np.uint8)[..., None], 3, axis=-1)
    rest, test = stratified_split(labels, _TEST_FRACTION, seed=0)
    train, validation = (rest[part] for part in stratified_split(labels[rest], validation_fraction, seed))
    return Dataset(
        name="digits",
        images=images,
        labels=labels,
        splits={"train": train, "validation": validation, "test": test},
        num_classes=10,
        normalisation=Normalisation((0.3053,) * 3, (0.3759,) * 3),
    )
