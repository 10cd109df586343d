"""The cost model against counted operations, real files and real lengths."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gptfluence import cost
from gptfluence.cost import Costs, Shape, relative_length
from gptfluence.design import Design, make_design
from gptfluence.dynamics import collect, packing
from gptfluence.dynamics.checkpoints import Training
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.generate import Sampling, Texts, generate
from gptfluence.dynamics.models import add_adapters
from gptfluence.dynamics.trainer import make_optimizer
from gptfluence.params import load_params
from gptfluence.tasks.local import read_rows
from gptfluence.tasks.prepare import prepare_task
from gptfluence.tasks.render import plain
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

CPU = torch.device("cpu")
LAYERS, WIDTH, VOCABULARY = 6, 64, 700
SHAPE = Shape.of(LAYERS, WIDTH, VOCABULARY)
WEIGHTS = 4 * SHAPE.parameters  # bytes


def neox() -> GPTNeoXForCausalLM:
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=256,
        attn_implementation=packing.NAME,
    )
    torch.manual_seed(1)
    return GPTNeoXForCausalLM(config).eval()


def examples(count: int) -> tuple[list[Encoded], list[cost.Pair]]:
    """Return examples of many lengths, and their lengths of prompt and target."""
    random = np.random.default_rng(1)
    pairs = [(int(random.integers(5, 120)), int(random.integers(2, 30))) for _ in range(count)]
    encoded = [Encoded(tuple(random.integers(0, VOCABULARY, p + t).tolist()), t, False) for p, t in pairs]
    return encoded, [(float(p), float(t)) for p, t in pairs]


class Counted:
    """What a model did: floating-point operations, and calls of its layers."""

    flops = 0
    layer_calls = 0


@contextlib.contextmanager
def counted(model: torch.nn.Module) -> Iterator[Counted]:
    """Count what the block does."""
    found = Counted()

    def called(*_: Any) -> None:
        found.layer_calls += 1

    (layers,) = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    hooks = [layer.register_forward_hook(called) for layer in layers]
    # The counter knows no operation of the CPU's fused attention: this one is products of matrices, which it counts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield found
    found.flops = counter.get_total_flops()
    for hook in hooks:
        hook.remove()


def design_of(raw: dict[str, Any], root: Path) -> Design:
    return make_design(load_params(raw, root / "params.yaml"))


# ------------------------------------------------------------------------------------------------------ operations


@pytest.mark.parametrize("budget", [512, 100_000])
def test_evaluation_costs_what_is_counted(budget: int) -> None:
    encoded, pairs = examples(40)
    model = neox()
    packs = packing.pack_by_length(encoded, Budget.of(budget, VOCABULARY))
    with counted(model) as done, torch.inference_mode():
        for pack in packs:
            packing.mean_losses(functools.partial(packing.read, model), packing.Stream.of([pack], CPU))
    work = cost.evaluation(SHAPE, pairs, budget)
    assert work.flops == pytest.approx(done.flops, rel=0.02)
    assert work.layer_calls == done.layer_calls == LAYERS * len(packs)
    assert work.bytes == WEIGHTS * len(packs)
    assert cost.evaluation(SHAPE, [], budget) == cost.NOTHING


@pytest.mark.parametrize("adapters", [False, True])
def test_an_update_costs_what_is_counted(adapters: bool) -> None:
    encoded, pairs = examples(8)
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["query_key_value"]}
    model = add_adapters(neox(), lora if adapters else None)
    adamw = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "weight_decay": 0.0}
    nothing = np.empty((0, 0))
    training = Training(model, *make_optimizer(model, 1e-3, 10, adamw), losses=nothing, texts=nothing)
    settings = collect.Settings(Budget.of(4096, VOCABULARY), 4096, LIKELIEST, autocast=None)
    stream = packing.Stream.of([packing.pack_examples(encoded)], CPU)
    with counted(model) as done:
        collect.update(functools.partial(packing.read, model), stream, [training], settings)
    work = cost.update(SHAPE, pairs, 8, adapters)
    # With adapters, the first layer needs fewer gradients, and the adapters' own products come on top.
    assert work.flops == pytest.approx(done.flops, rel=0.05 if adapters else 0.02)
    passes = 2 if adapters else 3
    assert work.layer_calls == passes * done.layer_calls == passes * LAYERS
    assert work.bytes == WEIGHTS * (2 if adapters else 3 + 7)


def test_an_update_is_the_mean_of_what_may_be_drawn() -> None:
    _, pairs = examples(24)
    thirds = [cost.update(SHAPE, pairs[i : i + 8], 8) for i in (0, 8, 16)]
    whole = cost.update(SHAPE, pairs, 8)
    assert whole.flops == pytest.approx(np.mean([third.flops for third in thirds]))
    assert whole[1:] == thirds[0][1:]  # a batch, whatever is drawn, is read in one go


# So that no last digit of a logit decides; none has the number -1, so no text ends early.
LIKELIEST = Sampling(temperature=1.0, top_p=1e-6, end=-1)


@pytest.mark.parametrize("reading_budget", [64, 4096])
def test_sampling_costs_what_is_counted(reading_budget: int) -> None:
    prompts = [list(range(1, length + 1)) for length in (40, 22, 30, 35, 28)]
    model = neox()
    texts = Texts(prompts, np.random.default_rng(1).random((5, 20)), [20] * 5)
    reader = functools.partial(packing.read, model)
    with counted(model) as done:
        (rows,) = generate(lambda members: reader, [texts], LIKELIEST, Budget.of(reading_budget, VOCABULARY), CPU)
    assert [len(row) for row in rows] == [20] * 5
    work = cost.sampling(SHAPE, [(len(prompt), 20) for prompt in prompts], 10_000, reading_budget)
    assert work.flops == pytest.approx(done.flops, rel=0.02)
    assert work.layer_calls == done.layer_calls
    # What is read from the cache: keys and values of the longest text, of each of the five, in each layer.
    cache = 4 * 2 * LAYERS * WIDTH * 5 * sum(40 + step for step in range(1, 20))
    assert work.bytes == WEIGHTS * done.layer_calls / LAYERS + cache


def test_texts_of_many_limits_cost_about_what_is_counted() -> None:
    random = np.random.default_rng(2)
    sizes = [(int(random.integers(5, 60)), int(random.choice([6, 20]))) for _ in range(16)]
    model = neox()
    reader = functools.partial(packing.read, model)
    texts = Texts([[1] * prompt for prompt, _ in sizes], random.random((16, 20)), [limit for _, limit in sizes])
    with counted(model) as done:
        generate(lambda members: reader, [texts], LIKELIEST, Budget.of(512, VOCABULARY), CPU)
    work = cost.sampling(SHAPE, sizes, 10_000, 512)
    assert work.flops == pytest.approx(done.flops, rel=0.02)
    assert work.layer_calls == done.layer_calls


def test_batches_that_do_not_fit_the_budget_are_more_calls() -> None:
    texts = [(30.0, 20)] * 6

    def calls(budget: int) -> float:
        return cost.sampling(SHAPE, texts, budget, 4096).layer_calls

    assert calls(100) == 3 * calls(300)
    assert cost.sampling(SHAPE, [], 100, 4096) == cost.NOTHING


def test_memory_or_operations_decide_whichever_take_longer() -> None:
    device = cost.Device(tflops=2.0, utilisation=0.5, gb_per_s=10.0, layer_ms=1.0)
    assert device.seconds(cost.Work(3e12, 500, 1e9)) == pytest.approx(3.0 + 0.5)
    assert device.seconds(cost.Work(3e11, 500, 7e9)) == pytest.approx(0.7 + 0.5)


# ---------------------------------------------------------------------------------------------------------- models


def body_of(model: torch.nn.Module) -> int:
    """Count the weights of all linear layers but the output head, from the modules themselves."""
    linear = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    return sum(m.weight.numel() for name, m in linear.items() if name not in ("embed_out", "lm_head"))


def test_shape_of_a_folder_is_that_of_its_model(tmp_path: Path) -> None:
    model = neox()
    model.save_pretrained(tmp_path / "neox", max_shard_size="200KB")  # in several files
    assert len(list((tmp_path / "neox").glob("*.safetensors"))) > 1
    assert cost.folder_shape(tmp_path / "neox") == SHAPE == Shape(LAYERS, WIDTH, VOCABULARY, body_of(model))
    config = LlamaConfig(
        vocab_size=300, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    llama = LlamaForCausalLM(config)
    llama.save_pretrained(tmp_path / "llama")
    assert cost.folder_shape(tmp_path / "llama") == Shape(3, 48, 300, body_of(llama))


def test_shape_of_a_gguf_file_is_in_its_head(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(2)
    writer.add_token_list([f"token {i}" for i in range(50)])
    writer.add_token_types([1] * 50)
    writer.add_array("of.floats", [0.5, 1.5])
    writer.add_tensor("token_embd.weight", np.zeros((50, 16), np.float32))
    for layer in range(2):
        writer.add_tensor(f"blk.{layer}.attn_q.weight", np.zeros((16, 16), np.float32))
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", np.zeros((40, 16), np.float32))
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.zeros(16, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert cost.gguf_shape(path) == Shape(2, 16, 50, 2 * (16 * 16 + 40 * 16))
    content = path.read_bytes()
    for cut in (0, 3, 20, 100, 400):
        path.write_bytes(content[:cut])
        assert cost.gguf_shape(path) is None
    assert cost.gguf_shape(tmp_path / "no.gguf") is None


@pytest.mark.parametrize(
    "content", [b"", b"\x05", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0[]", b"\x09\0\0\0\0\0\0\0" + b'{"a": {}}']
)
def test_a_broken_model_file_has_no_shape(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert cost.folder_shape(tmp_path) is None
    assert cost.folder_shape(tmp_path / "nowhere") is None


def test_pythias_shapes_are_the_published_ones(raw_params: dict[str, Any], root: Path) -> None:
    # Biderman et al. (2023), Table 1, and the model cards: parameters that are no embeddings.
    published = {
        "pythia-14m": 1_189_888,
        "pythia-70m": 18_915_328,
        "pythia-160m": 85_056_000,
        "pythia-410m": 302_311_424,
        "pythia-1b": 805_736_448,
        "pythia-2.8b": 2_517_652_480,
    }
    design = design_of(raw_params | {"scale": "paper"}, root)
    for model, parameters in published.items():
        shape = cost.model_shape(design, model, root)
        assert shape is not None
        assert shape.body == pytest.approx(parameters, rel=0.01)  # those include biases and norms


# --------------------------------------------------------------------------------------------------------- lengths


def test_prepared_tasks_are_read(tiny_params: dict[str, Any], root: Path, tmp_path: Path) -> None:
    design = design_of(tiny_params, root)
    (group,) = [name for name in design.groups if name.startswith("fine_tuning")]
    assumed = Costs(design, tmp_path)
    assert assumed.assumed == {"rte", "webnlg", "cnn_dailymail"}
    for task, spec in design.tasks.items():
        prepare_task(spec, tmp_path / design.task_file(task))
    lengths = cost.prepared_lengths(tmp_path / design.task_file("rte"), "plain")
    assert lengths is not None
    assert (len(lengths.train), len(lengths.tests)) == (24, 4)
    prepared = Costs(design, tmp_path)
    assert not prepared.assumed
    before, after = assumed.estimate(group).flops, prepared.estimate(group).flops
    assert before is not None and after is not None
    assert before != after and before == pytest.approx(after, rel=0.5)
    (tmp_path / design.task_file("rte")).write_bytes(b"PAR1 cut short")
    assert Costs(design, tmp_path).assumed == {"rte"}


def test_stated_lengths_are_those_of_the_real_tasks(root: Path) -> None:
    folder = root.parent / "shared" / "tasks"
    if not folder.is_dir():
        pytest.skip("no real task data here (../shared/tasks)")
    for task, stated in cost.REAL_LENGTHS.items():
        file = next(f for name in ("validation", "test", "train") if (f := folder / task / f"{name}.jsonl").is_file())
        size = len(file.read_text(encoding="utf-8").splitlines())
        rows = read_rows({"train": str(file), "test": None}, task, pool=size, unseen_pool=0, test=0)["pool"]
        rendered = [plain(task, row) for row in rows]
        for i, name in enumerate(("prompt", "target")):
            real = np.mean([len(getattr(one, name)) for one in rendered])
            assert np.mean([pair[i] for pair in stated]) == pytest.approx(real, rel=0.15), (task, name)


# ------------------------------------------------------------------------------------------------------- estimates


def benchmark(design: Design, folder: Path, gang: str, seconds: float) -> Path:
    """Write what Snakemake writes when a gang's job has ended."""
    path = folder / "results/benchmarks/train_runs" / f"{Path(design.gangs[gang].manifest).stem}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    path.write_text(f"{head}{seconds}\t0:00:09\t507.6\t2471.4\t393.2\t443.7\t7.0\t0.2\t89.6\t8.9\n", encoding="utf-8")
    return path


