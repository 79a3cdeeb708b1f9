"""Tiny stand-ins for the official image sets, in torchvision's own formats, checksums included."""

import gzip
import hashlib
import pickle
import tarfile

import numpy as np


def write_mnist(kind_of, root, monkeypatch, per_class=6):
    """idx .gz files of 10 classes, and the md5 sums that torchvision then expects."""
    raw = root / kind_of.__name__ / "raw"
    raw.mkdir(parents=True)
    labels = np.repeat(np.arange(10, dtype=np.uint8), per_class)
    images = np.random.default_rng(0).integers(0, 255, (len(labels), 28, 28)).astype(np.uint8)
    resources = []
    for part in ("train", "t10k"):
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(
                n.to_bytes(4, "big") for n in array.shape
            )
            path = raw / f"{part}-{name}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.tobytes()))
            resources.append((path.name, hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setattr(kind_of, "resources", resources)
    return raw


def write_cifar(kind_of, root, monkeypatch, classes, per_class=6):
    """The .tar.gz of batches, and the md5 sums that torchvision then expects."""
    base = root / "source" / kind_of.base_folder
    base.mkdir(parents=True)
    key = "labels" if classes == 10 else "fine_labels"
    labels = np.repeat(np.arange(classes), per_class).tolist()
    pixels = np.random.default_rng(0).integers(0, 255, (len(labels), 3072)).astype(np.uint8)

    def write(name, content):
        (base / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((base / name).read_bytes()).hexdigest()

    batch = {"data": pixels, key: labels}
    monkeypatch.setattr(kind_of, "train_list", [write("train_1", batch)])
    monkeypatch.setattr(kind_of, "test_list", [write("test_1", batch)])
    names = [str(i) for i in range(classes)]
    meta, md5 = write("meta_1", {"names": names})
    monkeypatch.setattr(kind_of, "meta", {"filename": meta, "key": "names", "md5": md5})
    path = root / kind_of.filename
    with tarfile.open(path, "w:gz") as tar:
        tar.add(base, arcname=kind_of.base_folder)
    monkeypatch.setattr(kind_of, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
