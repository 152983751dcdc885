"""The MobileNetV2 U-Net in plain PyTorch, to compare its training step with ours.

    python -m benchmarks.pytorch_twin --batch_size=16

prints one JSON object. PyTorch is not a requirement of this project, so run it in any environment that has PyTorch. The encoder
uses torchvision's names, so its state also tests how this project reads pretrained weights.
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all: the imports take a while

import argparse
import json
import statistics
import sys
import time

try:
    import torch  # pyright: ignore[reportMissingImports] - optional, see above
    from torch import nn  # pyright: ignore[reportMissingImports] - optional, see above
except ImportError:
    raise SystemExit("benchmarks.pytorch_twin needs PyTorch, which is not installed; run pip install torch") from None

# expansion, channels, repeats, stride: table 2 of Sandler et al. 2018
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
DECODER = (512, 256, 128, 64)


def conv_norm(in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution, BatchNorm and ReLU6."""
    conv = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """A block of MobileNetV2, whose expanded activations the encoder takes for the skip connections."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int):
        super().__init__()
        hidden = in_channels * expansion
        expand = [conv_norm(in_channels, hidden, 1)] if expansion > 1 else []
        depthwise = conv_norm(hidden, hidden, 3, stride, groups=hidden)
        project = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.conv = nn.Sequential(*expand, depthwise, project, nn.BatchNorm2d(out_channels))
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class Encoder(nn.Module):
    """Features at strides 2, 4, 8, 16 (expanded activations) and 32 (the last projection before its BatchNorm)."""

    def __init__(self):
        super().__init__()
        layers, channels = [conv_norm(3, 32, 3, 2)], 32
        self.skips = []  # indices of the strided blocks
        for expansion, out_channels, repeats, stride in STAGES:
            if stride > 1:
                self.skips.append(len(layers))
            for repeat in range(repeats):
                layers.append(InvertedResidual(channels, out_channels, expansion, stride if repeat == 0 else 1))
                channels = out_channels
        self.features = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = []
        for index, layer in enumerate(self.features):
            if index in self.skips:
                expanded = layer.conv[0](x)
                features.append(expanded)
                x = layer.conv[1:](expanded)
            elif index == len(self.features) - 1:
                features.append(layer.conv[:-1](x))
            else:
                x = layer(x)
        return features


class UNet(nn.Module):
    """A network from images [B,3,H,W], with sides that are multiples of 32, to logits [B,num_classes,H,W]."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.encoder = Encoder()
        decoder, channels = [], 320
        for out_channels, skip in zip(DECODER, (576, 192, 144, 96), strict=True):
            conv = nn.ConvTranspose2d(channels, out_channels, 3, 2, padding=1, output_padding=1, bias=False)
            decoder.append(nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)))
            channels = out_channels + skip
        self.decoder = nn.ModuleList(decoder)
        self.head = nn.ConvTranspose2d(channels, num_classes, 3, 2, padding=1, output_padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        *skips, x = self.encoder(images)
        for upsample, skip in zip(self.decoder, reversed(skips), strict=True):
            x = torch.cat([upsample(x), skip], 1)
        return self.head(x)


def time_train_step(batch_size: int, size: int, steps: int, channels_last: bool) -> list[float]:
    """Return the seconds of `steps` training steps (forward, backward, AdamW) on random data, after two of warm-up."""
    torch.manual_seed(0)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = UNet(num_classes=3).to(memory_format=memory_format)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images = torch.randn(batch_size, 3, size, size).to(memory_format=memory_format)
    labels = torch.randint(0, 3, (batch_size, size, size))
    seconds = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the training step of the MobileNetV2 U-Net in PyTorch.")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="timed steps, after two of warm-up")
    parser.add_argument("--channels_last", action="store_true", help="store images as [B,H,W,C]")
    args = parser.parse_args()
    seconds = statistics.median(time_train_step(args.batch_size, args.image_size, args.steps, args.channels_last))
    result = {
        "images_per_second": round(args.batch_size / seconds, 2),
        "step_ms": round(1000 * seconds, 2),
        "threads": torch.get_num_threads(),
        "batch_size": args.batch_size,
        "image_size": args.image_size,
        "channels_last": args.channels_last,
        "torch": torch.__version__,
    }
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main()
