"""How often a producer that died is started again."""

from __future__ import annotations

import logging

from fkat.data.errors import ProducerDiedError

_logger = logging.getLogger("fkat.data")


class Restarts:
    """Counts the restarts of one loader since its last progress.

    Args:
        max_in_a_row: As many without a microbatch between them; one more death is an error.

    Attributes:
        num_in_a_row: How many there were.
    """

    def __init__(self, max_in_a_row: int) -> None:
        self._max_in_a_row = max_in_a_row
        self.num_in_a_row = 0

    def progress(self) -> None:
        """A microbatch was delivered."""
        self.num_in_a_row = 0

    def count(self, death: ProducerDiedError, place: str) -> None:
        """Log one more restart, at ``place``.

        Raises:
            ProducerDiedError: ``death``, when it is one too many, or of one that never began.
        """
        if not death.has_begun:
            raise death
        if self.num_in_a_row == self._max_in_a_row:
            if self._max_in_a_row == 0:
                raise death
            text = f"{death}; so did {self.num_in_a_row} before it in a row, at {place}"
            raise ProducerDiedError(text, death.pid, death.exit_code) from None
        self.num_in_a_row += 1
        # Its text: the exception holds frames, and they the dead producer's ring, for as long as
        # a handler keeps the record.
        _logger.warning(
            "%s; another one goes on at %s (restart %d of at most %d in a row)",
            *(str(death), place, self.num_in_a_row, self._max_in_a_row),
        )
