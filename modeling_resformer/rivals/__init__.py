"""Networks of other libraries under the forward contract of this one, to be trained and scored by the same trainer.

A rival is named `LIBRARY/NETWORK`, with `:ENCODER` behind it where the network takes one:

| name | network | tasks |
|---|---|---|
| `smp/Unet:resnet34` | any architecture of segmentation_models_pytorch, by its class, with any of its encoders | multi_task, |
| | (`mit_b2`, `tu-pvt_v2_b2`, ...) or `efficientnet-lite0`, `-lite1`, `-lite2`; image-level classes from the deepest map | segmentation |
| `monai/SwinUNETR`, `monai/UNETR`, `monai/DynUNet` | MONAI's, two-dimensional | segmentation |
| `transformers/segformer-b0`, `-b2`, `transformers/upernet-swin-tiny` | from random weights; classes as above | both of them |
| `timm/inception_v3` | any classifier of timm, by its name, or `timm/efficientnet-lite0` | classification |

The libraries are imported when a network is built: they are the extra `benchmark`.
"""
