"""Loads folders of images as tests of several modules do."""

import ofav2_jax as ofa

SIZE = 16


def load(root, **arguments):
    return ofa.load_dataset("folder", **{"data_dir": root, "base_resolution": SIZE, **arguments})


def sizes(dataset):
    return {split: dataset.class_counts(split).tolist() for split in dataset.splits}


def a_file(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
