"""One plotly figure a function, by theme: a data frame in, a figure out.

Arms, losses and encodings keep one colour order, and every axis says its unit.
"""

from newllm.figures.attention import (
    attended_tokens,
    attention_biases,
    certificate,
    contexts_over_tokens,
    score_by_distance,
    visible_slots,
)
from newllm.figures.claims import claims
from newllm.figures.comparison import arms, extrapolation, position_perplexity
from newllm.figures.differences import arm_differences, differences
from newllm.figures.memory import against_context_length, cache_sizes, kept_by_token, precision_against_bytes
from newllm.figures.quality import quality_against_bytes
from newllm.figures.recall import lost_by_truncation, passage_gains, places_in_period, recall_differences
from newllm.figures.retrofit import energy_lost, lost_against_bytes, lost_against_healing
from newllm.figures.reversal import directions, knowledge_gains
from newllm.figures.training import (
    converged_tokens,
    convergence,
    learning_rates,
    loss_terms,
    recurrence_at_pass,
    spectrum,
    training_curves,
)

__all__ = [
    "against_context_length",
    "arm_differences",
    "arms",
    "attended_tokens",
    "attention_biases",
    "cache_sizes",
    "certificate",
    "claims",
    "contexts_over_tokens",
    "converged_tokens",
    "convergence",
    "differences",
    "directions",
    "energy_lost",
    "extrapolation",
    "kept_by_token",
    "knowledge_gains",
    "learning_rates",
    "loss_terms",
    "lost_against_bytes",
    "lost_against_healing",
    "lost_by_truncation",
    "passage_gains",
    "places_in_period",
    "position_perplexity",
    "precision_against_bytes",
    "quality_against_bytes",
    "recall_differences",
    "recurrence_at_pass",
    "score_by_distance",
    "spectrum",
    "training_curves",
    "visible_slots",
]
