"""The words by which differences between arms, and claims, are judged: tables say them, and pictures colour them."""

# In nats a token: within it two arms count as equally good, where the data can tell.
EQUIVALENCE_MARGIN = 0.01

# Of a difference.
BETTER = "better"
WORSE = "worse"
EQUIVALENT = f"no difference within {EQUIVALENCE_MARGIN:g} nats"
OPEN = "cannot be told"
TOO_FEW_SEEDS = "too few seeds"
NO_VERDICT = (OPEN, TOO_FEW_SEEDS)

# Of a claim.
HOLDS = "holds"
FAILS = "does not hold"
DEPENDS = "depends"
UNTOLD = "cannot be told here"
VERDICTS = (HOLDS, FAILS, DEPENDS, UNTOLD)
