"""The file of fixes: nothing that was saved is lost, whoever saves at once and whenever a process dies."""

import threading
from pathlib import Path

import pytest

from ssem_dask.errors import OutputError
from ssem_dask.report.fixing import fixes_file
from ssem_dask.report.fixing.fixes_file import FixesFile, StaleError


@pytest.fixture
def file(tmp_path: Path) -> FixesFile:
    return FixesFile(tmp_path / "run.fixes.toml")


def write(file: FixesFile, text: str) -> None:
    file.change(file.read().version, f"Write {text}", lambda _: text)


def history(file: FixesFile) -> Path:
    return file.path.with_name("run.fixes.history.jsonl")


def test_reading_leaves_nothing_behind(file: FixesFile) -> None:
    assert file.read().text == ""
    assert list(file.path.parent.iterdir()) == []


def test_a_change_for_another_version_is_refused_and_changes_nothing(file: FixesFile) -> None:
    version = file.read().version
    write(file, "a")
    with pytest.raises(StaleError, match="somebody else has changed it"):
        file.change(version, "late", lambda _: "b")
    with pytest.raises(StaleError):
        file.undo(version)
    assert file.path.read_text() == "a"


def test_an_edit_that_fails_changes_nothing(file: FixesFile) -> None:
    write(file, "a")
    before = history(file).read_bytes()

    def fails(text: str) -> str:
        raise ValueError(text)

    with pytest.raises(ValueError, match="a"):
        file.change(file.read().version, "fails", fails)
    assert file.path.read_text() == "a"
    assert history(file).read_bytes() == before


def test_undo_and_redo_go_through_all_states_also_in_another_process(file: FixesFile) -> None:
    for text in ("a", "b", "c"):
        write(file, text)
    for wanted in ("b", "a", ""):
        assert FixesFile(file.path).undo(file.read().version).text == wanted
    assert file.read().undo == ""
    assert file.undo(file.read().version).text == ""
    for wanted in ("a", "b", "c"):
        assert FixesFile(file.path).redo(file.read().version).text == wanted
    assert file.read().redo == ""
    assert (file.read().undo, file.path.read_text()) == ("Write c", "c")


def test_what_was_undone_stays_reachable_after_another_change(file: FixesFile) -> None:
    write(file, "a")
    write(file, "b")
    file.undo(file.read().version)
    write(file, "c")
    state = file.undo(file.read().version)
    assert (state.text, state.redo) == ("a", "Write c")
    assert '"text": "b"' in history(file).read_text()


def test_what_an_editor_wrote_can_be_undone_too(file: FixesFile) -> None:
    write(file, "a")
    file.path.write_text("# by hand")
    assert file.read().undo == "Changed outside of this page"
    write(file, "b")
    assert file.undo(file.read().version).text == "# by hand"
    assert file.undo(file.read().version).text == "a"


def test_a_file_that_was_there_before_is_the_first_state(file: FixesFile) -> None:
    file.path.write_text("mine")
    write(file, "a")
    assert file.undo(file.read().version).text == "mine"
    assert file.read().undo == ""


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_history_that_was_cut_off_by_a_kill_keeps_what_is_whole(file: FixesFile, cut: int) -> None:
    write(file, "a")
    write(file, "b")
    history(file).write_bytes(history(file).read_bytes()[:-cut])
    assert file.read().text == "b"
    write(file, "c")
    texts = [file.read().text]
    while file.read().undo:
        texts.append(file.undo(file.read().version).text)
    assert texts == ["c", "b", "a", ""]


def test_a_kill_between_the_file_and_its_history_loses_neither(file: FixesFile) -> None:
    write(file, "a")
    file.path.write_text("b")  # the file is replaced first
    assert file.undo(file.read().version).text == "a"
    assert file.redo(file.read().version).text == "b"


def test_a_damaged_history_does_not_stop_anybody(file: FixesFile) -> None:
    write(file, "a")
    history(file).write_bytes(b'{"text": 1}\n\xff\xff\n' + history(file).read_bytes())
    write(file, "b")
    assert file.undo(file.read().version).text == "a"


def test_of_many_who_save_at_once_nobody_overwrites_another(file: FixesFile) -> None:
    def add(mark: str) -> None:
        mine = FixesFile(file.path)
        for i in range(5):
            while True:
                try:
                    mine.change(mine.read().version, "add", lambda text, i=i: f"{text}{mark}{i} ")  # type: ignore[misc]
                except StaleError:
                    continue
                break

    threads = [threading.Thread(target=add, args=(mark,)) for mark in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(file.path.read_text().split()) == sorted(f"{mark}{i}" for mark in "abcd" for i in range(5))


def test_a_long_history_drops_its_older_half(file: FixesFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixes_file, "_MAX_HISTORY", 200)
    for i in range(60):
        write(file, f"text number {i}")
    assert history(file).stat().st_size < 2000
    assert file.read().text == "text number 59"
    assert file.undo(file.read().version).text == "text number 58"
    assert file.redo(file.read().version).text == "text number 59"


def test_a_folder_that_is_missing_or_read_only_is_said_in_a_sentence(tmp_path: Path) -> None:
    missing = FixesFile(tmp_path / "none" / "fixes.toml")
    with pytest.raises(OutputError, match="cannot be written"):
        missing.change(missing.read().version, "x", lambda _: "x")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(OutputError, match="cannot be read"):
        FixesFile(tmp_path / "folder.toml").read()
