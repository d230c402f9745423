"""Jobs: the same table on every executor; finished jobs are kept, and incomplete files are not read."""

import json
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pandas as pd
import pytest
from _lib.jobs import run

JOBS = {f"job {i}": i for i in range(5)}


def square(number):
    return [{"number": number, "square": number**2}, {"number": -number, "square": number**2}]


def fails_at_three(number):
    if number == 3:
        raise RuntimeError("job 3 failed")
    return square(number)


@pytest.mark.parametrize("make", [lambda: None, lambda: ThreadPoolExecutor(2), lambda: ProcessPoolExecutor(2)])
def test_run_on_each_executor(make):
    executor = make()
    table = run(square, JOBS, executor=executor)
    assert table.job.tolist() == [name for name in JOBS for _ in range(2)]
    assert table.square.tolist() == [i**2 for i in range(5) for _ in range(2)]
    if executor:
        executor.shutdown()


@pytest.mark.parametrize("make", [lambda: None, lambda: ThreadPoolExecutor(1)])
def test_run_after_failure(tmp_path, make):
    store = tmp_path / "run"
    seen = []
    with pytest.raises(RuntimeError, match="job 3"):
        run(fails_at_three, JOBS, store, make(), about="squares")
    done = [json.loads(path.read_text())["job"] for path in store.iterdir()]
    table = run(lambda n: seen.append(n) or square(n), JOBS, store, about="squares")
    assert "job 0" in done and sorted([*done, *(f"job {n}" for n in seen)]) == list(JOBS)
    pd.testing.assert_frame_equal(table, run(square, JOBS))


def test_run_with_damaged_files(tmp_path):
    whole = run(square, JOBS, tmp_path, about="squares")
    paths = {json.loads(path.read_text())["job"]: path for path in tmp_path.iterdir()}
    paths["job 1"].write_text(paths["job 1"].read_text()[:-5])
    paths["job 3"].write_text("[]")
    seen = []
    assert run(lambda n: seen.append(n) or square(n), JOBS, tmp_path, about="squares").equals(whole)
    assert seen == [1, 3] and len(list(tmp_path.iterdir())) == 5


def test_run_with_store_of_another_sweep(tmp_path):
    run(square, JOBS, tmp_path, about="seed 0")
    seen = []
    run(lambda n: seen.append(n) or square(n), JOBS, tmp_path, about="seed 1")
    run(fails_at_three, JOBS, tmp_path, about="seed 0")
    assert seen == [*range(5)] and len(list(tmp_path.iterdir())) == 10


@pytest.mark.parametrize("about", ["", None])
def test_run_with_store_without_about(tmp_path, about):
    """A second function, or a changed one, would receive the rows of the first."""
    settings = {} if about is None else {"about": about}
    with pytest.raises(ValueError, match=r"store='.*rows'.*about="):
        run(square, JOBS, tmp_path / "rows", **settings)
    assert not (tmp_path / "rows").exists()
