"""The plan: target maps, the problems they share, presets, and what is refused."""

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peelbound.service.plan import (
    Anchors,
    Plan,
    all_maps,
    make_plan,
    map_name,
    suggest,
    target_map,
    trie,
)
from peelbound.service.schemas.request import AuditRequest
from peelbound.workers.errors import RequestError
from peelbound.workers.recipes import FLOAT32, Arithmetic


def request(preset: str = "standard", **options: Any) -> AuditRequest:
    return AuditRequest.model_validate(
        {
            "checkpoint": "/somewhere",
            "calibration": {"token_ids": [[1, 2, 3]]},
            "preset": preset,
            "options": options,
            "seed": 5,
        }
    )


def plan(preset: str, blocks: int, hidden: int = 128, **options: Any) -> Plan:
    return make_plan(request(preset, **options), blocks, hidden)


anchor_sets = st.integers(1, 12).flatmap(
    lambda k: st.sets(st.integers(1, k - 1) if k > 1 else st.nothing()).map(lambda below: (*sorted(below), k))
)


@settings(deadline=None)
@given(anchor_sets)
def test_a_target_map_takes_each_block_to_the_next_anchor(anchors: Anchors) -> None:
    found = target_map(anchors)
    assert len(found) == anchors[-1]
    for block, target in enumerate(found, start=1):
        assert target in anchors
        assert target >= block
        assert not any(block <= a < target for a in anchors)


def test_target_maps_of_the_papers() -> None:
    assert target_map((1, 2, 3, 4)) == (1, 2, 3, 4)
    assert target_map((3, 4)) == (3, 3, 3, 4)
    assert target_map((4,)) == (4, 4, 4, 4)


def test_maps_are_named_by_their_degree() -> None:
    assert map_name((4,)) == "YES-0"
    assert map_name((3, 4)) == "YES-1 {3}"
    assert map_name((1, 3, 4)) == "YES-2 {1,3}"
    assert map_name((1, 2, 3, 4)) == "direct"
    assert map_name((1,)) == "YES-0"
    assert len({map_name(m) for m in all_maps(6)}) == 32


@settings(deadline=None)
@given(st.integers(1, 10))
def test_there_are_two_to_the_k_minus_one_maps_by_degree(blocks: int) -> None:
    maps = all_maps(blocks)
    assert len(set(maps)) == len(maps) == 2 ** (blocks - 1)
    assert all(m[-1] == blocks and list(m) == sorted(set(m)) and m[0] >= 1 for m in maps)
    assert [len(m) for m in maps] == sorted(len(m) for m in maps)
    assert len({target_map(m) for m in maps}) == len(maps)


def test_all_maps_of_four_blocks_share_their_prefixes() -> None:
    assert len(trie(all_maps(4))) == 26


@settings(deadline=None)
@given(st.lists(st.sets(st.integers(1, 5)).map(lambda below: (*sorted(below), 6)), max_size=6))
def test_each_prefix_is_solved_once_and_after_its_parent(maps: list[Anchors]) -> None:
    nodes = trie(maps)
    wanted = {target_map(m)[:depth] for m in maps for depth in range(1, 7)}
    assert {node.path for node in nodes} == wanted
    assert len(nodes) == len(wanted)
    seen: set[tuple[int, ...]] = {()}
    for node in nodes:
        assert node.parent in seen
        assert (node.block, node.target) == (len(node.path), node.path[-1])
        seen.add(node.path)


def every_path(blocks: int, band: int) -> list[Anchors]:
    return [
        (*below, blocks)
        for size in range(blocks)
        for below in combinations(range(1, blocks), size)
        if all(b - a <= band for a, b in zip((0, *below), (*below, blocks), strict=True))
    ]


@settings(deadline=None)
@given(st.data(), st.integers(1, 7), st.integers(1, 7))
def test_the_suggested_map_has_the_fewest_segments_and_then_the_least_cost(
    data: st.DataObject, blocks: int, band: int
) -> None:
    cells = [(s, t) for s in range(blocks) for t in range(s + 1, min(s + band, blocks) + 1)]
    # Whole numbers: sums do not depend on their order, so that ties are ties.
    cost = {cell: float(data.draw(st.integers(-3, 20))) for cell in cells}

    def rank(anchors: Anchors) -> tuple[int, float, Anchors]:
        segments = list(zip((0, *anchors[:-1]), anchors, strict=True))
        return len(segments), sum(cost[s] for s in segments), anchors

    assert suggest(cost, blocks, band) == min(every_path(blocks, band), key=rank)


def test_a_suggestion_of_six_blocks() -> None:
    cost = {(s, t): 0.01 if t - s == 1 else 0.1 for s in range(6) for t in (s + 1, s + 2) if t <= 6}
    cost[1, 3] = cost[3, 5] = 0.0
    # Three jumps of two are fewer than 0→1→3→5→6, however cheap those are.
    assert suggest(cost, 6, 2) == (2, 4, 6)


# Presets


