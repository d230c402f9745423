"""Jobs: the same table on every executor, finished work is kept, nothing half-written is read."""

import json
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pandas as pd
import pytest

from edittools.jobs import Store, run

JOBS = {f"job {i}": i for i in range(5)}


def square(number):
    return [{"number": number, "square": number**2}, {"number": -number, "square": number**2}]


def fails_at_three(number):
    if number == 3:
        raise RuntimeError("job 3 failed")
    return square(number)


@pytest.mark.parametrize("make", [lambda: None, lambda: ThreadPoolExecutor(2), lambda: ProcessPoolExecutor(2)])
def test_the_table_is_the_same_on_every_executor(make):
    executor = make()
    table = run(square, JOBS, executor=executor)
    assert table.job.tolist() == [name for name in JOBS for _ in range(2)]
    assert table.square.tolist() == [i**2 for i in range(5) for _ in range(2)]
    if executor:
        executor.shutdown()


def test_an_interrupted_run_resumes_and_does_nothing_twice(tmp_path):
    store, seen = tmp_path / "run.jsonl", []
    with pytest.raises(RuntimeError, match="job 3"):
        run(fails_at_three, JOBS, store)
    assert [name for name, _ in Store(store).read()] == ["job 0", "job 1", "job 2"]
    table = run(lambda n: seen.append(n) or square(n), JOBS, store)
    assert seen == [3, 4]
    pd.testing.assert_frame_equal(table, run(square, JOBS))


def test_a_line_cut_off_by_a_crash_is_dropped_and_its_job_done_again(tmp_path):
    store, seen = tmp_path / "run.jsonl", []
    whole = run(square, JOBS, store)
    text = store.read_text()
    store.write_text(text[:-20])
    table = run(lambda n: seen.append(n) or square(n), JOBS, store)
    assert seen == [4]
    assert store.read_text() == text
    pd.testing.assert_frame_equal(table, whole)


def test_the_store_of_another_sweep_is_refused(tmp_path):
    run(square, JOBS, tmp_path / "run.jsonl", about="seed 0")
    with pytest.raises(ValueError, match=r"seed 0.*expected 'seed 1'"):
        run(square, JOBS, tmp_path / "run.jsonl", about="seed 1")
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 6


def test_a_failure_in_a_pool_comes_through_and_finished_jobs_are_kept(tmp_path):
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="job 3"):
        run(fails_at_three, JOBS, tmp_path / "run.jsonl", pool)
    assert "job 0" in dict(Store(tmp_path / "run.jsonl").read())


def test_rows_that_json_cannot_hold_are_refused(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        run(lambda n: [{"value": {1, 2}}], {"a": 1}, tmp_path / "run.jsonl")
    assert json.loads((tmp_path / "run.jsonl").read_text()) == {"about": ""}
