"""A miniature of Tiny ImageNet's archive: three classes of noise."""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image

from ofav2_jax.data.tiny_imagenet.archive import Contents

ROOT = "tiny-imagenet-200"
WNIDS = ("n00000001", "n00000002", "n00000003")
CONTENTS = Contents(WNIDS, train_images=4, validation_images=6, size=64)
GREY = f"{ROOT}/train/n00000002/images/n00000002_1.JPEG"


def jpeg(seed, mode="RGB", size=64):
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def mini_tree():
    """The files of a miniature archive by name, with the layout of the published one."""
    tree = {f"{ROOT}/wnids.txt": "\n".join(reversed(WNIDS)).encode() + b"\n", f"{ROOT}/words.txt": b"n00000001\tnoise"}
    for number, wnid in enumerate(WNIDS):
        tree[f"{ROOT}/train/{wnid}/{wnid}_boxes.txt"] = b"boxes"
        for i in range(CONTENTS.train_images):
            name = f"{ROOT}/train/{wnid}/images/{wnid}_{i}.JPEG"
            tree[name] = jpeg(10 * number + i, "L" if name == GREY else "RGB")
    annotations = []
    for i in range(CONTENTS.validation_images):
        tree[f"{ROOT}/val/images/val_{i}.JPEG"] = jpeg(100 + i)
        annotations.append(f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t0\t63\t63\n")
    tree[f"{ROOT}/val/val_annotations.txt"] = "".join(annotations).encode()
    tree[f"{ROOT}/test/images/test_0.JPEG"] = b"not looked at"
    return tree


def write_zip(path, tree):
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir(ROOT)
        for name, content in tree.items():
            archive.writestr(name, content)
    return path


def write_tar(path, tree, prefix=""):
    compression = path.suffix[1:] if path.suffix != ".tar" else ""
    with tarfile.open(path, f"w:{compression}") as archive:
        folder = tarfile.TarInfo(prefix + ROOT)
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in tree.items():
            entry = tarfile.TarInfo(prefix + name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path
