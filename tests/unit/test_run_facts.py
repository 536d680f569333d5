"""What the tables of a run say of how it was made."""

from scanmill.run_facts import count_values
from scanmill.tables import failed, from_rows, write_table


def test_rows_of_all_shards_are_counted_but_those_of_what_failed(tmp_path):
    done = {"document": "a", "page": 1, "status": "ok", "precision": "float32", "device": "cpu"}
    lost = {"document": "a", "page": 2, **failed("images", "timeout", "too slow")}
    for shard, rows in (("0", [done, lost]), ("1", [done, done | {"device": "cuda"}])):
        path = tmp_path / "detected_pages" / f"{shard}.parquet"
        write_table(from_rows("detected_pages", rows), path)
    found = count_values(tmp_path, "detected_pages", ["0", "1"], ("precision", "device"))
    assert found == {("float32", "cpu"): 2, ("float32", "cuda"): 1}
