"""params.yaml: its types, and every mistake in it at once.

Each section is named as the stage that reads it. A key that is not declared here is an error, never ignored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
)

from gptfluence.errors import UserError, did_you_mean
from gptfluence.rates import Shape as RateShape
from gptfluence.scores.words import CEILING, OWN_STEPS
from gptfluence.words import AVERAGE, MEASURED, OWN, TIME_CURVE, WHOLE

T = TypeVar("T")

HUB_TASKS = ("rte", "sst2", "boolq", "webnlg", "wmt16_de_en", "cnn_dailymail")
"""The paper's tasks: the first five are evaluated, the sixth is only trained on in instruction tuning."""

WORLD_LIMITS = {"pool": 400, "unseen_pool": 400, "test": 300}
"""Most examples a task that the made-up world can write."""

Metric = Literal["loss", "bleu", "rouge_l"]
Seed = Annotated[int, Field(ge=0)]
T_Item = TypeVar("T_Item")
Some = Annotated[tuple[T_Item, ...], Field(min_length=1)]
# Names that become parts of file names.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
MethodName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Scenario = Literal["fine_tuning", "instruction_tuning"]


def _form_of(value: Any) -> str:
    """Tell a single value from several, so that a mistake is told of the form that was meant."""
    return "many" if isinstance(value, dict | list | tuple) else "one"


_ByForm = Discriminator(_form_of)
# One value for all, or one for each name.
Each = Annotated[Annotated[T_Item, Tag("one")] | Annotated[dict[str, T_Item], Tag("many")], _ByForm]


class Section(BaseModel):
    """A mapping of params.yaml: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


# ---------------------------------------------------------------------------------------------------- tasks


class HubTask(Section):
    """Where a task stands on the Hugging Face hub."""

    path: str
    name: str | None = None
    revision: str
    train: str
    test: str


class OwnTask(Section):
    """A user's own task: JSON Lines or Parquet files with a prompt and a target column."""

    train: str
    test: str
    prompt: str = "prompt"
    target: str = "target"
    metrics: Some[Metric] = ("loss",)
    instruction: str = "{prompt}"


class Tasks(Section):
    """What is learned and measured: sources, prompts, own tasks."""

    world_seed: Seed
    local_folder: str
    templates: str | None
    template_seed: Seed
    hub: dict[str, HubTask]
    own: dict[Name, OwnTask]


# ------------------------------------------------------------------------------------------ curricula, dynamics


class Curricula(Section):
    """Base seeds of what is drawn and in which order; a run adds its own number."""

    draw_seed: Seed
    order_seed: Seed


class Lora(Section):
    """Low-rank adapters through peft."""

    rank: PositiveInt
    alpha: PositiveFloat
    dropout: Annotated[float, Field(ge=0, lt=1)]
    targets: Some[str]


class Model(Section):
    """What every model has: its context, adapters, and what a job of its runs asks of a machine."""

    max_length: Annotated[int, Field(ge=16)]
    lora: Lora | None = None
    runs_per_job: PositiveInt = 1
    gpu: Annotated[int, Field(ge=0)] = 0
    mem_gb: PositiveFloat = 2
    runtime_min: PositiveInt = 30


class Shape(Section):
    """A model's published architecture, where no file is on disk to tell it; only estimates of cost read it."""

    layers: PositiveInt
    width: PositiveInt
    vocabulary: PositiveInt


class HubModel(Model):
    """A causal language model on the Hugging Face hub, its revision pinned."""

    source: Literal["hub"]
    path: str
    revision: str
    shape: Shape | None = None


class FolderModel(Model):
    """A causal language model in a local folder (config.json, safetensors, tokenizer)."""

    source: Literal["folder"]
    path: str


class GgufModel(Model):
    """A causal language model in a GGUF file, on disk or inside an installed Python package."""

    source: Literal["gguf"]
    path: str
    package: str | None = None


class WorldModel(Model):
    """A small GPT-NeoX, pre-trained by the pipeline on the world's corpus."""

    source: Literal["world"]
    layers: PositiveInt
    width: PositiveInt
    heads: PositiveInt
    epochs: PositiveInt
    batch_tokens: PositiveInt
    learning_rate: PositiveFloat


AnyModel = Annotated[HubModel | FolderModel | GgufModel | WorldModel, Field(discriminator="source")]


class Optimizer(Section):
    """AdamW with linear decay to zero and no warm-up."""

    beta1: Annotated[float, Field(ge=0, lt=1)]
    beta2: Annotated[float, Field(ge=0, lt=1)]
    epsilon: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)]


class Generation(Section):
    """How text is sampled for BLEU and ROUGE-L."""

    top_p: Annotated[float, Field(gt=0, le=1)]
    temperature: PositiveFloat
    max_new_tokens: PositiveInt
    batch_tokens: PositiveInt


class Pretraining(Section):
    """The corpus and the vocabulary of the world's own models."""

    sentences: Annotated[int, Field(ge=200, le=60_000)]
    vocabulary: Annotated[int, Field(ge=300)]
    seed: Seed


class Device(Section):
    """How fast a device is assumed to be: its peak, the share of it that is reached, its memory, a layer's call."""

    tflops: PositiveFloat
    utilisation: Annotated[float, Field(gt=0, le=1)]
    gb_per_s: PositiveFloat
    layer_ms: Annotated[float, Field(ge=0)]


class Cost(Section):
    """From which speeds `gptfluence status` estimates what was not measured; decides nothing else."""

    gpu: Device
    cpu: Device


