// Vectors whose first element lies on the boundary of a cache line. A large std::vector begins 16 bytes after a page's boundary,
// so every other 32-byte load of it, and every 64-byte one, takes two lines.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace tq {

template <class T>
struct AlignedAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};

  AlignedAllocator() = default;
  template <class U>
  AlignedAllocator(const AlignedAllocator<U>&) {}  // a container makes its own kind of another

  T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kAlignment)); }
  void deallocate(T* at, std::size_t) { ::operator delete(at, kAlignment); }
  bool operator==(const AlignedAllocator&) const { return true; }
};

template <class T>
using AlignedVector = std::vector<T, AlignedAllocator<T>>;

}  // namespace tq
