"""What ``newllm evaluate`` takes."""

import argparse
from pathlib import Path

from newllm.config.errors import ParameterError
from newllm.config.methods import method_names
from newllm.files import why_no_model

SUMMARY = "ask trained models by a text, LAMBADA, WikiText, harness tasks, facts"

EXAMPLES = """\
newllm evaluate outputs/02_main_training/cpu-1234abcd/{pythia,mla,mqa}-seed0 --lambada --wikitext --facts
newllm evaluate EleutherAI/pythia-70m --tasks arc_easy,arc_challenge,hellaswag,piqa --limit 200 --output pythia"""

WHEN_INTERRUPTED = "benchmarks that were finished are written; ask for the others alone"

NO_FILE = Path()


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "models",
        metavar="model",
        nargs="+",
        help="the folder of a run's trial or of a saved model, or the hub id of a Pythia (EleutherAI/pythia-70m); "
        "several stand side by side in one table",
    )
    parser.add_argument(
        "--lambada",
        type=Path,
        nargs="?",
        const=NO_FILE,
        metavar="FILE",
        help="last words of a file of OpenAI's JSONL format; without FILE, of its test set on the hub",
    )
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="perplexities of any text file; of a .jsonl, of the text of each line"
    )
    parser.add_argument(
        "--wikitext",
        type=Path,
        nargs="?",
        const=NO_FILE,
        metavar="FILE",
        help="perplexities of a raw file such as wiki.test.raw; without FILE, of the test split on the hub",
    )
    parser.add_argument(
        "--facts",
        type=Path,
        nargs="?",
        const=NO_FILE,
        metavar="FILE",
        help="facts asked in both directions, of a CSV with the columns category, subject, relation and object; "
        "without FILE, the 33 of the workbench",
    )
    parser.add_argument(
        "--tasks",
        metavar="NAMES",
        help="tasks of the lm-evaluation-harness, such as arc_easy,arc_challenge,hellaswag,piqa (the extra eval)",
    )
    parser.add_argument("--task-folder", type=Path, metavar="FOLDER", help="your own task files, YAML and JSONL")
    parser.add_argument("--limit", type=int, metavar="DOCUMENTS", help="the first documents of each task only")
    parser.add_argument(
        "--as",
        dest="method",
        choices=method_names(),
        help="put the weights into another model, a Pythia's into ka",
    )
    parser.add_argument(
        "--through-cache",
        dest="tokens_a_step",
        type=int,
        nargs="?",
        const=1,
        metavar="TOKENS",
        help="score through the cache, that many tokens a step (1), not in one pass",
    )
    parser.add_argument(
        "--window",
        type=int,
        metavar="TOKENS",
        help="what the model reads at most (a trial: the length it was trained at; else the model's longest sequence)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (the accelerator, if there is one)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where the results of one model go (the model's folder; of a published one, outputs/evaluations)",
    )


def check(options: argparse.Namespace) -> None:
    """Refuse a model that is nowhere, numbers that count nothing, and options that belong to another one."""
    for model in options.models:
        reason = why_no_model(model)
        if reason is not None:
            raise ParameterError(reason)
    if options.output is not None and len(options.models) > 1:
        raise ParameterError("--output is for one model: the results of several go into the folder of each.")
    for name in ("window", "tokens_a_step", "limit"):
        value = getattr(options, name)
        if value is not None and value < 1:
            option = "--through-cache" if name == "tokens_a_step" else f"--{name}"
            raise ParameterError(f"{option} {value} must be 1 or more.")
    if options.tasks is None and (options.limit is not None or options.task_folder is not None):
        raise ParameterError("--limit and --task-folder belong to --tasks, which is not given.")
