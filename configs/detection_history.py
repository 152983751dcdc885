"""Ten detectors, from R-CNN to FCOS, on the synthetic shapes with one trunk, one budget and one evaluator.

    python -m experiments.sweep --config=configs/detection_history.py --workdir=runs/detection --tfds_data_dir=data
    python -m benchmarks.history runs/detection --tfds_data_dir=data

The first command trains them, the second makes the table and the picture (RESULTS.md). They differ from configs/*_shapes.py in:
* The trunk is a ResNet-10 at half width with group normalisation. R-CNN, SPP-net, Fast R-CNN and the first Faster R-CNN use its
  features of stride 8. SSD has default boxes on its strides 8, 16 and 32. The others have a pyramid on it. YOLO has its own
  network, and images of 112x112 pixels instead of 96x96.
* The budget is 5,120 training images, 320 steps of 16. R-CNN gets half of them, 640 steps of 4, as it is slow. SPP-net starts
  from R-CNN's trunk, which stays frozen.
"""

from configs import sweeps

BUDGET = {"train.steps": 320, "train.eval_every": 320, "train.checkpoint_every": 80}
RCNN_BUDGET = {"train.steps": 640, "train.eval_every": 640, "train.checkpoint_every": 160}
SIZE = {"data.image_size": (96, 96)}
PYRAMID = {"model.backbone.bottom_up.norm": "group"}


def sweep() -> list[sweeps.Run]:
    early = [
        {"name": "rcnn", "config": "configs/rcnn_shapes.py"} | RCNN_BUDGET,
        {"name": "sppnet", "config": "configs/sppnet_shapes.py", "init_from": sweeps.run("rcnn")} | BUDGET | SIZE,
        {"name": "fast_rcnn", "config": "configs/fast_rcnn_shapes.py"} | BUDGET | SIZE,
        {"name": "faster_rcnn", "config": "configs/faster_rcnn_shapes.py:one_level"} | BUDGET | SIZE,
    ]
    names = {"faster_rcnn_fpn": "faster_rcnn", "mask_rcnn": "mask_rcnn", "retinanet": "retinanet", "fcos": "fcos"}
    pyramids = [
        {"name": name, "config": f"configs/{file}_shapes.py"} | BUDGET | PYRAMID for name, file in names.items()
    ]
    files = {"yolov1": "configs/yolov1_shapes.py", "ssd": "configs/ssd_shapes.py:resnet"}
    one_stage = [{"name": name, "config": file} | BUDGET for name, file in files.items()]
    return early + one_stage + pyramids