def test_quick_peels_nothing_but_block_references() -> None:
    quick = plan("quick", 6)
    assert quick.maps == ()
    assert (quick.suggested_maps, quick.band, quick.positive_control) == (0, 0, False)
    assert quick.problem_counts == {"block_reference": 12, "head": 1}
    assert len(quick.walks) == 4
    assert [c.rho for c in quick.corrected] == [0.15, 0.5]


def test_standard_tries_three_maps_and_one_suggestion() -> None:
    standard = plan("standard", 6)
    assert standard.maps == ((6,), (3, 6), (1, 2, 3, 4, 5, 6))
    assert (standard.suggested_maps, standard.band, standard.positive_control) == (1, 2, True)
    assert standard.matrix_cells == tuple((s, t) for s in range(6) for t in (s + 1, s + 2) if t <= 6)
    assert standard.problem_counts == {
        "block_reference": 12,
        "matrix": 11,
        "reference_network": 18 + 6,
        "head": 5,
        "positive_control": 6,
    }
    assert len(standard.walks) == len(set(standard.walks)) == 8


def test_exhaustive_tries_every_map_of_up_to_six_blocks() -> None:
    assert plan("exhaustive", 6).maps == all_maps(6)
    assert plan("exhaustive", 6).suggested_maps == 0
    with pytest.raises(RequestError) as caught:
        plan("exhaustive", 7)
    assert caught.value.slug == "request-exhaustive"
    assert caught.value.pointer == "/preset"
    assert "7 blocks" in caught.value.detail
    assert plan("exhaustive", 7, maps=[[7]]).maps == ((7,),)


@pytest.mark.parametrize("preset", ["quick", "standard", "exhaustive"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_the_smallest_models_have_a_plan_in_every_preset(preset: str, blocks: int) -> None:
    made = plan(preset, blocks)
    assert len(set(made.maps)) == len(made.maps)
    assert set(made.maps) == (set() if preset == "quick" else set(all_maps(blocks)))
    assert made.suggested_maps == 0  # all maps are there already
    assert all(0 <= s < t <= blocks for s, t in made.matrix_cells)
    assert made.problem_counts["block_reference"] == 2 * blocks
    assert made.problem_counts["head"] == 1 + len(made.maps)


# Options


def test_options_overrule_the_preset() -> None:
    made = plan(
        "quick",
        4,
        maps=[[4], [2, 4]],
        matrix_band=3,
        positive_control=True,
        rhos=[0.7, 0.2, 0.7],
        block_steps=3,
        block_learning_rate=0.5,
        network_steps=7,
        network_learning_rate=0.25,
        head_steps=0,
        grain=4,
        precision="bfloat16",
        compile=True,
        tolerance=0.5,
    )
    assert made.arithmetic == Arithmetic("bfloat16", compile=True)
    assert made.maps == ((4,), (2, 4))
    assert (made.band, made.positive_control, made.suggested_maps) == (3, True, 0)
    assert [c.rho for c in made.corrected] == [0.2, 0.7]
    assert all((c.steps, c.learning_rate) == (3, 0.5) for c in made.corrected)
    assert (made.state.steps, made.state.learning_rate, made.head.steps) == (7, 0.25, 0)
    assert (made.grain, made.tolerance, made.seed) == (4, 0.5, 5)


def test_what_a_preset_brings_can_be_left_out() -> None:
    made = plan("standard", 6, maps=[], matrix_band=0, positive_control=False)
    assert made.problem_counts == plan("quick", 6).problem_counts
    assert made.walks == plan("quick", 6).walks
    assert plan("standard", 6, matrix_band=1).suggested_maps == 0  # a band of one suggests nothing but direct


def test_blocks_are_computed_in_float32_unless_asked_otherwise() -> None:
    assert plan("standard", 4).arithmetic == FLOAT32


def test_the_baseline_solver_is_plain_adamw() -> None:
    baseline, fast = plan("standard", 6, network_solver="baseline"), plan("standard", 6)
    assert (baseline.state.schedule, baseline.state.halves, fast.state.halves) == ("cosine", False, True)
    assert baseline.state.steps * baseline.state.batch > 4 * fast.state.steps * fast.state.batch
    assert (baseline.middles, fast.middles, plan("quick", 6).middles) == (False, True, False)


def test_learning_rates_fall_with_the_width_beyond_that_where_they_were_measured() -> None:
    rates = [plan("quick", 2, hidden=hidden).corrected[0].learning_rate for hidden in (64, 128, 256, 1024)]
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 1.25e-4])


@pytest.mark.parametrize("anchors", [[0, 4], [4, 5], [5], [-1, 4], [2, 2, 4], [4, 4], [1, 2]], ids=str)
def test_anchors_that_make_no_map_are_refused_by_their_place(anchors: list[int]) -> None:
    with pytest.raises(RequestError) as caught:
        plan("standard", 4, maps=[[4], [3, 4], anchors])
    assert caught.value.slug == "request-anchors"
    assert caught.value.pointer == "/options/maps/2"
    assert str(anchors) in caught.value.detail
    assert caught.value.remedy


def test_anchors_may_come_in_any_order_and_maps_twice() -> None:
    assert plan("standard", 4, maps=[[4, 1], [4], [1, 4]]).maps == ((1, 4), (4,))
