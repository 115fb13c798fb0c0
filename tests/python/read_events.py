"""Reads a folder of event files as TensorBoard does; prints what it would show."""

import io
import json
import sys

import PIL.Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "images": 0})
events.Reload()
tags = events.Tags()


def picture(event):
    opened = PIL.Image.open(io.BytesIO(event.encoded_image_string))
    opened.load()
    return {
        "step": event.step,
        "width": event.width,
        "height": event.height,
        "file_width": opened.width,
        "file_height": opened.height,
    }


print(json.dumps({
    "scalars": {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags["scalars"]},
    "images": {tag: [picture(e) for e in events.Images(tag)] for tag in tags["images"]},
}))
