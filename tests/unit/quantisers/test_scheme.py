import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelbound.workers.errors import RequestError
from peelbound.workers.quantisers.scheme import FULL, Scheme

NAMES = ["binary", "binary-fbi", "ternary", "ternary-twn", *(f"int{bits}" for bits in range(2, 9))]
GGUF = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]


@given(
    st.one_of(
        st.sampled_from(["full", *GGUF]),
        st.builds(lambda n, g: f"{n}-g{g}" if g else n, st.sampled_from(NAMES), st.integers(0, 4096)),
    ),
    st.sampled_from(["", "+a8"]),
)
def test_the_text_of_a_scheme_parses_back_to_it(name: str, activations: str) -> None:
    scheme = Scheme.parse(name + activations)
    assert str(scheme) == name + activations
    assert Scheme.parse(str(scheme)) == scheme


def test_a_scheme_says_what_it_is_made_of() -> None:
    assert Scheme.parse("int4-g32+a8") == Scheme("int", bits=4, group=32, activation_bits=8)
    assert Scheme.parse("q4_0") == Scheme("gguf", bits=4, group=32)
    assert Scheme.parse("ternary+a8").weights == Scheme("ternary")
    assert FULL.full
    assert not Scheme("binary").full


@pytest.mark.parametrize(
    "text",
    ["", "Ternary", "int1", "int9", "int", "int4-g0", "q4_0-g64", "q8_1", "full-g32", "int4+a4", "ternary ", "q2_k"],
)
def test_a_text_that_names_no_scheme_is_refused_with_what_may_be_said(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        Scheme.parse(text)
    assert caught.value.slug == "weights-scheme-unknown"
    assert "ternary-twn" in caught.value.remedy
