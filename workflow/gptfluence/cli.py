"""The command line: what users call, and one command a rule, given all it needs as a JSON file.

A user's mistake ends in one line on the terminal and in the log, with exit code 2, never in a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gptfluence.errors import UserError

if TYPE_CHECKING:
    from gptfluence.design import Design

LOG = logging.getLogger("gptfluence")


# The jobs, named as their rules, and the modules whose function of that name does them; imported when called.
COMMANDS = {
    "prepare_task": "tasks.prepare",
    "draw_curricula": "curricula.draw",
    "pretrain_model": "dynamics.pretrain",
    "train_runs": "dynamics.train",
    "encode_examples": "simulators.encode",
    "sketch_gradients": "attribution.sketch",
    "attribute_examples": "attribution.tables",
    "measure_kernels": "attribution.gradient_kernels",
    "replay_runs": "attribution.replay",
    "fit_simulator": "simulators.fit",
    "simulate_runs": "simulators.simulate",
    "rank_mislabels": "mislabels.rank",
    "correct_labels": "mislabels.correct",
    "choose_data": "choices.choose",
    "write_chosen": "choices.curricula",
    "score_simulations": "scores.score",
    "judge_attribution": "scores.attribution",
    "refit_simulators": "scores.simulators",
    "judge_simulators": "scores.simulators",
    "judge_mislabels": "scores.mislabels",
    "judge_choices": "scores.choices",
    "judge_convergence": "scores.convergence",
    "measure_costs": "scores.costs",
    "write_table": "paper.tables",
    "write_figure": "paper.figures",
    "write_page": "page.write",
    "write_report": "report.write",
}


# What jobs of a scale of released runs do instead: they train nothing.
RELEASED = {
    "prepare_task": "import_task",
    "draw_curricula": "import_curricula",
    "train_runs": "import_runs",
}


QUESTIONS = {
    "simulate": "what a curriculum would do to test examples",
    "compare": "what one curriculum does to them that another does not",
    "influence": "which training examples made the difference, to which test",
    "select": "which examples, in which order, lower the loss most",
}
"""What is asked of fitted simulators."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command; see ``python -m gptfluence --help``."""
    options = _parser().parse_args(arguments)
    # A terminated job cleans up as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        options.run(options)
    except UserError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        # The terminal and Snakemake may both send the signal: the second must not break the clean end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _fail("interrupted; run the same command again to go on", 130)
    except MemoryError:
        _fail("out of memory", 1)
    except OSError as error:
        _fail(f"{error.filename or options.command}: {error.strerror or error}", 1)


def _read_spec(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}. Run snakemake again; it writes the file.") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}). Delete it and run snakemake again.") from None


def _do(command: str, spec: dict[str, Any], outputs: list[Path]) -> None:
    if "released" in spec:
        function = getattr(importlib.import_module("gptfluence.released.stages"), RELEASED[command])
    else:
        function = getattr(importlib.import_module(f"gptfluence.{COMMANDS[command]}"), command)
    provenance = [path for path in outputs if path.name.endswith(".provenance.json")]
    outputs = [path for path in outputs if path not in provenance]
    if command in ("write_table", "write_figure"):
        function(spec, {path.suffix[1:]: path for path in outputs})  # one content in several forms
    else:
        function(spec, *outputs)
    for path in provenance:
        from gptfluence.standing import write_provenance

        write_provenance(path, command, spec, outputs)


def _design(file: Path = Path("params.yaml"), scale: str | None = None) -> Design:
    from gptfluence.design import make_design
    from gptfluence.params import read_params

    return make_design(read_params(file, scale))


def _job(options: argparse.Namespace) -> None:
    _start_log(options.log)
    _do(options.command, _read_spec(options.spec), options.output)


def _check(options: argparse.Namespace) -> None:
    design = _design(options.params)
    print(
        f"{options.params}: fine. Scale {design.params.scale}: {len(design.runs)} runs in {len(design.groups)} groups."
    )


def _schema(options: argparse.Namespace) -> None:
    from gptfluence.params import json_schema

    sys.stdout.write(json_schema())


def _status(options: argparse.Namespace) -> None:
    from gptfluence import status

    found = status.collect(_design(options.params, options.scale))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a log may hold what this terminal cannot show
    as_json = options.json and json.dumps(status.as_json(found), indent=2) + "\n"
    sys.stdout.write(as_json or status.render(found, options.failures))


def _plan(options: argparse.Namespace) -> None:
    from gptfluence.stages import write_plan

    write_plan(_design())


def _stage(options: argparse.Namespace) -> None:
    from gptfluence.stages import run_stage

    run_stage(_design(), options.stage)


def _adopt(options: argparse.Namespace) -> None:
    from gptfluence.adopt import adopt

    print(f"{len(adopt(options.revision))} files adopted from {options.revision}")


def _prune(options: argparse.Namespace) -> None:
    from gptfluence.prune import prune

    print(prune(_design(), delete=options.delete))


