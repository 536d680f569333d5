"""What other code made is kept where someone vouches for it, and nothing else is."""

import subprocess
import sys

from conftest import (
    DOCUMENTS,
    REPOSITORY,
    SHARDS,
    SMALL,
    SUMMARY,
    clone,
    demo,
    planned_jobs,
    tables,
)

AFTER_IMAGES = {"detect_layout", "select_regions", "crop_regions", *SUMMARY}


def change_code(folder):
    """A clone of which two stages have other code, that makes the same."""
    repository = clone(folder)
    for module, constant in (("regions", "NESTED = 0.8"), ("page_images", "LOWEST_DPI = 36.0")):
        path = repository / f"scripts/scanmill/{module}.py"
        assert f"{constant}\n" in path.read_text()
        path.write_text(path.read_text().replace(f"{constant}\n", f"{constant}01\n"))
    return repository


def adopt(finished, repository, *options):
    command = [sys.executable, "scripts/adopt_results.py", "--directory", str(finished.directory)]
    done = subprocess.run(
        [*command, *options], cwd=repository, capture_output=True, text=True, check=True
    )
    return done.stdout


def planned(finished, repository, *settings):
    jobs = planned_jobs(finished.directory, *finished.config, *settings, repository=repository)
    return jobs.keys()


def test_results_of_other_code_are_taken_over(finished, tmp_path):
    repository = change_code(tmp_path / "scanmill")
    assert planned(finished, repository) == {"render_pages", *AFTER_IMAGES}
    before = tables(finished.directory)
    adopt(finished, repository, "--yes")
    assert planned(finished, repository) == set()
    assert finished.run(repository=repository).jobs == {}
    after = tables(finished.directory)
    changed = {name for name in after if after[name] != before[name]}
    assert all(name.startswith("results/store/") for name in changed)
    # The code that made them would have to be vouched for in its turn.
    assert planned(finished, REPOSITORY) == {"render_pages", *AFTER_IMAGES}

    # Jobs that run for another reason reuse it.
    (finished.directory / "results/regions/00000.parquet").unlink()
    assert finished.run(repository=repository).made == {}


def test_settings_and_documents_that_changed_are_computed(finished, tmp_path):
    repository = change_code(tmp_path / "scanmill")
    demo.write_vector_pdf(finished.archive / "letters/two.pdf", 1, 12, SMALL)
    adopt(finished, repository, "--yes")
    padding = "crops={padding: 3}"
    run = finished.run(padding, repository=repository)
    assert run.jobs["render_pages"] == {"00000"}
    changed = {"letters/two.pdf"}
    assert run.made == {
        "render_pages": changed,
        "detect_layout": changed,
        "select_regions": changed,
        "crop_regions": DOCUMENTS,
    }
    assert finished.run(padding, repository=repository).jobs == {}


def test_a_stage_and_documents_that_were_not_named_are_computed(finished, tmp_path):
    repository = change_code(tmp_path / "scanmill")
    adopt(finished, repository, "--stage", "images", "--yes")
    assert planned(finished, repository) == {"select_regions", "crop_regions", *SUMMARY}
    adopt(finished, repository, "--documents", "zeta.tif", "--documents", "letters/*", "--yes")
    run = finished.run(repository=repository)
    assert run.jobs["select_regions"] == {"00000"}
    assert run.made == {"select_regions": SHARDS["00000"] - {"letters/one.pdf", "letters/two.pdf"}}
