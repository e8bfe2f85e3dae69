"""The context and the memory of a run: what fits, and what is said when it does not."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from zosia.base.errors import ZosiaError
from zosia.inputs.catalogue import Model, read_models
from zosia.model import memory
from zosia.model.plan import LEAST_MEMORY, Plan, Wish, gib, guest_share, plan
from zosia.model.shape import Shape

GIB = 1024  # MiB
ESTIMATE = functools.cache(memory.estimate)


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do the arithmetic, which is tested elsewhere, once for each question."""

    def estimate(shape: Shape, weights: int, llama_args: Sequence[str], **kept: bool) -> memory.Memory:
        return ESTIMATE(shape, weights, tuple(llama_args), **kept)

    for module in (memory, sys.modules[plan.__module__]):
        monkeypatch.setattr(module, "estimate", estimate)


def wish_for(model: Model) -> Wish:
    assert model.shape
    return Wish(name=model.name, shape=model.shape, weights=model.gguf_size, context=model.context)


@pytest.fixture
def wishes(root: Path) -> dict[str, Wish]:
    return {name: wish_for(model) for name, model in read_models(root / "models.toml").items()}


@pytest.fixture
def large(wishes: dict[str, Wish]) -> Wish:
    """gpt-oss-20b at 8192 tokens."""
    return wishes["gpt-oss-20b-Q4"]


@pytest.fixture
def small(wishes: dict[str, Wish]) -> Wish:
    """SmolLM2-135M at 2048 tokens."""
    return wishes["smollm2-135m"]


def test_a_guest_gets_what_it_takes(large: Wish) -> None:
    given = plan(large, 64 * GIB)
    assert given.context == 8192
    assert given.need == memory.estimate(large.shape, large.weights, ["-c", "8192", "-ctxcp", "4"]).total
    assert given.memory == memory.guest_memory(given.need) > given.need > large.weights >> 20
    assert (
        plan(replace(large, heavy_kernel=True), 64 * GIB).memory
        == memory.guest_memory(given.need, heavy_kernel=True)
        > given.memory
    )


def test_a_small_model_gets_the_least(small: Wish) -> None:
    assert plan(small, 64 * GIB).memory == LEAST_MEMORY
    assert plan(replace(small, memory=4000), 64 * GIB).memory == 4000
    least = memory.guest_memory(small.takes().total)
    assert least < LEAST_MEMORY
    assert plan(replace(small, memory=least), 64 * GIB).memory == least
    assert least <= plan(small, 1100).memory < LEAST_MEMORY, "a small host gives what it can"


def test_a_laptop_with_16_gb_has_room(large: Wish) -> None:
    assert plan(large, 16 * GIB).context == 8192


def test_a_context_that_nobody_typed_shrinks(large: Wish) -> None:
    wanted = replace(large, context=131072)
    given = plan(wanted, 16 * GIB)
    assert 8192 <= given.context < 131072
    assert given.memory <= guest_share(16 * GIB)
    with pytest.raises(ZosiaError, match=f"at CTX=131072 .*CTX={given.context}"):
        plan(replace(wanted, fixed=True), 16 * GIB)


