"""The published numbers, against facts that the paper's text states about them."""

from collections import Counter

import pytest
from gptfluence.paper.published import load_published


@pytest.fixture(scope="module")
def numbers():
    return load_published()


def cell(numbers, **where):
    found = [n for n in numbers if all(getattr(n, key) == value for key, value in where.items())]
    assert len(found) == 1
    return found[0]


def test_every_cell_is_there_once(numbers):
    counts = (270, 36, 108, 36, 72, 84, 60, 70, 12, 60, 36, 36, 6)
    assert Counter(n.table for n in numbers) == {f"table_{table}": n for table, n in enumerate(counts, 1)}
    keys = {(n.table, n.model, n.task, n.metric, n.method, n.variant, n.setting, n.measure) for n in numbers}
    assert len(keys) == len(numbers)
    scores = [n for n in numbers if n.metric]
    assert {n.task for n in scores} == {"rte", "sst2", "boolq", "webnlg", "wmt16_de_en", "average"}
    assert {n.method for n in scores} == {"simfluence", "gptfluence", "tracin_cp_10", "tracin_cp_all", "grad_dot"}


def test_order_1_of_table_10_is_fine_tuning_of_tables_2_and_4(numbers):
    """Whatever its caption says; but for spreads."""
    firsts = [n for n in numbers if n.table == "table_10" and n.variant == "order_1"]
    assert len(firsts) == 12
    for n in firsts:
        table = "table_2" if n.metric == "loss" else "table_4"
        where = {"task": n.task, "metric": n.metric, "method": n.method, "measure": n.measure}
        assert float(cell(numbers, table=table, **where).value) == pytest.approx(float(n.value), abs=0.006)


def test_digits_are_as_printed(numbers):
    number = cell(
        numbers, table="table_4", task="webnlg", metric="bleu", method="gptfluence", measure="final_step_spearman"
    )
    assert (number.value, number.std) == ("0.80", "0.01")
    number = cell(numbers, table="table_2", task="average", method="gptfluence", measure="all_steps_mse")
    assert (number.value, number.std) == ("0.015", "")


def test_improvements_that_the_text_states(numbers):
    """Section 4.2: 42 % lower MSE and 28 % lower MAE than Simfluence in fine-tuning."""
    for measure, percent in (("all_steps_mse", 42), ("all_steps_mae", 28)):
        ours, theirs = (
            float(cell(numbers, table="table_2", task="average", method=method, measure=measure).value)
            for method in ("gptfluence", "simfluence")
        )
        assert round(100 * (1 - ours / theirs)) == percent


@pytest.mark.parametrize("table", ["table_1", "table_2", "table_3", "table_4"])
def test_averages_are_the_means_of_their_rows(numbers, table):
    """To within one last digit; one printed average is not (Table 3, GPTfluence at 1B, MAE of BLEU)."""
    odd = 0
    for average in (n for n in numbers if n.table == table and n.task == "average"):
        keys = ("model", "metric", "method", "measure")
        rows = [
            float(n.value)
            for n in numbers
            if n.table == table and n.task != "average" and all(getattr(n, k) == getattr(average, k) for k in keys)
        ]
        last_digit = 10.0 ** -len(average.value.partition(".")[2])
        odd += abs(float(average.value) - sum(rows) / len(rows)) > 1.01 * last_digit
    assert odd == {"table_3": 1}.get(table, 0)
