"""Miniatures of the papers' experiments: a few steps of training, tiny networks, all the paths."""

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from bench.papers import deep, plain, runs
from bench.papers.peeling import Difference, Lab, Losses, Peeling, Reference, Sizes, settings
from bench.papers.picture import Bands, Curve, Panel, Role, draw
from bench.papers.text import Text, prepare_text
from bench.stdlib_corpus import library_files
from bench.stdlib_models import Family, ModelSize, train
from peelbound.service.plan import Node, all_maps, make_plan
from peelbound.service.schemas.request import AuditRequest, Calibration
from peelbound.workers.errors import CalibrationError

SIZES = Sizes(fit=8, select=4, check=12, head_steps=4)
MINIATURE = runs.Experiment(
    "miniature",
    Family.LLAMA,
    size=ModelSize(hidden=32, intermediate=48, blocks=3, heads=2),
    steps=12,
    peeled_at=(6, 12),
    peeled_at_other_rates=(12,),
    sizes=SIZES,
    network_steps=4,
)
TWO_BLOCKS = replace(MINIATURE, size=replace(MINIATURE.size, blocks=2), peeled_at=(12,))


def documents(count: int) -> list[str]:
    """Pieces of the standard library's source, a thousand characters each."""
    return [path.read_text(encoding="utf-8", errors="replace")[:1000] for path in library_files()[:count]]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    directory = tmp_path_factory.mktemp("papers")
    file = directory / "mine.jsonl"
    file.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents(48)), encoding="utf-8")
    return prepare_text(directory / "text", file, vocabulary=300)


@pytest.fixture(scope="module")
def checkpoint(text: Text, tmp_path_factory: pytest.TempPathFactory) -> Path:
    steps = list(train(text.corpus, MINIATURE.recipe("right"), tmp_path_factory.mktemp("run")))
    assert steps[-1].checkpoint is not None
    return steps[-1].checkpoint


# The text


