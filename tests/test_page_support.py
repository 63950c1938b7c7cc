"""The browser of the tests sees what a page does."""

import os
import subprocess

import pytest
from page_support import NARROW, NEEDED, watched

PAGE = "<!doctype html><title>t</title><body style='margin:0'><p>{}</p>"


def written(folder, text):
    path = folder / "page.html"
    path.write_text(PAGE.format(text), "utf-8")
    return path


def test_a_quiet_page(chromium, tmp_path):
    with watched(chromium, written(tmp_path, "hello"), NARROW) as seen:
        assert seen.page.inner_text("p") == "hello" and seen.overflow() == 0
        seen.assert_quiet()


@pytest.mark.parametrize("text", ["<img src=missing.png>", "<script>console.error('no')</script>", "<script>throw Error('no')</script>", "<img src=https://example.invalid/x.png>"])
def test_a_page_that_complains_or_asks_a_network(chromium, tmp_path, text):
    with watched(chromium, written(tmp_path, text)) as seen:
        with pytest.raises(AssertionError):
            seen.assert_quiet()


def test_a_page_that_is_too_wide(chromium, tmp_path):
    with watched(chromium, written(tmp_path, "<span style='display:block;width:500px'>x</span>"), NARROW) as seen:
        assert seen.overflow() == 500 - NARROW


def test_without_a_browser_and_without_a_way_to_get_one(tmp_path):
    for name in ("sh", "id"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    refused = subprocess.run(["/bin/sh", NEEDED], capture_output=True, text=True, env={"PATH": str(tmp_path)} | {"TMPDIR": os.fspath(tmp_path)})
    assert refused.returncode == 1 and refused.stdout == "" and "there is no chromium" in refused.stderr
