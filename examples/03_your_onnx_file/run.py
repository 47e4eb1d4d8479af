"""Export a model that the testbed has never seen, and inject faults into the file."""

import torch
from torch import nn

import testbed
from testbed.data import load


class MyViT(nn.Module):
    """A small Vision Transformer in plain PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, kernel_size=2, stride=2)  # 8 x 8 pixels: 16 patches
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(32), enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.blocks(tokens).mean(1))


torch.manual_seed(0)
torch.set_num_threads(1)
digits = load("digits", seed=0)  # the seed of the spec below: the same split
images, labels = torch.tensor(digits.train.batch(slice(None))), torch.tensor(digits.train.labels)
model = MyViT()
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
for _ in range(12):
    for batch in torch.randperm(len(images)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
model.eval()
names = {"input_names": ["image"], "output_names": ["logits"]}
torch.onnx.export(model, (images[:2],), "vit.onnx", dynamic_shapes=({0: "batch"},), verbose=False, **names)

spec = {
    "name": "onnx",
    "seed": 0,
    "data": {"name": "digits"},
    "model": {"onnx": "vit.onnx"},
    "tiers": {"edges": [0.5, 1.0], "images": [3, 3]},
    "tolerance": {"atol": 1e-4, "rtol": 1e-4},
    "faults": [{"target": "model", "where": "activation", "ops": ["flip"], "bits": [12, 22, 28, 30, 31]}],
}
with testbed.run(spec, "runs/03_your_onnx_file") as run:
    print(f"test accuracy {100 * run.summary.model.test_accuracy:.1f} %")
    print([site.name for site in run.sites()][:8], "...")
    rates = run.rates(by="kind").sort_values("estimate", ascending=False)
    print(rates[["kind", "estimate", "low", "high", "n"]].head(6).round(4).to_string(index=False))
