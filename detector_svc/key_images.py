"""The image that stands for a key frame. Needed by clients, too, so nothing here may import torch."""

from stal_data.clips import key_image_frame
from stal_data.keyframes import AnnotatedKeyFrame
from stal_data.media import Media


def key_frame_image(media: Media, key_frame: AnnotatedKeyFrame) -> bytes:
    """Return the encoded image of a key frame."""
    video = key_frame.key.video
    return media.encoded(video, key_image_frame(key_frame, media.info(video)))
