"""Storage coding: weights as bytes, by rounding, by codebooks and by gaps, entropy coded; and back, bit for bit.

How a weight is stored is a mapping of plain JSON values, its *coding*:

* ``{"type": "plain"}``: as it is; with ``"dtype": "f16"`` rounded to half precision;
* ``{"type": "uniform", "bits": 2–8, "axis": 0 or None, "symmetric": True or False}``: integers times a scale, one scale
  for the weight (``None``) or for each index of its first axis; asymmetric ones have a zero point as well;
* ``{"type": "codebook", "bits": 1–8, "group": "trunk"}``: indices into the values that all weights of the group have;
  no group: a codebook of its own. Nothing is rounded: the weights must have so few different values already.

Each may have ``"sparse": True``: zeros are left out, and the lengths of their runs are stored instead. Only float32
weights can be rounded, clustered or sparse; minus zero becomes zero there.

The coded bytes are a header (JSON, deflated) and *lanes*. A lane has all symbols of one kind from all weights, a byte
each: indices of 4-bit codebooks, runs of zeros, or the n-th bytes of the floats, as their exponents are alike.
Deflate's Huffman codes take each lane to about one per cent above its entropy (Han et al., "Deep Compression", ICLR
2016).
"""

from __future__ import annotations

from sharedbb.coding.form import MAX_DECODED_BYTES
from sharedbb.coding.part import codings, decode, encode

__all__ = ["MAX_DECODED_BYTES", "codings", "decode", "encode"]
