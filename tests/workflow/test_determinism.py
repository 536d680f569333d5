"""The same results, byte for byte, however the work is cut and whoever does it."""

import pyarrow.dataset
from conftest import DOCUMENTS, contents, copy, documents_of, run_workflow, write_settings

DATASETS = ("images", "detections", "detected_pages", "regions", "pages", "crops")


def sorted_dataset(directory, dataset):
    """All rows, in an order that does not depend on shards."""
    path = directory / "results" / dataset
    table = pyarrow.dataset.dataset(path, format="parquet").to_table()
    keys = [name for name in ("document", "page", "detection") if name in table.schema.names]
    return table.sort_by([(name, "ascending") for name in keys]).replace_schema_metadata(None)


def of_documents(files, documents):
    """Those of the store's files that belong to the documents."""
    prefixes = tuple(f"results/store/{document}/" for document in documents)
    return {name: data for name, data in files.items() if name.startswith(prefixes)}


def test_one_core_one_page_at_a_time_and_one_shard(undisturbed, tmp_path):
    """The undisturbed run had two cores, batches of eight, and shards of five."""
    write_settings(tmp_path / "run", shards={"max_documents": 64}, detection={"batch_size": 1})
    run = run_workflow(tmp_path / "run", *undisturbed.config, cores=1)
    assert run.jobs["detect_layout"] == {"00000"}
    assert run.made["detect_layout"] == DOCUMENTS
    for dataset in (*DATASETS, "documents.parquet"):
        expected = sorted_dataset(undisturbed.directory, dataset)
        assert expected.num_rows
        assert sorted_dataset(tmp_path / "run", dataset).equals(expected), dataset
    files = ("results/failures.parquet", "results/store/**/*.parquet", "results/store/**/*.jpg")
    assert contents(tmp_path / "run", *files) == contents(undisturbed.directory, *files)


def test_a_shard_per_document(undisturbed, tmp_path):
    archive = copy(undisturbed.archive, tmp_path / "archive")
    (archive / "broken.pdf").unlink()
    (archive / "letters/two.pdf").unlink()
    (archive / "mixed.pdf").unlink()
    (archive / "album/page-1.jpg").unlink()
    left = {"letters/one.pdf", "zeta.tif"}
    write_settings(tmp_path / "run", shards={"max_documents": 1})
    run = run_workflow(tmp_path / "run", "--config", f"archive={archive}")
    assert run.jobs["detect_layout"] == {"00000", "00001"}
    assert documents_of(tmp_path / "run", "pages") == left
    store = ("results/store/**/*.parquet", "results/store/**/*.jpg", "results/store/**/*.png")
    expected = of_documents(contents(undisturbed.directory, *store), left)
    assert contents(tmp_path / "run", *store) == expected
