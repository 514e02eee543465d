"""A trained checkpoint in, a model with a smaller cache out: calibration, factorisation, healing, and the report."""

from newllm.retrofit.stages import retrofit

__all__ = ["retrofit"]
