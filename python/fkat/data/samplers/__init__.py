"""Samplers over several data sets, and the strategies that mix them."""

from fkat.data.samplers._dict_batch_sampler import DictBatchSampler, SizedSampler

__all__ = ["DictBatchSampler", "SizedSampler"]
