"""What the pictures of a page show: the Pareto front, the best subnets, and identifiers of their parts."""

import random
import re

from ofav2_jax.report import pictures
from ofav2_jax.report.svg import identifier


def test_pareto_front_is_what_nothing_beats():
    rng = random.Random(0)
    subnets = [{"macs": rng.randrange(20), "top1": rng.randrange(20), "n": n} for n in range(100)]

    def beaten(s):
        return any(
            t["macs"] <= s["macs"] and t["top1"] >= s["top1"] and (t["macs"], t["top1"]) != (s["macs"], s["top1"])
            for t in subnets
        )

    front = pictures.pareto_front(subnets)
    assert {(s["macs"], s["top1"]) for s in front} == {(s["macs"], s["top1"]) for s in subnets if not beaten(s)}
    assert [s["macs"] for s in front] == sorted({s["macs"] for s in front})


def test_best_tenth_includes_equals_of_its_last_one():
    subnets = [{"top1": top1} for top1 in [1.0] * 17 + [5.0, 5.0, 9.0]]
    assert [s["top1"] for s in pictures.best_subnets(subnets)] == [5.0, 5.0, 9.0]
    assert len(pictures.best_subnets(subnets[:1])) == 1


def test_identifiers_differ_where_texts_differ():
    assert identifier("phase-height-2") == "phase-height-2"
    assert identifier("a<b") == "a_3c_b"
    texts = ["a<", "a>", "a_3c_", "a 3c ", "a-3c-", "a", "A", "\N{LATIN SMALL LETTER E WITH ACUTE}", ""]
    assert len({identifier(text) for text in texts}) == len(texts)
    assert all(re.fullmatch("[A-Za-z0-9_-]*", identifier(text)) for text in texts)