def _trace(options: argparse.Namespace) -> None:
    from gptfluence.attribution import trace

    _start_log(None)
    trace.run(options)


def _import(options: argparse.Namespace) -> None:
    from gptfluence.params import ReleasedScale, read_params
    from gptfluence.released.importing import import_release
    from gptfluence.released.report import render_plan
    from gptfluence.released.runs import plan_of

    _start_log(None)
    params = read_params(options.params, options.scale)
    if not isinstance(params.plan, ReleasedScale):
        raise UserError(f"{options.params}: scale {params.scale} has no source: released; name one by --scale")
    report = import_release(options.path, Path(params.plan.folder), params.plan.test_offsets)
    sys.stdout.write((Path(params.plan.folder) / "report.txt").read_text(encoding="utf-8"))
    sys.stdout.write("\n" + render_plan(plan_of(params, report), params.scale))


def _ask(options: argparse.Namespace) -> None:
    from gptfluence.whatif import commands

    commands.run(options)


def _export(options: argparse.Namespace) -> None:
    from gptfluence.released.export import export

    _start_log(None)
    runs = export(_design(options.params, options.scale), options.format, options.output)
    print(f"{len(runs)} runs, to {options.output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gptfluence", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def add(run: Callable[[argparse.Namespace], None], name: str, description: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=description, description=description)
        command.set_defaults(run=run)
        return command

    check = add(_check, "check", "check params.yaml: every mistake at once")
    check.add_argument("params", type=Path, nargs="?", default=Path("params.yaml"))
    add(_schema, "schema", "print the JSON schema of params.yaml")
    status = add(_status, "status", "say which runs are done, running and failed, and what the rest costs")
    status.add_argument("params", type=Path, nargs="?", default=Path("params.yaml"))
    status.add_argument("--scale", help="another scale than the one that params.yaml names")
    status.add_argument("--json", action="store_true", help="print one JSON object")
    status.add_argument("--failures", type=int, default=5, metavar="N", help="show at most N failures (default: 5)")
    add(_plan, "plan", "write data/plan: what each stage of dvc.yaml is to make")
    stage = add(_stage, "stage", "make what does not stand of a stage of dvc.yaml")
    stage.add_argument("stage")
    adopt = add(_adopt, "adopt", "copy what another git revision recorded with DVC and this tree lacks")
    adopt.add_argument("revision")
    prune = add(_prune, "prune", "list files of former plans, or delete them")
    prune.add_argument("--delete", action="store_true")
    imported = add(_import, "import", "read the published runs of GPTDynamics, and say what they hold")
    imported.add_argument("path", type=Path, help="the release's tar, or the folder that it was unpacked to")
    imported.add_argument("--params", type=Path, default=Path("params.yaml"))
    imported.add_argument("--scale", default="gptdynamics", help="scale of source released (default: gptdynamics)")
    from gptfluence.released.words import FORMS

    exported = add(_export, "export", "publish the dynamics of a scale: a Hugging Face data set, or as GPTDynamics")
    exported.add_argument("--format", choices=FORMS, required=True)
    exported.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    exported.add_argument("--params", type=Path, default=Path("params.yaml"))
    exported.add_argument("--scale", help="another scale than the one that params.yaml names")
    from gptfluence.attribution import trace

    traced = add(_trace, "trace", "find the passages of a corpus that taught a model what queries ask for")
    trace.add_arguments(traced)
    from gptfluence.whatif.arguments import add_arguments

    for name, description in QUESTIONS.items():
        add_arguments(add(_ask, name, description))
    for name in COMMANDS:
        job = add(_job, name, f"the job of the rule {name}")
        job.add_argument("--spec", type=Path, required=True, help="JSON file: all that the job needs to know")
        job.add_argument("--output", type=Path, nargs="+", required=True)
        job.add_argument("--log", type=Path, help="file that the progress is written to")
    return parser


def _start_log(path: Path | None) -> None:
    """Progress goes to the log file; without one, to the terminal."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.environ["TQDM_DISABLE"] = "1"  # a bar is for eyes, not for files
        # Libraries write where they like; all of it belongs into the log.
        sys.stdout.flush()
        stream = open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 (open until the process ends)
        _TERMINAL.append(os.dup(2))
        warnings = logging.StreamHandler(os.fdopen(os.dup(2), "w"))
        warnings.setLevel(logging.WARNING)
        warnings.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        LOG.addHandler(warnings)  # what a user should know does not stay in a file alone
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    LOG.setLevel(logging.INFO)


_TERMINAL: list[int] = []


def _fail(message: str, code: int) -> NoReturn:
    """Say why on the terminal and, if there is one, in the log; end without a traceback."""
    for terminal in _TERMINAL:
        os.write(terminal, f"error: {message}\n".encode())
    with contextlib.suppress(OSError):  # the log's disk may be what is full
        print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(code)
