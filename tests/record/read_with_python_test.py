"""Reads records with h5py, pandas and h5dump: none of our code, so that the layout itself is what is tested."""

import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

import h5py
import numpy as np
import pandas as pd

warnings.simplefilter("error")  # PyTables warns of what it only half understands.
import tables  # noqa: E402

warnings.filterwarnings("ignore", category=tables.NaturalNameWarning)

CLASSES = ["Barren", "Cultivated", "Developed", "Forest", "Herbaceous", "Shrub"]
maker = pathlib.Path(os.environ["QUADRAT_BIN"]).parent / "tests" / "make_records"


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def no_variable_length(name, item):
    types = [item.id.get_type()] if isinstance(item, h5py.Dataset) else []
    types += [item.attrs.get_id(key).get_type() for key in item.attrs]
    for kind in types:
        members = [kind]
        if isinstance(kind, h5py.h5t.TypeCompoundID):
            members = [kind.get_member_type(i) for i in range(kind.get_nmembers())]
        for member in members:
            assert not isinstance(member, (h5py.h5t.TypeVlenID, h5py.h5t.TypeArrayID)), name
            assert not (isinstance(member, h5py.h5t.TypeStringID) and member.is_variable_str()), name


def check_run(path):
    with h5py.File(path, "r") as f:
        assert text(f.attrs["schema"]) == "quadrat-run"
        assert f.attrs["schema_version"] == 1
        assert text(f.attrs["name"]) == "made"
        assert text(f.attrs["status"]) == "complete"
        assert text(f.attrs["created"]).endswith("Z")
        config = f["config"].attrs
        assert list(config)[:2] == ["train", "validation"] or set(config) >= {"train", "validation"}
        assert config["num_epochs"] == 10 and isinstance(config["num_epochs"], np.int64)
        assert config["weight_decay"] == 0.0005
        assert text(config["lr_schedule"]) == "cosine"
        assert f["environment"].attrs["ranks"] == 2
        # Eight digits are a checksum here, not a number.
        assert f["environment"].attrs["tiles_crc32"] == b"67267253"
        assert [text(c) for c in f["classes"][()]] == CLASSES
        epochs = f["epochs"]
        assert epochs.chunks is not None and epochs.maxshape == (None,)
        assert epochs.dtype.names == ("epoch", "train_loss", "train_error", "validation_loss", "validation_error",
                                      "learning_rate", "seconds", "tiles_per_s")
        assert epochs.dtype["epoch"] == np.dtype("<u4") and epochs.dtype["seconds"] == np.dtype("<f8")
        assert "nats" in text(epochs.attrs["train_loss"])
        assert 1 <= epochs.attrs["kept_epoch"] <= 10
        predictions = f["predictions/validation"]
        assert predictions.dtype.names == ("tile", "label", "predicted", *["p_" + c for c in CLASSES])
        assert predictions.dtype["label"] == np.dtype("<u2") and predictions.dtype["p_Forest"] == np.dtype("<f4")
        rows = predictions[()]
        p = np.stack([rows["p_" + c] for c in CLASSES], 1)
        assert (p.argmax(1) == rows["predicted"]).all() and np.allclose(p.sum(1), 1, atol=1e-5)
        confusion = np.zeros((6, 6), np.int64)
        np.add.at(confusion, (rows["label"], rows["predicted"]), 1)
        assert f["confusion"].dtype == np.dtype("<i8")
        assert (f["confusion"][()] == confusion).all()
        per_class = f["per_class"][()]
        assert [text(c) for c in per_class["label"]] == CLASSES
        assert (per_class["support"] == confusion.sum(1)).all()
        assert np.allclose(per_class["recall"], np.diag(confusion) / confusion.sum(1))
        assert np.allclose(per_class["precision"], np.diag(confusion) / confusion.sum(0))
        f.visititems(no_variable_length)
        no_variable_length("/", f)

    frame = pd.read_hdf(path, "epochs")
    assert len(frame) == 10 and list(frame["epoch"]) == list(range(1, 11))
    assert frame["validation_error"].between(0, 1).all()
    frame = pd.read_hdf(path, "predictions/validation")
    assert len(frame) == 1200 and text(frame["tile"][0]).startswith("Barren/")
    assert len(pd.read_hdf(path, "per_class")) == 6


def check_scores(path):
    with h5py.File(path, "r") as f:
        assert text(f.attrs["schema"]) == "quadrat-scores"
        predictions = f["predictions"]
        assert predictions.dtype.names == ("tile", "predicted", *["p_" + c for c in CLASSES],
                                           "llcrnrlat", "llcrnrlon", "urcrnrlat", "urcrnrlon")
        assert f.attrs["tiles"] == len(predictions) and f.attrs["rejected"] == len(f["rejected"])
        assert np.isclose(f.attrs["tiles_per_s"], f.attrs["tiles"] / f.attrs["seconds"])
        rows = predictions[()]
        assert (rows["urcrnrlat"] > rows["llcrnrlat"]).all()
        f.visititems(no_variable_length)
        no_variable_length("/", f)
    frame = pd.read_hdf(path, "predictions")
    assert len(frame) == len(rows)


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        subprocess.run([maker, folder], check=True)
        check_run(folder / "runs/made/run.h5")
        assert len(pd.read_hdf(folder / "runs/started/run.h5", "epochs")) == 0
        check_scores(folder / "scores/year1/scores.h5")
        dump = subprocess.run(["h5dump", "-d", "/epochs", folder / "runs/made/run.h5"], check=True,
                              capture_output=True, text=True)
        assert "H5T_STD_U32LE \"epoch\"" in dump.stdout and "(9)" in dump.stdout, dump.stdout
        everything = subprocess.run(["h5dump", folder / "scores/year1/scores.h5"], check=True, capture_output=True,
                                    text=True)
        assert everything.stderr == "", everything.stderr


sys.exit(main())
