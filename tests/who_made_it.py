"""A dataset whose samples say which worker made them."""

from __future__ import annotations

from torch.utils.data import DataLoader, Dataset, get_worker_info

LENGTH = 20
BATCH_SIZE = 3
NUM_BATCHES = 7


class WhoMadeIt(Dataset):
    """A sample is its index, and who made it: as `get_worker_info` says."""

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        info = get_worker_info()
        assert info.dataset is self
        return index, info.id, info.num_workers


def who_made_it(num_workers, shuffle=True, batch_size=BATCH_SIZE, **options):
    return DataLoader(WhoMadeIt(), batch_size, shuffle, num_workers=num_workers, **options)


def plain(microbatch):
    return [part.tolist() for part in microbatch]


def rest(loader):
    return [plain(microbatch) for microbatch in iter(loader.__next__, None)]
