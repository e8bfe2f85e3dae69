"""The split of a model's layers over machines, by memory and by speed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import shapes
from zosia.base.errors import ZosiaError
from zosia.model import split
from zosia.model.memory import MIB, Memory, estimate


@given(st.integers(1, 200), st.lists(st.integers(1, 1 << 20), min_size=2, max_size=8))
def test_all_layers_are_given_in_proportion(layers: int, sizes: list[int]) -> None:
    if len(sizes) - 1 > layers:
        with pytest.raises(ZosiaError, match=f"The model has {layers} layers, and there are {len(sizes) - 1} workers"):
            split.even(layers, sizes)
        return
    counts = split.even(layers, sizes)
    assert sum(counts) == layers
    assert all(counts[1:])
    spare = layers - len(sizes) + 1
    for place, (count, size) in enumerate(zip(counts, sizes, strict=True)):
        assert abs(count - (place > 0) - spare * size / sum(sizes)) < 1


@pytest.mark.parametrize(
    ("layers", "sizes", "counts"),
    [
        (30, [1, 1], (15, 15)),
        (30, [1, 1, 1], (10, 10, 10)),
        (24, [8, 24], (6, 18)),
        (1, [5, 5], (0, 1)),
        (2, [9, 1], (1, 1)),
    ],
)
def test_some_splits(layers: int, sizes: list[int], counts: tuple[int, ...]) -> None:
    assert split.even(layers, sizes) == counts


@pytest.mark.parametrize(
    ("sizes", "speeds", "most", "counts"),
    [
        ([1, 1], [5, 5], [30, 30], (15, 15)),  # as by memory alone
        ([1, 1], [4, 5], [30, 30], (15, 15)),  # about as fast
        ([8, 24], [4, 5], [30, 30], (8, 22)),
        ([1, 1], [1, 50], [30, 30], (0, 30)),
        ([1, 1], [50, 1], [30, 30], (29, 1)),  # who names a worker wants it
        ([1, 1], [50, 1], [20, 30], (20, 10)),
        ([1, 1, 1], [1, 50, 20], [30, 10, 30], (0, 10, 20)),
        ([1, 1, 1], [1, 50, 48], [30, 10, 30], (0, 10, 20)),
        ([3, 1, 1], [1, 50, 20], [9, 9, 9], (17, 7, 6)),  # too little for all: as by memory alone
        ([1, 1], [1, 9], [30, 0], (15, 15)),
    ],
)
def test_splits_by_speed(sizes: list[int], speeds: list[int], most: list[int], counts: tuple[int, ...]) -> None:
    assert split.by_speed(sizes, speeds, most, 30) == counts


@given(
    st.integers(1, 100),
    st.lists(st.tuples(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 100)), min_size=2, max_size=6),
)
def test_the_fastest_have_as_many_layers_as_they_can(layers: int, machines: list[tuple[int, int, int]]) -> None:
    sizes, fast, most = zip(*machines, strict=True)
    if len(sizes) - 1 > layers or sum(most) < layers:
        return
    counts = split.by_speed(sizes, fast, most, layers)
    assert sum(counts) == layers
    assert all(counts[1:])
    assert all(count <= room for count, room in zip(counts, most, strict=True))
    for place, count in enumerate(counts):
        slower = [other for other in range(len(sizes)) if fast[other] < split.ALIKE * fast[place]]
        if count < most[place]:
            assert all(counts[other] == (other > 0) for other in slower), "a slower one has some, and this one has room"


def test_the_most_layers_that_fit() -> None:
    shape, size = shapes.GPT_OSS_20B, 12_109_566_560
    whole = estimate(shape, size, ["-c", "8192"])
    for place in (0, 1):
        most = split.capacity(whole, shape, 2, place, lambda part: part.total <= 7000)
        assert 8 < most < 14
        counts = [most if each == place else 0 for each in range(2)]
        assert split.memories(whole, shape, counts)[place].total <= 7000
        counts[place] += 1
        assert split.memories(whole, shape, counts)[place].total > 7000
    assert split.capacity(whole, shape, 2, 1, lambda part: True) == 24
    assert split.capacity(whole, shape, 2, 1, lambda part: False) == 0


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((15, 15), ""),
        ((0, 30), ""),
        ((10, 10, 10), "is for 3 machines, and this one and its workers are 2"),
        ((30,), "is for 1 machines"),
        ((20, 11), "has 31 layers, and the model 30. Give numbers whose sum is 30"),
        ((30, 0), "has a worker without layers"),
    ],
)
def test_a_split_that_was_given(counts: tuple[int, ...], said: str) -> None:
    if not said:
        assert split.checked(30, counts, 2) == counts
        return
    with pytest.raises(ZosiaError, match=said) as error:
        split.checked(30, counts, 2)
    assert f"SPLIT={','.join(map(str, counts))} " in str(error.value)


def test_the_arguments_put_each_layer_where_it_is_counted() -> None:
    """As llama.cpp does it: in src/llama-model.cpp, of what is offloaded, the output is the last one."""
    for counts in ((15, 15), (10, 10, 10), (0, 1), (1, 7, 5, 11), (3, 1, 1, 1, 1)):
        words = split.args(counts)
        given = dict(zip(words[::2], words[1::2], strict=True))
        assert given["--rpc"].split(",") == [f"127.0.0.1:{50052 + place}" for place in range(len(counts) - 1)]
        layers, offloaded = sum(counts), int(given["-ngl"])
        shares = [float(share) for share in given["-ts"].split(",")]
        bounds = [sum(shares[: place + 1]) / sum(shares) for place in range(len(shares))]
        first = max(layers + 1 - offloaded, 0)
        places = [0] * len(counts)
        for layer in range(layers):
            device = (
                next(d for d, bound in enumerate(bounds) if bound > (layer - first) / offloaded)
                if layer >= first
                else -1
            )
            places[device + 1] += 1
        assert tuple(places) == counts


def test_the_memory_of_each_machine() -> None:
    shape, size = shapes.GPT_OSS_20B, 12_109_566_560
    whole = estimate(shape, size, ["-c", "8192"])
    main, one, two = split.memories(whole, shape, (8, 8, 8))
    edge = shape.vocab_size * shape.embedding_length * 2
    assert main.weights == pytest.approx(size / 3 + edge, abs=9)
    assert one.weights == pytest.approx(size / 3, abs=9)
    assert two.weights == pytest.approx(size / 3 + edge, abs=9)
    assert {part.cache for part in (main, one, two)} == {-(-whole.cache // 3)}
    assert main.buffers == one.buffers == whole.buffers
    assert (main.program, one.program) == (whole.program + edge, split.PROGRAM + size // 24 // 2)
    assert two.program == split.PROGRAM + edge
    assert max(part.total for part in (main, one, two)) < 7 * 1024  # two guests of 7 GB each would do


def test_mapped_weights_take_nothing_of_the_first_machine_alone() -> None:
    shape, size = shapes.GPT_OSS_20B, 12_109_566_560
    whole = estimate(shape, size, ["-c", "8192"], mapped=True, dax=True)
    main, one = split.memories(whole, shape, (12, 12))
    assert main.total < 2048
    assert one.total > 6000
    assert main.pages == whole.pages  # of all of the disk
    assert one.pages == one.on_host == 0
    assert main.on_host < whole.on_host * 2 / 3


def test_a_part_is_never_more_than_the_whole() -> None:
    whole = Memory(weights=100 * MIB, cache=MIB, buffers=MIB, program=MIB)
    for part in split.memories(whole, shapes.GPT_OSS_20B, (0, 24)):
        assert part.weights <= whole.weights


def test_a_pipeline_has_more_buffers() -> None:
    whole = Memory(weights=100 * MIB, cache=MIB, buffers=MIB, program=MIB)
    for counts, buffers in (((0, 24), 1), ((0, 12, 12), 4), ((1, 11, 12), 1)):
        assert {part.buffers for part in split.memories(whole, shapes.GPT_OSS_20B, counts)} == {buffers * MIB}
