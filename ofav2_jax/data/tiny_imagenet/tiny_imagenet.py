"""The TFDS builder of Tiny ImageNet: 200 classes of 64x64 photographs, a subset of ImageNet."""

import os
import shutil
import urllib.request
from pathlib import Path

import tensorflow_datasets as tfds

from ofav2_jax.data.tiny_imagenet.archive import LabelledImage, published_contents, read_archive

_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_CONNECTION_TIMEOUT_S = 20
_DESCRIPTION = """
200 classes with 500 training and 50 validation images each, 64x64, made for Stanford's course CS231N. The test
images, whose labels were never published, are left out.
"""
_CITATION = """
@article{le2015tiny,
  title={Tiny {ImageNet} Visual Recognition Challenge},
  author={Le, Ya and Yang, Xuan},
  journal={CS 231N},
  year={2015}
}
"""


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """Tiny ImageNet with splits "train" (100,000 images) and "validation" (10,000), in ArrayRecord files.

    The records hold the published JPEG bytes: TFDS needs no TensorFlow to write or read them. Classes are
    numbered in the order of their sorted WordNet ids. The whole archive is checked before anything is written.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The archive as published."}
    _contents = published_contents()

    def __init__(self, *, archive: str | os.PathLike | None = None, file_format="array_record", **kwargs):
        """Initialises the builder.

        Args:
            archive: a local copy of tiny-imagenet-200.zip, or the same tree in a tar; None downloads the zip.
            file_format: of the records.
            **kwargs: what every builder takes, such as `data_dir`.
        """
        self._archive = archive
        super().__init__(file_format=file_format, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self._contents.size
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(size, size, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=self._contents.wnids),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="http://cs231n.stanford.edu/",
            citation=_CITATION,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        archive = self._archive or _download(dl_manager, self.data_dir_root / "downloads" / self.name)
        images = read_archive(archive, self._contents)
        return {
            "train": self._generate_examples(images.train),
            "validation": self._generate_examples(images.validation),
        }

    def _generate_examples(self, images: dict[str, LabelledImage]):
        # TFDS keeps a copy of all until the split is complete: give up ours as it goes.
        while images:
            name, (jpeg, wnid) = images.popitem()
            yield name, {"image": jpeg, "label": wnid}


def _download(dl_manager: tfds.download.DownloadManager, download_dir: Path) -> os.PathLike:
    """Downloads the published archive to a folder of `download_dir`.

    Raises:
        ConnectionError: if the server cannot be reached or what it sends has another checksum.
    """
    advice = "give a local copy of it as `archive`"
    # TFDS tries again for minutes, noisily, where there is no network.
    try:
        urllib.request.urlopen(urllib.request.Request(_URL, method="HEAD"), timeout=_CONNECTION_TIMEOUT_S).close()
    except OSError as error:
        raise ConnectionError(f"{_URL} cannot be reached ({error}): {advice}") from error
    # Of a process that was killed.
    _remove_parts(download_dir)
    try:
        return dl_manager.download(_URL)
    except Exception as error:
        _remove_parts(download_dir)
        raise ConnectionError(f"{_URL} could not be downloaded ({error}): {advice}") from error


def _remove_parts(download_dir: Path) -> None:
    """Removes what TFDS has downloaded in part, under names that it never looks at again."""
    for part in download_dir.glob("*.tmp.*"):
        shutil.rmtree(part, ignore_errors=True)
