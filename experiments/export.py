"""Writes a network that was taken out of a supernet for other runtimes, and runs the file to see that it is the same.

python -m experiments.export --network=net.safetensors --format=onnx|stablehlo --out=FILE [--input=uint8|float]
ofav2 export --network=net.safetensors --format=onnx --out=net.onnx    # anywhere, where the package is installed

Both kinds of files take any number of images [N, R, R, 3]: uint8 RGB with the normalisation inside of the network, or
normalised floats. They are then run on random images; a file whose logits differ from the network's is removed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .output import print_anything
from .parser import Parser, complain, interruptible, load_network, new_file

_FORMATS = {"onnx": ".onnx", "stablehlo": ".stablehlo"}


def command(arguments: Sequence[str], program: str) -> int:
    """See `commands.Command`."""
    return main(arguments, program)


@interruptible
def main(argv: Sequence[str] | None = None, program: str = "python -m experiments.export") -> int:
    """Writes and verifies the file.

    Args:
        argv: the command line after the name of the program; None means that of this process.
        program: how the user starts this program.

    Returns:
        The exit status: 0; 1 if the file did not compute what the network does; 2 if the arguments, the network or the
        target are not usable, or a package is missing. Except for 0 no file is left.
    """
    print_anything()
    parser = Parser(prog=program, description="Writes a network for other runtimes.")
    parser.add_argument("--network", metavar="FILE", required=True, help="a file that extract wrote")
    parser.add_argument("--format", choices=_FORMATS, required=True, help="what to write")
    parser.add_argument("--out", metavar="FILE", required=True, help="NAME.onnx or NAME.stablehlo")
    parser.add_argument("--input", choices=("uint8", "float"), default="uint8", help="what it reads; uint8")
    arguments = parser.parse_args(argv)
    try:
        with new_file("out", arguments.out, _FORMATS[arguments.format]) as out:
            return _export(arguments, out)
    except (ValueError, OSError, ImportError) as error:
        complain(error)
        return 2


def _export(arguments: argparse.Namespace, out: Path) -> int:
    """Writes and verifies the file; returns the exit status."""
    from ofav2_jax import to_onnx, to_stablehlo
    from ofav2_jax.deploy.verify import verify

    alone = load_network("network", arguments.network)
    {"onnx": to_onnx, "stablehlo": to_stablehlo}[arguments.format](alone, out, input=arguments.input)
    try:
        difference = verify(out, alone, arguments.input)
    except ImportError:
        out.unlink()
        raise
    except ValueError as error:
        out.unlink()
        complain(f"{error}; removed")
        return 1
    print(f"network      {alone.design}, {alone.params:,} parameters, {alone.num_classes} classes")
    print(f"input        images, {arguments.input} [N, {alone.design.resolution}, {alone.design.resolution}, 3], RGB")
    print(f"verified     logits within {difference:.1g} of the largest, for 1 and for 64 images")
    print(f"written to   {out} ({out.stat().st_size / 1e6:.2f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
