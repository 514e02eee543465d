"""The trials of a grid, run as those of a comparison are: what is left of them, how long it takes, and the records."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from newllm.data import TextData, prepare_data
from newllm.experiments.comparison import Runner, run_trials
from newllm.experiments.floor import make_floor
from newllm.experiments.readiness import check_with_data
from newllm.experiments.reuse import finished_elsewhere, to_train
from newllm.experiments.sweeps import GridPoint, text_of
from newllm.experiments.timing import expected_stages
from newllm.experiments.trial import Trial
from newllm.files import outputs_folder
from newllm.runs.folder import SWEEPS_FOLDER, Run
from newllm.runs.records_table import load_records
from newllm.wording import describe_seconds

# The fingerprint of the data, which does not say into which windows they are cut, and the tokens of a window.
Windows = tuple[str, int]


class SweepRun:
    """The trials of a sweep on their data, and the folder that holds them.

    Parameters
    ----------
    name
        Name of the sweep's file, and of the folder.
    planned
        The checked grid. Its data are prepared here, in the cache.

    Raises
    ------
    NotEnoughTextError, HubUnavailableError, FileNotFoundError
        Where there are no such data.
    RunError
        Where the folder of a trial holds something else.
    ProjectionMismatchError
        Where a trial that is left would begin with a projection checkpoint that does not belong to it.
    ValueError
        Where a trial that is left would fail when it is scored, or train nothing.
    """

    def __init__(self, name: str, planned: Sequence[GridPoint]) -> None:
        self.run = Run(outputs_folder() / SWEEPS_FOLDER / name, {"sweep": name})
        self.data: dict[Windows, TextData] = {}
        self.trials: dict[Trial, GridPoint] = {}
        by_settings: dict[tuple[Any, ...], TextData] = {}
        for trial in planned:
            settings = text_of(trial.parameters)
            if settings not in by_settings:
                by_settings[settings] = prepare_data(trial.parameters)
            data = by_settings[settings]
            self.data[data.fingerprint, data.train.seq_length] = data
            folder = self.run.folder / trial.folder_name
            self.trials[Trial(trial.arm, trial.seed, trial.parameters, folder, data.fingerprint)] = trial
        self.waiting: list[Trial] = []
        self.finished: set[Trial] = set()
        for _, data, trials in self._by_data():
            found = finished_elsewhere(trials)
            left = to_train([trial for trial in trials if trial not in found])
            waiting = [trial for trial in left if trial not in found]
            check_with_data(waiting, data)
            self.waiting += waiting
            self.finished |= {trial for trial in trials if trial in found or trial.run().is_finished}

    def _by_data(self) -> Iterator[tuple[Windows, TextData, list[Trial]]]:
        for windows, data in self.data.items():
            yield windows, data, [trial for trial in self.trials if _windows_of(trial) == windows]

    def expected_stages(self, processes: int) -> dict[Trial, dict[str, float]]:
        """Say how many seconds each stage of each trial that is left takes, by timing a few steps of each kind."""
        return {
            trial: stages
            for windows, data, _ in self._by_data()
            for trial, stages in expected_stages(
                [trial for trial in self.waiting if _windows_of(trial) == windows], data, processes
            ).items()
        }

    def outline(self, expected: Mapping[Trial, Mapping[str, float]]) -> pd.DataFrame:
        """Say of each trial, and of those that lend an embedding, whether it is finished, and how long it takes.

        Parameters
        ----------
        expected
            What `expected_stages` gave.
        """
        trials = dict.fromkeys([*self.trials, *self.waiting])
        rows = [
            {
                "arm": trial.arm.name,
                "seed": trial.seed,
                **{axis: getattr(trial.parameters, axis) for axis in self.axes},
                "state": self._state(trial),
                "takes about": describe_seconds(sum(expected.get(trial, {}).values())) if trial in expected else "",
            }
            for trial in trials
        ]
        return pd.DataFrame(rows)

    def _state(self, trial: Trial) -> str:
        if trial in self.finished:
            return "finished" if trial.run().is_finished else "finished elsewhere, is taken over"
        if trial not in self.waiting:
            return "to be run once, as what lends an embedding"
        return "begun" if trial.run().is_started else "to be run"

    def train(
        self, expected: Mapping[Trial, Mapping[str, float]], processes: int, run_part: Runner | None = None
    ) -> dict[Trial, Exception]:
        """Run the trials that are not finished, and return those that failed.

        Parameters
        ----------
        expected
            What `expected_stages` gave.
        processes
            How many trials run side by side.
        run_part
            As `newllm.experiments.comparison.run_trials` takes it.
        """
        self.run.start()
        failures: dict[Trial, Exception] = {}
        for _, data, trials in self._by_data():
            make_floor(data, self.run.folder)
            failures |= run_trials(trials, data, self.run.folder, processes, expected, run_part)
        return failures

    def records(self) -> pd.DataFrame:
        """Read the records of the finished trials, with a column for each axis."""
        folders = [trial.run().folder for trial in self.trials]
        records = load_records(self.run.folder)
        if records.empty:
            return records
        records = records[[folder in folders for folder in records["folder"]]].reset_index(drop=True)
        for axis in self.axes:
            # A parameter that does not reach an arm is not in its record.
            records[axis] = [parameters.get(axis) for parameters in records["parameters"]]
        return records

    @property
    def axes(self) -> list[str]:
        """The axes of the grid that are parameters."""
        return list(dict.fromkeys(axis for planned in self.trials.values() for axis in planned.axes))


def _windows_of(trial: Trial) -> Windows:
    """Say which windows a trial is trained on."""
    return trial.data, trial.parameters.seq_length
