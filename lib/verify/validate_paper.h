// tq verify --paper: the theorems of arXiv 2504.19874 and what follows from them, on seeded rows, in minutes on a CPU.
#pragma once

#include "lib/parallel.h"
#include "lib/verify/paper_subject.h"

namespace tq {

struct PaperOptions {
  std::vector<int> dims = {64, 128, 256};  ///< 8..1024 each
  std::vector<int> bits = {1, 2, 3, 4};    ///< 1..8 each
  PaperSettings settings;
  PaperSubject subject = {};  ///< tq's codec, but for tests
  Progress progress = {};     ///< told of each (dim, bits) that is done
};

/// Every check of paper_theorems.h and paper_search.h for each dim and width. The same numbers on every machine, whatever
/// the threads. UsageError for no dim, no width, or numbers out of range.
PaperReport validate_paper(const PaperOptions& options, const Backend& backend);

}  // namespace tq
