"""How quickly others compute a network on this machine: OpenVINO, ONNX Runtime, PyTorch.

usage: peers.py make ARCHITECTURE FILE                       writes a model with random weights
       peers.py PEER forward MODEL PRECISION CACHE SECONDS   forward alone, from bytes in memory
       peers.py PEER files MODEL PRECISION CACHE TILES       from PNG files to classes

PEER is openvino, onnxruntime or torch. Both print one number: tiles a second, on as many cores as the process may use.
Each peer gets the batch it is quickest with, tried once and kept in CACHE, as are converted models.
"""

import json
import os
import pathlib
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

CORES = len(os.sched_getaffinity(0))
BATCHES = {"forward": (1, 4, 8, 16, 32), "files": (1, 8, 16, 32)}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLASSES = ["Barren", "Cultivated", "Developed", "Forest", "Herbaceous", "Shrub"]


def network(path):
    import torch
    import torchvision
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        architecture = file.metadata()["architecture"]
        weights = {name: file.get_tensor(name) for name in file.keys()}
    model = getattr(torchvision.models, architecture)(weights=None, num_classes=len(CLASSES))
    model.load_state_dict(weights)
    return model.eval()


def make(architecture, path):
    import torch
    import torchvision
    from safetensors.torch import save_file

    torch.manual_seed(1)
    model = getattr(torchvision.models, architecture)(weights=None, num_classes=len(CLASSES))
    save_file(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()},
        path,
        {
            "architecture": architecture,
            "classes": json.dumps(CLASSES),
            "mean": json.dumps(MEAN),
            "std": json.dumps(STD),
            "tile_px": "224",
            "retraining_type": "all",
        },
    )