def read(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_no_document_is_both_trained_on_and_held_out(text: Text) -> None:
    training, held_out = read(text.training_path), read(text.held_out_path)
    assert len(held_out) == 12
    assert sorted(training + held_out) == sorted(documents(48))
    assert not set(training) & set(held_out)


def test_one_long_text_is_cut_into_documents_that_make_it_up(tmp_path: Path) -> None:
    whole = "\n\n".join(documents(60))
    file = tmp_path / "book.txt"
    file.write_text(whole, encoding="utf-8")
    found = prepare_text(tmp_path / "text", file, vocabulary=300)
    pieces = read(found.training_path) + read(found.held_out_path)
    assert len(pieces) >= 12
    assert sum(map(len, pieces)) == len(whole)
    assert all(piece in whole for piece in pieces)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.txt"
    file.write_bytes(b"\0\1\2")
    with pytest.raises(CalibrationError, match="not UTF-8"):
        prepare_text(tmp_path / "text", file)


# Reference networks of transformers


def lab(checkpoint: Path, text: Text) -> Lab:
    return Lab(checkpoint, text, SIZES)


def peel(checkpoint: Path, text: Text, *maps: tuple[int, ...]) -> Peeling:
    return runs.peel(MINIATURE, checkpoint, text, maps)


def test_all_maps_are_measured_and_sharing_prefixes_changes_none_of_them(checkpoint: Path, text: Text) -> None:
    together = peel(checkpoint, text, *all_maps(3))
    assert [r.targets for r in together.references] == ["[3,3,3]", "[1,3,3]", "[2,2,3]", "[1,2,3]"]
    assert [r.name for r in together.references] == ["YES-0", "YES-1 {1}", "YES-1 {2}", "direct"]
    alone = peel(checkpoint, text, (2, 3))
    assert alone.references[0] == together.references[2]
    assert alone.control == together.control
    assert together.zero() is together.references[0]


def test_in_sample_the_refit_of_the_head_never_loses_and_the_trained_network_gains_nothing(
    checkpoint: Path, text: Text
) -> None:
    found = peel(checkpoint, text, (3,), (1, 2, 3))
    for losses in (found.control, *(r.losses for r in found.references)):
        assert losses.fit_refitted <= losses.fit
        assert losses.chosen in (losses.check, losses.check_refitted)
    unchanged = found.control.select <= found.control.select_refitted
    assert (found.control.gain.estimate == 0) == unchanged
    assert found.control.beyond_control == Difference(0.0, 0.0, 0.0)
    for losses in (found.control, *(r.losses for r in found.references)):
        for difference, base in ((losses.gain, found.control.check), (losses.beyond_control, found.control.chosen)):
            assert difference.estimate == pytest.approx(base - losses.chosen, abs=1e-6)
            assert difference.low <= difference.estimate <= difference.high
    assert all(r.losses.beyond_control.low < r.losses.beyond_control.high for r in found.references)


def test_fit_is_text_that_training_saw_and_check_is_not(checkpoint: Path, text: Text) -> None:
    splits = lab(checkpoint, text).splits
    trained_on = text.corpus.train.tolist()
    windows = {tuple(trained_on[i : i + 12]) for i in range(len(trained_on) - 12)}

    def known(split: str) -> int:
        rows = splits[split].ids
        return sum(tuple(row[:12]) in windows for row in rows.tolist())

    assert known("fit") >= len(splits["fit"].ids) // 2
    assert known("check") <= len(splits["check"].ids) // 4


def test_the_solver_settings_are_the_products_own() -> None:
    plan = make_plan(AuditRequest(checkpoint="/", calibration=Calibration(texts=["-"])), 4, 96)
    assert settings(4, 96, SIZES) == (plan.state, replace(plan.head, steps=SIZES.head_steps, evaluations=1))


# The experiments


@pytest.mark.parametrize(("family", "scheme"), [(Family.LLAMA, None), (Family.GPT2, "ternary")])
def test_an_experiment_leaves_figures_tables_and_a_picture(
    family: Family, scheme: str | None, text: Text, tmp_path: Path
) -> None:
    experiment = replace(TWO_BLOCKS, family=family, scheme=scheme)
    found = runs.main(experiment, text, ["too low", "right"], tmp_path / "work", tmp_path)
    assert [r.rate for r in found] == ["too low", "right"]
    assert all(len(r.training_loss) == 12 for r in found)
    assert [[at.step for at in r.peeled] for r in found] == [[12], [12]]
    assert {at.peeling.weights for r in found for at in r.peeled} == {scheme or "full"}
    assert runs.load(tmp_path / experiment.name) == found
    table = (tmp_path / f"{experiment.name}.md").read_text(encoding="utf-8")
    assert table.count("| [2,2] YES-0 |") == 2
    ElementTree.fromstring((tmp_path / f"{experiment.name}.svg").read_text(encoding="utf-8"))
    assert runs.summary({experiment.name: found}).count(f"| {experiment.name} |") == 2


def test_references_of_a_low_bit_network_lie_on_its_grid_and_leave_queries_keys_and_values_alone(
    text: Text, tmp_path: Path
) -> None:
    experiment = replace(MINIATURE, scheme="ternary", peeled_at=(12,))
    list(train(text.corpus, experiment.recipe("right"), tmp_path))
    found = lab(tmp_path / "step-12", text)
    assert set(found.found.weights.full_maps) == {f"self_attn.{x}_proj.weight" for x in "kqv"}
    state, _ = settings(3, 32, SIZES)
    block, _ = found.solve(Node((1,)), {name: rows[0] for name, rows in found.trained.items()}, replace(state, steps=3))
    distinct = {name: len(p.unique()) for name, p in block.named_parameters() if p.ndim == 2}
    assert {name for name, values in distinct.items() if values <= 3} == {
        "self_attn.o_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"
    }  # fmt: skip


def test_the_deep_experiment_peels_with_few_anchors(text: Text, tmp_path: Path) -> None:
    found = deep.main(replace(MINIATURE, peeled_at=(12,)), text, tmp_path / "work", tmp_path)
    assert [r.name for r in found.references] == ["YES-0", "YES-1 {1}", "YES-1 {2}", "direct"]
    rows = deep.table(found).splitlines()[2:-1]
    aimed = {row.split("|")[1].strip(): int(row.split("|")[2]) for row in rows}
    assert aimed == {"YES-0": 3, "YES-1 {1}": 2, "YES-1 {2}": 1, "direct": 1}
    in_sample = [float(row.split("|")[4]) for row in rows]
    assert in_sample == sorted(in_sample)


def test_anchors_of_a_deep_network_lie_at_powers_of_two_from_either_end() -> None:
    zero, *one, direct = deep.Few(24).maps
    assert zero == (24,)
    assert one == [(a, 24) for a in (1, 2, 4, 8, 16, 20, 22, 23)]
    assert direct == tuple(range(1, 25))


def losses(fit: float, check: float) -> Losses:
    return Losses(
        fit, check, fit - 0.5, check + 0.5, select=check, select_refitted=check + 1,
        gain=Difference(-0.1, -0.14, -0.06), beyond_control=Difference(0.02, -0.01, 0.05),
    )  # fmt: skip


def test_the_bound_in_sample_and_the_bound_that_check_may_speak_of_are_chosen_apart() -> None:
    overfitted = Reference((1, 2), losses(2.0, 4.0), (0.1, 0.1))
    sound = Reference((2,), losses(3.0, 3.5), (0.1, 0.1))
    found = Peeling(losses(3.2, 3.4), (overfitted, sound), "full")
    assert found.in_sample() is overfitted
    assert found.selected() is sound
    row = runs.summary({"x": [runs.Run("right", 1e-3, [4.0], [runs.Peeled(1, found)])]}).splitlines()[2]
    assert row == (
        "| x | right | 1 | 3.200 | 2.700 | 1.500 [1,2] | 3.400 | 3.400 | 3.500 [2,2] "
        "| −0.100 (−0.140 to −0.060) | +0.020 (−0.010 to +0.050) |"
    )


# Plain networks


def test_a_layer_is_solved_exactly_where_an_affine_map_exists() -> None:
    chance = torch.Generator().manual_seed(0)
    x, weights = torch.randn(50, 6, generator=chance), torch.randn(7, 4, generator=chance)
    target = x @ weights[:-1] + weights[-1]
    found = plain.solve_layer(x, target)
    assert torch.allclose(found, weights, atol=1e-4)
    assert torch.allclose(plain.apply_layer(found, x, last=True), target, atol=1e-4)
    assert plain.apply_layer(found, x, last=False).min() == 0


@pytest.mark.parametrize("task", [plain.PHASE, plain.DENOISING], ids=lambda task: task.name)
def test_bounds_of_plain_networks_fall_with_degree_and_over_epochs(task: plain.Task) -> None:
    looks = list(plain.run(task, task.rates["right"], epochs=6, looks=3))
    assert [look.epoch for look in looks] == [1, 2, 4, 6]
    for look in looks:
        by_degree = list(look.bounds.values())
        assert list(look.bounds) == ["YES-0", "YES-1", "YES-2", "YES-3", "YES-4"]
        assert by_degree == sorted(by_degree, reverse=True)
        assert look.control <= look.trained
    smallest = [look.bounds["YES-4"] for look in looks]
    assert smallest == sorted(smallest, reverse=True)
    assert len({look.bounds["YES-0"] for look in looks}) == 1


def test_a_plain_network_that_diverges_ends_its_run_instead_of_its_bench() -> None:
    assert list(plain.run(plain.DENOISING, 1e3, epochs=4, looks=4)) == []


def test_the_plain_experiment_leaves_figures_and_a_picture(tmp_path: Path) -> None:
    rows = plain.main(plain.PHASE, tmp_path, epochs=2, looks=1)
    assert [row["name"] for row in rows] == ["too low", "right", "too high"]
    assert json.loads((tmp_path / "plain-phase.json").read_text())[1]["rate"] == 1e-3
    ElementTree.fromstring((tmp_path / "plain-phase.svg").read_text(encoding="utf-8"))


# Pictures


def test_a_cloud_is_drawn_to_scale_and_says_in_words_where_curves_end() -> None:
    curve = Curve("training loss", Role.TRAINED, [(1, 9.0), (50, 4.0), (100, 3.0)])
    panel = Panel("right & wrong", [curve], Bands([(100, 4.0)], [(100, 2.0)]))
    root = ElementTree.fromstring(draw("A cloud", [[panel]], x_title="step", y_title="loss"))
    name = "{http://www.w3.org/2000/svg}"
    assert "right & wrong: training loss ends at 3.00 nats." in str(root.findtext(f"{name}desc"))
    polygons = {p.get("class"): p.get("points", "") for p in root.iter(f"{name}polygon")}
    (line,) = (p.get("points", "") for p in root.iter(f"{name}polyline"))

    def heights(points: str) -> list[float]:
        return [float(point.split(",")[1]) for point in points.split()]

    zero, best, ends = heights(polygons["between"])[0], heights(polygons["best"])[0], heights(line)
    assert zero < ends[2] < best  # 4.0 above 3.0 above 2.0: heights count downwards
    assert ends[1] == pytest.approx(zero)
    assert ends[0] < 0  # far above the scale, and so outside the clip


def test_an_infinite_value_does_not_break_a_picture() -> None:
    curve = Curve("x", Role.TRAINED, [(1, 3.0), (2, math.inf)])
    assert "inf" not in draw("t", [[Panel("p", [curve])]], x_title="s", y_title="l").split("</desc>")[1]
