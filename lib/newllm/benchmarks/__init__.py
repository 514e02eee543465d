"""Published benchmarks, asked of any trained model."""
