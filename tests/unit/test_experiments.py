"""Experiments: arms that differ in one thing, pages that are divided, records that tell what is done."""

import json

import pytest
import run_experiments
from detecting import SHIPPED

from scanmill import experiments
from scanmill.configs import load_config
from scanmill.errors import UserError
from scanmill.experiments import (
    Arm,
    Experiment,
    common_overrides,
    make_arms,
    merge_overrides,
    own_config,
    read_truth,
    thawed,
)
from scanmill.fetching import find_folder


def test_arms_differ_in_the_mask_branch_and_the_start_alone(tmp_path):
    config = load_config(own_config(SHIPPED))
    arms = make_arms(config, SHIPPED, None)
    assert arms == [
        Arm("mask", None, ("MODEL.MASK_ON", True)),
        Arm("faster", None, ("MODEL.MASK_ON", False)),
        Arm("start", SHIPPED, ("MODEL.MASK_ON", True)),
    ]
    assert make_arms(config, SHIPPED, tmp_path)[3:] == [
        Arm("backbone", tmp_path, ("MODEL.MASK_ON", True))
    ]


def test_from_nothing_no_layer_stays_as_it_is_drawn():
    config = load_config("mask_rcnn_R_50_FPN_3x.yaml")
    free = ("MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.RESNETS.NORM", "GN")
    assert thawed(config) == free
    mask, _, start = make_arms(config, SHIPPED, None)
    assert mask.overrides == ("MODEL.MASK_ON", True, *free)
    assert start.overrides == ("MODEL.MASK_ON", True)


def test_last_value_of_a_key_counts():
    common = common_overrides(300, 320)
    merged = merge_overrides(common, ["SOLVER.IMS_PER_BATCH", "2", "SEED", "1"])
    assert len(merged) == len(common) + 2
    config = load_config(own_config(SHIPPED), merged)
    assert (config.SOLVER.IMS_PER_BATCH, config.SOLVER.MAX_ITER, config.SEED) == (2, 300, 1)
    assert (config.TEST.EVAL_PERIOD, config.SOLVER.OPTIMIZER) == (30, "AdamW")
    assert (config.INPUT.MIN_SIZE_TRAIN, config.INPUT.MIN_SIZE_TEST) == ((320,), 320)
    with pytest.raises(UserError, match="SEED has no value"):
        merge_overrides(common, ["SEED"])


def test_validations_are_no_closer_than_metrics_are_written():
    periods = {n: merge_overrides(common_overrides(n, 320)) for n in (4, 60, 1000)}
    found = {n: dict(zip(each[0::2], each[1::2], strict=True)) for n, each in periods.items()}
    assert {n: each["TEST.EVAL_PERIOD"] for n, each in found.items()} == {4: 4, 60: 20, 1000: 100}


def test_a_start_is_a_folder_or_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_folder(str(SHIPPED)) == SHIPPED
    assert find_folder("scanmill-layout") == SHIPPED
    with pytest.raises(UserError, match="There is no model `nothing`"):
        find_folder("nothing")


# Pages --------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """One page of a document of its own in each split."""
    paths = {}
    for number, split in enumerate(("train", "val", "test"), 1):
        image = {"id": number, "file_name": f"{number}.png", "width": 9, "height": 9}
        content = {
            "info": {"images": "pages"},
            "images": [{**image, "document": f"{number}.pdf"}],
            "annotations": [],
            "categories": [{"id": 1, "name": "text"}],
        }
        paths[split] = tmp_path / f"{split}.json"
        paths[split].write_text(json.dumps(content))
    return paths


def change(path, **changed):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_images_are_where_the_files_say_or_the_user_does(files, tmp_path):
    assert read_truth(files, None)["test"]["info"]["images"] == "pages"
    assert read_truth(files, tmp_path)["test"]["info"]["images"] == str(tmp_path)
    change(files["val"], info={})
    with pytest.raises(UserError, match=r"val\.json does not say where its images are: .*--images"):
        read_truth(files, None)


def test_files_of_other_classes_or_shared_documents_are_refused(files):
    test = json.loads(files["test"].read_text())
    change(files["test"], categories=[{"id": 1, "name": "table"}])
    with pytest.raises(UserError, match=r"test\.json has not the classes of .*train\.json"):
        read_truth(files, None)
    test["images"][0]["document"] = "1.pdf"
    change(files["test"], **test)
    with pytest.raises(UserError, match=r"test\.json: the document 1\.pdf is in train, too"):
        read_truth(files, None)
    files["test"].write_text("[")
    with pytest.raises(UserError, match=r"test\.json is no JSON"):
        read_truth(files, None)
    files["test"].write_text("{}")
    with pytest.raises(UserError, match=r"test\.json is no COCO file: it has no images"):
        read_truth(files, None)


# Command line -------------------------------------------------------------------------------------


def parse(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["run_experiments.py", *map(str, arguments)])
    return run_experiments.parse()


def test_own_pages_need_all_three_files(monkeypatch, files):
    given = parse(monkeypatch, "--train", files["train"])
    with pytest.raises(UserError, match="--val and --test missing"):
        run_experiments.find_pages(given)
    options = [each for split, path in files.items() for each in (f"--{split}", path)]
    assert run_experiments.find_pages(parse(monkeypatch, *options)) == (files, None)
    with pytest.raises(UserError, match="--pages is for pages that are made"):
        run_experiments.find_pages(parse(monkeypatch, *options, "--pages", 2, 1, 1))


def test_wrong_options_are_told_at_once(monkeypatch, capsys):
    for options, said in (
        (["--backbone", "ImageNet-R-50"], "--backbone needs --config-file"),
        (["--seeds", 0], "must be 1 or more"),
    ):
        with pytest.raises(SystemExit):
            parse(monkeypatch, *options)
        assert said in capsys.readouterr().err
    given = parse(monkeypatch, "--seeds", 2, "SOLVER.BASE_LR", "0.001")
    assert given.overrides == ["SOLVER.BASE_LR", "0.001"]


# Records ------------------------------------------------------------------------------------------


def test_a_record_is_of_all_that_decides_a_run(files, tmp_path):
    truth = read_truth(files, None)
    config = own_config(SHIPPED)
    plain = Experiment(config, common_overrides(4, 96), truth, tmp_path, "cpu", 2)
    [mask, faster, start] = make_arms(load_config(config), SHIPPED, None)

    def keys(arm=mask, seed=0, **changed):
        return experiments._keys(plain._replace(**changed), arm, seed)

    elsewhere = read_truth(files, tmp_path)
    assert keys(truth=elsewhere, output=tmp_path / "other", device="auto", threads=1) == keys()
    others = [
        keys(faster),
        keys(start),
        keys(seed=1),
        keys(overrides=common_overrides(5, 96)),
        keys(truth={**truth, "train": {**truth["train"], "images": []}}),
    ]
    assert len({each[0] for each in [keys(), *others]}) == 6
    other_test = keys(truth={**truth, "test": {**truth["test"], "images": []}})
    assert other_test[0] == keys()[0]
    assert other_test[1] != keys()[1]
