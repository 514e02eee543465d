"""What is kept of some passes of a projection training: spectra and samples of contexts, which outlive a kill."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from newllm.files import DamagedFileError
from newllm.recurrence.convergence import singular_values
from newllm.tensor_files import read_tensors, write_tensors

logger = logging.getLogger(__name__)

# Passes of which the spectrum and a sample of contexts are kept, and the tokens of the sample.
PICTURED_PASSES = 16
PICTURED_TOKENS = 300


class PicturedPasses:
    """Pictures of the passes of a training, in a file beside the state that it is resumed from.

    A picture is written before the state that its pass is part of. So one that is resumed finds those of all passes
    that it skips, and takes the others again, which are the same to the bit.

    Parameters
    ----------
    file
        Where the pictures are kept until the training is over.
    resume_file
        State of the training, which is deleted where its pictures are missing: then it starts from its beginning.
    passes
        The most passes that there are.
    """

    def __init__(self, file: Path, resume_file: Path, passes: int) -> None:
        self.file = file
        self._pictured = _pictured(passes)
        self._shares: dict[int, Tensor] = {}
        self._samples: dict[int, Tensor] = {}
        try:
            tensors, _ = read_tensors(file)
        except (FileNotFoundError, DamagedFileError) as error:
            if resume_file.exists():
                logger.warning("%s: projection training starts from its beginning.", error)
                resume_file.unlink()
            return
        for name, tensor in tensors.items():
            kind, iteration = name.split(".")
            {"shares": self._shares, "sample": self._samples}[kind][int(iteration)] = tensor

    def watch(self, row: Mapping[str, Any], contexts: Tensor) -> None:
        """Keep a pass, as `newllm.recurrence.training.train_projection` tells of it, where it is among the pictured."""
        iteration = row["iteration"]
        if iteration not in self._pictured:
            return
        self._shares[iteration] = shares(contexts)
        self._samples[iteration] = _evenly(contexts, PICTURED_TOKENS).clone()
        kept = {f"shares.{number}": tensor for number, tensor in self._shares.items()}
        write_tensors(self.file, kept | {f"sample.{number}": tensor for number, tensor in self._samples.items()})

    def tables(self, passes: int) -> dict[str, pd.DataFrame]:
        """Return what was seen of the passes of a training that is over, and forget the file.

        Parameters
        ----------
        passes
            How many it took; later ones are of a training that was given up.

        Returns
        -------
        dict
            ``spectra`` (rank, share of the sum, iteration) and ``contexts`` (x, y, iteration, token).
        """
        self.file.unlink(missing_ok=True)
        seen = sorted(iteration for iteration in self._shares if iteration <= passes)
        spectra = [spectrum(self._shares[iteration]).assign(iteration=iteration) for iteration in seen]
        samples = {iteration: self._samples[iteration] for iteration in seen}
        return {"spectra": pd.concat(spectra, ignore_index=True), "contexts": _plane(samples)}


def shares(contexts: Tensor) -> Tensor:
    """Return the singular values of contexts (T, P) as shares of their sum, largest first, in float64."""
    values = singular_values(contexts)
    return values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)


def spectrum(values: Tensor) -> pd.DataFrame:
    """Return shares as rows of their rank, from 1 on, and their share."""
    return pd.DataFrame({"rank": range(1, len(values) + 1), "share": values.tolist()})


def _pictured(passes: int) -> set[int]:
    """Return the passes that are pictured: most of them early, where most changes; the last is not known before."""
    steps = (passes ** (index / (PICTURED_PASSES - 1)) for index in range(PICTURED_PASSES))
    return {round(step) for step in steps} | set(range(10, passes, 10))


def _evenly(contexts: Tensor, rows: int) -> Tensor:
    count = min(rows, len(contexts))
    return contexts[torch.arange(count) * len(contexts) // count]


def _plane(samples: Mapping[int, Tensor]) -> pd.DataFrame:
    """Project samples onto the two directions in which the last one is widest."""
    last = samples[max(samples)].double()
    directions = torch.linalg.svd(last - last.mean(0), full_matrices=False).Vh[:2]
    frames = []
    for iteration, sample in samples.items():
        places = (sample.double() - last.mean(0)) @ directions.T
        frames.append(
            pd.DataFrame({"x": places[:, 0].tolist(), "y": places[:, 1].tolist()})
            .round(4)
            .assign(iteration=iteration, token=range(len(places)))
        )
    return pd.concat(frames, ignore_index=True)
