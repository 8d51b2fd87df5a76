"""Heads: the blocks, losses and metrics of each task, one task a file."""

from kblocks.heads.boxes import BoxRegressor, Localizer
from kblocks.heads.classifier import AuxiliaryClassifier, Classifier, Features
from kblocks.heads.decoding import detections, non_maximum_suppression
from kblocks.heads.detector import DetectionMap, Detector
from kblocks.heads.keypoints import KeypointMaps, KeypointRegressor, Keypoints
from kblocks.heads.precision import mean_average_precision
from kblocks.heads.segmenter import SegmentationMap, Segmenter
from kblocks.heads.task import Tasks, tasks_of
