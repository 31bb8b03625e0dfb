// Copies from host memory, that find out whether their source was left alone.

#pragma once

#include <cstddef>

#include "state.h"

namespace fake {

// Queues a copy. With the state's lock held.
Result enqueue_copy(State& state, Stream& stream, std::byte* destination, std::byte* source,
                    std::size_t nbytes);

}  // namespace fake
