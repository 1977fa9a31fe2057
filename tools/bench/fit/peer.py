"""What quadrat-fit does, with PyTorch and scikit-learn: features of a network without its last layer, then a classifier.

usage: peer.py TRAIN VALIDATION WEIGHTS {resnet18,alexnet} {logistic_regression,random_forest} {fp32,bf16,jit_bf16} WORKERS

Prints the validation error and the seconds from here to the end of the fit, imports left out.
"""
import sys
import time

import numpy as np
import torch
import torchvision
from safetensors.torch import load_file
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torchvision import transforms

train, validation, weights, network, classifier, how, workers = sys.argv[1:]
start = time.perf_counter()
# Loader processes decode while this one computes; without them it does both with all threads.
torch.set_num_threads(2)
model = getattr(torchvision.models, network)()
model.load_state_dict(load_file(weights))
if network == "resnet18":
    model.fc = torch.nn.Identity()
else:
    model.classifier[6] = torch.nn.Identity()
dtype = torch.float32 if how == "fp32" else torch.bfloat16
model = model.eval().to(dtype=dtype, memory_format=torch.channels_last)
to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
if how == "jit_bf16":
    # oneDNN's fused kernels, as PyTorch offers them.
    example = torch.zeros(16, 3, 224, 224, dtype=dtype).to(memory_format=torch.channels_last)
    model = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model, example)))


def features(folder):
    images = torchvision.datasets.ImageFolder(folder, to_tensor)
    loader = torch.utils.data.DataLoader(images, batch_size=16, num_workers=int(workers))
    x, y = [], []
    with torch.inference_mode():
        for batch, labels in loader:
            x.append(model(batch.to(dtype=dtype, memory_format=torch.channels_last)).float().numpy())
            y.append(labels.numpy())
    return np.concatenate(x), np.concatenate(y)


x, y = features(train)
u, v = features(validation)
if classifier == "logistic_regression":
    scaler = StandardScaler().fit(x)
    x, u = scaler.transform(x), scaler.transform(u)
    fitted = LogisticRegression(C=1 / (len(y) * 0.01), tol=1e-4, max_iter=1000).fit(x, y)
else:
    fitted = RandomForestClassifier(20, max_depth=5, random_state=0, n_jobs=2).fit(x, y)
print(1 - fitted.score(u, v), time.perf_counter() - start)