class DynamicsParams(Section):
    """How a GPT is trained and what is recorded."""

    init_seed: Seed
    generation_seed: Seed
    evaluation_tokens: PositiveInt
    precision: Literal["fp32", "bf16"]
    compile: bool
    checkpoint_minutes: Annotated[float, Field(gt=0)]
    cost: Cost
    optimizer: Optimizer
    generation: Generation
    pretraining: Pretraining
    models: dict[Name, AnyModel]


# -------------------------------------------------------------------------------------------------- attribution

AttributionMethod = Literal[
    "random", "length", "loss", "bm25", "encoder_cosine", "grad_dot", "grad_cosine", "tracin_cp", "less", "trak",
    "trackstar", "trackstar_no_correction", "trackstar_no_hessian", "trackstar_no_mix", "trackstar_no_norm",
    "trackstar_no_projection", "ekfac", "tail_patch",
]  # fmt: skip
Replay = Literal["tracin", "tracin_adamw", "tracin_cp", "grad_dot"]


class Attribution(Section):
    """Which methods score the influence of training examples, and how their gradients are taken."""

    methods: Some[AttributionMethod]
    replays: tuple[Replay, ...]
    orders: PositiveInt
    checkpoints: Annotated[int, Field(ge=2)]
    kernel_checkpoints: PositiveInt
    parameters: Literal["linear", "all"]
    projection: PositiveInt
    damping: PositiveFloat
    seed: Seed


# -------------------------------------------------------------------------------------------------- simulators


class Encoder(Section):
    """The frozen text encoder whose vectors are GPTfluence's features."""

    source: Literal["package", "folder", "hub"]
    path: str
    revision: str | None = None
    pooling: Literal["mean", "cls", "last"]


class ModelEncoder(Section):
    """The GPT of each group itself, before it is trained, as the encoder of its texts."""

    source: Literal["model"]
    pooling: Literal["mean", "last"]


class Adam(Section):
    """Training by Adam on single steps, as published; see `simulators.adam`."""

    learning_rates: Some[PositiveFloat]
    weight_decay: Annotated[float, Field(ge=0)]
    batch: PositiveInt | None
    warmup: Annotated[int, Field(ge=0)]
    epochs: PositiveInt
    patience: PositiveInt
    seed: Seed


class SimfluenceAdam(Adam):
    """The same, of factors that begin at random."""

    initial_std: Annotated[float, Field(ge=0)]


class IntervalSettings(Section):
    """At every how many steps metrics are known, and what simulators make of the steps between."""

    interval: PositiveInt = 1
    between: Literal["jump", "hold"] = "jump"


class SimfluenceSettings(IntervalSettings):
    """Free factors for every (training, test) pair (Simfluence; paper, eq. 3), exact ridge or Adam."""

    kind: Literal["simfluence"]
    variant: Literal["linear", "additive", "multiplicative"]
    aggregation: Literal["sum", "mean"]
    shrink_to: Literal["persistence", "zero"]
    strengths: Some[PositiveFloat]
    adam: SimfluenceAdam | None = None


class GptfluenceSettings(IntervalSettings):
    """What both heads of GPTfluence have: their features, and the form of one step (paper, eq. 4-5)."""

    kind: Literal["gptfluence"]
    features: str = "text"
    tasks: Literal["together", "each"] = "together"
    order: PositiveInt
    start: Literal["given", "zeros"]
    aggregation: Literal["sum", "mean"]
    shrink_to: Literal["persistence", "zero"]


class BilinearSettings(GptfluenceSettings):
    """GPTfluence with factors bilinear in features (paper, eq. 4-9), exact ridge or Adam."""

    head: Literal["bilinear"]
    strengths: Some[PositiveFloat]
    adam: Adam | None = None


class MlpSettings(GptfluenceSettings):
    """GPTfluence with the published code's head: two shared two-layer ReLU networks."""

    head: Literal["mlp"]
    adam: Adam


class AdditiveSettings(Section):
    """An attribution method's scores as the factors of an additive simulator; its scale may be fitted."""

    kind: Literal["additive"]
    scores: AttributionMethod
    scale: Literal["none", "fitted"]


class GradientResponseSettings(Section):
    """The mean curve plus weighted responses to gradient kernels; see `simulators.gradient_response`."""

    kind: Literal["gradient_response"]
    kernels: Some[Literal["sgd", "adamw"]]
    momenta: Some[Annotated[float, Field(ge=0, lt=1)]]
    decays: Some[Annotated[float, Field(ge=0, le=1)]]
    strengths: Some[PositiveFloat]


def _method_tag(value: Any) -> str | None:
    """Tell the simulators apart: by kind, and GPTfluence's two by their head."""
    if isinstance(value, dict):
        return value.get("head") if value.get("kind") == "gptfluence" else value.get("kind")
    return getattr(value, "head", getattr(value, "kind", None))


Method = Annotated[
    Annotated[SimfluenceSettings, Tag("simfluence")]
    | Annotated[BilinearSettings, Tag("bilinear")]
    | Annotated[MlpSettings, Tag("mlp")]
    | Annotated[AdditiveSettings, Tag("additive")]
    | Annotated[GradientResponseSettings, Tag("gradient_response")],
    Discriminator(
        _method_tag,
        custom_error_type="method",
        custom_error_message=(
            "kind must be simfluence, additive, gradient_response, or gptfluence with head bilinear or mlp"
        ),
    ),
]


