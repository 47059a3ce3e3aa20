"""Says what is on images, by a network that was taken out of a supernet.

python -m experiments.predict --network=net.safetensors|net.onnx IMAGE... [--top=5]    # in a clone
ofav2 predict --network=net.onnx IMAGE...                                              # anywhere

Images may be of any format that Pillow reads, of any size and mode.
"""

import sys
from collections.abc import Sequence

from .output import print_anything
from .parser import Parser, complain, interruptible


def command(arguments: Sequence[str], program: str) -> int:
    """See `commands.Command`."""
    return main(arguments, program)


@interruptible
def main(argv: Sequence[str] | None = None, program: str = "python -m experiments.predict") -> int:
    """Prints the most probable classes of each image.

    Args:
        argv: the command line after the name of the program; None means that of this process.
        program: how the user starts this program.

    Returns:
        The exit status: 0, or 2 if the network or an image cannot be read; nothing is printed then.
    """
    print_anything()
    parser = Parser(prog=program, description="Says what is on images.")
    parser.add_argument("--network", metavar="FILE", required=True, help="NAME.safetensors or NAME.onnx")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="an image file")
    parser.add_argument("--top", metavar="N", type=int, default=5, help="how many classes are named; 5")
    arguments = parser.parse_args(argv)
    if arguments.top < 1:
        parser.error(f"--top={arguments.top} is not allowed: it must be at least 1")
    from ofav2_jax.checks import local_path
    from ofav2_jax.deploy.classify import Classifier

    try:
        classifier = Classifier(arguments.network)
        found = classifier.classify([local_path("IMAGE", path) for path in arguments.images], arguments.top)
    except (ValueError, OSError, ImportError) as error:
        complain(error)
        return 2
    for path, classes in zip(arguments.images, found):
        print(path)
        for name, probability in classes:
            print(f"  {probability:>7.2%}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
