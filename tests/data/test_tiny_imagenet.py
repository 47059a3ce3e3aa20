"""The builder of Tiny ImageNet, on good and bad archives with three classes of noise."""

import functools
import http.server
import io
import stat
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from ofav2_jax.data.tiny_imagenet import tiny_imagenet
from ofav2_jax.data.tiny_imagenet.archive import published_contents
from ofav2_jax.data.tiny_imagenet.tiny_imagenet import TinyImagenet
from tests.helpers.miniature import CONTENTS, GREY, ROOT, WNIDS, jpeg, mini_tree, write_tar, write_zip


@pytest.fixture(autouse=True)
def miniature(monkeypatch):
    monkeypatch.setattr(TinyImagenet, "_contents", CONTENTS)


def prepare(tmp_path, archive):
    builder = TinyImagenet(data_dir=tmp_path / "tfds", archive=archive)
    builder.download_and_prepare()
    return builder


def refusal(tmp_path, archive):
    """Returns the error of preparing a bad archive, and asserts that nothing incomplete is left behind."""
    with pytest.raises(ValueError) as caught:
        prepare(tmp_path, archive)
    message = str(caught.value)
    assert message.startswith(f"archive {archive}") and "\n" not in message
    assert [path for path in (tmp_path / "tfds").rglob("*") if path.is_file() or "incomplete" in path.name] == []
    assert {path.name for path in tmp_path.iterdir()} <= {"tfds", archive.name}
    return message


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
def test_prepares_every_kind_of_archive(tmp_path, name):
    tree = mini_tree()
    archive = write_zip(tmp_path / name, tree) if name == "a.zip" else write_tar(tmp_path / name, tree, "./")
    builder = prepare(tmp_path, archive)
    assert builder.info.features["label"].names == list(WNIDS)
    wnids = {
        "val": dict(line.split("\t")[:2] for line in tree[f"{ROOT}/val/val_annotations.txt"].decode().splitlines())
    }
    for split, part in (("train", "train/n"), ("validation", "val/images")):
        labels = {}
        for entry, content in tree.items():
            if entry.startswith(f"{ROOT}/{part}") and entry.endswith(".JPEG"):
                file = entry.split("/")[-1]
                wnid = wnids["val"].get(file) or file.split("_")[0]
                pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
                labels[pixels.tobytes()] = WNIDS.index(wnid)
        examples = builder.as_data_source(split)
        assert len(examples) == len(labels)
        # TFDS may or may not give grey images three channels; test_tfds_source.py tests that the loader does.
        colour = [e for e in examples if e["image"].shape == (64, 64, 3)]
        assert len(colour) >= len(labels) - 1
        assert all(labels[e["image"].tobytes()] == e["label"] for e in colour)


def test_order_of_records_does_not_depend_on_the_archive(tmp_path):
    tree = mini_tree()
    one = prepare(tmp_path / "one", write_archive_in(tmp_path / "one", tree))
    other = prepare(tmp_path / "other", write_archive_in(tmp_path / "other", dict(reversed(tree.items()))))
    assert [e["label"] for e in one.as_data_source("train")] == [e["label"] for e in other.as_data_source("train")]


def write_archive_in(folder, tree):
    folder.mkdir()
    return write_zip(folder / "a.zip", tree)


def test_published_contents_are_200_sorted_classes():
    contents = published_contents()
    assert len(set(contents.wnids)) == 200 and list(contents.wnids) == sorted(contents.wnids)
    assert contents[1:] == (500, 10_000, 64)


def without(*starts):
    return lambda tree: {name: content for name, content in tree.items() if not name.startswith(starts)}


def having(name, content):
    return lambda tree: {**tree, name: content}


TRAIN = f"{ROOT}/train/n00000003/images/n00000003_2.JPEG"
ANNOTATIONS = mini_tree()[f"{ROOT}/val/val_annotations.txt"]


