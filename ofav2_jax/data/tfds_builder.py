"""Finds and prepares data sets of TensorFlow Datasets; what is wrong is said in one line."""

import contextlib
import io
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ofav2_jax.checks import did_you_mean, local_path, refuse
from ofav2_jax.data.array_checks import listed
from ofav2_jax.locking import locked

TINY_IMAGENET = "tiny_imagenet"
_CONNECTION_TIMEOUT_S = 10
# "cifar10", "imagenet_resized/64x64", "cifar10:3.0.2"
_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.\-+]+))?(:(?P<version>[\w.*]+))?")
_INFO = "dataset_info.json"
# What TFDS puts before the reason.
_CONSTRUCTED = re.compile(r"^Failed to construct dataset .*?\}\": ")


def find_builder(name: str, data_dir: str | os.PathLike | None, archive: str | os.PathLike | None) -> Any:
    """The builder of a data set, prepared or not.

    Args:
        name: "tiny_imagenet", or a name in TFDS.
        data_dir: the directory of prepared data sets; None: that of TFDS.
        archive: a local copy of Tiny ImageNet's archive, or None.

    Raises:
        ValueError: if there is no such data set, naming what was probably meant.
    """
    parts = _NAME.fullmatch(name)
    directory = local_path("data.data_dir", data_dir) if data_dir is not None else _default_directory()
    if parts is None:
        raise ValueError(f"data.dataset={name!r} is not allowed: {_path_advice(local_path('data.dataset', name))}")
    _require_parent(directory, parts["name"])
    import tensorflow_datasets as tfds

    if name == TINY_IMAGENET:
        from ofav2_jax.data.tiny_imagenet.tiny_imagenet import TinyImagenet

        archive = local_path("data.archive", archive) if archive is not None else None
        builder = TinyImagenet(data_dir=directory, archive=archive)
        if archive is not None and not archive.exists() and not is_prepared(builder):
            raise FileNotFoundError(f"archive {archive} is not a file")
        return builder
    try:
        # TFDS prints a banner where TensorFlow is missing.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return tfds.builder(name, data_dir=directory)
    except tfds.core.registered.DatasetNotFoundError:
        pass
    except ImportError as error:
        reason = _CONSTRUCTED.sub("", str(error))
        raise ImportError(
            f"data set {name!r} needs what is not installed ({reason}): {_elsewhere(parts['name'])}"
        ) from error
    except (ValueError, AssertionError, RuntimeError) as error:
        reason = _CONSTRUCTED.sub("", " ".join(str(error).split()))[:300]
        raise ValueError(f"data.dataset={name!r} is not allowed: {reason}") from None
    there = _prepared(directory / parts["name"])
    if there:
        raise ValueError(f"data.dataset={name!r} is not allowed: {directory} has {listed(there)}")
    state = "is not prepared in" if directory.is_dir() else "there is no folder"
    # The message of TFDS itself lists more than a thousand names.
    here = [folder.name for folder in directory.iterdir() if _prepared(folder)] if directory.is_dir() else []
    known = ["digits", "folder", TINY_IMAGENET, *here, *tfds.list_builders(with_community_datasets=False)]
    raise ValueError(
        f"data set {name!r} is unknown to TensorFlow Datasets {tfds.__version__} and {state} {directory}; "
        f"https://www.tensorflow.org/datasets/catalog lists the names{did_you_mean(name, known)}"
    )


def _default_directory() -> Path:
    """The directory of prepared data sets that TFDS uses if none is named."""
    try:
        return Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")
    except RuntimeError:
        refuse("data.data_dir", None, "the directory of prepared data sets, because there is no home directory")


def _elsewhere(name: str) -> str:
    return f"prepare it elsewhere with `tfds build {name} --file_format=array_record` and give its `data_dir`"


def _path_advice(path: Path) -> str:
    if (path / _INFO).is_file():
        name, parent = _set_in(path)
        return f"it is a path; write --config.data.dataset={name} --config.data.data_dir={parent}"
    if path.is_dir():
        return f"it is a path; for a folder of images write --config.data.dataset=folder --config.data.data_dir={path}"
    return "it is neither the name of a data set nor a folder; names are written as name, name/config or name:version"


def _set_in(path: Path) -> tuple[str, Path]:
    """Name and data directory of a prepared data set in the folder DATA_DIR/name[/config]/version."""
    path = path.resolve()
    above = path.parent if re.fullmatch(r"\d+\.\d+\.\d+", path.name) else path
    return above.name, above.parent


