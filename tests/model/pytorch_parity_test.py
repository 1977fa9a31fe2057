"""AlexNet and ResNet18 here and in torchvision: logits, loss, gradients and SGD steps from the same weights."""
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
# float32 holds 6e-8; sums over up to 9216 products in another order, through 8 to 18 layers, lose a factor of ~100.
RELATIVE = 1e-5
failures = []


def check(name, ours, theirs, tolerance=RELATIVE):
    """Largest difference over the tensor's largest value: entries near 0 are differences of large sums."""
    scale = theirs.abs().max().item() or 1.0
    difference = (ours - theirs).abs().max().item() / scale
    if not difference <= tolerance:
        failures.append(f"{name}: relative difference {difference:.2e}, allowed {tolerance:.0e}")
    return difference


def compare(architecture, retraining, folder):
    torch.manual_seed(1)
    model = getattr(torchvision.models, architecture)(weights=None, num_classes=CLASSES)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.5, 0.5)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    x = torch.randn(4, 3, 224, 224)
    y = torch.tensor([0, 5, 2, 2])
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
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.01, 0.9, weight_decay=5e-4)
    worst = 0
    for step in range(2):
        logits = model(x)
        loss = torch.nn.functional.cross_entropy(logits, y, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            worst = max(check("logits", ours["logits"], logits.detach()), check("loss", ours["loss"], loss.detach()))
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    worst = max(worst, check(f"gradient of {name}", ours[f"grad.{name}"], parameter.grad))
                elif f"grad.{name}" in ours:
                    failures.append(f"{name} is frozen, but has a gradient")
        optimizer.step()
    for name, tensor in model.state_dict().items():
        if tensor.dtype == torch.float32:
            worst = max(worst, check(f"{name} after two steps", ours[f"after.{name}"], tensor))
        elif not torch.equal(ours[f"after.{name}"], tensor):
            failures.append(f"{name}: {ours[f'after.{name}']} instead of {tensor}")
    print(f"{architecture} {retraining}: largest relative difference {worst:.1e}")


with tempfile.TemporaryDirectory() as folder:
    for architecture, retraining in [("alexnet", "all"), ("alexnet", "fully_connected"), ("alexnet", "last_only"),
                                     ("resnet18", "all"), ("resnet18", "last_only")]:
        compare(architecture, retraining, folder)
for failure in failures:
    print(failure, file=sys.stderr)
sys.exit(bool(failures))
