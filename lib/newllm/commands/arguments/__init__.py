"""What each command takes, one file each, and what can be refused of it at once.

Only the configuration is imported here, so that ``--help`` and refusals come at once: torch alone takes seconds. The
work of a command is the function ``main`` of the module of the same name, one level up.
"""