def _require_parent(directory: Path, name: str) -> None:
    """Refuses a data directory that is the folder of the data set itself."""
    if (directory / _INFO).is_file():
        _, parent = _set_in(directory)
    elif directory.name == name and _prepared(directory) and not (directory / name).is_dir():
        parent = directory.resolve().parent
    else:
        return
    raise ValueError(
        f"data.data_dir={str(directory)!r} is not allowed: it is the folder of a data set; give the folder that this "
        f"one lies in, {parent}"
    )


def _prepared(folder: Path) -> list[str]:
    """What is prepared in a data set's folder: "name:version", or "name/config:version"."""
    found = []
    for file in sorted([*folder.glob(f"*/{_INFO}"), *folder.glob(f"*/*/{_INFO}")]):
        *config, version = file.parent.relative_to(folder).parts
        found.append("/".join([folder.name, *config]) + f":{version}")
    return found


def is_prepared(builder: Any) -> bool:
    """Whether a data set need not be downloaded or generated."""
    return (Path(builder.data_dir) / _INFO).is_file()


def prepare(builder: Any) -> None:
    """Downloads and prepares a data set that is not prepared; only a new builder can then read it.

    Processes that need the same one wait for each other. Its folder appears when it is complete; what a process that
    was killed has left of it is removed.

    Raises:
        ValueError: if what was downloaded or given is damaged.
        ImportError: if TFDS needs TensorFlow for it.
        OSError: if it cannot be downloaded (ConnectionError), or not be written.
    """
    folder = Path(builder.data_dir)
    downloads = Path(builder.data_dir_root) / "downloads"
    with _without_empty(folder.parent, downloads / builder.name, downloads / "extracted"):
        with locked(folder.with_name(f"{folder.name}.lock"), f"prepares {builder.info.full_name}") as is_alone:
            # Another process may have done it while this one waited.
            if not is_prepared(builder):
                _prepare(builder, folder, is_alone)


@contextlib.contextmanager
def _without_empty(*folders: Path) -> Iterator[None]:
    """Afterwards removes folders, and those around them, that were not there before and in which nothing is."""
    missing = {each for folder in folders for each in (folder, *folder.parents) if not each.exists()}
    try:
        yield
    finally:
        for each in sorted(missing, reverse=True):
            with contextlib.suppress(OSError):
                each.rmdir()


def _prepare(builder: Any, folder: Path, is_alone: bool) -> None:
    missing = f"{builder.info.full_name} is not prepared in {folder}"
    elsewhere = _elsewhere(builder.name)
    if folder.exists():
        raise ValueError(f"{missing}, but there is a folder without {_INFO}: remove it, or give another data_dir")
    is_ours = builder.name == TINY_IMAGENET
    if not is_ours:
        _require_reachable(builder, missing, elsewhere)
    try:
        _generate(builder, folder, is_alone)
    except ImportError as error:
        raise ImportError(
            f"{missing}, and TensorFlow Datasets cannot prepare it without TensorFlow ({error}): "
            f"pip install tensorflow, or {elsewhere}"
        ) from error
    except Exception as error:
        if is_ours:
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConnectionError(f"{missing}, and could not be downloaded and prepared ({reason}): {elsewhere}") from error


def _generate(builder: Any, folder: Path, is_alone: bool) -> None:
    """Generates a data set under a name that tells whose it is, and then gives it its own.

    TFDS generates in a folder beside that, `incomplete.RANDOM_NAME`, which it leaves if its process is killed.
    """
    import tensorflow_datasets as tfds

    own = folder.with_name(f"{folder.name}.ofav2_jax")
    if is_alone:
        for left in (own, *folder.parent.glob(f"incomplete.*_{own.name}")):
            shutil.rmtree(left, ignore_errors=True)
    try:
        # TFDS prints the name that the folder has for now; the bar of its progress is on stderr.
        with (
            tfds.core.utils.temporary_assignment(builder, "_data_dir", str(own)),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            builder.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD)
        own.rename(folder)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _require_reachable(builder: Any, missing: str, elsewhere: str) -> None:
    """Refuses to download from where nothing answers: TFDS tries again for minutes."""
    try:
        urls = list(builder.url_infos or ())
    except Exception:
        # Sets that are not downloaded have no list of addresses.
        return
    for url in urls[:1]:
        host = urllib.parse.urlsplit(url).netloc
        try:
            request = urllib.request.Request(f"{urllib.parse.urlsplit(url).scheme}://{host}/", method="HEAD")
            urllib.request.urlopen(request, timeout=_CONNECTION_TIMEOUT_S).close()
        except urllib.error.HTTPError:
            # It answers.
            continue
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ConnectionError(f"{missing}, and {host} cannot be reached ({reason}): {elsewhere}") from error
