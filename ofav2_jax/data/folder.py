"""A folder of one's own images, and Tiny ImageNet as it is unpacked."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ofav2_jax.checks import local_path
from ofav2_jax.data.array_checks import listed
from ofav2_jax.data.dataset import TINY_IMAGENET_NORMALISATION, Dataset, Request
from ofav2_jax.data.decoding import ImageSource
from ofav2_jax.data.from_cache import Undecoded, dataset_of_decoded, planned_dataset
from ofav2_jax.data.image_cache import cached_images, default_cache_dir, load_cached
from ofav2_jax.data.listing import TRAIN, ImageFile, Listing, image_file, list_folder, list_splits
from ofav2_jax.data.tiny_imagenet.archive import published_contents

_ANNOTATIONS = Path("val", "val_annotations.txt")


def load_folder(request: Request) -> Dataset:
    """Loads the images of the folder `request.data_dir`; decodes them once and for all.

    Args:
        request: what is wanted.

    Returns:
        The data set; its images are a read-only memory map.

    Raises:
        ValueError: naming the folder or the file, and what is wrong with it.
    """
    if request.data_dir is None:
        raise ValueError("data.data_dir=None is not allowed: data.dataset='folder' needs the folder of the images")
    root = local_path("data.data_dir", request.data_dir)
    is_tiny_imagenet = (root / _ANNOTATIONS).is_file() and request.test_split is None
    listing = _list_tiny_imagenet(root, request) if is_tiny_imagenet else list_folder(root, request)
    resolution = request.base_resolution or 64
    # The path and not the name alone, because many folders have the same name.
    path_digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:12]
    key = "-".join(["folder", re.sub(r"[^\w.]+", "-", root.resolve().name), path_digest, str(resolution)])
    choice = "-".join(filter(None, [request.test_split, request.validation_split]))
    directory = default_cache_dir() / "-".join(filter(None, [key, re.sub(r"[^\w.]+", "-", choice)]))
    identity = {"resolution": resolution, "files_sha256": listing.digest}
    normalisation = request.normalisation
    if normalisation is None and listing.class_names == published_contents().wnids and is_tiny_imagenet:
        normalisation = TINY_IMAGENET_NORMALISATION
    decoded = load_cached(directory, identity, request.skip_broken)
    if decoded is None:
        labels = {split: [file.label for file in files] for split, files in listing.splits.items()}
        undecoded = Undecoded(labels, listing.class_names, resolution, directory)
        planned = planned_dataset(undecoded, root.name, request, normalisation, listing.notes)
        if request.plan_only:
            return planned
        decoded = cached_images(
            directory, identity, lambda: _source(listing, resolution), request.skip_broken, request.progress
        )
    return dataset_of_decoded(decoded, root.name, request, normalisation, listing.notes)


def _source(listing: Listing, resolution: int) -> ImageSource:
    def read(split: str, part: range) -> Iterator[tuple[Path, int]]:
        for index in part:
            file = listing.splits[split][index]
            yield listing.root / file.path, file.label

    return ImageSource(
        lengths={split: len(files) for split, files in listing.splits.items()},
        class_names=listing.class_names,
        resolution=resolution,
        read=read,
        describe=lambda split, index: str(listing.root / listing.splits[split][index].path),
    )


def _list_tiny_imagenet(root: Path, request: Request) -> Listing:
    """Lists the folder that Tiny ImageNet's archive contains: train/WNID/images, val/images and val_annotations.txt.

    The labelled images of `val` are the test split; those of `test` have no labels. The images come in the order in
    which the prepared archive has them, so that they are divided into training and validation images in the same way.

    Raises:
        ValueError: naming the folder or the file, and what is wrong with it.
    """
    if request.validation_split is not None:
        raise ValueError(
            f"data.validation_split={request.validation_split!r} is not allowed: {root} is Tiny ImageNet, whose val is "
            "the test split"
        )
    listing = list_splits(root, {TRAIN: "train"}, request.skip_broken)
    labels = {name: label for label, name in enumerate(listing.class_names)}
    annotated, left_out = {}, set()
    for line in (root / _ANNOTATIONS).read_text(encoding="utf-8", errors="replace").splitlines():
        name, wnid = [*line.split("\t"), ""][:2]
        if wnid in labels:
            annotated[name] = labels[wnid]
        else:
            left_out.add(name)
    test = []
    with os.scandir(root / "val" / "images") as entries:
        for entry in entries:
            if entry.name in annotated:
                test.append(image_file(f"val/images/{entry.name}", annotated.pop(entry.name), entry))
            elif entry.name not in left_out and not entry.name.startswith("."):
                raise ValueError(f"{root / _ANNOTATIONS} has no label for {entry.name}")
    if annotated:
        raise ValueError(f"{root / 'val' / 'images'} lacks {listed(sorted(annotated))}")
    notes = [f"{len(left_out):,} images of val left out, whose classes are not in train"] if left_out else []
    splits = {TRAIN: listing.splits[TRAIN], "test": test}
    salts = {TRAIN: "train", "test": "validation"}
    ordered = {split: sorted(files, key=lambda file: _hash(salts[split], file)) for split, files in splits.items()}
    return Listing(root, listing.class_names, ordered, tuple(notes))


def _hash(salt: str, file: ImageFile) -> str:
    """The key by which TensorFlow Datasets orders the records of a split."""
    return hashlib.md5(f"{salt}{os.path.basename(file.path)}".encode()).hexdigest()
