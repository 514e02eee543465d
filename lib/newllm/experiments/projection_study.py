"""The experiment of projection training: one recurrence trained by OACD, and the same with one of its rules broken."""

import copy
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import pandas as pd
import torch
from torch import Tensor, nn

from newllm.config.notebooks import ProjectionTraining
from newllm.data import TextData
from newllm.data.tokenizers import tokenizer_identity
from newllm.experiments.arms import Arm
from newllm.experiments.pictured_passes import PicturedPasses, shares, spectrum
from newllm.models.projection import DiverseProjection
from newllm.models.recurrent import RecurrentModel
from newllm.recurrence.checkpoint import save_projection
from newllm.recurrence.collection import collect_context_cache, collect_context_cache_sequential
from newllm.recurrence.convergence import contraction, effective_rank
from newllm.recurrence.training import train_projection
from newllm.runs.folder import Run
from newllm.runs.parts import Part, do_part
from newllm.runtime import choose_device, move

METHOD = "dproj"
AS_IT_IS = "as it is"
UNTRAINED, TRAINED = "untrained", "trained by OACD"
CHECKPOINT_FOLDER = "projection"

# The settings of a notebook that do not decide what one recurrence becomes.
OF_THE_STUDY = ("variants", "seeds")

CHECKED_TOKENS = 2_000


def _without_embed_norm(model: RecurrentModel) -> None:
    model.embed_norm = cast(nn.LayerNorm, nn.Identity())


def _initialised_by(rule: Callable[[Tensor], Tensor]) -> Callable[[RecurrentModel], None]:
    def change(model: RecurrentModel) -> None:
        for module in model.context_blocks.modules():
            if isinstance(module, nn.Linear):
                rule(module.weight)

    return change


CHANGES: Mapping[str, Callable[[RecurrentModel], None]] = {
    AS_IT_IS: lambda model: None,
    "without embed_norm": _without_embed_norm,
    "xavier": _initialised_by(nn.init.xavier_uniform_),
    "kaiming": _initialised_by(nn.init.kaiming_uniform_),
}


def build_recurrence(parameters: ProjectionTraining, vocabulary: int, seed: int) -> RecurrentModel:
    """Build the model whose recurrence is trained, with random weights.

    Parameters
    ----------
    parameters
        Size and width of a context.
    vocabulary
        Tokens of the tokenizer.
    seed
        Of the weights.
    """
    # As an arm of a comparison, which can begin with what comes of it.
    model = Arm.parse(METHOD).build(parameters, vocabulary, seed)
    assert isinstance(model, RecurrentModel)
    return model


def study_projections(parameters: ProjectionTraining, data: TextData, folder: Path) -> dict[str, pd.DataFrame]:
    """Train every variant of the recurrence with every seed, a part of the run each, and return what was seen.

    Parameters
    ----------
    parameters
        Variants, seeds and all settings of projection training.
    data
        The text.
    folder
        Of the notebook's run. The checkpoint of a recurrence lies in ``recurrences/<variant>-seed<seed>/projection``,
        unless it was taken over from the published results, or has no ``embed_norm``.

    Returns
    -------
    dict
        Tables by name, each with ``variant`` and ``seed``: ``history`` (rows of
        `newllm.recurrence.training.ProjectionResult`), ``spectra`` (iteration, rank, share of the sum) and ``contexts``
        (iteration, token, x, y: the two directions in which the last pass's contexts differ most), both of some passes;
        ``exact`` (contexts, effective_rank, width, mean_norm, disturbance_left) and ``exact_spectra`` (contexts, rank,
        share) of contexts without noise, before and after; ``collection`` (rounds, residual, sequential, difference)
        of collecting them side by side.
    """
    tables: dict[str, list[pd.DataFrame]] = {}
    for (variant, seed), part in projection_parts(parameters, data.fingerprint).items():
        make = functools.partial(_train, parameters, data, variant, seed)
        for name, table in do_part(part, folder, make, rerun=parameters.rerun).tables.items():
            tables.setdefault(name, []).append(table.assign(variant=variant, seed=seed))
    return {name: pd.concat(frames, ignore_index=True) for name, frames in tables.items()}


