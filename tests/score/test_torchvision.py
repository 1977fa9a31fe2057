"""quadrat-score in fp32 equals torchvision on real tiles, decoded by Pillow: probabilities and exported features, with
test-time augmentation too. In int16 features are near."""

import json
import os
import pathlib
import subprocess
import tempfile

import h5py
import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

BIN = pathlib.Path(os.environ["QUADRAT_BIN"])
TILES = pathlib.Path(os.environ["QUADRAT_SHARED"]) / "data/tiles/ucmerced6/validation"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLASSES = ["agricultural", "beach", "chaparral", "denseresidential", "forest", "golfcourse"]


def make(architecture, path):
    """Random weights; batch norms with statistics of their own; a head that spreads its logits."""
    torch.manual_seed(5)
    model = getattr(torchvision.models, architecture)(weights=None, num_classes=len(CLASSES))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.2)
        elif isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(module.weight)
    path.parent.mkdir(parents=True)
    metadata = {"architecture": architecture, "classes": json.dumps(CLASSES), "mean": json.dumps(MEAN),
                "std": json.dumps(STD), "tile_px": "224", "retraining_type": "all"}
    save_file(model.state_dict(), path, metadata)
    return model.eval()


def load(names):
    pixels = np.stack([np.asarray(Image.open(TILES / name)) for name in names])
    return torch.from_numpy((pixels / 255.0 - MEAN) / STD).permute(0, 3, 1, 2).double()


def reference(model, tiles):
    """Features, then logits, in float64."""
    model = model.double()
    with torch.inference_mode():
        if hasattr(model, "fc"):
            head, model.fc = model.fc, torch.nn.Identity()
            features = model(tiles)
            model.fc = head
        else:
            head = model.classifier[-1]
            flat = torch.flatten(model.avgpool(model.features(tiles)), 1)
            features = model.classifier[:-1](flat)
        return features, head(features)


def score(folder, name, *options):
    command = [BIN / "quadrat-score", "--tiles", TILES, "-o", name, "--sample_frac", "0.3", *options]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def read(folder, name):
    with h5py.File(folder / "scores" / name / "scores.h5") as file:
        table = file["predictions"][:]
    names = [tile.decode() for tile in table["tile"]]
    return names, np.stack([table[f"p_{c}"] for c in CLASSES], 1)


def distance(got, wanted):
    """Largest difference, relative to the spread of what is wanted."""
    return float((torch.as_tensor(got).double() - wanted).abs().max() / wanted.std())


def check(architecture, folder):
    model = make(architecture, folder / f"runs/{architecture}/model.safetensors")
    score(folder, architecture, "--precision", "fp32", "--features", "features.h5")
    names, probabilities = read(folder, architecture)
    assert len(names) == 36, names
    tiles = load(names)
    features, logits = reference(model, tiles)

    with h5py.File(folder / "features.h5") as file:
        exported = file["features"][:]
        assert [name.decode() for name in file["tiles"]] == names
        assert file.attrs["schema"] in ("quadrat-score-features", b"quadrat-score-features")
    assert exported.shape == (36, 512 if architecture == "resnet18" else 4096), exported.shape
    off = distance(exported, features)
    assert off < 1e-4, f"{architecture}: features differ by {off:.1e}"

    # The logits as far as probabilities tell: up to one number a tile, where none has underflowed.
    wanted = torch.log_softmax(logits, 1)
    got = torch.from_numpy(probabilities).double().log()
    told = wanted > -60
    off = float(((got - wanted).abs()[told] / wanted.abs()[told].clamp_min(logits.std().item())).max())
    assert off < 1e-4, f"{architecture}: logits differ by {off:.1e}"
    print(f"{architecture} fp32: logits within {off:.1e}, features within {distance(exported, features):.1e}")

    if " avx2 " in pathlib.Path("/proc/cpuinfo").read_text():
        score(folder, architecture, "--precision", "int16", "--name", "int16", "--features", "int16.h5")
        with h5py.File(folder / "int16.h5") as file:
            off = distance(file["features"][:], features)
        # Rounding of 2e-4 to 5e-4 of the spread in each of the layers, where no error is the next one's more than once.
        assert 1e-5 < off < 2e-2, f"{architecture}: features in int16 differ by {off:.1e}"
        print(f"{architecture} int16: features within {off:.1e}")

    score(folder, architecture, "--precision", "fp32", "--name", "views", "--test_time_augmentation")
    views = [torch.rot90(t, turn, (2, 3)) for turn in range(4) for t in (tiles, tiles.flip(3))]
    mean = sum(torch.softmax(reference(model, view)[1], 1) for view in views) / 8
    got = torch.from_numpy(read(folder, "views")[1]).double()
    assert (got - mean).abs().max() < 1e-4, "the mean over eight views differs"
    assert (got - torch.softmax(logits, 1)).abs().max() > 1e-3, "the views were not averaged: the comparison is blind"


with tempfile.TemporaryDirectory() as scratch:
    for each in ("resnet18", "alexnet"):
        check(each, pathlib.Path(scratch) / each)