Trivial = Literal["persistence", "global_ar1", "mean_curve"]


class Simulators(Section):
    """Which simulators are fitted, and on which features."""

    encoder: Encoder
    encoders: dict[MethodName, Annotated[Encoder | ModelEncoder, Field(discriminator="source")]]
    methods: dict[MethodName, Method]


class Baselines(Section):
    """Baselines without knowledge of the training examples; they belong in every table."""

    trivial: tuple[Trivial, ...]


# ------------------------------------------------------------------------------------------------ scores, paper


class Learning(Section):
    """Learning curves of simulators."""

    methods: tuple[str, ...]
    runs: tuple[PositiveInt, ...]
    draws: PositiveInt
    intervals: tuple[Annotated[int, Field(ge=2)], ...]
    tests: tuple[PositiveInt, ...]
    seed: Seed


KNOW_TESTS_BY_RUNS = ("simfluence", "mlp", "additive", "mean_curve")
"""Methods that cannot simulate a test that no fitting run has measured."""


class UnseenTests(Section):
    """Simulators on tests that they were not fitted on."""

    methods: tuple[str, ...]
    curve_of: str
    folds: Annotated[int, Field(ge=2)]
    elsewhere_variants: tuple[str, ...] = ()


POOLED = ("bilinear", "gradient_response")
"""Kinds of methods that are fitted on the runs of several schedules at once."""


class PooledFits(Section):
    """Simulators in one fit of all schedules."""

    methods: tuple[str, ...]


class Scores(Section):
    """How simulations are judged, and how simulators are taken apart."""

    variants: dict[MethodName, dict[MethodName, dict[str, Any]]]
    learning: Learning
    unseen_tests: UnseenTests
    schedules: PooledFits
    convergence: dict[MethodName, dict[str, Any]]
    bootstrap_samples: PositiveInt
    bootstrap_seed: Seed
    confidence: Annotated[float, Field(gt=0, lt=1)]


class Paper(Section):
    """What the tables and figures show."""

    example_curves: PositiveInt
    figure_width_in: PositiveFloat


# ------------------------------------------------------------------------------------------------------ scales


class Runs(Section):
    """How many runs a model and task (a mixture counts as one) get, by what they serve for."""

    fit: PositiveInt
    validate_: Annotated[int, Field(ge=1, alias="validate")]
    held_out: PositiveInt
    unseen: Annotated[int, Field(ge=0)]
    repeats: Annotated[int, Field(ge=0)] = 0


class ScheduledRuns(Section):
    """How many runs a model, task and schedule get, by what they serve for."""

    fit: PositiveInt
    validate_: Annotated[int, Field(ge=1, alias="validate")]
    held_out: PositiveInt


class Schedule(Section):
    """Optimiser settings other than the scenario's own, which what is left out is."""

    learning_rate: PositiveFloat = 1.0
    batch: PositiveInt | None = None
    schedule: RateShape = "linear"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0


class SchedulesPlan(Section):
    """Further runs of a scenario's groups, under other optimiser settings."""

    models: Some[str] | None = None
    tasks: Some[str] | None = None
    runs: ScheduledRuns
    settings: Annotated[dict[MethodName, Schedule], Field(min_length=1)]


class ScenarioPlan(Section):
    """One scenario of a plan. A setting is one value, or a mapping from model or task names to values."""

    models: Some[str]
    train_tasks: Some[str]
    test_tasks: Some[str]
    runs: Runs
    draw: PositiveInt
    batch: PositiveInt
    epochs: Each[PositiveInt]
    learning_rate: Each[PositiveFloat]
    subsets: Each[Annotated[int, Field(ge=0)]] = 0
    schedules: SchedulesPlan | None = None
    kernel_checkpoints: Annotated[
        Annotated[PositiveInt | None, Tag("one")] | Annotated[Some[Annotated[int, Field(ge=0)]], Tag("many")], _ByForm
    ] = None
    kernel_runs: PositiveInt = 1
    ceiling: bool = False


class MislabelledRuns(Section):
    """How many runs on random subsets of the mislabelled pool a simulator is fitted on."""

    fit: PositiveInt
    validate_: Annotated[int, Field(ge=1, alias="validate")]


class MislabelledPlan(Section):
    """A task of two labels of which a share is wrong, to be found and corrected (paper, section 4.6)."""

    model: str
    task: Literal["sst2", "rte", "boolq"]
    pool: PositiveInt
    test: PositiveInt
    flipped: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed
    runs: MislabelledRuns
    draw: PositiveInt
    batch: PositiveInt
    epochs: PositiveInt
    learning_rate: PositiveFloat
    retrainings: PositiveInt
    random_seeds: PositiveInt
    fractions: Some[Annotated[float, Field(gt=0, le=1)]]


class ChoicesPlan(Section):
    """Tasks of fine-tuning for which training data is chosen, and by what."""

    model: str
    tasks: Some[str]
    budget: Annotated[int, Field(ge=2)]
    splits: PositiveInt
    random: Annotated[int, Field(ge=2)]
    simulators: tuple[str, ...]
    scores: tuple[AttributionMethod, ...]


