import numpy as np
from gptfluence.page.columns import choose_columns


def test_all_tests_are_shown_where_there_is_room() -> None:
    kernels = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
    columns = choose_columns(kernels, 9)
    np.testing.assert_array_equal(columns.values, kernels)
    assert columns.shown.tolist() == [0, 1, 2, 3]


def test_columns_of_tests_that_are_not_shown_have_their_sums_of_squares() -> None:
    rng = np.random.default_rng(0)
    kernels = rng.normal(size=(2, 3, 8, 3)) @ rng.normal(size=(3, 20))  # tests that are alike
    columns = choose_columns(kernels, 4)
    assert columns.shown.tolist() == [0, 6, 13, 19]
    np.testing.assert_array_equal(columns.values[..., :4], kernels[..., [0, 6, 13, 19]])
    assert columns.values.shape[3] == 4 + 3
    # What any shares of any checkpoints and kernels add up to, squared and summed over tests.
    for _ in range(5):
        shares = rng.normal(size=(2, 3, 8))
        whole, kept = (
            np.square(np.einsum("kci,kciz->z", shares, values)).sum() for values in (kernels, columns.values)
        )
        np.testing.assert_allclose(kept, whole, rtol=1e-6)


def test_tests_without_gradients_take_no_room() -> None:
    assert choose_columns(np.zeros((1, 1, 2, 9)), 2).values.shape[3] <= 3