def checkpoint_folder(parameters: ProjectionTraining, data: TextData, folder: Path) -> Path | None:
    """Return the checkpoint of the first recurrence; None where it was not trained on this machine, or has none."""
    first = next(iter(projection_parts(parameters, data.fingerprint).values()))
    checkpoint = first.run_in(folder).folder / CHECKPOINT_FOLDER
    return checkpoint if checkpoint.is_dir() else None


def last_passes(history: pd.DataFrame) -> pd.DataFrame:
    """Return what each trained recurrence ended with, as claims are judged by.

    Parameters
    ----------
    history
        Of `study_projections`.

    Returns
    -------
    pandas.DataFrame
        One row a variant and seed: variant, embedding, seed, passes, loss, convergence_rate, effective_rank.
    """
    last = history.groupby(["variant", "seed"], sort=False).tail(1)
    last = last.rename(columns={"iteration": "passes"}).assign(embedding=UNTRAINED)
    columns = ["variant", "embedding", "seed", "passes", "loss", "convergence_rate", "effective_rank"]
    return last[columns].reset_index(drop=True)


def projection_parts(parameters: ProjectionTraining, data: str) -> dict[tuple[str, int], Part]:
    """Return the parts that `study_projections` does, by variant and seed.

    Parameters
    ----------
    parameters
        Of notebook 01.
    data
        Fingerprint of the data.
    """
    shared = {name: value for name, value in parameters.identity().items() if name not in OF_THE_STUDY}
    return {
        (variant, seed): Part(
            f"recurrences/{variant.replace(' ', '_')}-seed{seed}",
            shared | {"variant": variant, "seed": seed, "data": data},
        )
        for variant in parameters.variants
        for seed in parameters.seeds
    }


def _train(
    parameters: ProjectionTraining, data: TextData, variant: str, seed: int, run: Run
) -> dict[str, pd.DataFrame]:
    """Train one recurrence and look at it."""
    device = choose_device(parameters.device)
    stream = data.train.stream(parameters.projection_samples)
    model = build_recurrence(parameters, len(data.tokenizer), seed)
    CHANGES[variant](model)
    untrained = copy.deepcopy(model)
    resume_file = run.folder / "training.safetensors"
    pictures = PicturedPasses(run.folder / "pictures.safetensors", resume_file, parameters.max_iterations - 1)
    result = train_projection(
        model, stream, parameters, device=device, seed=seed, resume_file=resume_file, watch=pictures.watch
    )
    if isinstance(model.embed_norm, nn.LayerNorm):
        save_projection(run.folder / CHECKPOINT_FOLDER, model, result, tokenizer_identity(data.tokenizer))
    return {
        "history": pd.DataFrame(result.history),
        **pictures.tables(len(result.history)),
        **_exact({UNTRAINED: untrained, TRAINED: model}, stream, device),
    }


def _exact(models: Mapping[str, RecurrentModel], stream: Tensor, device: torch.device) -> dict[str, pd.DataFrame]:
    """Look at contexts without noise; those of the last model are compared with the loop over tokens."""
    rows, spectra = [], []
    for label, model in models.items():
        move(model, device)
        with torch.no_grad():
            embeds = model.normed_embeddings(stream.to(device))
        block = cast(DiverseProjection, model.context_blocks[0])
        collected = collect_context_cache(block, embeds)
        contexts = collected.contexts
        rows.append(
            {
                "contexts": label,
                "effective_rank": effective_rank(contexts),
                "width": contexts.shape[1],
                "mean_norm": contexts.mean(0).norm().item(),
                "disturbance_left": contraction(block, embeds).ratio,
            }
        )
        spectra.append(spectrum(shares(contexts)).assign(contexts=label))
    loop = collect_context_cache_sequential(model, stream[:CHECKED_TOKENS], device)
    collection = {
        "rounds": collected.rounds,
        "residual": collected.residual,
        "sequential": collected.sequential,
        "difference": (contexts[: len(loop)] - loop).abs().max().item(),
    }
    return {
        "exact": pd.DataFrame(rows),
        "exact_spectra": pd.concat(spectra, ignore_index=True),
        "collection": pd.DataFrame([collection]),
    }