class ReleasedScale(Section):
    """The runs of the published data set GPTDynamics, as an import has found them, instead of our own GPTs."""

    source: Literal["released"]
    folder: str
    test_offsets: dict[Name, Annotated[int, Field(ge=0)]]
    unseen_offsets: dict[Name, Annotated[int, Field(ge=0)]] = {}
    held_out_seeds: dict[Name, tuple[Seed, ...]] = {}
    held_out: PositiveInt
    validate_: Annotated[int, Field(ge=1, alias="validate")]
    # What a plan of own runs has, and this one has not.
    scenarios: ClassVar[dict[Scenario, ScenarioPlan]] = {}
    mislabelled: ClassVar[None] = None
    choices: ClassVar[None] = None
    seeds: ClassVar[dict[str, Seed]] = {}


class Scale(Section):
    """A plan: which runs exist."""

    source: Literal["world", "local", "hub"]
    pool: PositiveInt
    unseen_pool: Annotated[int, Field(ge=0)]
    test: Each[PositiveInt]
    scenarios: Annotated[dict[Scenario, ScenarioPlan], Field(min_length=1)]
    mislabelled: MislabelledPlan | None = None
    choices: ChoicesPlan | None = None
    seeds: dict[str, Seed] = {}
    variants: dict[MethodName, dict[MethodName, dict[str, Any]]] = {}