def test_measured_seconds_replace_modelled_ones(raw_params: dict[str, Any], root: Path, tmp_path: Path) -> None:
    raw_params["dynamics"]["models"]["nano-0.2m"]["runs_per_job"] = 20
    design = design_of(raw_params, root)
    assert {Costs(design, tmp_path).estimate(group).basis for group in design.groups} == {"modelled"}
    web = "fine_tuning-nano-0.2m-webnlg"
    sizes = [len(design.gangs[f"{web}.gang-00{i}"].runs) for i in (1, 2)]
    benchmark(design, tmp_path, f"{web}.gang-001", 30.0 * sizes[0])
    benchmark(design, tmp_path, f"{web}.gang-002", 50.0 * sizes[1])
    costs = Costs(design, tmp_path)
    assert costs.estimate(web).seconds == pytest.approx(40.0)
    assert costs.estimate(web).basis == "measured"
    # Another task of the same scenario and model: scaled, as labels are shorter than texts.
    other = costs.estimate("fine_tuning-nano-0.2m-sst2")
    assert other.basis == "measured"
    assert other.seconds is not None and 0 < other.seconds < 20
    assert costs.estimate("instruction_tuning-nano-0.2m-mixture").basis == "modelled"
    benchmark(design, tmp_path, f"{web}.gang-001", 0).write_text("s\n", encoding="utf-8")  # cut short
    assert Costs(design, tmp_path).estimate(web).seconds == pytest.approx(50.0)


