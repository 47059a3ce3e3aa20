"""Classifies images by the cascade in this directory; needs numpy and onnxruntime only.

python run.py IMAGES.npy [CONSTRAINT]    # prints of each image the exit at which it left, and its class

In Python: `from run import Cascade`, then `Cascade("macs<=2M").classify(images)`.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


class Cascade:
    """The segments of a network with the thresholds of one of the constraints in cascade.json, or of the first."""

    def __init__(self, constraint=None, directory=None):
        directory = Path(directory or Path(__file__).resolve().parent)
        self.record = json.loads((directory / "cascade.json").read_text(encoding="utf-8"))
        thresholds = {each["constraint"]: each["thresholds"] for each in self.record["cascades"]}
        if constraint not in (None, *thresholds):
            raise ValueError(f"constraint={constraint!r} is not allowed: one of {', '.join(thresholds)}")
        self.thresholds = thresholds[constraint or next(iter(thresholds))]
        self.exits = [segment["exit"] for segment in self.record["segments"]]
        files = [str(directory / segment["file"]) for segment in self.record["segments"]]
        self.sessions = [onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]) for file in files]

    def classify(self, images, batch_size=64):
        """The logits of images [N, R, R, 3], float32 [N, classes], and the exits at which they left, int [N]."""
        images, size = np.asarray(images), self.record["design"]["resolution"]
        dtype = {"uint8": "uint8", "float": "float32"}[self.record["input"]]
        if images.ndim != 4 or images.shape[1:] != (size, size, 3) or images.dtype != dtype:
            found = f"{images.dtype} {images.shape}"
            raise ValueError(f"images are {found}, which is not allowed: {dtype} [N, {size}, {size}, 3]")
        logits, exits = np.zeros((len(images), self.record["num_classes"]), np.float32), np.zeros(len(images), int)
        for first in range(0, len(images), batch_size):
            x = images[first : first + batch_size]
            places = np.arange(first, first + len(x))
            for session, threshold, exit in zip(self.sessions, self.thresholds, self.exits):
                found, *features = session.run(None, {session.get_inputs()[0].name: x})
                below = found.astype(np.float64) - found.max(1, keepdims=True)
                leaves = (1 / np.exp(below).sum(1) >= threshold) | (not features)
                logits[places[leaves]], exits[places[leaves]] = found[leaves], exit
                if leaves.all():
                    break
                places, x = places[~leaves], features[0][~leaves]
        return logits, exits


def main(file, constraint=None):
    """Prints what the images of a .npy file show."""
    cascade = Cascade(constraint)
    logits, exits = cascade.classify(np.load(file, allow_pickle=False))
    names = cascade.record["class_names"] or [f"class {number}" for number in range(cascade.record["num_classes"])]
    for image, (exit, best) in enumerate(zip(exits, logits.argmax(1))):
        print(f"{image}\texit {exit}\t{names[best]}")


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if len(sys.argv) not in (2, 3):
        print("error: usage: python run.py IMAGES.npy [CONSTRAINT]", file=sys.stderr)
        sys.exit(2)
    try:
        main(*sys.argv[1:])
    except Exception as error:  # NumPy and onnxruntime have kinds of their own
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
