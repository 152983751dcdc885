"""Segmentation models with their task, one function per family, which sets `config.model` and `config.task` whole."""

from ml_collections import ConfigDict


def use_fcn(config: ConfigDict, *, stride: int, norm: str, padding: str, upsampling: str) -> None:
    """Set FCN-32s, FCN-16s or FCN-8s on VGG-16 (Shelhamer et al. 2017)."""
    config.model = dict(
        name="fcn",
        backbone=dict(name="vgg", layers=16, width=1.0, norm=norm, momentum=0.9),
        stride=stride,
        fc=4096,
        dropout=0.5,
        padding=padding,
        upsampling=upsampling,
        skip_scales=(1.0, 1.0),
        dtype="float32",
    )
    use_pixel_losses(config)


def use_unet(config: ConfigDict, *, depth: int, width: int, padding: str, norm: str, dropout: float = 0.5) -> None:
    """Set the U-Net of Ronneberger et al. 2015, which has depth 4 and width 64, is unpadded and not normalised."""
    shape = dict(depth=depth, width=width, padding=padding, norm=norm, momentum=0.9, dropout=dropout)
    config.model = dict(name="unet", **shape, dtype="float32")
    use_pixel_losses(config)


def use_unet_resnet34(config: ConfigDict) -> None:
    """Set a U-Net with a ResNet-34 as its contracting path."""
    config.model = dict(
        name="unet_backbone",
        backbone=dict(name="resnet", layers=34, width=1.0, norm="batch", momentum=0.9, output_stride=32),
        decoder=(256, 128, 64, 32),
        norm="batch",
        momentum=0.9,
        dropout=0.1,
        dtype="float32",
    )
    use_pixel_losses(config)


def use_unet_efficientnet_lite(config: ConfigDict) -> None:
    """Set a U-Net with an EfficientNet-Lite0 as its contracting path."""
    use_unet_resnet34(config)
    config.model.backbone = dict(name="efficientnet_lite", variant=0, width=1.0, depth=1.0, norm="batch", momentum=0.9)
    config.model.decoder = (96, 64, 48, 32)


def use_unet_mobilenetv2(config: ConfigDict, *, width: float = 1.0, decoder: tuple = (512, 256, 128, 64)) -> None:
    """Set the U-Net of TensorFlow's segmentation tutorial, on MobileNetV2."""
    config.model = dict(
        name="unet_mobilenetv2",
        width=width,
        depth=1.0,
        variant="keras",
        norm="batch",
        momentum=0.9,
        decoder=decoder,
        dtype="float32",
    )
    use_pixel_losses(config)


def use_deeplabv3plus(config: ConfigDict) -> None:
    """Set DeepLabV3+ (Chen et al. 2018) on an atrous ResNet-50 of output stride 16."""
    config.model = dict(
        name="deeplabv3plus",
        backbone=dict(name="resnet", layers=50, width=1.0, norm="batch", momentum=0.9, output_stride=16),
        aspp=256,
        rates=(6, 12, 18),
        decoder=256,
        low_level=48,
        separable=True,
        dropout=0.1,
        norm="batch",
        momentum=0.9,
        dtype="float32",
    )
    use_pixel_losses(config)


def use_light_vgg(config: ConfigDict, method: str) -> None:
    """Set `method`, one of `fcn32s` to `fcn8s`, `unet` and `deeplabv3plus`, on a VGG-11 at quarter width."""
    if method == "unet":
        use_unet_resnet34(config)
        config.model.update(decoder=(128, 128, 64, 32, 16), dropout=0.0)
    elif method == "deeplabv3plus":
        use_deeplabv3plus(config)
        config.model.update(aspp=96, rates=(2, 4, 6), decoder=64, low_level=24, dropout=0.0)
    else:
        use_fcn(config, stride=int(method[3:-1]), norm="batch", padding="same", upsampling="learned")
        config.model.update(fc=256, dropout=0.2)
    config.model.backbone = dict(name="vgg", layers=11, width=0.25, norm="batch", momentum=0.9)


def use_pix2pix(config: ConfigDict) -> None:
    """Set the U-Net-256 generator of pix2pix (Isola et al. 2017) with its 70x70 PatchGAN."""
    shape = dict(depth=8, width=64, norm="batch", momentum=0.9, dropout=0.5, discriminator=64)
    config.model = dict(name="pix2pix", **shape, dtype="float32")
    use_pixel_losses(config)
    config.task.name = "adversarial_segmentation"
    config.task.adversarial = 0.01  # the paper weights GAN to pixel loss 1 to 100
    # The paper's Adam for the discriminator; with a higher rate it learns faster than the generator.
    config.optim.partition = (("discriminator/", (("lr", 2e-4), ("betas", (0.5, 0.999)), ("weight_decay", 0.0))),)


def use_pix2pix_generator(config: ConfigDict) -> None:
    """Set the generator of pix2pix alone, trained by per-pixel losses."""
    use_pix2pix(config)
    config.model.discriminator = 0
    config.optim.partition = ()
    use_pixel_losses(config)


def use_pixel_losses(config: ConfigDict) -> None:
    """Set the task of all segmentation models, with cross-entropy. A factor above 0 adds another loss."""
    losses = dict(
        cross_entropy=dict(factor=1.0, label_smoothing=0.0),
        dice=dict(factor=0.0),
        focal=dict(factor=0.0, gamma=2.0),
        lovasz_softmax=dict(factor=0.0),
        ohem=dict(factor=0.0, threshold=0.7, share=0.25),
    )
    config.task = dict(name="segmentation", class_weights=(), losses=losses)
