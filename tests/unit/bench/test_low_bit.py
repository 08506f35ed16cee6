"""The picture of what bits cost is drawn from the figures that are kept beside it."""

import json
import xml.etree.ElementTree as ET

from bench.low_bit import CLASSES, FIGURES, PICTURE, draw

_SVG = "{http://www.w3.org/2000/svg}"


def test_the_committed_picture_is_drawn_from_the_committed_figures() -> None:
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    assert tuple(figures) == CLASSES
    assert PICTURE.read_text(encoding="utf-8") == draw(figures) + "\n"


def test_each_block_has_a_mark_for_what_was_measured_and_one_for_what_was_foretold() -> None:
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    drawn = ET.fromstring(draw(figures))
    blocks = sum(len(section["blocks"]) for section in figures.values())
    assert len(drawn.findall(f"{_SVG}circle")) == blocks + 1  # the legend has one of each
    assert len(drawn.findall(f"{_SVG}path")) == blocks + 1
    described = drawn.findtext(f"{_SVG}desc")
    assert described is not None
    assert f"{figures['ternary']['mixes'][0]['cost']['estimate']:.4f}" in described


def test_a_dearer_block_stands_higher() -> None:
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))["ternary"]
    marks = ET.fromstring(draw({"ternary": figures})).findall(f"{_SVG}circle")[1:]
    by_height = sorted(range(6), key=lambda i: float(marks[i].attrib["cy"]))
    by_cost = sorted(range(6), key=lambda i: -figures["blocks"][i]["cost"]["estimate"])
    assert by_height == by_cost
