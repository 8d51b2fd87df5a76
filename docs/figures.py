"""python docs/figures.py

Draws docs/resnet50.svg, the picture of the guide's section on looking.
"""

from pathlib import Path

import kblocks as kb

if __name__ == "__main__":
    kb.draw(kb.resnet50(), Path(__file__).parent / "resnet50.svg", input_shape=(224, 224, 3))
