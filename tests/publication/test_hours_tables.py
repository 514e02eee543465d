"""Tables of hours: all that says how long it took is in them, and every trial by itself."""

from newllm.files import FINISHED_FILE, read_json, reference_folder
from newllm.publication.hours_tables import OTHER_WORK, hours, hours_by_trial
from newllm.runs.records_table import load_records


def test_all_trials_and_all_other_work_are_counted_once():
    others = {path for pattern in OTHER_WORK.values() for path in reference_folder().glob(f"{pattern}/{FINISHED_FILE}")}
    trials = load_records(reference_folder())
    table = hours().set_index("what")
    assert table.loc["all", "how many"] == len(others) + len(trials)
    # What notebooks and sweeps leave beside records is other work.
    finished = {path for path in reference_folder().rglob(FINISHED_FILE) if not (path.parent / "record.json").is_file()}
    assert finished == others
    seconds = trials["duration_seconds"].sum() + sum(read_json(path)["seconds"] for path in others)
    assert abs(float(table.loc["all", "hours"]) - seconds / 3600) < 0.051


def test_every_trial_has_its_minutes():
    table = hours_by_trial()
    cells = table.drop(columns=["arm", "hours"]).stack()
    assert sum(len(cell.split(", ")) for cell in cells if cell) == len(load_records(reference_folder()))