class Params(Section):
    """The whole of params.yaml."""

    scale: str
    tasks: Tasks
    curricula: Curricula
    dynamics: DynamicsParams
    attribution: Attribution
    simulators: Simulators
    baselines: Baselines
    scores: Scores
    paper: Paper
    scales: dict[Name, Annotated[Scale | ReleasedScale, Field(discriminator="source")]]

    @property
    def plan(self) -> Scale | ReleasedScale:
        """The chosen scale's plan."""
        return self.scales[self.scale]

    @property
    def variants(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What is changed in each variant of a method: those of all scales, and behind them those of the chosen one."""
        of_all, own = self.scores.variants, getattr(self.plan, "variants", {})  # a released scale has none
        return {name: of_all.get(name, {}) | own.get(name, {}) for name in {**of_all, **own}}

    def metrics(self, task: str) -> tuple[Metric, ...]:
        """The metrics recorded on a task's test examples."""
        if task in self.tasks.own:
            return self.tasks.own[task].metrics
        return ("loss", "bleu", "rouge_l") if task in ("webnlg", "wmt16_de_en") else ("loss",)


def replaced(method: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """Return the whole settings of a method, some of which are replaced, in the types that they are to have."""
    return _METHOD.validate_python(method | changed).model_dump()


_METHOD: TypeAdapter[Method] = TypeAdapter(Method)


def setting(value: T | dict[str, T], *names: str) -> T:
    """Resolve a setting that may be a mapping: the first of `names` that it holds decides."""
    if not isinstance(value, dict):
        return value
    return next(value[name] for name in names if name in value)


# ----------------------------------------------------------------------------------------------------- loading


def load_params(raw: dict[str, Any], file: Path) -> Params:
    """Check a configuration whole and return it typed.

    Args:
        raw: the mapping read from `file`, with any overrides of the command line already in it.
        file: params.yaml; read again only to say on which line a mistake stands.

    Raises:
        UserError: with one line for each mistake.
    """
    problems: list[tuple[tuple[str | int, ...], str]] = []
    params = None
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        entries = error.errors()
        # A setting that is a number or a mapping fails as both: only the first form is told.
        plain = {entry["loc"][:-1] for entry in entries if entry["type"] != "dict_type"}
        kept = [e for e in entries if not (e["type"] == "dict_type" and e["loc"][:-1] in plain)]
        problems += [_explain(entry, raw) for entry in kept]
    problems += _cross_checks(raw)
    if problems:
        lines = _key_lines(file)
        rows = sorted({(_line(lines, path), ".".join(map(str, path)), text) for path, text in problems})
        shown = [f"  {file.name}{f':{line}' if line else ''}: {key}: {text}" for line, key, text in rows]
        count = f"{len(shown)} mistake{'s' * (len(shown) > 1)}"
        raise UserError(f"{file.name} has {count}:\n" + "\n".join(shown))
    assert params is not None
    return params


def read_params(file: Path, scale: str | None = None) -> Params:
    """Read and check a params.yaml; `scale`: instead of the one that it names.

    Raises:
        UserError: the file is missing, not YAML, or holds mistakes (all of them are named).
    """
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{file}: must be a mapping of sections")
    return load_params(raw | ({"scale": scale} if scale else {}), file)


def json_schema() -> str:
    """Return the JSON schema of params.yaml as text (workflow/schemas/params.schema.json)."""
    return json.dumps(Params.model_json_schema(), indent=2, sort_keys=True) + "\n"


# pydantic's wording, where ours is clearer; {input} is the given value.
_MESSAGES = {
    "missing": "missing",
    "int_parsing": "must be a whole number, not {input!r}",
    "int_type": "must be a whole number, not {input!r}",
    "int_from_float": "must be a whole number, not {input!r}",
    "float_parsing": "must be a number, not {input!r}",
    "float_type": "must be a number, not {input!r}",
    "string_type": "must be a text, not {input!r}",
    "tuple_type": "must be a list, not {input!r}",
    "dict_type": "must be a mapping, not {input!r}",
    "model_type": "must be a mapping, not {input!r}",
}


def _explain(entry: Any, raw: Any) -> tuple[tuple[str | int, ...], str]:
    """Turn one pydantic error into (path of the key, message)."""
    # Steps of the path that name a member of a union, not a key of the file, are dropped.
    path: list[str | int] = []
    node = raw
    for step in entry["loc"]:
        if isinstance(node, dict) and (step in node or entry["type"] in ("missing", "extra_forbidden")):
            is_key = step in node or step == entry["loc"][-1]
        elif isinstance(node, list | tuple) and isinstance(step, int):
            is_key = True
        else:
            is_key = False
        if is_key:
            path.append(step)
            try:
                node = node[step]
            except (KeyError, IndexError, TypeError):
                node = None
    kind = entry["type"]
    if kind == "extra_forbidden":
        known = _known_keys(entry["loc"][:-1])
        return tuple(path), f"unknown key{did_you_mean(str(entry['loc'][-1]), known)}"
    text = _MESSAGES.get(kind, entry["msg"][0].lower() + entry["msg"][1:])
    return tuple(path), text.format(input=entry["input"]) if kind in _MESSAGES else text


def _known_keys(location: tuple[Any, ...]) -> set[str]:
    """Return the keys that the schema declares at a location of a pydantic error."""
    schema = Params.model_json_schema(by_alias=True)
    definitions = schema["$defs"]

    def expand(node: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in node:
            return expand(definitions[node["$ref"].rsplit("/", 1)[-1]])
        for word in ("anyOf", "oneOf", "allOf"):
            if word in node:
                return [leaf for option in node[word] for leaf in expand(option)]
        return [node]

    nodes = expand(schema)
    for step in location:
        following: list[dict[str, Any]] = []
        for node in nodes:
            if step in node.get("properties", {}):
                following += expand(node["properties"][step])
            else:  # a mapping from names
                values = [node.get("additionalProperties"), *node.get("patternProperties", {}).values()]
                following += [leaf for value in values if isinstance(value, dict) for leaf in expand(value)]
        nodes = following or nodes
    return {key for node in nodes for key in node.get("properties", {})}


def _cross_checks(raw: Any) -> list[tuple[tuple[str | int, ...], str]]:
    """Check what one key says of another, on the raw mapping, so that a wrong type elsewhere hides nothing."""

    def at(*keys: str) -> Any:
        node = raw
        for key in keys:
            node = node.get(key) if isinstance(node, dict) else None
        return node

    found: list[tuple[tuple[str | int, ...], str]] = []

    def unknown(path: tuple[str | int, ...], name: Any, choices: list[str], what: str) -> None:
        if isinstance(name, str) and choices and name not in choices:
            found.append((path, f"no {what} '{name}'{did_you_mean(name, choices)}; there are: {', '.join(choices)}"))

    def mapping(*keys: str) -> dict[str, Any]:
        node = at(*keys)
        return {key: value for key, value in node.items() if isinstance(key, str)} if isinstance(node, dict) else {}

    scales = mapping("scales")
    unknown(("scale",), at("scale"), list(scales), "scale")
    models = mapping("dynamics", "models")
    own = mapping("tasks", "own")
    for name in own:
        if name in (*HUB_TASKS, "average", "mixture"):
            found.append((("tasks", "own", name), "is the name of a built-in task or of a row; choose another"))
    for name, model in models.items():
        width, heads = (model.get("width"), model.get("heads")) if isinstance(model, dict) else (None, None)
        if isinstance(width, int) and isinstance(heads, int) and heads > 0 and width % heads:
            found.append((("dynamics", "models", name, "width"), f"{width} is not a multiple of heads = {heads}"))
    for name in mapping("simulators", "methods"):
        if name in (MEASURED, CEILING, TIME_CURVE, *get_args(Trivial), *get_args(Replay)):
            found.append((("simulators", "methods", name), "is a reserved name; choose another"))
    encoders = mapping("simulators", "encoders")
    for name in {"text", "gradients"} & encoders.keys():
        found.append((("simulators", "encoders", name), "is a reserved name; choose another"))
    read = {("simulators", "methods", name): method for name, method in mapping("simulators", "methods").items()}
    of_scales = [("scales", scale, "variants") for scale in scales if mapping("scales", scale, "variants")]
    for where in [("scores", "variants"), *of_scales]:
        for name, variants in mapping(*where).items():
            for variant, changed in variants.items() if isinstance(variants, dict) else ():
                read[*where, name, variant] = changed
    for here, method in read.items():
        if isinstance(method, dict):
            choices = ["text", "gradients", *encoders]
            unknown((*here, "features"), method.get("features"), choices, "features or encoder in simulators.encoders")
    for name, method in mapping("simulators", "methods").items():
        if isinstance(method, dict) and method.get("kind") == "additive":
            scored = at("attribution", "methods")
            unknown(("simulators", "methods", name, "scores"), method.get("scores"),
                    [m for m in scored if isinstance(m, str)] if isinstance(scored, list) else [],
                    "method in attribution.methods")  # fmt: skip
    found += _check_scores(mapping("simulators", "methods"), at("baselines", "trivial"), mapping("scores"), unknown)
    for where in [("scores", "variants"), *of_scales]:
        found += _check_variants(where, mapping(*where), mapping("simulators", "methods"), unknown)
    known = mapping("simulators", "methods").keys()
    trained = {name: {"adam": changed} for name, changed in mapping("scores", "convergence").items() if name in known}
    found += [
        (("scores", "convergence", *path[3:4], *path[5:]), text)
        for path, text in _check_variants(
            ("scores", "convergence", ""), trained, mapping("simulators", "methods"), unknown
        )
    ]
    for name in mapping("tasks", "hub"):
        unknown(("tasks", "hub", name), name, list(HUB_TASKS), "task")
    for scale, plan in scales.items():
        if not isinstance(plan, dict) or not isinstance(plan.get("scenarios"), dict):
            continue
        tests = plan.get("test") if isinstance(plan.get("test"), dict) else {}
        for task in tests:
            unknown(("scales", scale, "test", task), task, [*HUB_TASKS, *own], "task")
        for key, limit in WORLD_LIMITS.items() if plan.get("source") == "world" else ():
            sizes = [plan.get(key), *(tests.values() if key == "test" else ())]
            if any(isinstance(size, int) and size > limit for size in sizes):
                found.append((("scales", scale, key), f"the made-up world can write at most {limit} a task"))
        if isinstance(plan.get("mislabelled"), dict):
            method = at("simulators", "methods", "gptfluence")
            here = ("scales", scale, "mislabelled")
            unknown((*here, "model"), plan["mislabelled"].get("model"), list(models), "model")
            found += _check_mislabelled(here, plan, method)
        if isinstance(plan.get("choices"), dict):
            here = ("scales", scale, "choices")
            scored = at("attribution", "methods")
            found += _check_choices(here, plan, mapping("simulators", "methods"), scored, unknown)
        for scenario, settings in plan["scenarios"].items():
            if isinstance(settings, dict):
                here = ("scales", scale, "scenarios", scenario)
                found += _check_scenario(here, plan, settings, list(models), [*HUB_TASKS, *own], unknown)
                replays = at("attribution", "replays")
                lacking = [name for name in OWN_STEPS.values() if isinstance(replays, list) and name not in replays]
                if settings.get("ceiling") is True and lacking:
                    found.append(((*here, "ceiling"), f"asks for {', '.join(lacking)} in attribution.replays"))
    return found


def _check_scores(
    methods: dict[str, Any], trivial: Any, scores: dict[str, Any], unknown: Any
) -> list[tuple[tuple[str | int, ...], str]]:
    found: list[tuple[tuple[str | int, ...], str]] = []
    learning = scores.get("learning")
    unseen_tests = scores.get("unseen_tests")
    for key, section in {"learning": learning, "unseen_tests": unseen_tests}.items():
        named = section.get("methods") if isinstance(section, dict) else None
        for i, name in enumerate(named if isinstance(named, list) else ()):
            choices = [*(trivial if isinstance(trivial, list) else []), *methods]
            unknown(("scores", key, "methods", i), name, choices, "method in baselines.trivial or simulators.methods")
            kind = _method_tag(methods.get(name, {"kind": name})) if isinstance(name, str) else None
            if key == "unseen_tests" and kind in KNOW_TESTS_BY_RUNS:
                found.append((("scores", key, "methods", i), "knows tests by their runs alone; take it out"))
    convergence = scores.get("convergence")
    for name in convergence if isinstance(convergence, dict) else ():
        unknown(("scores", "convergence", name), name, list(methods), "method in simulators.methods")
        if name in methods and _method_tag(methods[name]) not in ("simfluence", "bilinear"):
            found.append((("scores", "convergence", name), "cannot be fitted both by Adam and exactly; take it out"))
    pooled = scores.get("schedules")
    named = pooled.get("methods") if isinstance(pooled, dict) else None
    for i, name in enumerate(named if isinstance(named, list) else ()):
        here = ("scores", "schedules", "methods", i)
        unknown(here, name, list(methods), "method in simulators.methods")
        method = methods.get(name) if isinstance(name, str) else None
        plain = isinstance(method, dict) and method.get("interval", 1) == 1 and method.get("tasks") != "each"
        if isinstance(method, dict) and not (plain and _method_tag(method) in POOLED):
            found.append((here, "is of a kind that cannot be fitted on several schedules at once; take it out"))
    if isinstance(unseen_tests, dict):
        responses = [name for name, method in methods.items() if _method_tag(method) == "gradient_response"]
        unknown(("scores", "unseen_tests", "curve_of"), unseen_tests.get("curve_of"), responses,
                "method of kind gradient_response in simulators.methods")  # fmt: skip
    return found


def _check_variants(
    section: tuple[str, ...], variants: dict[str, Any], methods: dict[str, Any], unknown: Any
) -> list[tuple[tuple[str | int, ...], str]]:
    """Check settings that replace those of methods.

    Args:
        section: where they stand.
        variants: by method and variant.
    """
    found: list[tuple[tuple[str | int, ...], str]] = []
    for name, of_method in variants.items():
        here = (*section, name)
        unknown(here, name, list(methods), "method in simulators.methods")
        for variant, changed in of_method.items() if isinstance(of_method, dict) else ():
            if variant == WHOLE:
                found.append(((*here, variant), "is a reserved name; choose another"))
            if not isinstance(changed, dict) or not isinstance(methods.get(name), dict):
                continue
            for fixed in {"kind", "head"} & changed.keys():
                found.append(((*here, variant, fixed), "a variant has the method's own; add a method instead"))
            try:
                _METHOD.validate_python(methods[name] | changed)
            except ValidationError as error:
                where = ("simulators", "methods", name)
                whole = {"simulators": {"methods": {name: methods[name] | changed}}}
                for entry in error.errors():
                    path, text = _explain(entry | {"loc": (*where, *entry["loc"])}, whole)
                    if set(path[3:4]) & changed.keys():  # what is wrong with the method itself is said of it
                        found.append(((*here, variant, *path[3:]), text))
    return found


def _check_scenario(
    here: tuple[str, ...],
    plan: dict[str, Any],
    settings: dict[str, Any],
    models: list[str],
    tasks: list[str],
    unknown: Any,
) -> list[tuple[tuple[str | int, ...], str]]:
    found: list[tuple[tuple[str | int, ...], str]] = []

    def listed(key: str) -> list[str]:
        names = settings[key] if isinstance(settings.get(key), list) else []
        return [name for name in names if isinstance(name, str)]

    for i, name in enumerate(listed("models")):
        unknown((*here, "models", i), name, models, "model")
    for key in ("train_tasks", "test_tasks"):
        for i, name in enumerate(listed(key)):
            unknown((*here, key, i), name, tasks, "task")
    for key in ("models", "train_tasks", "test_tasks"):
        twice = sorted({name for name in listed(key) if listed(key).count(name) > 1})
        if twice:
            found.append(((*here, key), f"{', '.join(twice)}: stands there twice"))
    # A run of instruction tuning has many tasks, so only the model can tell its settings.
    by_model = "instruction_tuning" in here
    names = {*listed("models"), *([] if by_model else listed("train_tasks"))}
    for key in ("epochs", "learning_rate", "subsets"):
        if isinstance(settings.get(key), dict):
            for name in settings[key]:
                unknown(
                    (*here, key, name), name, sorted(names), f"model{'' if by_model else ' or task'} of this scenario"
                )
            covered = set(settings[key])
            if not (set(listed("models")) <= covered or (set(listed("train_tasks")) <= covered and not by_model)):
                every = "every model" if by_model else "every model or every task"
                found.append(((*here, key), f"must name {every} of this scenario"))
    missing = [name for name in listed("test_tasks") if name not in listed("train_tasks")]
    if missing:
        found.append(((*here, "test_tasks"), f"{', '.join(map(str, missing))}: not among train_tasks"))
    draw, pool, batch = settings.get("draw"), plan.get("pool"), settings.get("batch")
    if isinstance(draw, int) and isinstance(pool, int) and draw > pool:
        found.append(((*here, "draw"), f"cannot draw {draw} of a pool of {pool}; lower draw or raise pool"))
    unseen_pool = plan.get("unseen_pool")
    runs = settings.get("runs") if isinstance(settings.get("runs"), dict) else {}
    if isinstance(draw, int) and isinstance(unseen_pool, int) and runs.get("unseen") and draw > unseen_pool:
        found.append(((*here, "draw"), f"cannot draw {draw} of an unseen_pool of {unseen_pool} for the unseen runs"))
    repeats, held_out = runs.get("repeats"), runs.get("held_out")
    if isinstance(repeats, int) and isinstance(held_out, int) and repeats > held_out:
        found.append(((*here, "runs", "repeats"), f"cannot repeat {repeats} of {held_out} held-out runs"))
    kernel_runs, fit = settings.get("kernel_runs"), runs.get("fit")
    if isinstance(kernel_runs, int) and isinstance(fit, int) and kernel_runs > fit:
        found.append(((*here, "kernel_runs"), f"there are no {kernel_runs} fitting runs: runs.fit is {fit}"))
    if isinstance(draw, int) and isinstance(batch, int) and batch > 0 and "fine_tuning" in here and draw % batch:
        found.append(((*here, "batch"), f"{draw} drawn examples do not fill batches of {batch}"))
    if isinstance(draw, int) and isinstance(batch, int) and batch > 0 and "instruction_tuning" in here:
        total = draw * len(listed("train_tasks"))
        if total % batch:
            found.append(((*here, "batch"), f"{total} drawn examples do not fill batches of {batch}"))
    found += _check_kernel_checkpoints((*here, "kernel_checkpoints"), settings, listed("train_tasks"))
    if isinstance(settings.get("schedules"), dict):
        found += _check_schedules((*here, "schedules"), settings, listed, unknown)
    return found


def _check_kernel_checkpoints(
    here: tuple[str, ...], scenario: dict[str, Any], tasks: list[str]
) -> list[tuple[tuple[str | int, ...], str]]:
    steps, epochs = scenario.get("kernel_checkpoints"), scenario.get("epochs")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, int) for step in steps):
        return []
    if steps[0] != 0 or steps != sorted(set(steps)):
        return [(here, f"{steps}: steps begin with 0 and rise")]
    few = min((n for n in epochs.values() if isinstance(n, int)), default=None) if isinstance(epochs, dict) else epochs
    draw, batch = scenario.get("draw"), scenario.get("batch")
    if all(isinstance(number, int) and number > 0 for number in (few, draw, batch)):
        total = few * draw * (len(tasks) if "instruction_tuning" in here else 1) // batch
        if steps[-1] >= total:
            return [(here, f"there is no step {steps[-1]}: runs have {total}, and the first is 0")]
    return []


def _check_schedules(
    here: tuple[str, ...], scenario: dict[str, Any], listed: Any, unknown: Any
) -> list[tuple[tuple[str | int, ...], str]]:
    found: list[tuple[tuple[str | int, ...], str]] = []
    plan, mixture = scenario["schedules"], "instruction_tuning" in here
    for key, names in {"models": listed("models"), "tasks": listed("train_tasks")}.items():
        for i, name in enumerate(plan[key] if isinstance(plan.get(key), list) else ()):
            unknown((*here, key, i), name, names, f"{key.removesuffix('s')} of this scenario")
    if mixture and plan.get("tasks") is not None:
        found.append(((*here, "tasks"), "instruction tuning has one mixture of all tasks; leave it out"))
    draw, own_batch = scenario.get("draw"), scenario.get("batch")
    total = draw * len(listed("train_tasks")) if isinstance(draw, int) and mixture else draw
    for name, settings in plan["settings"].items() if isinstance(plan.get("settings"), dict) else ():
        if name in (OWN, AVERAGE):
            found.append(((*here, "settings", name), "is a reserved name; choose another"))
        if not isinstance(settings, dict):
            continue
        batch = settings.get("batch", own_batch)
        if isinstance(batch, int) and batch > 0 and isinstance(total, int) and total % batch and batch != own_batch:
            found.append(((*here, "settings", name, "batch"), f"{total} drawn examples do not fill batches of {batch}"))
        own = {"learning_rate": 1.0, "batch": own_batch, "schedule": "linear", "warmup": 0.0}
        if own | settings == own:
            found.append(((*here, "settings", name), "is the scenario's own; change a setting, or leave it out"))
    return found


def _check_mislabelled(
    here: tuple[str, ...], plan: dict[str, Any], method: Any
) -> list[tuple[tuple[str | int, ...], str]]:
    found: list[tuple[tuple[str | int, ...], str]] = []
    settings = plan["mislabelled"]
    pool, test, draw, batch = (
        value if isinstance(value := settings.get(key), int) else None for key in ("pool", "test", "draw", "batch")
    )
    for key, size in (("pool", pool), ("test", test)):
        if plan.get("source") == "world" and size is not None and size > WORLD_LIMITS[key]:
            found.append(((*here, key), f"the made-up world can write at most {WORLD_LIMITS[key]} a task"))
    if draw is not None and pool is not None and draw > pool:
        found.append(((*here, "draw"), f"cannot draw {draw} of a pool of {pool}; lower draw or raise pool"))
    for key, size in (("draw", draw), ("pool", pool)):
        if size is not None and batch and size % batch:
            found.append(((*here, "batch"), f"{key} = {size} examples do not fill batches of {batch}"))
    if not isinstance(method, dict) or (method.get("kind"), method.get("head")) != ("gptfluence", "bilinear"):
        found.append((here, "ranks by simulators.methods.gptfluence, which must be of kind gptfluence, head bilinear"))
    return found


def _check_choices(
    here: tuple[str, ...], plan: dict[str, Any], methods: dict[str, Any], scored: Any, unknown: Any
) -> list[tuple[tuple[str | int, ...], str]]:
    found: list[tuple[tuple[str | int, ...], str]] = []
    settings = plan["choices"]

    def listed(owner: dict[str, Any], key: str) -> list[Any]:
        return owner[key] if isinstance(owner.get(key), list) else []

    scenario = plan["scenarios"].get("fine_tuning")
    if not isinstance(scenario, dict):
        return [(here, "data is chosen for fine-tuning, which this plan has not")]
    unknown((*here, "model"), settings.get("model"), listed(scenario, "models"), "model of fine-tuning")
    tested = [name for name in listed(scenario, "test_tasks") if name in listed(scenario, "train_tasks")]
    choices = {
        "tasks": (tested, "test task of fine-tuning"),
        "simulators": ([*methods], "method in simulators.methods"),
        "scores": ([name for name in scored if isinstance(name, str)] if isinstance(scored, list) else [],
                   "method in attribution.methods"),
    }  # fmt: skip
    for key, (known, what) in choices.items():
        names = listed(settings, key)
        for i, name in enumerate(names):
            unknown((*here, key, i), name, known, what)
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            found.append(((*here, key), f"{', '.join(twice)}: stands there twice"))
    if settings.get("simulators") == settings.get("scores") == []:
        found.append((here, "names no method; leave it out"))
    budget, pool, batch, draw = (
        value if isinstance(value := owner.get(key), int) and value > 0 else None
        for owner, key in ((settings, "budget"), (plan, "pool"), (scenario, "batch"), (scenario, "draw"))
    )
    if budget and pool and budget > pool:
        found.append(((*here, "budget"), f"cannot choose {budget} of a pool of {pool}; lower budget or raise pool"))
    if budget and batch and budget % batch:
        found.append(((*here, "budget"), f"{budget} examples do not fill batches of {batch}"))
    for task in listed(settings, "tasks"):
        epochs = scenario.get("epochs")
        if isinstance(epochs, dict):
            epochs = epochs.get(settings.get("model"), epochs.get(task))
        if budget and draw and isinstance(epochs, int) and epochs * draw % budget:
            found.append(((*here, "budget"), f"{budget} does not divide the {epochs * draw} places of a curriculum"))
            break
    return found


def _key_lines(file: Path) -> dict[tuple[str | int, ...], int]:
    """Map each key path of a YAML file to its line; empty where the file cannot be read."""
    lines: dict[tuple[str | int, ...], int] = {}

    def walk(node: yaml.Node, path: tuple[str | int, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                lines[(*path, key.value)] = key.start_mark.line + 1
                walk(value, (*path, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                lines[(*path, i)] = value.start_mark.line + 1
                walk(value, (*path, i))

    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, yaml.YAMLError):
        return {}
    if root is not None:
        walk(root, ())
    return lines


def _line(lines: dict[tuple[str | int, ...], int], path: tuple[str | int, ...]) -> int:
    """Return the line of a key, or of the nearest mapping around it; 0 where neither stands in the file."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return 0
