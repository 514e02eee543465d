"""What lies beside saved weights, so that they load for anybody: a file that imports the library."""

from pathlib import Path

LOADER = "newllm_model"
_TEXT = '''"""Loads the model beside this file. Its code is in the library newllm, which this file imports."""

try:
    from {module} import {config_class}, {model_class}
except ImportError as error:
    raise ImportError(
        "This model is one of newllm, and this Python has no newllm that knows it: get the library's repository, "
        "run `pip install -e .` in it, and load the model again."
    ) from error

__all__ = ["{config_class}", "{model_class}"]
'''


def write_loader(folder: Path, config_class: type, model_class: type) -> dict[str, str]:
    """Write the file that transformers runs where ``trust_remote_code=True`` is given, and only there.

    Parameters
    ----------
    folder
        Where the weights are saved.
    config_class, model_class
        What the file imports, both from the model's module.

    Returns
    -------
    dict[str, str]
        The ``auto_map`` of the config, by which transformers finds the file.
    """
    names = {"config_class": config_class.__name__, "model_class": model_class.__name__}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{LOADER}.py").write_text(_TEXT.format(module=model_class.__module__, **names), encoding="utf-8")
    return {
        "AutoConfig": f"{LOADER}.{names['config_class']}",
        "AutoModelForCausalLM": f"{LOADER}.{names['model_class']}",
    }