def test_weights_on_the_host(large: Wish) -> None:
    mapped = replace(large, mapped=True)
    weights = mapped.takes().on_host
    assert weights == -(-large.weights // (1 << 20))
    given = plan(mapped, 16 * GIB)
    assert (given.need, given.context) == (mapped.takes().total, 8192)
    assert given.need + weights <= large.takes().total + 1, "each is rounded up"
    assert given.memory == memory.guest_memory(given.need, pages=mapped.takes().pages) <= 1024
    # The host has to have room for both.
    smallest = next(mib for mib in range(8 * GIB, 16 * GIB, 16) if not refused(replace(mapped, fixed=True), mib))
    assert guest_share(smallest) - 16 <= given.memory + weights <= guest_share(smallest)
    assert plan(replace(mapped, memory=1024), 8 * GIB).memory == 1024, "it was asked for: the host will read them anew"
    with pytest.raises(ZosiaError, match=r"takes 12\d{3} MiB at CTX=8192 \(weights 11.3 GiB on the host \+ cache 0.2 "):
        plan(mapped, 8 * GIB)


def test_the_sum_is_shown(large: Wish, wishes: dict[str, Wish]) -> None:
    with pytest.raises(ZosiaError) as caught:
        plan(large, 8 * GIB, [*wishes.values()])
    text = str(caught.value)
    takes = large.takes()
    assert text.startswith(f"gpt-oss-20b-Q4 takes {memory.guest_memory(takes.total)} MiB at CTX=8192 (weights 11.3 ")
    assert f"a guest can have {guest_share(8 * GIB)} of this machine's 8192 MiB" in text
    assert "Set MODEL=qwen3-4b or MODEL=qwen3.5-2b; scons models shows what fits" in text
    assert text.isprintable()


def test_other_models_fit_into_what_was_typed(large: Wish, wishes: dict[str, Wish]) -> None:
    with pytest.raises(ZosiaError, match=r"Set MEM=12\d\d\dM or MODEL=smollm2-135m;"):
        plan(replace(large, memory=GIB), 64 * GIB, [*wishes.values()])


def test_other_models_are_not_offered_beyond_what_they_were_trained_for(large: Wish, small: Wish) -> None:
    for context, offered in ((8192, True), (8193, False)):
        with pytest.raises(ZosiaError) as caught:
            plan(large, 4 * GIB, [replace(small, context=context)])
        assert ("MODEL=smollm2-135m" in caught.value.hint) == offered


def test_no_remedy(large: Wish) -> None:
    with pytest.raises(ZosiaError, match=r"It needs a machine with more memory$"):
        plan(large, 2 * GIB)


def typed(wish: Wish, name: str, value: str) -> Wish:
    match name:
        case "CTX":
            return replace(wish, context=int(value))
        case "KV":
            return replace(wish, cache_type=value)
        case _:
            return replace(wish, memory=int(value.removesuffix("M")))


@pytest.mark.parametrize("name", ["smollm2-135m", "gpt-oss-20b-Q4", "qwen3-4b", "llama-3.2-1b", "gemma-3-1b"])
@pytest.mark.parametrize(("context", "fixed"), [(4096, True), (40960, True), (131072, True), (131072, False)])
@pytest.mark.parametrize(("heavy_kernel", "mapped"), [(False, False), (True, False), (False, True)])
def test_every_remedy_helps(
    wishes: dict[str, Wish], name: str, context: int, fixed: bool, heavy_kernel: bool, mapped: bool
) -> None:
    refused = helped = 0
    for total in range(GIB, 33 * GIB, 512):
        for given_memory in (0, 100 if mapped else 200, total // 2, total):
            wish = replace(wishes[name], context=context, fixed=fixed, memory=given_memory)
            wish = replace(wish, heavy_kernel=heavy_kernel, mapped=mapped)
            try:
                given = plan(wish, total)
            except ZosiaError as error:
                refused += 1
                for word, value in re.findall(r"\b(CTX|KV|MEM)=(\w+)(?=[ ;])", error.hint):
                    plan(typed(wish, word, value), total)
                    helped += 1
            else:
                least = memory.guest_memory(given.need, heavy_kernel=heavy_kernel, pages=wish.takes().pages)
                assert least <= given.memory <= wish.most(total)
    assert refused
    assert helped


def test_a_smaller_cache_helps_where_no_context_was_typed(large: Wish) -> None:
    total = next(mib for mib in range(16 * GIB, 8 * GIB, -20) if refused(large, mib))
    with pytest.raises(ZosiaError, match=r"Set KV=q\d_0 or MEM=12\d{3}M, which leaves the host little;") as caught:
        plan(large, total)
    kind = caught.value.hint.removeprefix("Set KV=").partition(" ")[0]
    assert plan(replace(large, cache_type=kind), total).context < 8192


def refused(wish: Wish, total: int) -> bool:
    try:
        plan(wish, total)
    except ZosiaError:
        return True
    return False


def test_a_size_that_nobody_knows_yet(large: Wish, small: Wish) -> None:
    unknown = replace(large, weights=0)
    assert plan(unknown, GIB) == Plan(context=8192, need=0, memory=LEAST_MEMORY)
    with pytest.raises(ZosiaError) as caught:
        plan(replace(large, name="other"), 4 * GIB, [unknown, small])
    assert "MODEL=smollm2-135m;" in caught.value.hint


def test_more_than_there_is(small: Wish) -> None:
    with pytest.raises(ZosiaError, match=r"MEM=9000M is more than this machine has, 8192 MiB"):
        plan(replace(small, memory=9000), 8 * GIB)
    assert plan(replace(small, memory=8000), 8 * GIB).memory == 8000, "it was asked for"


@pytest.mark.parametrize("mapped", [True, False])
def test_each_guest_takes_its_context_and_all_the_weights_once(wishes: dict[str, Wish], mapped: bool) -> None:
    one = replace(wishes["qwen3-4b"], mapped=mapped, parallel=4, fixed=True)
    alone = plan(one, 64 * GIB)
    assert plan(replace(one, guests=3), 64 * GIB) == alone
    whole = 3 * alone.memory + one.takes().on_host
    fits = next(mib for mib in range(2 * GIB, 64 * GIB, 16) if not refused(replace(one, guests=3), mib))
    assert guest_share(fits) - 16 - 3 <= whole <= guest_share(fits)
    with pytest.raises(ZosiaError) as caught:
        plan(replace(one, guests=3), fits - 64)
    text = str(caught.value)
    once = f", and {one.takes().on_host} MiB of weights once" * mapped
    assert text.startswith(
        f"3 guests of qwen3-4b take {whole} MiB at CTX={one.context}: {alone.memory} MiB each{once} (weights "
    )
    assert f"3 guests can have {guest_share(fits - 64)} of this machine's {fits - 64} MiB" in text
    assert "Set GUESTS=2 or CTX=" in text and text.isprintable()
    plan(replace(one, guests=2), fits - 64)
    shrunk = plan(replace(one, guests=3, fixed=False), fits - 64)
    assert 512 <= shrunk.context < one.context and 3 * shrunk.memory + one.takes().on_host <= guest_share(fits - 64)


def test_one_guest_where_two_are_too_many(large: Wish) -> None:
    with pytest.raises(ZosiaError, match=r"Set GUESTS=1[ ;]"):
        plan(replace(large, guests=8, fixed=True), 16 * GIB)
    with pytest.raises(ZosiaError) as caught:
        plan(replace(large, guests=8, fixed=True), 4 * GIB)
    assert "GUESTS=" not in caught.value.hint


def test_guests_of_a_size_that_was_typed(small: Wish) -> None:
    with pytest.raises(
        ZosiaError, match=r"^4 guests of MEM=3000M take 12000 MiB, more than .*, 8192 MiB. Set GUESTS=2"
    ):
        plan(replace(small, memory=3000, guests=4), 8 * GIB)
    assert plan(replace(small, memory=2000, guests=4), 8 * GIB).memory == 2000
    with pytest.raises(ZosiaError, match=r"MEM=9000M is more than this machine has"):
        plan(replace(small, memory=9000, guests=4), 8 * GIB)


def test_arguments(small: Wish) -> None:
    wish = replace(small, cache_type="q8_0", llama_args=("-b", "64"))
    assert wish.args() == ("-c", "2048", "-ctxcp", "4", "-ctk", "q8_0", "-ctv", "q8_0", "-b", "64")
    assert wish.args(context=512, cache_type="f16") == ("-c", "512", "-ctxcp", "4", "-b", "64")
    assert wish.takes().cache < small.takes().cache


def test_arguments_of_a_server(small: Wish) -> None:
    server = replace(small, parallel=4, llama_args=("-b", "64"))
    words = ("-c", "2048", "-ctxcp", "4", "-np", "4", "--kv-unified", "-b", "64")
    assert server.args() == words
    assert server.args(parallel=2) == (*words[:5], "2", *words[6:])
    # One that is not told would take four.
    assert replace(server, parallel=1).args() == (*words[:5], "1", *words[6:])


@pytest.mark.parametrize("less", [16, 200, 600])
def test_fewer_conversations(wishes: dict[str, Wish], less: int) -> None:
    """Of a model with recurrent states or windows each conversation takes memory; of others hardly any."""
    server = replace(wishes["qwen3.5-2b"], parallel=16, fixed=True)
    given = plan(server, 64 * GIB)
    assert given.need > plan(replace(server, parallel=1), 64 * GIB).need + 15 * 4 * 15
    with pytest.raises(ZosiaError, match="PARALLEL=") as caught:
        plan(replace(server, memory=given.enough - less), 64 * GIB)
    fewer = int(re.findall(r"PARALLEL=(\d+)", caught.value.hint)[0])
    assert 1 <= fewer < 16
    assert plan(replace(server, memory=given.enough - less, parallel=fewer), 64 * GIB).context == server.context
    assert refused(replace(server, memory=given.enough - less, parallel=fewer + 1), 64 * GIB)
    with pytest.raises(ZosiaError) as caught:
        plan(replace(server, memory=given.enough - less, parallel=1, context=1 << 20), 64 * GIB)
    assert "PARALLEL=" not in caught.value.hint


@pytest.mark.parametrize(("mib", "text"), [(0, "0.0"), (100, "0.10"), (1024, "1.0"), (13107, "12.8")])
def test_gib(mib: int, text: str) -> None:
    assert gib(mib) == text