def test_a_job_that_went_on_is_divided_by_what_it_trained(
    raw_params: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    design = design_of(raw_params, root)
    gang = design.gangs["fine_tuning-nano-0.2m-rte.gang-001"]
    ended = benchmark(design, tmp_path, gang.gang, 60.0).stat().st_mtime
    for i, run in enumerate(gang.runs):
        shard = tmp_path / run.shard
        shard.parent.mkdir(parents=True, exist_ok=True)
        shard.touch()
        os.utime(shard, (0, ended - (3600 if i >= 2 else 10)))  # all but two stood before
    assert cost.measured_seconds(gang, tmp_path) == pytest.approx(30.0)
    for run in gang.runs:
        os.utime(tmp_path / run.shard, (0, ended + 9999))  # times that say nothing, as after a checkout
    assert cost.measured_seconds(gang, tmp_path) == pytest.approx(60.0 / len(gang.runs))


def test_a_run_that_is_measured_at_its_ends_alone_costs_its_updates_and_two_measurements(
    raw_params: dict[str, Any], root: Path
) -> None:
    design = design_of(raw_params, root)
    corrected = design.derived_runs("corrected")[0]
    whole, first = (next(run for run in design.groups[corrected.group].runs if run.split == split)
                    for split in ("noisy", "fit"))  # fmt: skip
    tests = 2 * 80  # each with the right label and the wrong one
    of_first = 3 * first.steps * first.batch + tests * (first.steps + 1)
    assert relative_length(design, first) == 1.0
    assert relative_length(design, whole) == (3 * 96 * 16 + tests * 97) / of_first
    assert relative_length(design, corrected) == (3 * 96 * 16 + tests * 2) / of_first


def test_speeds_change_hours_but_no_run(raw_params: dict[str, Any], root: Path, tmp_path: Path) -> None:
    raw_params["scale"] = "paper"
    group = "instruction_tuning-pythia-2.8b-mixture"
    before = design_of(raw_params, root)
    raw_params["dynamics"]["cost"]["gpu"] = {"tflops": 39.0, "utilisation": 0.3, "gb_per_s": 3110, "layer_ms": 0.25}
    raw_params["dynamics"]["models"]["pythia-14m"].pop("shape")
    after = design_of(raw_params, root)
    assert [run.hash for run in before.runs.values()] == [run.hash for run in after.runs.values()]
    slow, fast = Costs(before, tmp_path).estimate(group), Costs(after, tmp_path).estimate(group)
    assert slow.flops == fast.flops and slow.device == "gpu"
    assert slow.seconds is not None and fast.seconds == pytest.approx(slow.seconds / 2)
    unknown = Costs(after, tmp_path).estimate("instruction_tuning-pythia-14m-mixture")
    assert (unknown.flops, unknown.seconds, unknown.basis) == (None, None, "unknown")


def test_bigger_models_and_longer_texts_cost_more(raw_params: dict[str, Any], root: Path, tmp_path: Path) -> None:
    design = design_of(raw_params | {"scale": "paper"}, root)
    costs = Costs(design, tmp_path)
    flops = [
        costs.estimate(f"instruction_tuning-pythia-{size}-mixture").flops
        for size in ("14m", "70m", "160m", "410m", "1b", "2.8b")
    ]
    assert None not in flops and flops == sorted(flops)
    by_task = {task: costs.estimate(f"fine_tuning-pythia-410m-{task}").flops for task in ("sst2", "rte", "webnlg")}
    assert by_task["sst2"] < by_task["rte"] < by_task["webnlg"]  # the last samples texts too
