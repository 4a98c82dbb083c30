"""The run folder: found out before training, never overwritten, cut back on resume."""

from __future__ import annotations

import csv

import pytest

from tinygen.train import OutputError, RunFolder, UserError
from tinygen.train.files import replacing


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def started(path, model="dcgan", data="mnist"):
    """A run folder as it is once a checkpoint was written."""
    run = RunFolder.create(model, data, path)
    run.start({"model": model, "data": data})
    run.checkpoint.write_bytes(b"weights")
    return run


def test_a_new_run_leaves_nothing_behind_before_it_starts(tmp_path):
    run = RunFolder.create("dcgan", "mnist")
    assert not list(tmp_path.iterdir())
    run.start({"model": "dcgan", "steps": 3})
    assert run.read_config() == {"model": "dcgan", "steps": 3}
    assert sorted(p.name for p in run.path.iterdir()) == ["config.json", "samples"]


def test_the_default_folder_is_the_first_free_one(tmp_path):
    assert started(None).path.as_posix() == "runs/dcgan-mnist"
    assert started(None).path.as_posix() == "runs/dcgan-mnist-2"
    assert started(None).path.as_posix() == "runs/dcgan-mnist-3"
    assert RunFolder.create("dcgan", "/home/me/my photos").path.name == "dcgan-my photos"


def test_a_run_is_never_overwritten(tmp_path):
    started("here")
    with pytest.raises(UserError, match=r"here holds a run already.*--resume"):
        RunFolder.create("dcgan", "mnist", "here")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("...")
    with pytest.raises(UserError, match=r"thesis is not empty.*--out"):
        RunFolder.create("dcgan", "mnist", "thesis")
    (tmp_path / "empty").mkdir()
    assert RunFolder.create("dcgan", "mnist", "empty").path.is_dir()


def test_an_unwritable_folder_is_found_before_training(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match=r"cannot write file/run: Not a directory.*--out"):
        RunFolder.create("dcgan", "mnist", "file/run")
    with pytest.raises(OutputError, match="cannot write /proc/run"):
        RunFolder.create("dcgan", "mnist", "/proc/run")


def test_resume_finds_the_latest_run_of_this_model_and_data(tmp_path):
    import os

    for i, (path, model, data) in enumerate(
        [("runs/a", "dcgan", "mnist"), ("runs/b", "dcgan", "emoji"), ("runs/c", "vae", "mnist")]
    ):
        run = started(path, model, data)
        os.utime(run.checkpoint, (i, i))
    assert RunFolder.find("dcgan").path.name == "b"
    assert RunFolder.find("dcgan", "mnist").path.name == "a"
    assert RunFolder.find("dcgan", None, "runs/a").path.name == "a"
    with pytest.raises(UserError, match="no run of draw"):
        RunFolder.find("draw")
    with pytest.raises(UserError, match="nowhere holds no checkpoint"):
        RunFolder.find("dcgan", None, "nowhere")


def test_a_damaged_config_is_one_clear_error():
    run = started("here")
    run.config.write_text('{"model": "dcg')
    with pytest.raises(UserError, match=r"config.json can't be read"):
        run.read_config()


def test_metrics_read_back_and_times_stand_apart():
    run = started("here")
    run.log(10, {"loss": 0.125, "D(x)": 1 / 3}, images_per_second=321.0)
    run.log(20, {"loss": float("nan"), "D(x)": 1e-9}, images_per_second=320.0)
    text = run.metrics.read_text()
    assert text == "step,loss,D(x)\n10,0.125,0.333333\n20,nan,1e-09\n"
    assert run.read_metrics()["D(x)"] == [0.333333, 1e-9]
    rows = list(csv.DictReader(run.timing.open()))
    assert [row["step"] for row in rows] == ["10", "20"]
    assert float(rows[0]["images_per_s"]) == 321


def test_rows_after_the_checkpoint_are_logged_again():
    straight, resumed = started("straight"), started("resumed")
    for step in (10, 20, 30, 40):
        straight.log(step, {"loss": 1 / step}, 1.0)
    for step in (10, 20, 30):
        resumed.log(step, {"loss": 1 / step}, 1.0)
    with resumed.metrics.open("a") as file:
        file.write("40,0.0")  # the process was killed in the middle of a row
    resumed.forget_after(20)
    assert resumed.metrics.read_text().count("\n") == 3
    for step in (30, 40):
        resumed.log(step, {"loss": 1 / step}, 1.0)
    assert resumed.metrics.read_bytes() == straight.metrics.read_bytes()


def test_forgetting_copes_with_files_that_are_not_there_yet():
    run = started("here")
    run.forget_after(5)
    run.metrics.write_text("")
    run.forget_after(5)
    run.log(6, {"loss": 1.0}, 1.0)
    assert run.metrics.read_text() == "step,loss\n6,1\n"


def test_samples_sort_by_step():
    run = started("here")
    names = [run.sample_path(step).name for step in (0, 20, 100, 3000)]
    assert names == sorted(names)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "precious.txt"
    path.write_text("old")

    def fail_halfway():
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def test_the_old_file_stays_until_the_new_one_takes_its_name(tmp_path, monkeypatch):
    path = tmp_path / "precious.txt"
    path.write_text("old")

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with (
        pytest.raises(OutputError, match=r"cannot write .*precious\.txt: No space left"),
        replacing(path) as temporary,
    ):
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]
