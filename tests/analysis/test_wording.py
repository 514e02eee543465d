from newllm.analysis.wording import budget_text


def test_a_budget_says_text_passes_and_the_rate_that_the_trial_had():
    given = {"samples": 2000, "seq_length": 128, "epochs": 3, "lr": 1e-4, "matrix_lr": "adamw"}
    assert budget_text(given) == "256 k tokens, 3 passes, rate 0.0001"
    assert budget_text(given | {"samples": "all", "epochs": 1, "stream_lr": 1e-3}) == "all text, one pass, rate 0.001"
    of_matrices = "256 k tokens, 3 passes, rates 0.0001 and, for matrices by Muon, 0.004"
    assert budget_text(given | {"matrix_lr": 4e-3}) == of_matrices