def decoder():
    """The quicker of Pillow and OpenCV where both are there: bytes of a PNG to [224, 224, 3] RGB."""
    import cv2

    cv2.setNumThreads(1)
    return lambda path: cv2.cvtColor(cv2.imread(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def some_tiles(count):
    """For calibration: smooth colours with noise, in the range of real ones."""
    random = np.random.default_rng(3)
    small = random.uniform(0, 255, (count, 8, 8, 3)).repeat(28, 1).repeat(28, 2)
    return np.clip(small * 0.6 + random.normal(50, 20, (count, 224, 224, 3)), 0, 255).astype(np.uint8)


def as_input(tiles):
    """uint8 [N, H, W, 3] to normalised float32 [N, 3, H, W]."""
    return np.ascontiguousarray(((tiles / 255.0 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32))


class OpenVino:
    """Throughput hint; normalisation in the graph, from bytes as they are decoded; int8 by NNCF after training."""

    def __init__(self, model, precision, cache, batch):
        import openvino as ov
        from openvino.preprocess import PrePostProcessor

        core = ov.Core()
        kept = cache / f"{pathlib.Path(model).parent.name}_{'int8' if precision == 'int8' else 'float'}.xml"
        if not kept.exists():
            import torch

            converted = ov.convert_model(network(model), example_input=torch.zeros(1, 3, 224, 224))
            converted.reshape([-1, 3, 224, 224])
            if precision == "int8":
                import nncf

                tiles = [as_input(tile[None]) for tile in some_tiles(96)]
                converted = nncf.quantize(converted, nncf.Dataset(tiles), subset_size=len(tiles))
            ov.save_model(converted, kept, compress_to_fp16=False)
        loaded = core.read_model(kept)
        loaded.reshape([batch, 3, 224, 224])
        prepare = PrePostProcessor(loaded)
        prepare.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        prepare.input().model().set_layout(ov.Layout("NCHW"))
        prepare.input().preprocess().convert_element_type(ov.Type.f32).mean([255 * m for m in MEAN]).scale(
            [255 * s for s in STD]
        )
        options = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
        }
        compiled = core.compile_model(prepare.build(), "CPU", options)
        self.queue = ov.AsyncInferQueue(compiled)
        self.queue.set_callback(lambda request, done: done(request.get_output_tensor().data))

    def submit(self, tiles, done):
        self.queue.start_async({0: tiles}, done)

    def wait(self):
        self.queue.wait_all()


class Threads:
    """A peer that computes a batch in the thread that asks: as many threads as cores, one core each."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(CORES)
        self.free = threading.Semaphore(2 * CORES)

    def submit(self, tiles, done):
        self.free.acquire()

        def work():
            try:
                done(self.infer(tiles))
            finally:
                self.free.release()

        self.pool.submit(work)

    def wait(self):
        for _ in range(2 * CORES):
            self.free.acquire()
        for _ in range(2 * CORES):
            self.free.release()


class OnnxRuntime(Threads):
    """Graph optimisations all on; int8 by its own static quantisation, per channel. It has no bf16 on CPUs."""

    def __init__(self, model, precision, cache, batch):
        super().__init__()
        import onnxruntime as ort

        name = pathlib.Path(model).parent.name
        kept = cache / f"{name}_fp32.onnx"
        if not kept.exists():
            import torch

            torch.onnx.export(
                network(model), (torch.zeros(2, 3, 224, 224),), str(kept), input_names=["tiles"], dynamo=False,
                dynamic_axes={"tiles": {0: "n"}},
            )
        if precision == "bf16":
            raise SystemExit("onnxruntime computes no bf16 on CPUs")
        if precision == "int8":
            from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
            from onnxruntime.quantization.shape_inference import quant_pre_process

            class Reader(CalibrationDataReader):
                def __init__(self):
                    self.tiles = iter(as_input(tile[None]) for tile in some_tiles(96))

                def get_next(self):
                    tile = next(self.tiles, None)
                    return None if tile is None else {"tiles": tile}

            whole, kept = kept, cache / f"{name}_int8.onnx"
            if not kept.exists():
                quant_pre_process(str(whole), str(cache / "prepared.onnx"))
                quantize_static(
                    str(cache / "prepared.onnx"), str(kept), Reader(), per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                )
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = ort.InferenceSession(str(kept), options, providers=["CPUExecutionProvider"])

    def infer(self, tiles):
        return self.session.run(None, {"tiles": as_input(tiles)})[0]


class Torch(Threads):
    """Frozen and fused TorchScript in fp32, channels last; bf16 as a plain network. Its int8 needs a graph of its own."""

    def __init__(self, model, precision, cache, batch):
        super().__init__()
        import torch

        if precision == "int8":
            raise SystemExit("not measured: PyTorch's int8")
        torch.set_num_threads(1)
        self.torch = torch
        self.type = torch.bfloat16 if precision == "bf16" else torch.float32
        net = network(model).to(memory_format=torch.channels_last, dtype=self.type)
        with torch.inference_mode():
            example = torch.zeros(batch, 3, 224, 224, dtype=self.type).to(memory_format=torch.channels_last)
            self.net = torch.jit.freeze(torch.jit.trace(net, example))
            if precision == "fp32":
                self.net = torch.jit.optimize_for_inference(self.net)
        self.mean = torch.tensor(MEAN).view(1, 3, 1, 1) * 255
        self.scale = 1 / (torch.tensor(STD).view(1, 3, 1, 1) * 255)

    def infer(self, tiles):
        torch = self.torch
        torch.set_num_threads(1)
        with torch.inference_mode():
            pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2).float()
            return self.net(((pixels - self.mean) * self.scale).to(self.type)).float().numpy()


PEERS = {"openvino": OpenVino, "onnxruntime": OnnxRuntime, "torch": Torch}


def forward(peer, batch, seconds):
    """Tiles a second, from a batch of bytes in memory, kept busy for so long."""
    tiles = some_tiles(batch)
    counted = []
    done = lambda logits: counted.append(len(logits))
    for _ in range(2 * CORES):
        peer.submit(tiles, done)
    peer.wait()
    counted.clear()
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        peer.submit(tiles, done)
    peer.wait()
    return sum(counted) / (time.perf_counter() - start)


def files(peer, batch, paths):
    """Tiles a second from PNG files to classes, decoded by a pool of threads ahead of the peer."""
    decode = decoder()
    classes = {}
    decoded = ThreadPoolExecutor(CORES)
    start = time.perf_counter()
    groups = [paths[i : i + batch] for i in range(0, len(paths), batch)]

    def load(group):
        tiles = np.zeros((batch, 224, 224, 3), np.uint8)
        for i, path in enumerate(group):
            tiles[i] = decode(path)
        return group, tiles

    waiting = [decoded.submit(load, group) for group in groups[: 3 * CORES]]
    following = 3 * CORES
    for i in range(len(groups)):
        group, tiles = waiting[i].result()
        waiting[i] = None
        if following < len(groups):
            waiting.append(decoded.submit(load, groups[following]))
            following += 1

        def done(logits, group=group):
            classes.update(zip(group, logits.argmax(1)))

        peer.submit(tiles, done)
    peer.wait()
    assert len(classes) == len(paths)
    return len(paths) / (time.perf_counter() - start)


def best_batch(kind, mode, model, precision, cache, try_it):
    kept = cache / "batches.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    key = f"{kind} {mode} {pathlib.Path(model).parent.name} {precision}"
    if key not in known:
        rates = {batch: try_it(PEERS[kind](model, precision, cache, batch), batch) for batch in BATCHES[mode]}
        known[key] = max(rates, key=rates.get)
        print(f"{key}: " + ", ".join(f"batch {b} {r:.0f}/s" for b, r in rates.items()), file=sys.stderr)
        kept.write_text(json.dumps(known))
    return known[key]


def main(arguments):
    if arguments[:1] == ["make"]:
        return make(*arguments[1:])
    if len(arguments) != 6:
        raise SystemExit(__doc__)
    kind, mode, model, precision, cache, what = arguments
    cache = pathlib.Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    if mode == "forward":
        seconds = float(what)
        batch = best_batch(kind, mode, model, precision, cache, lambda peer, b: forward(peer, b, 1.5))
        print(f"{forward(PEERS[kind](model, precision, cache, batch), batch, seconds):.1f}")
    else:
        paths = sorted(str(path) for path in pathlib.Path(what).rglob("*.png"))
        batch = best_batch(kind, mode, model, precision, cache, lambda peer, b: files(peer, b, paths[:320]))
        print(f"{files(PEERS[kind](model, precision, cache, batch), batch, paths):.1f}")


main(sys.argv[1:])
