"""The space of a sweep: products, lazily, and what is chosen of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexa_sdk.distributions import choice, loguniform, normal, randint, uniform
from nexa_sdk.errors import SweepError
from nexa_sdk.space import MAX_COUNTED, Factor, Selection, Space, axis, column, sampled, table


def space_of(*sizes):
    return Space(tuple(axis(f"p{k}", range(size)) for k, size in enumerate(sizes)))


@given(st.lists(st.integers(1, 5), max_size=4))
def test_trials_are_the_product_with_the_last_parameter_varying_fastest(sizes):
    space = space_of(*sizes)
    expected = list(itertools.product(*map(range, sizes)))
    assert [tuple(space.combination(i).values()) for i in range(space.size)] == expected


def test_columns_of_one_factor_vary_together():
    space = Space((axis("a", [1, 2]), table({"b": [1, 2], "c": ["x", "y"]}, what="zipped=")))
    assert [space.combination(i) for i in range(4)] == [
        {"a": 1, "b": 1, "c": "x"},
        {"a": 1, "b": 2, "c": "y"},
        {"a": 2, "b": 1, "c": "x"},
        {"a": 2, "b": 2, "c": "y"},
    ]


def test_a_table_s_columns_have_one_length():
    with pytest.raises(SweepError, match=r"zipped= needs lists of one length; these have a: 2, b: 3"):
        table({"a": [1, 2], "b": [1, 2, 3]}, what="zipped=")


# ---- a column --------------------------------------------------------------------------------


def test_a_range_stays_a_range_and_a_list_is_copied():
    assert column("x", range(10**12)) == range(10**12)
    values = [1, 2]
    copied = column("x", values)
    values.append(3)
    assert copied == [1, 2]


def test_numpy_arrays_become_python_s_scalars():
    values = column("x", np.linspace(0, 1, 3))
    assert values == [0.0, 0.5, 1.0]
    assert {type(value) for value in values} == {float}


def test_a_generator_is_read_once():
    assert column("x", (k * k for k in range(3))) == [0, 1, 4]


@pytest.mark.parametrize("values", [[], (), range(0), np.array([])])
def test_no_values_is_an_empty_sweep(values):
    with pytest.raises(SweepError, match=r"'x' has no values.*the sweep is empty"):
        column("x", values)


@pytest.mark.parametrize("values", ["adam", b"adam", 3, None, 0.5])
def test_one_value_is_asked_to_be_a_list(values):
    with pytest.raises(SweepError, match=r"is one value; write a list, .* or put it into fixed="):
        column("x", values)


@pytest.mark.parametrize("values", [{1, 2}, frozenset({1}), {"a": 1}])
def test_what_has_no_order_is_refused(values):
    with pytest.raises(SweepError, match="has no order"):
        column("x", values)


@pytest.mark.parametrize("values", [np.array(5), np.ones((2, 2))])
def test_an_array_of_other_dimensions_than_one_is_refused(values):
    with pytest.raises(SweepError, match=r"'x': an array of \d dimensions"):
        column("x", values)


@pytest.mark.parametrize("bad", ["a\0b", "\udfff"])
def test_one_bad_text_among_many_is_found(bad):
    with pytest.raises(SweepError, match="'x'"):
        column("x", [*map(str, range(1000)), bad])


# ---- draws -----------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_and_another_seed_others():
    given_distributions = {
        "a": uniform(0, 1),
        "b": loguniform(1e-5, 1e-1),
        "c": randint(1, 9),
        "d": normal(0, 2),
        "e": choice(["x", "y"]),
        "f": [1, 2],
    }
    first, again, other = (sampled(given_distributions, 20, seed).columns for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert all(0 <= value <= 1 for value in first["a"])
    assert all(1e-5 <= value <= 1e-1 for value in first["b"])
    assert set(first["c"]) <= set(range(1, 10))
    assert set(first["e"]) <= {"x", "y"}
    assert set(first["f"]) <= {1, 2}


class Beta:
    """A frozen distribution as SciPy has them."""

    def rvs(self, *, random_state):
        return np.random.default_rng(random_state).beta(2, 5)


def test_scipy_s_frozen_distributions_draw_by_the_same_seed():
    first, again, other = (sampled({"x": Beta()}, 5, seed).columns["x"] for seed in (0, 0, 1))
    assert first == again != other
    assert {type(value) for value in first} == {float}


@pytest.mark.parametrize(
    "make", [lambda: uniform(1, 0), lambda: loguniform(0, 1), lambda: normal(0, -1), lambda: choice([]), lambda: choice("ab")]
)
def test_a_distribution_that_can_t_draw_says_why(make):
    with pytest.raises(SweepError, match=r"(uniform|loguniform|normal|choice)\("):
        make()


def test_what_is_no_distribution_is_told_the_known_ones():
    with pytest.raises(SweepError, match=r"sample of 'x': 3 is no distribution; give uniform\(low, high\)"):
        sampled({"x": 3}, 2, 0)


# ---- what is chosen --------------------------------------------------------------------------


def test_a_predicate_chooses_in_order():
    selection = Selection(space_of(3, 3), where=lambda trial: trial["p0"] < trial["p1"])
    assert list(selection.numbers) == [1, 2, 5]
    assert selection.size == 3


def test_a_predicate_that_fails_shows_the_trial():
    with pytest.raises(SweepError, match=r"where= failed on \{'p0': 0\}: KeyError: 'lr'"):
        len(Selection(space_of(3), where=lambda trial: trial["lr"] > 0).numbers)


def test_a_predicate_is_not_asked_about_more_than_ten_million():
    asked = []
    selection = Selection(space_of(10**4, 10**3 + 1), where=lambda trial: asked.append(trial) or True)
    assert selection.space.size > MAX_COUNTED
    with pytest.raises(
        SweepError, match=r"counted only up to 10,000,000 combinations, and this sweep has 10,010,000: draw some with sweep\.sample"
    ):
        len(selection.numbers)
    assert asked == []
    assert selection.first(2) == [0, 1]


def test_draws_are_different_and_in_order():
    numbers = Selection(space_of(10**9)).draw(100, seed=3)
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 100
    assert numbers == Selection(space_of(10**9)).draw(100, seed=3)


def test_more_draws_than_trials_are_refused():
    with pytest.raises(SweepError, match=r"can't draw 7 different trials from 6"):
        Selection(space_of(2, 3)).draw(7, seed=0)
    assert Selection(space_of(2, 3)).draw(6, seed=0) == list(range(6))


def test_draws_from_a_huge_grid_keep_to_the_predicate():
    selection = Selection(space_of(10**5, 10**5), where=lambda trial: trial["p0"] % 2 == 0)
    assert all(number // 10**5 % 2 == 0 for number in selection.draw(50, seed=0))


def test_a_predicate_that_hardly_ever_holds_is_given_up_on():
    with pytest.raises(SweepError, match="holds so rarely that 0 of 1 trials were found"):
        Selection(space_of(10**5, 10**5), where=lambda _: False).draw(1, seed=0)


def test_a_space_beyond_what_len_can_say_still_works():
    selection = Selection(space_of(*[10**6] * 4))
    assert selection.size == 10**24
    assert len(selection.draw(3, seed=0)) == 3
    assert selection.first(2) == [0, 1]


def test_a_negative_count_is_refused():
    with pytest.raises(SweepError, match="first=-1"):
        Selection(space_of(3)).first(-1)


def test_a_factor_without_rows_or_a_space_without_factors():
    assert Space(()).size == 1
    assert Space(()).combination(0) == {}
    assert Factor({"a": [1]}).size == 1
