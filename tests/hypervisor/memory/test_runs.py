# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xenograft.hypervisor.memory.runs import RunSet

Step = tuple[bool, int, int]
steps = st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(-1, 20)), max_size=40)


@given(steps)
def test_it_behaves_as_a_set(steps: list[Step]) -> None:
    runs, model = RunSet(), set[int]()
    for adding, start, count in steps:
        if adding:
            runs.add(start, count)
            model.update(range(start, start + count))
        else:
            runs.discard(start, count)
            model.difference_update(range(start, start + count))
        assert len(runs) == len(model)
        assert list(runs) == sorted(model)
    assert all((value in runs) == (value in model) for value in range(-2, 90))


@given(steps)
def test_runs_are_ascending_and_apart(steps: list[Step]) -> None:
    runs = RunSet()
    for adding, start, count in steps:
        (runs.add if adding else runs.discard)(start, count)
    end = -1
    for start, length in runs.runs():
        assert start > end
        assert length > 0
        end = start + length
    copy = runs.copy()
    assert RunSet(runs.runs()).runs() == copy.runs() == runs.runs()
    copy.discard(0, 100)
    assert (len(copy), len(runs)) == (0, sum(length for _, length in runs.runs()))


def test_an_empty_set() -> None:
    runs = RunSet()
    assert runs.first_run() is None
    assert not runs
    runs.add(5, 0)
    assert 5 not in runs
    runs.add(7, 2)
    assert runs.first_run() == (7, 2)
