"""One file a method: its config class, its attention or other parts, its model. `ls` is the list of methods."""

import importlib
import pkgutil

# Importing a method's file registers what it defines, so a new method is a new file and no other edit.
for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
