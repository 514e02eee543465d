"""The parameters of notebooks that ask something of how many windows there are, and when that can be told."""

from typing import Self

from pydantic import model_validator

from newllm.config.experiment import ExperimentParameters
from newllm.config.usual import usual_values


class CountedWindows(ExperimentParameters):
    """What the notebooks have that read as many of the windows as parameters of their own say.

    What is asked is checked at once where numbers of windows are given, and where all are, as soon as they are counted:
    by `newllm.data.prepare_data`, before anything is trained.
    """

    @model_validator(mode="after")
    def _check_given_windows(self) -> Self:
        train, test = (None if count == "all" else count for count in (self.samples, self.test_samples))
        self.check_windows(train, test)
        return self

    def check_windows(self, train: int | None, test: int | None) -> None:
        """Refuse what these windows are too few for.

        Parameters
        ----------
        train, test
            How many windows there are; None where nobody has counted them yet.

        Raises
        ------
        ValueError
            In one sentence.
        """
        raise NotImplementedError

    def refuse_more(self, name: str, there: int | None, what: str) -> None:
        """Refuse a parameter that asks for more than there is, but for its usual values.

        Parameters
        ----------
        name
            Of the parameter.
        there
            The most that it can have an effect with; None where that is not known yet.
        what
            What there are so many of.

        Raises
        ------
        ValueError
            In one sentence.
        """
        asked = getattr(self, name)
        if there is not None and asked > there and asked not in usual_values(self, name):
            raise ValueError(f"{name} is {asked}, but there are {there} {what}: give {there} or fewer, or more text")
