"""What is said of a low-bit model's bounds and codes."""

from peelbound.service.check_size import CheckSize
from peelbound.service.low_bit import low_bit_sentences
from peelbound.service.schemas.report import BoundBits, Interval


def around(estimate: float) -> Interval:
    return Interval(estimate=estimate, low=estimate - 0.01, high=estimate + 0.01, standard_error=0.005)


def bound(unfinished: float, price: float) -> BoundBits:
    return BoundBits(
        network="YES-0",
        free_network="direct",
        loss=3.0,
        free_loss=3.0 - price,
        unfinished=around(unfinished),
        price=around(price),
        total=around(unfinished + price),
    )


def said(made: BoundBits | None, codes_moved: list[float], documents: int = 30) -> list[str]:
    return [sentence.text for sentence in low_bit_sentences(made, [], codes_moved, 0.95, CheckSize(documents, 30))]


def test_a_bound_that_beats_training_is_split_into_price_and_unfinished_training() -> None:
    (text,) = said(bound(0.03, 0.12), [])
    assert "direct, gains 0.150 nats" in text
    assert "0.120 nats (95% interval 0.110 to 0.130) of that are the price of the bits" in text
    assert "0.0300 nats" in text


def test_a_bound_that_does_not_reach_the_trained_network_is_called_silent_on_training() -> None:
    (text,) = said(bound(-0.09, 0.02), [])
    assert text.startswith("How much training left undone the bounds do not tell at this budget: YES-0")
    assert "the bits cost 0.0200 nats" in text
    assert "unfinished" not in text


def test_bits_that_are_not_shown_to_cost_have_no_price() -> None:
    (text,) = said(bound(0.03, -0.005), [])
    assert "unfinished training. The bits are not shown to cost anything" in text
    assert "price" not in text
    (text,) = said(bound(-0.09, -0.02), [])
    assert "the bits are not shown to cost anything: -0.0200 nats" in text


def test_it_says_how_many_codes_moved_or_that_none_did() -> None:
    assert said(None, [0.0, 0.0])[0].startswith("Solving blocks in their class moved no code at this budget")
    assert said(None, [0.001, 0.0123]) == ["Solving blocks in their class moved at most 1.23% of a block's codes."]
    assert said(None, []) == []


def test_too_few_check_documents_split_nothing() -> None:
    few, both = said(bound(0.03, 0.12), [], documents=29)
    assert few == "Estimates only: check has 29 documents, 30 are needed to test anything."
    assert "unfinished" not in both
    assert "price" not in both
    assert "direct, the reference network in full precision, gains 0.150 nats" in both
