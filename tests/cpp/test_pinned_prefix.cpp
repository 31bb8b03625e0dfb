// A growing page-locked prefix: what is registered, and how copies are cut at its borders.

#include <algorithm>
#include <random>

#include "cuda/pinned_prefix.h"
#include "fake_device.h"

namespace fkat::cuda {
namespace {

constexpr std::uint64_t kCapacity = 256 * kPage;

// An area of memory with the device's context current.
struct Area {
  FakeDevice device;
  DeviceContext::Current current{*device.context};
  std::shared_ptr<Segment> segment = filled_segment(kCapacity, 1);
  PinnedPrefix prefix{segment->data()};

  const Driver& driver() const { return *device.driver; }
  std::byte* begin() const { return segment->data(); }
  Result grow(std::uint64_t num_pages, std::uint64_t max_pages = 1024) {
    return prefix.grow(driver(), num_pages * kPage, max_pages * kPage);
  }
  ~Area() noexcept(false) { prefix.unpin(driver()); }
};

using Sizes = std::vector<std::uint64_t>;

// The pieces of [offset, offset + nbytes); that they follow one another is checked.
Sizes pieces(const Area& area, std::uint64_t offset, std::uint64_t nbytes) {
  Sizes sizes;
  const std::byte* at = area.begin() + offset;
  area.prefix.for_each_piece({at, nbytes}, [&](std::span<const std::byte> piece) {
    CHECK(piece.data() == at);
    at += piece.size();
    sizes.push_back(piece.size());
  });
  CHECK(at == area.begin() + offset + nbytes);
  return sizes;
}

TEST(grows_by_what_is_new) {
  Area area;
  CHECK_EQ(area.grow(10), kSuccess);
  CHECK_EQ(area.grow(10), kSuccess);  // nothing new
  CHECK_EQ(area.grow(4), kSuccess);
  CHECK_EQ(fake_cuda_count("registrations"), 1);
  CHECK_EQ(area.grow(50), kSuccess);
  CHECK_EQ(area.prefix.nbytes(), 50 * kPage);
  CHECK_EQ(fake_cuda_count("registrations"), 2);
  CHECK_EQ(fake_cuda_count("registered_bytes"), 50 * kPage);
}

TEST(registers_no_more_than_the_limit_in_one_call) {
  Area area;
  CHECK_EQ(area.grow(50, 16), kSuccess);
  CHECK_EQ(fake_cuda_count("registrations"), 4);
  CHECK_EQ(fake_cuda_count("max_registration_bytes"), 16 * kPage);
  CHECK(pieces(area, 0, kCapacity) ==
        (Sizes{16 * kPage, 16 * kPage, 16 * kPage, 2 * kPage, 206 * kPage}));
}

TEST(registers_no_memory_beyond_what_it_was_asked_for) {
  FakeDevice device;
  const DeviceContext::Current current(*device.context);
  const auto segment = Segment::create(kCapacity);
  segment->commit(0, 10 * kPage);
  PinnedPrefix prefix(segment->data());
  CHECK_EQ(prefix.grow(*device.driver, 10 * kPage), kSuccess);
  prefix.unpin(*device.driver);
}

TEST(pins_all_or_nothing_whichever_registration_is_refused) {
  for (unsigned refused = 0; refused < 4; ++refused) {
    Area area;
    fake_cuda_fail("cuMemHostRegister_v2", refused, 1, 304);
    CHECK_EQ(area.grow(64, 16), 304);
    CHECK_EQ(area.prefix.nbytes(), 0);
    CHECK_EQ(fake_cuda_count("registered_bytes"), 0);
    CHECK(pieces(area, kPage, 100) == Sizes{100});
    CHECK_EQ(area.grow(64, 16), kSuccess);  // and may be tried again
  }
}

TEST(a_growth_that_is_refused_unpins_what_was_pinned_before) {
  Area area;
  CHECK_EQ(area.grow(8), kSuccess);
  fake_cuda_limit_registered(32 * kPage);
  CHECK_EQ(area.grow(64, 16), 2);
  CHECK_EQ(fake_cuda_count("registered_bytes"), 0);
  CHECK_EQ(area.prefix.nbytes(), 0);
}

TEST(unpinning_unregisters_each_part_once) {
  Area area;
  area.grow(50, 16);
  area.prefix.unpin(area.driver());
  CHECK_EQ(fake_cuda_count("cuMemHostUnregister"), 4);
  CHECK_EQ(fake_cuda_count("registered_bytes"), 0);
  CHECK_EQ(area.prefix.nbytes(), 0);
  area.prefix.unpin(area.driver());
  CHECK_EQ(fake_cuda_count("cuMemHostUnregister"), 4);
}

TEST(unpinning_does_not_stop_at_an_error) {
  Area area;
  area.grow(48, 16);
  fake_cuda_fail("cuMemHostUnregister", 1, 1, 999);
  area.prefix.unpin(area.driver());
  CHECK_EQ(fake_cuda_count("registrations"), 1);  // the one whose call did nothing
  CHECK_EQ(area.prefix.nbytes(), 0);
  area.driver().host_unregister(area.begin() + 16 * kPage);
}

TEST(unpinning_survives_a_driver_that_is_gone) {
  Area area;
  area.grow(48, 16);
  fake_cuda_deinitialize();
  area.prefix.unpin(area.driver());
  CHECK_EQ(area.prefix.nbytes(), 0);
}

TEST(an_empty_copy_has_no_pieces) {
  Area area;
  area.grow(50, 16);
  for (const std::uint64_t offset : {0 * kPage, 16 * kPage, 16 * kPage + 1, 50 * kPage}) {
    CHECK(pieces(area, offset, 0) == Sizes{});
  }
}

TEST(a_copy_is_cut_where_one_registration_ends) {
  Area area;
  area.grow(32, 16);
  constexpr std::uint64_t kBorder = 16 * kPage;
  CHECK(pieces(area, 0, kBorder) == Sizes{kBorder});
  CHECK(pieces(area, 0, kBorder + 1) == (Sizes{kBorder, 1}));
  CHECK(pieces(area, kBorder - 1, 2) == (Sizes{1, 1}));
  CHECK(pieces(area, kBorder, kBorder) == Sizes{kBorder});
  CHECK(pieces(area, kBorder, kBorder + 1) == (Sizes{kBorder, 1}));
  CHECK(pieces(area, 2 * kBorder, 5) == Sizes{5});
}

// The fake driver refuses a copy across a border; `pieces` has checked that they tile the copy.
TEST(the_pieces_of_any_copy_lie_within_one_registration_or_none) {
  Area area;
  Memory target(kCapacity);
  std::mt19937_64 random(4);
  const long num_rounds = check::rounds(300);
  for (long round = 0; round < num_rounds; ++round) {
    area.prefix.unpin(area.driver());
    std::uint64_t num_pages = 0;
    for (int growth = 0; growth < 3; ++growth) {
      num_pages = std::min<std::uint64_t>(256, num_pages + random() % 100);
      CHECK_EQ(area.grow(num_pages, 1 + random() % 20), kSuccess);
    }
    const std::uint64_t offset = random() % kCapacity;
    const std::uint64_t nbytes = random() % (kCapacity - offset + 1);
    Sizes longest_possible = pieces(area, offset, nbytes);
    area.prefix.for_each_piece({area.begin() + offset, nbytes}, [&](auto piece) {
      CHECK_EQ(area.driver().copy_to_device_async(device_pointer(target), piece.data(),
                                                  piece.size(), nullptr),
               0);
    });
    CHECK(std::count(longest_possible.begin(), longest_possible.end(), 0) == 0);
    CHECK_EQ(area.driver().stream_synchronize(nullptr), 0);
  }
}

}  // namespace
}  // namespace fkat::cuda
