"""The subnets that the authors' scripts visit when they validate and test."""

from collections.abc import Mapping, Sequence


def authors_choices(unlocked: Mapping[str, Sequence[int]], current: str) -> dict[str, tuple[int, ...]]:
    """The values of each choice that their test of a phase visits.

    Args:
        unlocked: for each choice the values that are unlocked in the phase, see `phases.unlocked_values`.
        current: the choice that the phase unlocks, of which all values are visited; of the others the largest and the
            smallest are. Of level codes, those with the most blocks and those with the fewest. "": no choice.

    Returns:
        For each choice the visited values, in the order of `unlocked`.
    """

    def size(name: str, value: int) -> int:
        return value.bit_count() if name == "level" else value

    visited = {}
    for name, values in unlocked.items():
        sizes = [size(name, value) for value in values]
        ends = {min(sizes), max(sizes)}
        visited[name] = tuple(value for value in values if name == current or size(name, value) in ends)
    return visited


def ends(resolutions: Sequence[int]) -> tuple[int, ...]:
    """The resolutions that their test visits: the smallest and the largest."""
    return tuple(sorted({min(resolutions), max(resolutions)}))


def thirds(resolutions: Sequence[int]) -> tuple[int, ...]:
    """The resolutions at which they validate phase full: the smallest, the middle one and the largest."""
    ordered = sorted(resolutions)
    return tuple(sorted({ordered[0], ordered[len(ordered) // 2], ordered[-1]}))
