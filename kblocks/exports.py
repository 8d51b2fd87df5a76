"""The list of kblocks' public names."""

# Several names a line, which the formatter would not leave so.
# fmt: off
from kblocks import fields, ops
from kblocks.blocks.anti_aliased import SpaceToDepthStem, TResNetBasicBlock, TResNetBottleneckBlock
from kblocks.blocks.block import Block
from kblocks.blocks.convolution import ConvBlock, NormAct
from kblocks.blocks.dense import ResidualDense
from kblocks.blocks.dense_block import DenseBlock, TransitionBlock
from kblocks.blocks.inception import InceptionBlock, InceptionResNetBlock
from kblocks.blocks.mbconv import MBConvBlock
from kblocks.blocks.pooling import BlurPooling2D, GlobalConcatPooling2D, MinPooling2D
from kblocks.blocks.residual import BottleneckBlock, ResidualBlock, ResNeXtBlock
from kblocks.blocks.separable import SeparableConvBlock
from kblocks.blocks.squeeze_excite import SqueezeExcite
from kblocks.drawing.figures import draw
from kblocks.drawing.tables import summary
from kblocks.families import ready_spaces as spaces
from kblocks.families.alexnets import alexnet
from kblocks.families.densenets import (
    densenet, densenet40_12, densenet121, densenet161, densenet169, densenet201, densenet_bc100_12,
)
from kblocks.families.efficientnets import (
    efficientnet, efficientnet_b0, efficientnet_b1, efficientnet_b2, efficientnet_b3,
    efficientnet_b4, efficientnet_b5, efficientnet_b6, efficientnet_b7, efficientnet_lite0,
    efficientnet_lite1, efficientnet_lite2, efficientnet_lite3, efficientnet_lite4,
)
from kblocks.families.googlenets import googlenet
from kblocks.families.inception_resnets import (
    inception_resnet, inception_resnet_v1, inception_resnet_v2,
)
from kblocks.families.inceptions_v3 import inception_v3
from kblocks.families.inceptions_v4 import inception_v4
from kblocks.families.preresnets import (
    preresnet, preresnet50, preresnet101, preresnet110, preresnet152, preresnet164, preresnet1001,
    resnet1001, wrn28_10,
)
from kblocks.families.resnets import (
    resnet, resnet18, resnet20, resnet32, resnet34, resnet44, resnet50, resnet56, resnet101,
    resnet110, resnet152, wide_resnet50_2, wide_resnet101_2,
)
from kblocks.families.resnexts import (
    resnext, resnext29_8x64d, resnext50_32x4d, resnext50_64x4d, resnext101_32x4d, resnext101_32x8d,
    resnext101_64x4d,
)
from kblocks.families.tresnets import tresnet, tresnet_l, tresnet_m, tresnet_xl
from kblocks.families.vggs import (
    vgg, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn,
)
from kblocks.families.xceptions import xception
from kblocks.heads import (
    AuxiliaryClassifier, BoxRegressor, Classifier, DetectionMap, Detector, Features, KeypointMaps,
    KeypointRegressor, Keypoints, Localizer, Segmenter, Tasks, detections, mean_average_precision,
    non_maximum_suppression, tasks_of,
)
from kblocks.heads.shared_targets import SharedTargets, strip_aux
from kblocks.layers.grouped import GroupedConv2D
from kblocks.model_tools.accelerating import accelerate
from kblocks.model_tools.convolutionizing import convolutionize
from kblocks.model_tools.exporting import export
from kblocks.model_tools.fusion import fuse
from kblocks.model_tools.inheriting import inherit
from kblocks.model_tools.matrix import as_matrix
from kblocks.model_tools.new_head import replace_head
from kblocks.model_tools.pictures import feature_maps, first_filters
from kblocks.model_tools.surgery import adapt_input, extract, pyramid_outputs, resize_input
from kblocks.model_tools.timing import latency
from kblocks.networks.architecture import Architecture, Row
from kblocks.networks.catalog import architecture, architectures
from kblocks.networks.memory import inference_memory, training_memory
from kblocks.networks.published import Preprocessing, WeightSet
from kblocks.networks.torch_weights import load_torch_weights, to_torch_state_dict
from kblocks.plans.cost import Cost
from kblocks.plans.geometry import InputTooSmallError, conv_output_size
from kblocks.plans.ops import Norm
from kblocks.search_space.budget import Budget
from kblocks.search_space.choices import boolean, choice, fixed, integer, per_stage, real
from kblocks.search_space.space import Space
from kblocks.training.finetuning import freeze, learning_rate_multipliers
from kblocks.training.preparing import prepare
from kblocks.training.recipe import Recipe
from kblocks.training.transfer import FineTuning
