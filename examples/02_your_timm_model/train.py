"""Train a small Vision Transformer of timm on the digits, and save its weights. Yours is trained or downloaded already."""

import safetensors.torch
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from testbed.data import load

torch.manual_seed(0)
torch.set_num_threads(1)
digits = load("digits")
images, labels = torch.tensor(digits.train.batch(slice(None))), torch.tensor(digits.train.labels)
model = VisionTransformer(
    img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, depth=3, num_heads=4, mlp_ratio=2.0
)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
for _ in range(12):
    for batch in torch.randperm(len(images)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
safetensors.torch.save_file(model.state_dict(), "vit.safetensors")
