"""kblocks: convolutional blocks and architectures for Keras, open to Keras Tuner as a space."""
from kblocks.block import Block
from kblocks.blocks.convolution import ConvBlock, NormAct
from kblocks.families.resnet import ResidualBlock, BottleneckBlock
from kblocks.blocks.pooling import MinPooling2D, GlobalConcatPooling2D
from kblocks.heads import Classifier
from kblocks.ops import Norm
from kblocks.network import Architecture
from kblocks.cost import conv_output_size, Cost
from kblocks.families.resnet import *
from kblocks.families.vgg import *
from kblocks.catalog import architecture, architectures