@pytest.mark.parametrize(
    "change, message",
    [
        (without(f"{ROOT}/train/n00000002"), "the training images of n00000002 are missing"),
        (without(f"{ROOT}/train"), "the training images of n00000001 and 2 more are missing"),
        (without(TRAIN), "class n00000003 has 3 training images, not 4"),
        (having(TRAIN.replace("_2", "_9"), jpeg(1)), "class n00000003 has 5 training images, not 4"),
        (
            having(f"{ROOT}/train/n00000009/images/n00000009_0.JPEG", jpeg(1)),
            "tiny-imagenet-200/train has class n00000009, unknown in Tiny ImageNet",
        ),
        (
            having(f"{ROOT}/wnids.txt", b"n00000001\nn00000002\n"),
            "tiny-imagenet-200/wnids.txt lacks n00000003",
        ),
        (
            having(f"{ROOT}/wnids.txt", b"n00000001 n00000002 n00000003 n00000004"),
            "tiny-imagenet-200/wnids.txt lists n00000004, unknown in Tiny ImageNet",
        ),
        (having(TRAIN, jpeg(1)[:900]), f"broken image {TRAIN}: image file is truncated"),
        (having(TRAIN, b"no image"), f"broken image {TRAIN}: cannot identify image file"),
        (having(TRAIN, b""), f"broken image {TRAIN}: cannot identify image file"),
        (having(TRAIN, jpeg(1, size=32)), f"image {TRAIN} is 32x32, not 64x64"),
        (having(TRAIN, bytes(5 << 20)), f"{TRAIN} has 5242880 bytes; at most 4194304 are allowed"),
        (without(f"{ROOT}/val/images/val_3"), f"{ROOT}/val/images/val_3.JPEG missing"),
        (without(f"{ROOT}/val/val_a"), f"{ROOT}/val/val_annotations.txt is missing: this is not the layout of"),
        (having(f"{ROOT}/val/images/val_6.JPEG", jpeg(1)), "val_annotations.txt has no label for val_6.JPEG"),
        (
            having(f"{ROOT}/val/val_annotations.txt", ANNOTATIONS.replace(b"n00000001", b"n1")),
            "val_annotations.txt gives val_0.JPEG class 'n1', unknown in Tiny ImageNet",
        ),
        (
            lambda tree: without(f"{ROOT}/val/images/val_5")(
                having(f"{ROOT}/val/val_annotations.txt", ANNOTATIONS[: ANNOTATIONS.index(b"val_5")])(tree)
            ),
            "5 validation images, not 6",
        ),
        (
            lambda tree: {name.replace(ROOT, "data"): content for name, content in tree.items()},
            f"{ROOT}/wnids.txt is missing: this is not the layout of tiny-imagenet-200.zip",
        ),
        (lambda _: {}, f"{ROOT}/wnids.txt is missing: this is not the layout of tiny-imagenet-200.zip"),
    ],
)
def test_wrong_contents_are_named(tmp_path, change, message):
    assert message in refusal(tmp_path, write_zip(tmp_path / "a.zip", change(mini_tree())))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
