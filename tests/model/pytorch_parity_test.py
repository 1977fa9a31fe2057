"""AlexNet and ResNet18 here and in torchvision: logits, loss, gradients and SGD steps from the same weights.

In float64 everything is compared. In float32 only what comes before the first ReLU or pooling on the way back: where
two inputs of a pooling window, or an activation and zero, differ by less than the rounding, two correct programs may
send a whole gradient to different places (PyTorch's own two memory formats do, on seeds 0 and 1 here).
"""
import os
import subprocess
import sys
import tempfile

import torch
import torchvision
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
PROBE = os.path.join(os.environ["QUADRAT_BIN"], "..", "tests", "model_probe")
CLASSES = 6
# A sum over up to 9216 products in another order, through 8 to 18 layers, loses a factor of ~100 of the unit: 6e-8 in
# float32, 1e-16 in float64, where ~1e4 more is left for what batch statistics of two tiles amplify.
RELATIVE = {torch.float32: 1e-5, torch.float64: 1e-10}
failures = []


def check(name, ours, theirs):
    """Largest difference over the tensor's largest value: entries near 0 are differences of large sums."""
    tolerance = RELATIVE[theirs.dtype]
    scale = theirs.abs().max().item() or 1.0
    difference = (ours - theirs).abs().max().item() / scale
    if not difference <= tolerance:
        failures.append(f"{name}: relative difference {difference:.2e}, allowed {tolerance:.0e}")
    return difference


def compare(architecture, retraining, dtype, folder):
    torch.manual_seed(1)
    model = getattr(torchvision.models, architecture)(weights=None, num_classes=CLASSES)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.5, 0.5)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    model.to(dtype)
    x = torch.randn(2, 3, 224, 224, dtype=dtype)
    y = torch.tensor([5, 2])
    weights, batch, out = (os.path.join(folder, n) for n in ("w.safetensors", "b.safetensors", "o.safetensors"))
    save_file(model.state_dict(), weights)
    save_file({"input": x, "labels": y}, batch, {"classes": str(CLASSES)})
    subprocess.run([PROBE, architecture, retraining, weights, batch, out], check=True)
    ours = load_file(out)

    last = "fc" if architecture == "resnet18" else "classifier.6"
    trained = {"all": "", "last_only": last + ".", "fully_connected": "classifier."}[retraining]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    model.train(architecture == "resnet18" and retraining == "all")

    def smooth(name):
        return dtype == torch.float64 or name.startswith(last) or not trained == ""

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.01, 0.9, weight_decay=5e-4)
    worst = 0
    for step in range(2 if dtype == torch.float64 else 1):
        logits = model(x)
        loss = torch.nn.functional.cross_entropy(logits, y, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            worst = max(check("logits", ours["logits"], logits.detach()), check("loss", ours["loss"], loss.detach()))
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and smooth(name):
                    worst = max(worst, check(f"gradient of {name}", ours[f"grad.{name}"], parameter.grad))
                elif not parameter.requires_grad and f"grad.{name}" in ours:
                    failures.append(f"{name} is frozen, but has a gradient")
        optimizer.step()
    for name, tensor in model.state_dict().items():
        if not smooth(name):
            continue
        if tensor.dtype == dtype:
            worst = max(worst, check(f"{name} after the steps", ours[f"after.{name}"], tensor))
        elif not torch.equal(ours[f"after.{name}"], tensor):
            failures.append(f"{name}: {ours[f'after.{name}']} instead of {tensor}")
    print(f"{architecture} {retraining} {dtype}: largest relative difference {worst:.1e}")


with tempfile.TemporaryDirectory() as folder:
    for architecture, retraining in [("alexnet", "all"), ("alexnet", "fully_connected"), ("alexnet", "last_only"),
                                     ("resnet18", "all"), ("resnet18", "last_only")]:
        compare(architecture, retraining, torch.float32, folder)
        if retraining == "all":
            compare(architecture, retraining, torch.float64, folder)
for failure in failures:
    print(failure, file=sys.stderr)
sys.exit(bool(failures))
