"""The cache of values that can be made again: never believed, never missed."""

import subprocess
import sys

import pytest

from seg1a.core.cache import cache_root, remembered


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SEG1A_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def never():
    pytest.fail("made again")


@pytest.mark.parametrize("value", [{"a": [1, 2**64 - 1, 0.1, None, True, "é\u2028"]}, [], "text", 0])
def test_a_value_comes_back_as_it_was(value):
    assert remembered("k", "1", lambda: value) == value
    assert repr(remembered("k", "1", never)) == repr(value)


@pytest.mark.parametrize("value", [{1: "a"}, (1, 2), {"a": (1,)}, float("nan"), object(), {"a": {1, 2}}])
def test_what_json_does_not_give_back_is_not_kept(folder, value):
    assert remembered("k", "1", lambda: value) is value
    assert not list(folder.rglob("*.json")) and not list(folder.rglob("_tmp*"))


def test_kind_and_key_name_the_value():
    for kind, key in (("a", "1"), ("a", "2"), ("b", "1")):
        assert remembered(kind, key, lambda: kind + key) == kind + key
    assert remembered("a", "2", never) == "a2"


def test_every_byte_of_a_file_counts(folder):
    remembered("k", "1", lambda: {"n": [10, 20]})
    (path,) = folder.rglob("*.json")
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert remembered("k", "1", lambda: "made") == "made"
        path.write_bytes(whole[:place])
        assert remembered("k", "1", lambda: "made") == "made"
    path.write_bytes(whole)
    assert remembered("k", "1", never) == {"n": [10, 20]}


def test_a_failure_is_the_callers_and_leaves_nothing(folder):
    with pytest.raises(ZeroDivisionError):
        remembered("k", "1", lambda: 1 / 0)
    assert not list(folder.rglob("*.json"))


def test_a_place_that_is_no_folder(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEG1A_CACHE_DIR", str(tmp_path / "file"))
    assert [remembered("k", "1", lambda: number) for number in (1, 2)] == [1, 2]


def test_a_user_without_a_home(monkeypatch):
    for name in ("SEG1A_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(RuntimeError):
        cache_root()
    assert [remembered("k", "1", lambda: number) for number in (1, 2)] == [1, 2]


def test_many_writers_at_once_leave_a_whole_file(folder):
    program = "from seg1a.core.cache import remembered; print(remembered('k', '1', lambda: list(range(20000)))[-1])"
    writers = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [writer.communicate()[0] for writer in writers] == ["19999\n"] * 4
    assert remembered("k", "1", never)[-1] == 19999
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["1.json"]
