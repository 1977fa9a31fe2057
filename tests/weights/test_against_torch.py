"""quadrat-weights against PyTorch, torchvision and safetensors: what they write is read, what it writes they read,
and a pickle that wants to run something is refused before it can."""

import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torchvision

program = Path(os.environ["QUADRAT_BIN"]) / "quadrat-weights"
checks = 0


def check(condition, what):
    global checks
    checks += 1
    if not condition:
        raise AssertionError(what)


def run(*words):
    return subprocess.run([program, *map(str, words)], text=True, capture_output=True)


def refused(status, *words):
    """One line on stderr, the exit status, nothing on stdout."""
    answer = run(*words)
    check(answer.returncode == status, f"{words}: exit {answer.returncode}, {answer.stderr}")
    check(answer.stdout == "", f"{words}: prints {answer.stdout}")
    check(answer.stderr.count("\n") == 1, f"{words}: {answer.stderr!r}")
    return answer.stderr


def header_names(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return [name for name in json.loads(file.read(length)) if name != "__metadata__"]


def same(got, expected, what):
    check(sorted(got) == sorted(expected), f"{what}: other names")
    for name, tensor in expected.items():
        check(got[name].dtype == tensor.dtype, f"{what}: {name} is {got[name].dtype}")
        check(got[name].shape == tensor.shape, f"{what}: {name} is {got[name].shape}")
        # As bytes, so that NaN equals NaN and -0 differs from 0.
        raw = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (got[name], tensor)]
        check(torch.equal(*raw), f"{what}: other values in {name}")


def round_trip(folder, source, expected, what):
    middle, back = folder / "middle.safetensors", folder / "back.pth"
    answer = run("convert", source, middle, "--overwrite")
    check(answer.returncode == 0, f"{what}: {answer.stderr}")
    same(safetensors.torch.load_file(middle), expected, what)
    check(header_names(middle) == list(expected), f"{what}: other order")
    answer = run("convert", middle, back, "--overwrite")
    check(answer.returncode == 0, f"{what}: {answer.stderr}")
    same(torch.load(back, weights_only=True), expected, f"{what}, back")
    check(list(torch.load(back, weights_only=True)) == list(expected), f"{what}, back: other order")
    check(zipfile.ZipFile(back).testzip() is None, f"{what}: a bad zip archive")


def networks(folder):
    torch.manual_seed(1)
    for build, name in ((torchvision.models.resnet18, "resnet18"), (torchvision.models.alexnet, "alexnet")):
        network = build(weights=None, num_classes=7)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            state = network.to(dtype).state_dict()
            for zipped in (True, False):
                if name == "alexnet" and (dtype, zipped) not in ((torch.float32, True), (torch.bfloat16, False)):
                    continue  # 230 MB each
                path = folder / "network.pth"
                torch.save(state, path, _use_new_zipfile_serialization=zipped)
                round_trip(folder, path, state, f"{name} {dtype} zip={zipped}")
        shown = run("show", path).stdout
        check(f"{name}, 7 classes" in shown, shown[:300])


def shapes(folder):
    base = torch.arange(210, dtype=torch.float32).reshape(5, 6, 7)
    state = OrderedDict(
        whole=base, turned=base.permute(2, 0, 1), part=base[1:4, ::2, 3], wide=torch.ones(3, 1).expand(3, 4),
        scalar=torch.tensor(3.5), empty=torch.zeros(4, 0, 2), nan=torch.tensor([float("nan"), -0.0, float("inf")]),
        channels_last=torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        parameter=torch.nn.Parameter(torch.rand(3)))
    for dtype in (torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool):
        state[str(dtype)] = torch.randint(-100, 100, (3, 5)).to(dtype)
    state["name with \"quotes\", \\ and é"] = torch.ones(2)
    for zipped in (True, False):
        for protocol in (2, 4):
            if protocol == 4 and not zipped:
                continue
            path = folder / "shapes.pth"
            torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
            round_trip(folder, path, state, f"shapes zip={zipped} protocol={protocol}")
    torch.save(dict(state), folder / "dict.pth")
    round_trip(folder, folder / "dict.pth", state, "a plain dict")


def wrapped(folder):
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    path = folder / "checkpoint.pth"
    torch.save({"epoch": 7, "loss": 0.25, "arch": "x", "state_dict": network.state_dict(),
                "optimizer": optimizer.state_dict(), "done": False, "big": 10**30}, path)
    round_trip(folder, path, network.state_dict(), "a training checkpoint")


