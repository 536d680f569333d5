"""images.keep: false: the same tables without the page images, which come back where they are needed."""

import re
import subprocess
import sys

import pytest
from conftest import (
    DOCUMENTS,
    REPOSITORY,
    SETTINGS,
    SUMMARY,
    Finished,
    assert_none_survives,
    contents,
    copy,
    rows,
    tables,
)
from test_interruptions import Started

sys.path.append(str(REPOSITORY / "tests/unit"))
from scores import between

#: One shard after the other.
DROPPING = {"images": {**SETTINGS["images"], "keep": False, "wave": 1}}
WITH_IMAGES = DOCUMENTS - {"broken.pdf"}
#: Another detection, and the settings of the file that say the same.
OTHER, AS_FILE = "detection={polygons: false}", {"detection": {"polygons": False}}
AFTER_DETECTION = {"select_regions", "crop_regions", *SUMMARY}


@pytest.fixture(scope="module")
def without_images(undisturbed, tmp_path_factory):
    """A run with `keep: false`, from nothing; not to be changed."""
    folder = tmp_path_factory.mktemp("without_images")
    made = Finished(copy(undisturbed.archive, folder / "archive"), folder / "run")
    made.settings(**DROPPING)
    made.run()
    return made


@pytest.fixture
def dropped(without_images, tmp_path):
    """A copy of it, to do something to."""
    folder = tmp_path / "dropped"
    folder.mkdir()
    return Finished(
        copy(without_images.archive, folder / "archive"),
        copy(without_images.directory, folder / "run"),
    )


@pytest.fixture(scope="module")
def without_polygons(undisturbed, tmp_path_factory):
    """The tables of another detection, page images kept."""
    folder = tmp_path_factory.mktemp("without_polygons")
    copied = undisturbed._replace(directory=copy(undisturbed.directory, folder / "run"))
    copied.run(OTHER)
    return tables(copied.directory)


def tool(name, finished, *options):
    command = [sys.executable, f"scripts/{name}.py", "--directory", finished.directory, *options]
    return subprocess.run(
        command, cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout


def images(finished):
    """The documents that have page images on disk."""
    store = finished.directory / "results/store"
    paths = [path for path in store.rglob("images/*") if path.name != "dropped"]
    return {path.parent.parent.relative_to(store).as_posix() for path in paths}


def rendered_again(finished, rule):
    """The documents whose images the last jobs of a rule rendered again."""
    logs = (finished.directory / f"logs/{rule}").glob("*.log")
    return {
        name for log in logs for name in re.findall(r" INFO rendered again (.*)", log.read_text())
    }


def assert_sound(finished):
    """No page image is left, nothing is missed, and nothing more is to be done."""
    assert images(finished) == set()
    assert not list((finished.directory / "results/store").rglob(".tmp-*"))
    assert "no problems" in tool("verify_results", finished)
    assert finished.run().jobs == {}


def test_tables_are_the_same_without_images(without_images, undisturbed):
    assert tables(without_images.directory) == tables(undisturbed.directory)
    assert_sound(without_images)


def time_of(finished, table):
    return (finished.directory / f"results/{table}.parquet").stat().st_mtime_ns


def test_rendering_waits_for_the_crops_of_the_wave_before(without_images):
    assert time_of(without_images, "images/00001") > time_of(without_images, "crops/00000")


def test_another_padding_renders_again_what_has_regions(dropped, finished):
    run = dropped.run("crops={padding: 3}")
    assert run.made == {"crop_regions": DOCUMENTS}
    with_regions = {row["document"] for row in rows(dropped.directory, "regions", "document")}
    assert rendered_again(dropped, "crop_regions") == with_regions
    finished.run("crops={padding: 3}")
    assert tables(dropped.directory) == tables(finished.directory)
    dropped.settings(**DROPPING, crops={"padding": 3})
    assert_sound(dropped)


def test_another_detection_renders_every_document_once(dropped, without_polygons):
    run = dropped.run(OTHER)
    assert "render_pages" not in run.made
    assert run.made["detect_layout"] == DOCUMENTS
    assert rendered_again(dropped, "detect_layout") == WITH_IMAGES
    # They stay until they are cropped, and the next wave waits for that.
    assert rendered_again(dropped, "crop_regions") == set()
    assert time_of(dropped, "detections/00001") > time_of(dropped, "crops/00000")
    assert tables(dropped.directory) == without_polygons
    dropped.settings(**DROPPING, **AS_FILE)
    assert_sound(dropped)


def test_a_threshold_renders_only_for_the_crops_that_it_adds_or_removes(dropped):
    found = rows(dropped.directory, "regions", "document", "score")
    least = between(sorted(row["score"] for row in found))
    run = dropped.run(f"regions={{min_score: {least}}}")
    # Shards are gone through in waves; who has nothing to do reuses everything.
    assert {rule for rule, names in run.made.items() if names} <= AFTER_DETECTION
    changed = run.made["crop_regions"]
    assert changed == {row["document"] for row in found if row["score"] < least}
    assert rendered_again(dropped, "crop_regions") <= changed
    assert rendered_again(dropped, "detect_layout") == set()
    assert images(dropped) == set()


def test_a_run_killed_while_it_renders_again(dropped, without_polygons):
    run = Started(dropped.directory, *dropped.config, OTHER)
    run.wait_for(dropped.directory / "results/store/album/images/0001.jpg")
    run.kill(whole_group=True)
    assert_none_survives(dropped.directory)
    dropped.run(OTHER)
    assert tables(dropped.directory) == without_polygons
    dropped.settings(**DROPPING, **AS_FILE)
    assert_sound(dropped)


def test_told_to_drop_images_the_next_run_does_and_told_to_keep_them_makes_none(
    finished, undisturbed
):
    assert images(finished) == WITH_IMAGES
    finished.settings(**DROPPING)
    assert finished.run().made == {}
    assert_sound(finished)
    finished.settings()
    assert finished.run().made == {}
    assert_sound(finished)
    assert tables(finished.directory) == tables(undisturbed.directory)


def test_images_come_back_when_they_are_forgotten(dropped, undisturbed):
    dropped.settings()
    tool("forget_results", dropped, "--stage", "images", "--documents", "**")
    assert dropped.run().made == {"render_pages": DOCUMENTS}
    assert images(dropped) == WITH_IMAGES
    pictures = "results/store/**/images/*.*"
    assert contents(dropped.directory, pictures) == contents(undisturbed.directory, pictures)


def test_tools_show_pages_whose_images_were_dropped(dropped, undisturbed, tmp_path):
    for finished, folder in ((dropped, tmp_path / "one"), (undisturbed, tmp_path / "two")):
        chosen = ("--documents", "**")
        tool("draw_regions", finished, *chosen, "--output", folder / "drawn")
        tool("sample_pages", finished, *chosen, "--output", folder / "sample")
    pictures = contents(tmp_path / "one", "drawn/**/*.jpg", "sample/images/*")
    assert len(pictures) == 2 * 8
    assert pictures == contents(tmp_path / "two", "drawn/**/*.jpg", "sample/images/*")
    assert list((tmp_path / "one").rglob(".tmp-*")) == []
    assert "dropped (images.keep: false)" in tool("show_results", dropped)
    assert images(dropped) == set()
