from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from gptfluence.released.names import (
    Batches,
    Checkpoint,
    Log,
    RunName,
    Samples,
    Trajectories,
    parse_run_name,
    run_file,
    samples_file,
)

SUFFIX = "bs-4_shot-200_sample-128_model-{}_lr-{}_weight-decay-0.001_epoch-3{}_seed-{}"


def test_runs_are_told_by_their_names() -> None:
    def told(folder: str, task: str, model: str, lr: str, extra: str, seed: int) -> RunName:
        return parse_run_name(PurePosixPath(f"runs/{folder}/output_{task}_{SUFFIX.format(model, lr, extra, seed)}"))

    assert told("rte", "rte", "pythia-410m-deduped", "5e-07", "", 28) == RunName(
        "fine_tuning", "rte", "pythia-410m", 28, False, 5e-7
    )
    assert (
        told("wmt16_de_en", "wmt16_de_en", "pythia-410m-deduped", "5e-07", "_loss-output-token", 5).task
        == "wmt16_de_en"
    )
    flan = told("flan", "flan", "pythia-14m", "2e-7", "_loss-output-token", 49)
    assert (flan.kind, flan.task, flan.model, flan.learning_rate) == ("instruction_tuning", "flan", "pythia-14m", 2e-7)
    assert told("flan", "flan", "pythia-2.8b-deduped", "1e-05", "", 1).model == "pythia-2.8b"
    unseen = told("rte", "rte-ood", "pythia-410m-deduped", "5e-07", "", 3)
    assert (unseen.kind, unseen.task, unseen.unseen) == ("fine_tuning", "rte", True)
    assert unseen.for_mixture is False
    single = told("flan_ood", "rte-ood", "pythia-410m-deduped", "5e-07", "", 3)
    assert (single.kind, single.task, single.unseen, single.for_mixture) == ("fine_tuning", "rte", True, True)
    assert told("flan", "rte", "pythia-410m-deduped", "5e-07", "", 3).kind == "other"  # on the own pool
    assert (
        told("dataset_debug_sst2", "sst2-dataset-debug-is-mislabelled", "pythia-410m", "1e-06", "", 3).kind == "other"
    )


def test_runs_with_other_names_are_told_by_their_folder() -> None:
    found = parse_run_name(PurePosixPath("a/rte/run12"))
    assert (found.kind, found.task, found.seed, found.model) == ("fine_tuning", "rte", 12, "")
    found = parse_run_name(PurePosixPath("webnlg/final"))
    assert (found.task, found.seed, found.learning_rate) == ("webnlg", None, None)
    assert parse_run_name(PurePosixPath("elsewhere/run1")).kind == "other"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("r/train_samples_id.json", Batches()),
        ("r/log.out", Log()),
        ("r/all_loss_trajectory.out", Trajectories("loss")),
        ("r/all_rougeL_trajectory.out", Trajectories("rouge_l")),
        ("r/loss_sst2/loss_sst2_checkpoint-96.out", Checkpoint("sst2", 96)),
        ("r/metric_wmt16_de_en/metric_wmt16_de_en_checkpoint-1.out", Checkpoint("wmt16_de_en", 1)),
    ],
)
def test_files_of_runs(path: str, kind: object) -> None:
    assert run_file(PurePosixPath("runs") / path) == (PurePosixPath("runs/r"), kind)


@pytest.mark.parametrize(
    "path",
    ["runs/r/all_rouge1_trajectory.out", "log.out", "runs/r/loss_rte/loss_sst2_checkpoint-1.out", "runs/r/model.bin",
     "runs/r/loss_rte/loss_rte_checkpoint-x.out", "rte_0_199_train.json"],
)  # fmt: skip
def test_other_files_are_of_no_run(path: str) -> None:
    assert run_file(PurePosixPath(path)) is None


@pytest.mark.parametrize(
    ("name", "samples"),
    [
        ("rte_0_199_train.json", Samples("rte", "train", 0, 199)),
        ("rte_200_276_eval.json", Samples("rte", "test", 200, 276)),
        ("webnlg_train_200-399.json", Samples("webnlg", "train", 200, 399)),
        ("webnlg_dev_0-177.json", Samples("webnlg", "test", 0, 177)),
        ("wmt16_de_en_test_0-199.json", Samples("wmt16_de_en", "test", 0, 199)),
        ("flan_eval_0_1054.json", Samples("flan", "test", 0, 1054)),
        ("rte_flan-prompt_dataset-debug_0_63_train.json", None),
        ("sst2_flan-prompt_dataset-debug_mislabelled-0.4_train_0-127.json", None),
        ("README.md", None),
    ],
)
def test_files_of_examples(name: str, samples: Samples | None) -> None:
    assert samples_file(PurePosixPath("gptdynamics/x") / name) == samples