def metadata(folder):
    path, copy = folder / "meta.safetensors", folder / "copy.safetensors"
    tensors = {"b": torch.ones(3, dtype=torch.uint8), "a": torch.rand(2, 2)}
    facts = {"architecture": "resnet18", "classes": '["Barren", "Forêt"]'}
    safetensors.torch.save_file(tensors, path, metadata=facts)
    check(run("convert", path, copy).returncode == 0, "metadata")
    with safetensors.safe_open(copy, "pt") as file:
        check(file.metadata() == facts, file.metadata())
    same(safetensors.torch.load_file(copy), tensors, "metadata")
    answer = run("convert", path, folder / "meta.pth")
    check("no place for the metadata" in answer.stderr, answer.stderr)


class Attack:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def hostile(folder):
    trace = folder / "was_run"
    attacks = {
        "posix.system": Attack(os.system, f"touch {trace}"),
        "builtins.eval": Attack(eval, f"open('{trace}', 'w')"),
        "builtins.exec": Attack(exec, f"open('{trace}', 'w')"),
        "builtins.getattr": Attack(getattr, os, "system"),
        ".Popen": Attack(subprocess.Popen, ["touch", str(trace)]),
        "torch.storage._load_from_bytes": Attack(torch.storage._load_from_bytes, b""),
    }
    for name, attack in attacks.items():
        if name == "builtins.getattr":
            attack = Attack(getattr, "x", "upper")
        for zipped in (True, False):
            path = folder / "hostile.pth"
            torch.save({"w": torch.ones(2), "x": attack}, path, _use_new_zipfile_serialization=zipped)
            # Pickles of protocol 2 speak of Python 2's names.
            message = refused(2, "show", path).replace("__builtin__", "builtins")
            check(name in message and "refused" in message, message)
            refused(2, "convert", path, folder / "never.safetensors")
    check(not trace.exists(), "an attack was run")
    check(not (folder / "never.safetensors").exists(), "a hostile file was converted")
    torch.save(torch.nn.Linear(2, 2), folder / "module.pth")
    check("state dict" in refused(2, "show", folder / "module.pth"), "a whole module")
    torch.save([torch.ones(2)], folder / "list.pth")
    check("state_dict" in refused(2, "show", folder / "list.pth"), "a list")
    (folder / "plain.pkl").write_bytes(pickle.dumps({"a": 1}))
    refused(2, "show", folder / "plain.pkl")


def cut_short(folder):
    random.seed(1)
    torch.save(torch.nn.Linear(40, 30).state_dict(), folder / "z.pth")
    torch.save(torch.nn.Linear(40, 30).state_dict(), folder / "l.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(torch.nn.Linear(40, 30).state_dict(), folder / "s.safetensors")
    for name in ("z.pth", "l.pth", "s.safetensors"):
        whole = (folder / name).read_bytes()
        for length in [0, 1, 8, len(whole) - 1] + [random.randrange(len(whole)) for _ in range(20)]:
            (folder / "cut").write_bytes(whole[:length])
            check(str(folder / "cut") in refused(2, "show", folder / "cut"), f"{name} cut to {length}")


def command_line(folder):
    torch.save({"w": torch.ones(2)}, folder / "w.pth")
    check("say what to do" in refused(1), "no words")
    check("did you mean show" in refused(1, "shw", folder / "w.pth"), "a misspelt command")
    check("wants one file" in refused(1, "show"), "no file")
    check("two files" in refused(1, "convert", folder / "w.pth"), "one file")
    check(".safetensors" in refused(1, "convert", folder / "w.pth", folder / "w.npz"), "an extension")
    check("No such file" in refused(2, "show", folder / "nothing.pth"), "no such file")
    refused(2, "show", folder)
    (folder / "there.pth").write_text("precious")
    check("--overwrite" in refused(2, "convert", folder / "w.pth", folder / "there.pth"), "an existing file")
    check((folder / "there.pth").read_text() == "precious", "an existing file was overwritten")
    check(run("convert", folder / "w.pth", folder / "there.pth", "--overwrite").returncode == 0, "--overwrite")
    same(torch.load(folder / "there.pth", weights_only=True), {"w": torch.ones(2)}, "--overwrite")
    refused(2, "convert", folder / "w.pth", folder / "no" / "folder.pth")
    check(run("--help").returncode == 0, "--help")


def main():
    with tempfile.TemporaryDirectory() as name:
        for part in (networks, shapes, wrapped, metadata, hostile, cut_short, command_line):
            folder = Path(name) / part.__name__
            folder.mkdir()
            part(folder)
    print(f"{checks} checks passed")


if __name__ == "__main__":
    sys.exit(main())
