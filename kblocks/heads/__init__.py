"""Heads: the blocks, losses and metrics of each task, one task a file."""

from kblocks.heads.boxes import BoxRegressor, Localizer
from kblocks.heads.classification import AuxiliaryClassifier, Classifier, Features
from kblocks.heads.decoding import detections, mean_average_precision, non_maximum_suppression
from kblocks.heads.detector import DetectionMap, Detector
from kblocks.heads.keypoints import KeypointMaps, KeypointRegressor, Keypoints
from kblocks.heads.segmenter import SegmentationMap, Segmenter
from kblocks.heads.task import Tasks, tasks_of
