"""What parameters are where nobody says anything else: values that serve texts and windows of every size."""

from typing import Any

from newllm.config.groups import RunParameters
from newllm.config.values import read_file
from newllm.files import project_root


def usual_values(parameters: RunParameters, name: str) -> set[Any]:
    """Return what a parameter is by default and in its profile; of lists, their items.

    Who changes another parameter has not asked for these, so they are not refused where they are larger than they need
    to be.

    Parameters
    ----------
    parameters
        Of a notebook.
    name
        Of one of them.
    """
    file = project_root() / "params" / parameters.profile / f"{parameters.notebook}.yaml"
    stored = read_file(file).get(name) if file.is_file() else None
    values = (type(parameters).model_fields[name].default, stored)
    listed = [value if isinstance(value, tuple | list) else [value] for value in values if value is not None]
    return {item for items in listed for item in items}