@pytest.mark.parametrize("kept", [0.0005, 0.4, 0.9])
def test_truncated_archives_are_named(tmp_path, name, kept):
    write = write_zip if name == "a.zip" else write_tar
    archive = write(tmp_path / name, mini_tree())
    content = archive.read_bytes()
    archive.write_bytes(content[: int(kept * len(content))])
    message = refusal(tmp_path, archive)
    # A tar without compression has no mark at its end; that it is truncated shows by its missing files.
    assert any(word in message for word in ("truncated or damaged", "neither a zip nor a tar", "missing", "not 4"))
    if kept > 0.1 and name != "a.tar":
        assert "truncated or damaged" in message


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_flipped_bits_are_noticed(tmp_path, name):
    archive = (write_zip if name == "a.zip" else write_tar)(tmp_path / name, mini_tree())
    content = bytearray(archive.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(255 - byte for byte in content[middle : middle + 8])
    archive.write_bytes(content)
    assert "truncated or damaged" in refusal(tmp_path, archive)


def test_something_else_and_nothing_are_refused(tmp_path):
    other = tmp_path / "a.txt"
    other.write_text("hello")
    assert refusal(tmp_path, other).endswith("is neither a zip nor a tar file")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.zip is not a file"):
        prepare(tmp_path, tmp_path / "nowhere.zip")


@pytest.mark.parametrize("name", ["../escaped.JPEG", f"{ROOT}/../../escaped.JPEG", "{tmp}/escaped.JPEG"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_are_refused_and_never_written(tmp_path, name, kind):
    name = name.format(tmp=tmp_path)
    archive = (write_zip if kind == "zip" else write_tar)(tmp_path / f"a.{kind}", having(name, jpeg(0))(mini_tree()))
    assert f"entry {name!r} is a name that leads out of the archive" in refusal(tmp_path, archive)
    assert not list(tmp_path.parent.rglob("escaped*"))


@pytest.mark.parametrize("kind", ["zip", "symbolic", "hard", "pipe"])
def test_links_and_pipes_are_refused_and_never_followed(tmp_path, kind):
    tree = without(TRAIN)(mini_tree())
    if kind == "zip":
        archive = write_zip(tmp_path / "a.zip", tree)
        link = zipfile.ZipInfo(TRAIN)
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(archive, "a") as file:
            file.writestr(link, GREY)
    else:
        archive = write_tar(tmp_path / "a.tar", tree)
        link = tarfile.TarInfo(TRAIN)
        types = {"symbolic": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE}
        link.type, link.linkname = types[kind], GREY
        with tarfile.open(archive, "a") as file:
            file.addfile(link)
    assert f"entry {TRAIN!r} is a link or a device" in refusal(tmp_path, archive)


def test_a_folder_in_the_place_of_an_image_is_not_one(tmp_path):
    archive = write_tar(tmp_path / "a.tar", without(TRAIN)(mini_tree()))
    folder = tarfile.TarInfo(TRAIN)
    folder.type = tarfile.DIRTYPE
    with tarfile.open(archive, "a") as file:
        file.addfile(folder)
    assert "class n00000003 has 3 training images, not 4" in refusal(tmp_path, archive)


def test_a_file_that_is_in_the_archive_twice_is_refused(tmp_path):
    archive = write_tar(tmp_path / "a.tar", mini_tree())
    with tarfile.open(archive, "a") as file:
        entry = tarfile.TarInfo(TRAIN)
        entry.size = len(jpeg(5))
        file.addfile(entry, io.BytesIO(jpeg(5)))
    assert f"{TRAIN} is in it twice" in refusal(tmp_path, archive)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves the files of a folder; the builder downloads tiny-imagenet-200.zip from it."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    ) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(tiny_imagenet, "_URL", f"http://127.0.0.1:{http_server.server_port}/tiny-imagenet-200.zip")
        yield folder
        http_server.shutdown()


def test_downloads_the_zip(tmp_path, server):
    write_zip(server / "tiny-imagenet-200.zip", mini_tree())
    assert prepare(tmp_path, None).info.splits["train"].num_examples == 12


def test_a_download_with_another_checksum_is_refused_and_removed(tmp_path, server, monkeypatch):
    from tensorflow_datasets.core.download import checksums

    write_zip(server / "tiny-imagenet-200.zip", mini_tree())
    published = TinyImagenet.url_infos["http://cs231n.stanford.edu/tiny-imagenet-200.zip"]
    assert isinstance(published, checksums.UrlInfo)
    monkeypatch.setattr(TinyImagenet, "url_infos", {tiny_imagenet._URL: published})
    with pytest.raises(ConnectionError, match="wrong checksum"):
        prepare(tmp_path, None)
    assert not [path for path in (tmp_path / "tfds").rglob("*") if path.is_file()]


def test_says_what_to_do_where_there_is_no_network(tmp_path, server):
    with pytest.raises(ConnectionError, match=r"cannot be reached .*404.*: give a local copy of it as `archive`"):
        prepare(tmp_path, None)
